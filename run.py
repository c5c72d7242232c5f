"""`python run.py --model resnet18 --clients 10`: see `--help`."""

import sys

from jsplit.cli.main import program

if __name__ == "__main__":
    program(["run", *sys.argv[1:]], prog="run.py")
