"""Install what pyproject.toml lists (hard dependencies and the extras `mmseg` and `dev`) into this environment.

`pip install -e .[mmseg,dev]` would do the same, but compiles the crate in an isolated environment with a second copy of
torch; here the crate is compiled once, against the torch that is used.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
wanted = [*project["dependencies"], *(r for name in ("mmseg", "dev") for r in project["optional-dependencies"][name])]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *wanted]))
