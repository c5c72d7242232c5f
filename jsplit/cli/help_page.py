"""What `jsplit COMMAND --help` looks like, beside what the parser makes of it."""

import contextlib
import io
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

GROUPS = {
    "run": "Where the run is kept, and how to go about it.",
    "model": "The network, and with which weights it begins.",
    "data": "Images and labels.",
    "clients": "Who holds the images, and how clients learn together.",
    "gate": "In which state each epoch runs.",
    "codec": "How what crosses the cut is coded.",
    "store": "What B sends for C, and how C learns from it.",
    "defence": "What makes it harder to tell images from activations.",
    "optimiser": "How long and how fast both sides learn.",
    "network": "How server and clients reach one another.",
    "system": "Devices and processes; results do not depend on them.",
}
"""What is said of a group of options; others say all by their names."""

_THEIRS = "show this help message and exit"
_OURS = "Shows this message, then exits."


@contextlib.contextmanager
def tidied() -> Iterator[None]:
    """What is printed in here is a help page: folded, and in whole sentences.

    The parser folds its boxes to the terminal, but not the description above them, and
    describes `--help` in words of its own, which those here replace letter by letter,
    so that the box stays as it is.
    """
    terminal = sys.stdout
    page = _Page(terminal)
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        text = page.getvalue().replace(_THEIRS, _OURS)
        terminal.write(folded(text, shutil.get_terminal_size().columns))


class _Page(io.StringIO):
    """Text that is styled as if it went where standard output goes."""

    def __init__(self, terminal: TextIO):
        super().__init__()
        self._terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return (self._terminal.encoding or "ascii").lower()

    def isatty(self) -> bool:
        return self._terminal.isatty()


def folded(text: str, width: int) -> str:
    r"""The text with its long lines folded between words, boxes left as they are.

    Example:
        >>> print(folded("one two three\n│ four five six │\n", 8), end="")
        one two
        three
        │ four five six │

    Args:
        text: of whole lines.
        width: of a line in letters.
    """
    lines = []
    for line in text.splitlines():
        long = len(line) > width and not line.startswith(("│", "╭", "╰", "\x1b"))
        lines += textwrap.wrap(line, width) if long else [line]
    return "".join(f"{line}\n" for line in lines)
