"""Bytes of this process's TCP connections, as the system counts them (Linux).

gRPC gives out no sockets, but the process can see its own: those whose other end is a
given address. What the system counts there is everything that TCP carried, TLS and
HTTP/2 with it, without TCP's and IP's own headers and without what was sent again.
"""

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from jsplit.errors import Refusal
from jsplit.net.channel import Line

_TCP_INFO = 11
# struct tcp_info of Linux 4.19 and newer (include/uapi/linux/tcp.h).
_RECEIVED, _SENT, _SENT_AGAIN = 128, 200, 208
_SIZE = 216


class Bytes(NamedTuple):
    """Of a connection so far."""

    sent: int
    received: int


def counted(peer: str) -> Bytes | None:
    """Bytes of the connection to this peer.

    Args:
        peer: as gRPC names it, such as `ipv4:127.0.0.1:4711`.

    Returns:
        None where the system does not tell, or there is no such connection.
    """
    wanted = _address(peer)
    if wanted is None or not Path("/proc/self/fd").is_dir():
        return None
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if not os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as one:
                if one.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                host, port = one.getpeername()[:2]
                if (host.removeprefix("::ffff:"), port) == wanted:
                    return _read(one)
    return None


def _read(one: socket.socket) -> Bytes | None:
    info = one.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _SIZE)
    if len(info) < _SIZE:
        return None
    received, sent, again = (
        struct.unpack_from("=Q", info, at)[0] for at in (_RECEIVED, _SENT, _SENT_AGAIN)
    )
    return Bytes(sent - again, received)


def _address(peer: str) -> tuple[str, int] | None:
    _, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    host = host.replace("%5B", "").replace("%5D", "").strip("[]")
    return (host.removeprefix("::ffff:"), int(port)) if port.isdigit() else None


class Measured(NamedTuple):
    """What was counted at one moment, both ways.

    Attributes:
        tcp: bytes that TCP carried.
        messages: bytes of the messages in them.
    """

    tcp: int
    messages: int

    def __add__(self, other: object) -> "Measured":
        if not isinstance(other, Measured):
            return NotImplemented
        return Measured(self.tcp + other.tcp, self.messages + other.messages)


class MeteredLine:
    """A line whose messages and whose socket's bytes are counted side by side.

    Attributes:
        peer: as of the line.
        measured: when the system was last asked; nothing where it cannot tell.
    """

    def __init__(self, line: Line):
        self.peer = line.peer
        self.measured = Measured(0, 0)
        self._line = line
        # One thread reads, another may write.
        self._sent = self._received = 0

    def measure(self) -> None:
        """Asks the system."""
        found = counted(self.peer)
        if found is not None:
            self.measured = Measured(sum(found), self._sent + self._received)

    def send(self, data: bytes) -> None:
        """As `Line.send`."""
        self._line.send(data)
        self._sent += len(data)

    def receive(self, timeout: float | None = None) -> bytes:
        """As `Line.receive`."""
        data = self._line.receive(timeout)
        self._received += len(data)
        return data

    def close(self, reason: Refusal | None = None) -> None:
        """As `Line.close`."""
        self._line.close(reason)
