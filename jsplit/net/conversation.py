"""What a client and the server say to each other over one channel, counted.

Beside what is due the server may say at any time for whom it waits. A client that waits
passes that on to people, and says for itself that it waits where the server is silent.
"""

from collections.abc import Callable
from typing import TypeVar

from jsplit.net.channel import Channel, ConnectionLost
from jsplit.net.client_traffic import ClientTraffic
from jsplit.net.events import Event
from jsplit.net.reconnect import Outage
from jsplit.wire.messages import (
    Message,
    Waiting,
    Welcome,
    read_message,
    write_message,
)

SILENCE, LONGEST_SILENCE = 5.0, 320.0
"""Seconds without a message after which a client says what it waits for, doubling."""

GREETING = 3600.0
"""Seconds in which the server must welcome; it waits for all clients before."""

M = TypeVar("M", bound=Message)


class Conversation:
    """A client's end of a channel.

    Args:
        channel: to the server.
        traffic: counts what is said.
        outage: is told when the server is heard.
        notify: takes a line of text for people.
    """

    def __init__(
        self,
        channel: Channel,
        traffic: ClientTraffic,
        outage: Outage,
        notify: Callable[[str], None],
    ):
        self._channel = channel
        self._traffic = traffic
        self._outage = outage
        self._notify = notify
        self._silence = SILENCE

    def send(self, message: Message) -> None:
        """Sends a message, as `Channel.send`."""
        data = write_message(message)
        self._channel.send(data)
        self._traffic.sent += len(data)

    def arrived(self, allowed: tuple[type[M], ...]) -> M | None:
        """Returns a message that is there already, one of those allowed, or None."""
        message: M | None = None
        while message is None:
            try:
                message = self._take(allowed, 0.0)
            except TimeoutError:
                return None
        return message

    def receive(self, allowed: tuple[type[M], ...], due: str) -> M:
        """Returns the next message, which must be one of those allowed.

        Args:
            allowed: classes of message.
            due: what the server is to do before it comes, for people, who are told if
                that takes long: longer than the last time that they were.
        """
        silence: float | None = self._silence
        while True:
            try:
                message = self._take(allowed, silence)
            except TimeoutError:
                self._notify(Event(f"waiting for the server to {due}", "waiting"))
                self._silence = min(2 * self._silence, LONGEST_SILENCE)
            else:
                if message is not None:
                    return message
            silence = None  # Whom it waits for was said.

    def welcome(self) -> Welcome:
        """Returns the welcome that ends the wait for all clients.

        Raises:
            ConnectionLost: if nothing came in `GREETING` seconds.
        """
        patience = SILENCE
        while True:
            try:
                message = self._take((Welcome,), patience)
            except TimeoutError:
                if patience == GREETING:
                    reason = f"no welcome in {GREETING:g} s"
                    raise ConnectionLost(reason) from None
                text = "waiting for the server, which is there, to begin the run"
                self._notify(Event(text, "waiting"))
            else:
                if message is not None:
                    return message
            patience = GREETING

    def _take(self, allowed: tuple[type[M], ...], timeout: float | None) -> M | None:
        """Returns the next message; None for a notice, which is passed on."""
        data = self._channel.receive(timeout)
        self._traffic.received += len(data)
        self._outage.heard()
        if data[:1] == bytes([Waiting.kind]):
            waiting = read_message(data, (Waiting,))
            self._notify(
                Event(
                    describe(waiting),
                    "waiting",
                    missing_client=waiting.client,
                    connected=waiting.connected,
                    present=waiting.present,
                    clients=waiting.clients,
                )
            )
            return None
        return read_message(data, allowed)


def describe(message: Waiting) -> str:
    """What people are told of a server that waits.

    Example:
        >>> describe(Waiting(client=1, connected=False, present=1, clients=3))
        'waiting for client 1, which is not connected (1 of 3 clients are there)'
    """
    how = "is connected" if message.connected else "is not connected"
    return (
        f"waiting for client {message.client}, which {how} ({message.present} of "
        f"{message.clients} clients are there)"
    )
