"""Finds who connects and never comes as far as a call, as where TLS refuses them.

gRPC's Python tells a server nothing of a handshake that fails: there is no call, and
its C++ core prints the reason, without the address, to standard error and only under
`GRPC_VERBOSITY=INFO`. What it does tell is that a handshake begins. Then the connection
is among the sockets of this process, so it is looked up there, and looked at until
there is a call or it is over. How many bytes went each way says how far it came.

On systems without Linux's /proc nothing is found, and nothing is logged.
"""

import contextlib
import logging
import socket
import threading
import time
from typing import Any, NamedTuple

import grpc

from jsplit.net.credentials import Credentials
from jsplit.net.events import Event, Say
from jsplit.net.tcp_meter import (
    TcpInfo,
    copy_of,
    own_sockets,
    parse_address,
    peer_of,
    tcp_info,
)

POLL = 0.25
"""Seconds between two looks at connections that have no call yet."""

GRACE = 0.5
"""Seconds after which a connection that is over has had its call, if there was one."""

PATIENCE = 30.0
"""Seconds after which a connection that does nothing is logged."""

MOST = 100
"""Connections without a call that are looked at; those beyond are not."""

INTERVAL = 10.0
"""Seconds in which connections of the same host are logged once."""


class _Pending(NamedTuple):
    socket: socket.socket
    remote: tuple[str, int]
    since: float


class ConnectionWatch:
    """Watches the connections to one port, in a thread of its own.

    Args:
        notify: takes the event `connection_without_session`.

    Attributes:
        port: that is watched; none while it is 0.
        count: connections so far that were over, or long idle, without a call.
    """

    def __init__(self, notify: Say):
        self.port = 0
        self.count = 0
        self._notify = notify
        self._changed = threading.Condition()
        self._known: set[str] = set()
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._logged: dict[str, tuple[float, int]] = {}
        self._look_after = 0.0
        self._missed = False  # whether there may be new sockets that nobody looked for
        self._ended = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ConnectionWatch":
        self._known = {name for name, _ in own_sockets()}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        for pending in self._pending.values():
            pending.socket.close()

    def handshake_begins(self) -> None:
        """Somebody has connected; called before TLS reads anything."""
        with self._changed:
            # In a storm of connections, looking for them takes a tenth of the time.
            self._missed = time.monotonic() < self._look_after
            if not self._missed:
                self._find()
            self._changed.notify_all()

    def call_begins(self, remote: str) -> None:
        """There is a call on the connection from this address, as gRPC names it."""
        address = parse_address(remote)
        with self._changed:
            if address is not None and address in self._pending:
                self._pending.pop(address).socket.close()

    def _find(self) -> None:
        """Takes up the sockets that are new; a copy keeps what the system counted."""
        now = time.monotonic()
        # A process that has no descriptor left cannot look, and must go on.
        with contextlib.suppress(OSError):
            self._add(dict(own_sockets()), now)
        ended = time.monotonic()
        self._look_after = ended + 9 * (ended - now)
        self._missed = False

    def _add(self, names: dict[str, int], now: float) -> None:
        for name in names.keys() - self._known:
            found = copy_of(name, names[name])
            if found is None:
                continue
            remote = self._remote(found)
            if remote is None or len(self._pending) >= MOST:
                found.close()
            else:
                self._pending[remote] = _Pending(found, remote, now)
        self._known = set(names)

    def _remote(self, found: socket.socket) -> tuple[str, int] | None:
        """The other end of a connection to the port; None if it is none."""
        with contextlib.suppress(OSError):  # As of a socket that listens.
            return peer_of(found) if found.getsockname()[1] == self.port else None
        return None

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ended or self._pending or self._missed
                )
                if self._ended:
                    return
                if self._missed:
                    self._find()
                events = self._judge(time.monotonic())
            for event in events:
                self._notify(event)
            with self._changed:
                self._changed.wait_for(lambda: self._ended, POLL)

    def _judge(self, now: float) -> list[Event]:
        """Takes out who will have no call any more; returns what is to be logged."""
        events = []
        for pending in [*self._pending.values()]:
            info, waited = tcp_info(pending.socket), now - pending.since
            over = info is not None and not info.open and waited > GRACE
            if not over and waited <= PATIENCE:
                continue
            self._pending.pop(pending.remote).socket.close()
            self.count += 1
            host = pending.remote[0]
            last, more = self._logged.get(host, (-INTERVAL, 0))
            if now - last < INTERVAL:
                self._logged[host] = (last, more + 1)
                continue
            if len(self._logged) >= MOST:
                self._logged.clear()
            self._logged[host] = (now, 0)
            events.append(_event(pending.remote, info, more))
        return events


def tls_of_server(credentials: Credentials, watch: ConnectionWatch | None) -> Any:
    """Mutual TLS as gRPC takes it; the watch is told of every handshake.

    gRPC asks for other certificates before each handshake, which is the one sign of a
    connection that it gives before there is a call. The answer is that none changed.
    """

    def unchanged() -> None:
        if watch is not None:
            watch.handshake_begins()

    return grpc.dynamic_ssl_server_credentials(
        grpc.ssl_server_certificate_configuration(
            [(credentials.private_key, credentials.certificate)],
            root_certificates=credentials.authority,
        ),
        unchanged,
        require_client_authentication=True,
    )


def reason_of(info: TcpInfo | None) -> str:
    """Why there was no call, as far as the bytes of a connection tell.

    Example:
        >>> reason_of(TcpInfo(open=False, received=16, sent=0))
        'it spoke no TLS'
    """
    if info is None:
        return "the system does not say how far it came"
    if info.open:
        return "it is connected and does nothing"
    if info.received <= 1:  # The end of a connection counts as a byte.
        return "it sent nothing"
    if not info.sent:
        return "it spoke no TLS"
    return (
        "the TLS handshake failed, or it left after it: one side may not trust the "
        "other's certificate; the client's log says which, or the server's with "
        "GRPC_VERBOSITY=INFO in its environment"
    )


def _event(remote: tuple[str, int], info: TcpInfo | None, more: int) -> Event:
    address = f"{remote[0]}:{remote[1]}"
    again = f" ({more} times more from there since it was said last)" if more else ""
    return Event(
        f"connection without a session from {address}: {reason_of(info)}{again}",
        "connection_without_session",
        logging.WARNING,
        remote=address,
        received=None if info is None else info.received,
        sent=None if info is None else info.sent,
        more=more or None,
    )
