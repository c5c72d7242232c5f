"""What every command says to people."""

import contextlib
import os
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

INTERRUPTED = 130
"""The shell's exit code for Ctrl-C."""


def open_closed_streams() -> None:
    """Lets a program run whose standard streams were closed, as by `>&-`.

    What it would print goes nowhere. The descriptors must be taken: else the first file
    that is opened gets the number of standard output. A name that standard output has
    no letters for is shown with escapes.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest number that is free.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Says a line to people, at once."""
    print(line, flush=True)


def folded(line: str) -> str:
    """A line in as many of 80 columns as it takes, the later ones indented.

    Words stay whole, also those that are longer.

    Example:
        >>> print(folded("source: " + "; ".join(["first 200 train examples"] * 4)))
        source: first 200 train examples; first 200 train examples; first 200 train
          examples; first 200 train examples
    """
    return textwrap.fill(
        line,
        80,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def own_command() -> str:
    """What starts jsplit here: its name, or a path where no shell finds that."""
    if shutil.which("jsplit") is not None:
        return "jsplit"
    python = Path(sys.executable)
    if not python.with_name("jsplit").exists():
        return f"{shlex.quote(str(python))} -m jsplit"
    script, here = python.with_name("jsplit"), Path.cwd()
    near = script.relative_to(here) if script.is_relative_to(here) else script
    return shlex.quote(str(near))


def forget_output() -> None:
    """Sends what is printed nowhere: nobody reads any more, or process 0 prints."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_cursor() -> None:
    """Gives a terminal the cursor back that a live line hides."""
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h")


def last_words(line: str) -> None:
    """Says an error before the process is ended from another thread.

    Straight to the descriptor: what is shown live on a terminal takes standard error,
    and would be drawn again below the error. A reader that has gone is no reason to
    stay.
    """
    show_cursor()
    start = "\r\x1b[2K" if os.isatty(2) else ""
    text = f"{start}error: {' '.join(line.split())}\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


def complain(error: Exception | str, code: int) -> int:
    """Says an error in one line on standard error; returns the exit code."""
    # In one piece: other processes, and JAX itself, may write to the same place.
    line = f"error: {' '.join(str(error).split())}\n"
    print(line, end="", file=sys.stderr, flush=True)
    return code


def remark(line: str) -> None:
    """Says a line to people on standard error, where standard output is data."""
    print(line, file=sys.stderr, flush=True)
