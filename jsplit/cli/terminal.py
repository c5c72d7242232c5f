"""What every command says to people, and how it hears that it should stop."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED = 130
"""The shell's exit code for Ctrl-C."""


@contextlib.contextmanager
def stop_at_signal(promise: str) -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM) asks for a stop; a second one is obeyed at once.

    Args:
        promise: what is said of the first one, such as `stopping soon`.
    """
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        # Straight to the descriptor: a print could land inside another print.
        os.write(2, f"\n{promise}; again to stop at once\n".encode())
        show_cursor()  # A second one leaves no time for it.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    kept = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)


def say(line: str) -> None:
    """Says a line to people, at once."""
    print(line, flush=True)


def forget_output() -> None:
    """Sends what is printed nowhere: nobody reads any more, or process 0 prints."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_cursor() -> None:
    """Gives a terminal the cursor back that a live line hides."""
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")


def last_words(line: str) -> None:
    """Says an error before the process is ended from another thread."""
    show_cursor()
    complain(line, 1)


def complain(error: Exception | str, code: int) -> int:
    """Says an error in one line on standard error; returns the exit code."""
    # In one piece: other processes, and JAX itself, may write to the same place.
    line = f"error: {' '.join(str(error).split())}\n"
    print(line, end="", file=sys.stderr, flush=True)
    return code


def remark(line: str) -> None:
    """Says a line to people on standard error, where standard output is data."""
    print(line, file=sys.stderr, flush=True)
