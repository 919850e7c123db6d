"""`python -m nanocache`."""

import sys

from .cli import main

sys.exit(main())
