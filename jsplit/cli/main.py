"""The command line: which command the first word names."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from jsplit.cli import stopping
from jsplit.cli.terminal import (
    INTERRUPTED,
    complain,
    forget_output,
    open_closed_streams,
)
from jsplit.errors import InputError, RunError

COMMANDS = {
    "pack": "Makes a data set of folders of pictures.",
    "plan": "Says what a run would send and compute, before there is one.",
    "run": "Trains a network on one machine, with clients that are simulated.",
    "sweep": "Makes all runs that a file of settings stands for.",
    "report": "Compares finished runs in tables and pictures.",
    "privacy": "Attacks what finished runs sent, as a curious server could.",
    "predict": "Uses a trained network on images.",
    "export": "Writes a trained network, whole and in halves, for other programs.",
    "certs": "Makes and renews the certificates of a server and its clients.",
    "serve": "Is the server of a run over a network.",
    "join": "Is a client of a run over a network.",
}
"""What each command does. It is the module of that name beside this one, with a
`command(argv, prog)`."""


def with_flag(message: str) -> str:
    """A message whose first word is a setting of a run, with that as it is typed.

    The library calls a setting by its argument's name (and what the server does to
    stored maps without its `replay`), of which a command line knows nothing.

    Example:
        >>> with_flag("image_size is 3; give 4 or more")
        '--image-size is 3; give 4 or more'
        >>> with_flag("shift 9 needs maps of more than 9 cells along each axis")
        '--replay-shift 9 needs maps of more than 9 cells along each axis'
        >>> with_flag("model.json is damaged"), with_flag("there are no images")
        ('model.json is damaged', 'there are no images')
    """
    # Not above: what a command needs is loaded by it alone.
    from jsplit.core.option import options_of
    from jsplit.experiment.config import flag
    from jsplit.experiment.run_config import RunConfig

    first, space, rest = message.partition(" ")
    known = options_of(RunConfig)
    name = next((name for name in (first, f"replay_{first}") if name in known), None)
    return message if name is None else f"{flag(name)}{space}{rest}"


def program(argv: Sequence[str] | None = None, prog: str = "jsplit run") -> NoReturn:
    """Runs a command as this process, and ends with it.

    Beside the exit codes of `main`: 130, 143 or 129 where Ctrl-C, SIGTERM or SIGHUP
    stopped it, at whatever moment.
    """
    stopping.watch()
    open_closed_streams()
    sys.exit(stopping.exit_code(main(argv, prog)))


def main(argv: Sequence[str] | None = None, prog: str = "jsplit run") -> int:
    """Runs a command; returns the exit code.

    0: done. 2: bad input or a missing extra, nothing was changed. 1: the run failed,
    or no schedule of a plan keeps its limits.
    130: interrupted, saved. What went wrong is one line on standard error.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv in ([], ["-h"], ["--help"]):
            print("usage: jsplit COMMAND [OPTIONS]\n")
            for name, does in COMMANDS.items():
                print(f"  {name:8} {does}")
            print("\nFor the options of one: jsplit run --help")
            return 0
        name, *words = argv
        if name not in COMMANDS:
            raise InputError(
                f"unknown command {name!r}; the commands are {', '.join(COMMANDS)}"
            )
        # Only the one that is asked for: a run on one machine needs neither gRPC nor
        # certificates, and Matplotlib takes its time.
        module = importlib.import_module(f"jsplit.cli.{name}")
        code: int = module.command(words, prog if name == "run" else f"jsplit {name}")
        return code
    except InputError as error:
        return complain(with_flag(str(error)), 2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "jsplit":
            raise
        missing = f"jsplit {name} needs {error.name}, which is not installed"
        return complain(f"{missing}; pip install 'jsplit[all]' brings it", 2)
    except BrokenPipeError:
        forget_output()
        return 1
    except (RunError, OSError) as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        return complain("interrupted before the run began", INTERRUPTED)
