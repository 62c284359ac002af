"""`python -m pipa` is the `pipa` command."""

import sys

from pipa.commands.cli import main

sys.exit(main())
