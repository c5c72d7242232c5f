"""How a command is stopped: by Ctrl-C, SIGTERM or SIGHUP, at any moment.

Python raises `KeyboardInterrupt` between two instructions of the main thread: too late
while XLA compiles, unheard in a callback of the garbage collector, and a process that
unwinds while other threads compute may end in a segmentation fault. So a thread of its
own hears of signals, and ends the process when there is nothing to wait for.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from jsplit.cli.terminal import INTERRUPTED, last_words
from jsplit.runtime import atomic

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Watch:
    """What the next signal does.

    Attributes:
        words: said when the process is ended at once.
        promise: said of the first signal where a command stops by itself; else None.
        asked: the signal by which it was asked to.
        on: whether signals are heard.
    """

    def __init__(self) -> None:
        self.words = "interrupted"
        self.promise: str | None = None
        self.asked: int | None = None
        self.on = False


_watch = _Watch()


def watch() -> None:
    """Hears signals from now on, to the end of the process.

    SIGHUP stays ignored where it is, as by `nohup`.
    """
    reader = _listen()[0]
    threading.Thread(target=_obey, args=(reader,), daemon=True).start()


@contextlib.contextmanager
def stop_at_signal(promise: str) -> Iterator[Callable[[], bool]]:
    """The first signal asks for a stop; a second one is obeyed at once.

    Args:
        promise: what is said of the first one, such as `stopping soon`.
    """
    with contextlib.ExitStack() as stack:
        if not _watch.on:  # Called by a program, not as one.
            stack.enter_context(_watching())
        _watch.asked, _watch.promise = None, promise
        try:
            yield lambda: _watch.asked is not None
        finally:
            _watch.promise = None


@contextlib.contextmanager
def on_stop(words: str) -> Iterator[None]:
    """Says these words if the process is stopped at once in here."""
    before, _watch.words = _watch.words, words
    try:
        yield
    finally:
        _watch.words = before


def exit_code(code: int) -> int:
    """The exit code of a command: for one that stopped, that of the signal."""
    if code == INTERRUPTED and _watch.asked is not None:
        return 128 + _watch.asked
    return code


def _listen() -> tuple[int, Callable[[], None]]:
    """Sends the numbers of signals into a pipe: its end to read, and how to stop it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    kept = {
        one: signal.signal(one, _heard)
        for one in SIGNALS
        if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN
    }
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _watch.on = True

    def end() -> None:
        _watch.on = False
        signal.set_wakeup_fd(before)
        for one, handler in kept.items():
            signal.signal(one, handler)
        os.close(writer)

    return reader, end


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    reader, end = _listen()
    thread = threading.Thread(target=_obey, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end()
        thread.join()
        os.close(reader)


def _heard(number: int, frame: object) -> None:
    """Nothing is left to do: Python has written the number into the pipe."""


def _obey(reader: int) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number not in SIGNALS:
                continue
            if _watch.promise is None or _watch.asked is not None:
                _end(number)
            _watch.asked = number
            # Straight to the descriptor: a print could land inside another print.
            # On a terminal, ^C stands in the line.
            start = "\n" if os.isatty(2) else ""
            os.write(2, f"{start}{_watch.promise}; again to stop at once\n".encode())


def _end(number: int) -> None:
    """Ends the process, with no more than a line and without half-written files."""
    atomic.discard_unfinished()
    last_words(_watch.words)
    # Not by an exception: see above.
    os._exit(128 + number)
