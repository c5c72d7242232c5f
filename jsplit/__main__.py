"""`python -m jsplit`, the same as the command `jsplit`."""

import sys

from jsplit.cli import main

sys.exit(main())
