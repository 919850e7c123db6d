"""`python -m nanocache`."""

import sys

from .cli.main import main

sys.exit(main())
