"""What listens at the server's address is called a server when it answers as one."""

import contextlib
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from jsplit.cli.main import main
from jsplit.net import certificates, grpc_channel, tls_diagnosis
from jsplit.net.channel import ConnectionLost
from jsplit.net.grpc_channel import connect
from jsplit.testing import TINY_RUN, words_for

LIMIT = 2**20


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs") / "made"
    certificates.make_certificates(folder, ["127.0.0.1"], 1)
    return folder


@pytest.fixture
def client(certs):
    return certificates.read_credentials(certs / "client-0", server=False, notify=print)


@contextlib.contextmanager
def something(says):
    """A port that accepts; each connection is given to `says` in a thread."""
    kept = []  # Or the connections would be closed.

    def serve_all(listener):
        with contextlib.suppress(OSError):
            while True:
                kept.append(listener.accept()[0])
                threading.Thread(target=says, args=(kept[-1],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve_all, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(grpc_channel, "ANSWER", 0.5)
    monkeypatch.setattr(tls_diagnosis, "SECONDS", 0.5)


def nothing(connection):
    pass


def shake_hands_only(certs):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    server = certs / "server"
    context.load_cert_chain(server / "certificate.pem", server / "key.pem")

    def says(connection):
        with contextlib.suppress(OSError):
            with context.wrap_socket(connection, server_side=True) as secure:
                while secure.recv(1000):
                    pass

    return says


def greet_as_ssh(connection):
    with contextlib.suppress(OSError):
        connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")


def why_no_server(address, credentials):
    with (
        pytest.raises(ConnectionLost) as lost,
        connect(address, credentials, LIMIT),
    ):
        pytest.fail("it was taken for a server")
    return str(lost.value).replace(address, "HERE")


@pytest.mark.parametrize("tls", [False, True])
def test_a_port_that_accepts_and_says_nothing_is_not_called_a_server(
    tls, client, impatient
):
    with something(nothing) as address:
        began = time.monotonic()
        said = why_no_server(address, client if tls else None)
        assert time.monotonic() - began < 5
    assert said == (
        "something listens at HERE, but does not answer as a jsplit server (it says "
        "nothing, for 0.5 s)"
    )


def test_a_port_that_shakes_hands_and_says_nothing_is_not_called_a_server(
    certs, client, impatient
):
    with something(shake_hands_only(certs)) as address:
        said = why_no_server(address, client)
    assert "does not answer as a jsplit server (it speaks TLS, and then nothing" in said


def test_a_server_of_something_else_is_not_called_a_server(impatient):
    with something(greet_as_ssh) as address:
        assert why_no_server(address, None) == (
            "something listens at HERE, but does not answer as a jsplit server (it "
            "speaks no HTTP/2)"
        )
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        said = why_no_server(f"127.0.0.1:{port}", None)
    finally:
        other.stop(0).wait()
    assert "not answer as a jsplit server (it speaks gRPC or HTTP/2 for some" in said


def test_a_port_that_hangs_up_is_no_refusal_for_good(client):
    with something(lambda connection: connection.close()) as address:
        # Which of the two it is depends on what had come when it hung up.
        said = why_no_server(address, client)
        assert "Socket closed" in said or "Connection reset by peer" in said


def test_join_says_what_listens_and_ends_as_without_a_server(
    impatient, tmp_path, capsys
):
    with something(nothing) as address:
        words = ("join", "--insecure", "--server", address, "--patience", "0.2")
        words += ("--workdir", str(tmp_path / "client"))
        assert main([*words, *words_for(TINY_RUN)]) == 1
    said = capsys.readouterr()
    reason = f"something listens at {address}, but does not answer as a jsplit server"
    assert f"({reason} (it says nothing, for 0.5 s)); see that it runs" in said.err
    assert "the server is there" not in said.out
