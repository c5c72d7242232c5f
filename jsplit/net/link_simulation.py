"""A channel as slow as a given link would make it: `jsplit join --link`."""

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from jsplit.errors import InputError, Refusal
from jsplit.net.channel import Channel, ConnectionLost, MessageQueue


class LinkSpeed(NamedTuple):
    """Of a simulated link, the same both ways.

    Attributes:
        bits: a second; what is sent waits for what was sent before it.
        delay: seconds from one end to the other.
    """

    bits: float
    delay: float

    @classmethod
    def from_text(cls, text: str) -> "LinkSpeed":
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


class SlowChannel:
    """A channel as slow as a link of that speed would make it, in both directions."""

    def __init__(self, channel: Channel, speed: LinkSpeed):
        self.remote = channel.remote
        self._channel = channel
        self._up = _Pipe(speed, channel.send, channel.close)
        self._arrived = MessageQueue()
        self._down = _Pipe(speed, self._arrived.put, self._arrived.close)
        self._pump = threading.Thread(target=self._read, daemon=True)
        self._pump.start()

    def _read(self) -> None:
        try:
            while True:
                self._down.put(self._channel.receive())
        except (ConnectionLost, Refusal) as error:
            self._down.drain()
            self._arrived.close(error)
            self._down.close()

    def send(self, data: bytes) -> None:
        """As `Channel.send`: it waits until the link has taken the message in."""
        if self._arrived.reason:
            raise self._arrived.reason
        self._up.put(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Channel.receive`."""
        return self._arrived.get(timeout)

    def finish(self) -> None:
        """Lets what was sent arrive; the channel itself stays open for its owner."""
        self._up.drain()
        self._up.close()

    def close(self, reason: Refusal | None = None) -> None:
        """As `Channel.close`, after what was sent has arrived."""
        self._up.drain()
        self._channel.close(reason)
        self._up.close()
        self._arrived.close()


class _Pipe:
    """One direction of a slow link: takes in at its rate, delivers after its delay."""

    def __init__(
        self,
        speed: LinkSpeed,
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
            except (ConnectionLost, Refusal):
                self._fail()
            finally:
                self._waiting.task_done()
        self._waiting.task_done()
