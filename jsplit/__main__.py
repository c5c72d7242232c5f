"""`python -m jsplit`, the same as the command `jsplit`."""

from jsplit.cli.main import program

program()
