"""`python -m pipa` is the `pipa` command."""

import sys

from pipa.cli import main

sys.exit(main())
