"""`python -m lsengine` is the command `lsengine`."""

import sys

from lsengine.cli import main

sys.exit(main())
