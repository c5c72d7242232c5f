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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jsplit.errors import Refusal
from jsplit.net.channel import Channel

_TCP_INFO = 11
# struct tcp_info of Linux 4.19 and newer (include/uapi/linux/tcp.h).
_RECEIVED, _SENT, _SENT_AGAIN = 128, 200, 208
_SIZE = 216
# States in which this side has not closed: ESTABLISHED, SYN_RECV, CLOSE_WAIT.
_OPEN = (1, 3, 8)


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

    @property
    def measured(self) -> ByteCounts:
        """The same as it was measured last; the system is not asked."""
        with self._lock:
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
    wanted = parse_address(remote)
    if wanted is None:
        return None
    for name, descriptor in own_sockets():
        found = copy_of(name, descriptor)
        if found is None:
            continue
        with found, contextlib.suppress(OSError):
            if peer_of(found) == wanted:
                info = tcp_info(found)
                return None if info is None else info.sent + info.received
    return None


def own_sockets() -> Iterator[tuple[str, int]]:
    """The sockets of this process, each by its name in the system and its descriptor.

    The descriptor may be another's by the time that it is used: see `copy_of`.
    """
    if not Path("/proc/self/fd").is_dir():
        return
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{entry}")
            if name.startswith("socket:"):
                yield name, int(entry)


def copy_of(name: str, descriptor: int) -> socket.socket | None:
    """A copy of one of this process's sockets, as `own_sockets` names it.

    Returns:
        None if that socket is gone, or is none of TCP.
    """
    copy = None
    try:
        copy = os.dup(descriptor)
        if os.readlink(f"/proc/self/fd/{copy}") == name:
            found = socket.socket(fileno=copy)
            copy = None
            if found.family in (socket.AF_INET, socket.AF_INET6):
                return found
            found.close()
    except OSError:
        return None
    finally:
        if copy is not None:
            os.close(copy)
    return None


def peer_of(found: socket.socket) -> tuple[str, int]:
    """The address at the other end of a TCP connection, as `parse_address` has it.

    Raises:
        OSError: if there is no other end any more.
    """
    host, port = found.getpeername()[:2]
    return host.removeprefix("::ffff:"), port


class TcpInfo(NamedTuple):
    """What the system knows of a connection.

    Attributes:
        open: whether this side has not closed it.
        received: bytes that came.
        sent: bytes that went, each counted once.
    """

    open: bool
    received: int
    sent: int


def tcp_info(found: socket.socket) -> TcpInfo | None:
    """Asks the system about a connection; None where it does not tell."""
    info = found.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SIZE)
    if len(info) < _SIZE:
        return None
    received, sent, again = (
        struct.unpack_from("=Q", info, at)[0] for at in (_RECEIVED, _SENT, _SENT_AGAIN)
    )
    return TcpInfo(info[0] in _OPEN, received, sent - again)


def parse_address(remote: str) -> tuple[str, int] | None:
    """Host and port of an address as gRPC names it.

    Example:
        >>> parse_address("ipv6:%5B::1%5D:7070"), parse_address("local")
        (('::1', 7070), None)
    """
    _, _, rest = remote.partition(":")
    host, _, port = rest.rpartition(":")
    host = host.replace("%5B", "").replace("%5D", "").strip("[]")
    return (host.removeprefix("::ffff:"), int(port)) if port.isdigit() else None
