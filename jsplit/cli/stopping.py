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
from typing import NoReturn

from jsplit.cli.terminal import INTERRUPTED, last_words
from jsplit.runtime import atomic

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]
"""Takes a line for people."""

PATIENCE = 1.0
"""Seconds that a line may take where nobody may be reading."""


class _Watch:
    """What the next signal does.

    Attributes:
        words: said when the process is ended at once.
        log: where the same goes besides, for a command that keeps a log; else None.
        promise: says of the first signal that the command will stop by itself; None
            where it does not.
        asked: the signal by which it was asked to.
        on: whether signals are heard.
    """

    def __init__(self) -> None:
        self.words = "interrupted"
        self.log: Say | None = None
        self.promise: Say | None = None
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
def stop_at_signal(
    promise: str, log: Say | None = None
) -> Iterator[Callable[[], bool]]:
    """The first signal asks for a stop; a second one is obeyed at once.

    Args:
        promise: what is said of the first one, such as `stopping soon`.
        log: takes that line; by default it goes to standard error.
    """
    say = _to_stderr if log is None else log
    with contextlib.ExitStack() as stack:
        if not _watch.on:  # Called by a program, not as one.
            stack.enter_context(_watching())
        _watch.asked = None
        _watch.promise = lambda again: say(f"{promise}; {again}")
        try:
            yield lambda: _watch.asked is not None
        finally:
            _watch.promise = None


@contextlib.contextmanager
def on_stop(words: str, log: Say | None = None) -> Iterator[None]:
    """Says these words if the process is stopped at once in here.

    Args:
        words: that standard error gets, as an error.
        log: takes them besides.
    """
    before, _watch.words, _watch.log = (_watch.words, _watch.log), words, log
    try:
        yield
    finally:
        _watch.words, _watch.log = before


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
            promise = _watch.promise
            if promise is None or _watch.asked is not None:
                _end(number)
            if os.isatty(2):
                os.write(2, b"\n")  # On a terminal, ^C stands in the line.
            # First, so that a log has it before what the command says of its end.
            _say(promise, "again to stop at once")
            _watch.asked = number


def _to_stderr(line: str) -> None:
    """Straight to the descriptor: a print could land inside another print."""
    os.write(2, f"{line}\n".encode())


def _say(say: Say, line: str) -> None:
    """Says a line, and does not stay where nobody reads it.

    A log that is full holds its lock, and the next signal must be heard all the same.
    """
    thread = threading.Thread(target=say, args=(line,), daemon=True)
    thread.start()
    thread.join(PATIENCE)


def _end(number: int) -> NoReturn:
    """Ends the process, with no more than a line and without half-written files."""
    atomic.discard_unfinished()
    if _watch.log is not None:
        _say(_watch.log, _watch.words)
    last_words(_watch.words)
    # Not by an exception: see above.
    os._exit(128 + number)
