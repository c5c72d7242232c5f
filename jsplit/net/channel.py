"""A line: an ordered two-way stream of messages between a client and the server.

What runs over it does not know whether it is gRPC, a queue in this process, or either
of them slowed down. A line that broke stays broken; a client makes a new one.
"""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from jsplit.errors import InputError, Refusal


class Lost(Exception):
    """The line is broken, by whatever; the text says what is known."""


class Line(Protocol):
    """One end of the stream.

    Attributes:
        peer: the other end's address, for people.
    """

    peer: str

    def send(self, data: bytes) -> None:
        """Hands a message over; it may wait where the other side reads slowly.

        Raises:
            Lost: if the line is known to be broken.
            Refusal: likewise, if it is known to a client what was refused.
        """

    def receive(self, timeout: float | None = None) -> bytes:
        """The next message.

        Raises:
            Lost: if the line broke and nothing is left to read.
            Refusal: if the other end refused something, likewise.
            TimeoutError: if nothing came in that many seconds.
        """

    def close(self, reason: Refusal | None = None) -> None:
        """Breaks the line.

        Args:
            reason: what the other end is to raise instead of `Lost`.
        """


class Inbox:
    """Messages on their way to a reader in another thread.

    Args:
        limit: messages that may wait; whoever brings more waits too.
    """

    def __init__(self, limit: int = 8):
        self._limit = limit
        self._messages: collections.deque[bytes] = collections.deque()
        self._changed = threading.Condition()
        self._reason: Exception | None = None

    def put(self, data: bytes) -> None:
        """Brings a message.

        Raises:
            Lost: if the inbox is closed; what it was closed with is for the reader.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._reason or len(self._messages) < self._limit
            )
            if self._reason:
                raise Lost(str(self._reason)) from self._reason
            self._messages.append(data)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> bytes:
        """Takes a message, as `Line.receive`; those that came before the end too."""
        with self._changed:
            self._changed.wait_for(lambda: self._reason or self._messages, timeout)
            if self._messages:
                self._changed.notify_all()
                return self._messages.popleft()
            if self._reason:
                raise self._reason
            raise TimeoutError

    def close(self, reason: Exception | None = None) -> None:
        """Ends it; the first reason stays."""
        with self._changed:
            self._reason = self._reason or reason or Lost("closed")
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return len(self._messages)

    @property
    def reason(self) -> Exception | None:
        """What it was closed with; None while it is open."""
        return self._reason


class LocalLine:
    """One end of a line within this process."""

    def __init__(self, out: Inbox, into: Inbox, peer: str):
        self.peer = peer
        self._out, self._in = out, into

    def send(self, data: bytes) -> None:
        """As `Line.send`."""
        self._out.put(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Line.receive`."""
        return self._in.get(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As `Line.close`."""
        self._out.close(reason)
        self._in.close()


def local_pair() -> tuple[LocalLine, LocalLine]:
    """The two ends of a line within this process."""
    one, other = Inbox(), Inbox()
    return LocalLine(one, other, "local"), LocalLine(other, one, "local")


@contextlib.contextmanager
def local_line(
    admit: Callable[[Line, int | None], None], client: int
) -> Iterator[LocalLine]:
    """A line within this process, whose other end `admit` serves in a thread."""
    near, far = local_pair()
    thread = threading.Thread(target=admit, args=(far, client), daemon=True)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join(10.0)


class Speed(NamedTuple):
    """Of a simulated link, the same both ways.

    Attributes:
        bits: a second; what is sent waits for what was sent before it.
        delay: seconds from one end to the other.
    """

    bits: float
    delay: float

    @classmethod
    def of(cls, text: str) -> "Speed":
        """Reads `10mbit/40ms`: bits a second, and the delay of one way.

        Raises:
            InputError: if it is not of that form.
        """
        rate, _, delay = text.partition("/")
        units = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
        unit = rate[-4:]
        try:
            if unit not in units or not delay.endswith("ms"):
                raise ValueError
            bits, seconds = float(rate[:-4]) * units[unit], float(delay[:-2]) / 1e3
            if not (1 <= bits < float("inf") and 0 <= seconds < 60):
                raise ValueError
        except ValueError as error:
            raise InputError(
                f"--link must be like 10mbit/40ms (kbit, mbit or gbit a second, then "
                f"the delay of one way), got {text!r}"
            ) from error
        return cls(bits, seconds)


class SlowLine:
    """A line as slow as a link of that speed would make it, in both directions."""

    def __init__(self, line: Line, speed: Speed):
        self.peer = line.peer
        self._line = line
        self._up = _Pipe(speed, line.send, line.close)
        self._arrived = Inbox()
        self._down = _Pipe(speed, self._arrived.put, self._arrived.close)
        self._pump = threading.Thread(target=self._read, daemon=True)
        self._pump.start()

    def _read(self) -> None:
        try:
            while True:
                self._down.put(self._line.receive())
        except (Lost, Refusal) as error:
            self._down.drain()
            self._arrived.close(error)
            self._down.close()

    def send(self, data: bytes) -> None:
        """As `Line.send`: it waits until the link has taken the message in."""
        if self._arrived.reason:
            raise self._arrived.reason
        self._up.put(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Line.receive`."""
        return self._arrived.get(timeout)

    def finish(self) -> None:
        """Lets what was sent arrive; the line itself stays open for its owner."""
        self._up.drain()
        self._up.close()

    def close(self, reason: Refusal | None = None) -> None:
        """As `Line.close`, after what was sent has arrived."""
        self._up.drain()
        self._line.close(reason)
        self._up.close()
        self._arrived.close()


class _Pipe:
    """One direction of a slow link: takes in at its rate, delivers after its delay."""

    def __init__(
        self,
        speed: Speed,
        deliver: Callable[[bytes], None],
        fail: Callable[[], None],
    ):
        self._speed = speed
        self._deliver, self._fail = deliver, fail
        self._free = 0.0
        self._waiting: queue.Queue[tuple[float, bytes] | None] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, data: bytes) -> None:
        now = time.monotonic()
        self._free = max(now, self._free) + 8 * len(data) / self._speed.bits
        self._waiting.put((self._free + self._speed.delay, data))
        time.sleep(max(self._free - now, 0.0))

    def drain(self) -> None:
        self._waiting.join()

    def close(self) -> None:
        self._waiting.put(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            due, data = item
            time.sleep(max(due - time.monotonic(), 0.0))
            try:
                self._deliver(data)
            except (Lost, Refusal):
                self._fail()
            finally:
                self._waiting.task_done()
        self._waiting.task_done()
