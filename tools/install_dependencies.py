"""Install what pyproject.toml lists (hard dependencies and the extras `mmseg` and `dev`) into this environment.

`pip install -e .[mmseg,dev]` would do the same, but compiles the crate in an isolated environment with a second copy of
torch; here the crate is compiled once, against the torch that is used: the default one, or that of PIPA_TORCH.
`core` as argument leaves out what is bound to the default torch; the name of an extra installs that extra alone.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
project, build = settings["project"], settings["build-system"]["requires"]
torch = os.environ.get("PIPA_TORCH", settings["tool"]["pipa"]["torch"])
extras = {name: project["optional-dependencies"][name] for name in ("mmseg", "dev")}
if sys.argv[1:] == ["core"]:
    bound = ("torchvision", "onedl-mmpretrain", "timm", "peft", "segmentation_models_pytorch")
    extras["dev"] = [r for r in extras["dev"] if not r.startswith(bound)]
if sys.argv[1:] not in ([], ["core"]):
    only = [requirement for name in sys.argv[1:] for requirement in project["optional-dependencies"][name]]
    sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", f"torch=={torch}", *only]))
wanted = [f"torch=={torch}", *project["dependencies"], *build, *extras["mmseg"], *extras["dev"]]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *wanted]))
