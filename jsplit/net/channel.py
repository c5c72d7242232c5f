"""A channel: an ordered two-way stream of messages between a client and the server.

What runs over it does not know whether it is gRPC, a queue in this process, or either
of them slowed down. A channel that broke stays broken; a client opens a new one.
"""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from jsplit.errors import Refusal


class ConnectionLost(Exception):
    """The connection is lost; the text says what is known of the reason."""


class Channel(Protocol):
    """One end of the stream.

    Attributes:
        remote: the other end's address, for people.
    """

    remote: str

    def send(self, data: bytes) -> None:
        """Sends a message; waits where the other side reads slowly.

        Raises:
            ConnectionLost: if the channel is known to be broken.
            Refusal: likewise, if a client knows what was refused.
        """

    def receive(self, timeout: float | None = None) -> bytes:
        """Returns the next message.

        Raises:
            ConnectionLost: if the channel broke and nothing is left to read.
            Refusal: if the other end refused something, likewise.
            TimeoutError: if nothing came in that many seconds.
        """

    def close(self, reason: Refusal | None = None) -> None:
        """Closes the channel.

        Args:
            reason: what the other end is to raise instead of `ConnectionLost`.
        """


class MessageQueue:
    """Messages on their way to a reader in another thread.

    Args:
        limit: messages that may wait; a sender of more waits too.
    """

    def __init__(self, limit: int = 8):
        self._limit = limit
        self._messages: collections.deque[bytes] = collections.deque()
        self._changed = threading.Condition()
        self._reason: Exception | None = None

    def put(self, data: bytes) -> None:
        """Puts a message in.

        Raises:
            ConnectionLost: if the queue is closed; the reason is for the reader.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._reason or len(self._messages) < self._limit
            )
            if self._reason:
                raise ConnectionLost(str(self._reason)) from self._reason
            self._messages.append(data)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> bytes:
        """Takes a message, as `Channel.receive`; those that came before the end too."""
        with self._changed:
            self._changed.wait_for(lambda: self._reason or self._messages, timeout)
            if self._messages:
                self._changed.notify_all()
                return self._messages.popleft()
            if self._reason:
                raise self._reason
            raise TimeoutError

    def close(self, reason: Exception | None = None) -> None:
        """Closes the queue; the first reason stays."""
        with self._changed:
            self._reason = self._reason or reason or ConnectionLost("closed")
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return len(self._messages)

    @property
    def reason(self) -> Exception | None:
        """What the queue was closed with; None while it is open."""
        return self._reason


class LocalChannel:
    """One end of a channel within this process."""

    def __init__(self, out: MessageQueue, into: MessageQueue, remote: str):
        self.remote = remote
        self._out, self._in = out, into

    def send(self, data: bytes) -> None:
        """As `Channel.send`."""
        self._out.put(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Channel.receive`."""
        return self._in.get(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As `Channel.close`."""
        self._out.close(reason)
        self._in.close()


def local_channel_pair() -> tuple[LocalChannel, LocalChannel]:
    """The two ends of a channel within this process."""
    one, other = MessageQueue(), MessageQueue()
    return LocalChannel(one, other, "local"), LocalChannel(other, one, "local")


@contextlib.contextmanager
def local_channel(
    handle_connection: Callable[[Channel, int | None], None], client: int
) -> Iterator[LocalChannel]:
    """A channel within this process, whose other end a thread handles."""
    near, far = local_channel_pair()
    thread = threading.Thread(target=handle_connection, args=(far, client), daemon=True)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join(10.0)
