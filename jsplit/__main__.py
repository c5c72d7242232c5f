"""`python -m jsplit`, the same as the command `jsplit`."""

import sys

from jsplit.cli.main import main

sys.exit(main())
