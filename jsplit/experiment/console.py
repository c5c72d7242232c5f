"""How the epochs of a run are shown to people: a line each, on a terminal or not.

On a terminal there is a last line besides, which changes: what is waited for before the
first epoch, with the seconds so far, and then the states of all epochs.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from jsplit.experiment.progress import states_in_words
from jsplit.experiment.record_line import line_parts

STATE_STYLES = {
    "L": "bold green", "A": "bold cyan", "B": "bold yellow", "C": "bold magenta",
}  # fmt: skip


class ConsoleWriter:
    """Shows each epoch in a line that stays, and on a terminal what comes next.

    Close it in a `finally`: the last line of a terminal hides the cursor.

    Args:
      stream: where to write; its `isatty` decides. Default: standard output.
      states: those of the epochs before a resume, such as "AAB".
      waiting: what is done before the first epoch that is written, such as
        `compiling`. A terminal shows it until then, with a spinner and the seconds so
        far; elsewhere it is a line. None: nothing is said.
      keep: whether the lines of a terminal stay; else each takes the place of the one
        before.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        states: str = "",
        *,
        waiting: str | None = None,
        keep: bool = True,
    ):
        self._stream = sys.stdout if stream is None else stream
        self._states = states
        self._keep = keep
        self._live: Live | None = None
        if self._stream.isatty():
            self._console = Console(file=self._stream, highlight=False)
            self._live = self._start(None if waiting is None else _Waiting(waiting))
        elif waiting is not None:
            print(waiting, file=self._stream, flush=True)

    def write(self, record: Mapping[str, Any]) -> None:
        """Shows the record at once."""
        self._states += record.get("state") or ""
        if self._live is None:
            print("  ".join(line_parts(record)), file=self._stream, flush=True)
            return
        if self._live.auto_refresh:  # What was waited for is there.
            self._live.stop()
            self._live = self._start(None)
        parts = (Text(p, STATE_STYLES.get(p, "")) for p in line_parts(record))
        line = Text("  ").join(parts)
        below = _strip(self._states, self._console.width)
        if self._keep:
            self._console.print(line)
        else:
            below = Text("\n").join([line, below])
        self._live.update(below, refresh=True)

    def close(self) -> None:
        """Leaves the last line standing and gives the cursor back."""
        if self._live is not None:
            self._live.stop()

    def _start(self, shown: RenderableType | None) -> Live:
        """A last line. Only what waits changes by itself, and leaves nothing behind."""
        waits = shown is not None
        live = Live(shown, console=self._console, auto_refresh=waits, transient=waits)
        live.start()
        return live


class _Waiting:
    """A spinner with what is done, and for how many seconds by now."""

    def __init__(self, words: str):
        self._words = words
        self._began = time.monotonic()
        self._spinner = Spinner("dots")

    def __rich__(self) -> Spinner:
        seconds = time.monotonic() - self._began
        self._spinner.update(text=f"{self._words} ({seconds:.0f} s)")
        return self._spinner


def _strip(states: str, width: int) -> Text:
    """The states so far in one line of a terminal; of many, the last ones."""
    text, label = states_in_words(states), "states: "
    if len(label) + len(text) > width:
        room = max(width - len(label) - 3, 0)
        text = "… " + text[len(text) - room :].partition(", ")[2]
    strip = Text(label + text)
    for state, style in STATE_STYLES.items():
        strip.highlight_regex(rf"(?<=[ ]){state}(?= x|,|$)", style)
    return strip
