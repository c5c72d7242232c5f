"""Who connects over TLS and never becomes a session is logged, with the address."""

import contextlib
import functools
import socket
import ssl
import time

import pytest

from jsplit.net import certificates, connection_watch
from jsplit.net.channel import ConnectionLost
from jsplit.net.connection_watch import ConnectionWatch
from jsplit.net.grpc_channel import connect, serve
from tests.runs import within

LIMIT = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("certs")
    for name in ("ours", "theirs"):
        certificates.make_certificates(base / name, ["127.0.0.1"], 1)
    return base


@pytest.fixture
def watched(folder, monkeypatch):
    """A server that is watched: its port, the watch, and what was logged."""
    for name, value in (("POLL", 0.02), ("GRACE", 0.1), ("INTERVAL", 0.0)):
        monkeypatch.setattr(connection_watch, name, value)
    said = []

    def answer(channel, identity):
        channel.send(b"welcome")
        with contextlib.suppress(ConnectionLost):
            channel.receive()
        channel.close()

    credentials = certificates.read_credentials(
        folder / "ours/server", server=True, notify=print
    )
    with (
        ConnectionWatch(said.append) as watch,
        serve("127.0.0.1:0", credentials, 1, LIMIT, answer, watch) as listener,
    ):
        yield listener.port, watch, said


until = functools.partial(within, 20)


def open_plain(port):
    return socket.create_connection(("127.0.0.1", port), 10)


def shake_hands(port, folder, certificate):
    """A handshake with a certificate, or none; returns this side's port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        files = folder / certificate
        context.load_cert_chain(files / "certificate.pem", files / "key.pem")
    with open_plain(port) as plain:
        own = plain.getsockname()[1]
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            context.wrap_socket(plain) as secure,
        ):
            assert not secure.recv(1)
    return own


@pytest.mark.parametrize("certificate", (None, "theirs/client-0", "ours/server"))
def test_a_failed_handshake_is_logged_with_its_address(certificate, folder, watched):
    port, watch, said = watched
    own = shake_hands(port, folder, certificate)
    until(lambda: said)
    (event,) = said
    assert event.name == "connection_without_session" and watch.count == 1
    assert event.fields["remote"] == f"127.0.0.1:{own}"
    assert "the TLS handshake failed" in event and "certificate" in event


@pytest.mark.parametrize(
    ("data", "reason"),
    ((b"GET / HTTP/1.1\r\n\r\n", "it spoke no TLS"), (b"", "it sent nothing")),
)
def test_who_speaks_no_tls_is_logged_so(data, reason, watched):
    port, watch, said = watched
    with open_plain(port) as plain:
        own = plain.getsockname()[1]
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        until(lambda: said)
    assert said == [f"connection without a session from 127.0.0.1:{own}: {reason}"]


def test_who_connects_and_does_nothing_is_logged_in_time(watched, monkeypatch):
    monkeypatch.setattr(connection_watch, "PATIENCE", 0.3)
    port, _, said = watched
    with open_plain(port):
        until(lambda: said)
    assert "it is connected and does nothing" in said[0]


def test_a_client_with_a_session_is_not_logged(folder, watched):
    port, watch, said = watched
    ours = certificates.read_credentials(
        folder / "ours/client-0", server=False, notify=print
    )
    with connect(f"127.0.0.1:{port}", ours, LIMIT) as channel:
        assert channel.receive(10) == b"welcome"
    shake_hands(port, folder, None)  # So that there has been a look at both.
    until(lambda: said)
    time.sleep(0.2)
    assert len(said) == watch.count == 1


def test_connections_of_the_same_host_are_logged_once_in_a_while(watched, monkeypatch):
    monkeypatch.setattr(connection_watch, "INTERVAL", 3600.0)
    port, watch, said = watched
    for number in range(3):
        with open_plain(port) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.settimeout(10)
            assert not plain.recv(1)
        until(lambda number=number: watch.count == number + 1)
    assert len(said) == 1
    monkeypatch.setattr(connection_watch, "INTERVAL", 0.0)
    with open_plain(port) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: len(said) == 2)
    assert said[1].fields["more"] == 2 and "2 times more from there" in said[1]
