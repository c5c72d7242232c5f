"""Bytes of this process's TCP connections, as the system counts them (Linux).

gRPC gives out no sockets, but the process can see its own: those whose other end is a
given address. What the system counts there is everything that TCP carried, TLS and
HTTP/2 with it, without TCP's and IP's own headers and without what was sent again. The
server does not know of it: `jsplit serve` puts the meter around its connections.
"""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jsplit.errors import Refusal
from jsplit.net.channel import Channel

_TCP_INFO = 11
# struct tcp_info of Linux 4.19 and newer (include/uapi/linux/tcp.h).
_RECEIVED, _SENT, _SENT_AGAIN = 128, 200, 208
_SIZE = 216


class ByteCounts(NamedTuple):
    """Bytes at one moment, both ways.

    Attributes:
        tcp: that TCP carried.
        messages: of the messages in them.
    """

    tcp: int
    messages: int


class TcpMeter:
    """Compares the bytes of connections with those of the messages in them.

    It is also a writer of records (`jsplit.experiment.writers`), which measures after
    every epoch: of a connection that breaks, what was measured last counts.

    Args:
        handle_connection: serves a channel until it ends.
    """

    def __init__(self, handle_connection: Callable[[Channel, int | None], None]):
        self._handle = handle_connection
        self._lock = threading.Lock()
        self._open: set[_MeteredChannel] = set()
        self._ended = ByteCounts(0, 0)

    def handle_connection(self, channel: Channel, identity: int | None) -> None:
        """Serves a channel until it ends, and measures it."""
        metered = _MeteredChannel(channel)
        with self._lock:
            self._open.add(metered)
        try:
            self._handle(metered, identity)
        finally:
            with self._lock:
                self._open.remove(metered)
                self._ended = _sum(self._ended, metered.counts)

    def measure(self) -> ByteCounts:
        """The bytes of every connection so far."""
        with self._lock:
            for channel in self._open:
                channel.measure()
            return _sum(self._ended, *(channel.counts for channel in self._open))

    def write(self, record: Mapping[str, Any]) -> None:
        """Measures; the record itself does not matter."""
        self.measure()

    def close(self) -> None:
        """As of any writer: nothing is left to do."""


def _sum(*counts: ByteCounts) -> ByteCounts:
    return ByteCounts(*map(sum, zip(*counts, strict=True)))


class _MeteredChannel:
    """A channel whose messages and whose socket's bytes are counted side by side.

    Attributes:
        remote: as of the channel.
        counts: when the system was last asked; zeros where it cannot tell.
    """

    def __init__(self, channel: Channel):
        self.remote = channel.remote
        self.counts = ByteCounts(0, 0)
        self._channel = channel
        # One thread reads, another may write.
        self._sent = self._received = 0

    def measure(self) -> None:
        """Asks the system."""
        found = tcp_bytes(self.remote)
        if found is not None:
            self.counts = ByteCounts(found, self._sent + self._received)

    def send(self, data: bytes) -> None:
        """As `Channel.send`."""
        self._channel.send(data)
        self._sent += len(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Channel.receive`."""
        data = self._channel.receive(timeout)
        self._received += len(data)
        return data

    def close(self, reason: Refusal | None = None) -> None:
        """As `Channel.close`, after a last look while the socket is there."""
        self.measure()
        self._channel.close(reason)


def tcp_bytes(remote: str) -> int | None:
    """Bytes that the connection to this address has carried so far, both ways.

    Args:
        remote: as gRPC names it, such as `ipv4:127.0.0.1:4711`.

    Returns:
        None where the system does not tell, or there is no such connection.
    """
    wanted = _address(remote)
    if wanted is None or not Path("/proc/self/fd").is_dir():
        return None
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if not os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as found:
                if found.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                host, port = found.getpeername()[:2]
                if (host.removeprefix("::ffff:"), port) == wanted:
                    return _carried(found)
    return None


def _carried(found: socket.socket) -> int | None:
    info = found.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SIZE)
    if len(info) < _SIZE:
        return None
    received, sent, again = (
        struct.unpack_from("=Q", info, at)[0] for at in (_RECEIVED, _SENT, _SENT_AGAIN)
    )
    return int(sent - again + received)


def _address(remote: str) -> tuple[str, int] | None:
    _, _, rest = remote.partition(":")
    host, _, port = rest.rpartition(":")
    host = host.replace("%5B", "").replace("%5D", "").strip("[]")
    return (host.removeprefix("::ffff:"), int(port)) if port.isdigit() else None
