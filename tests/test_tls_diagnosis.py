"""Over real TLS, a side that is not trusted is told so by name, and at once."""

import contextlib
import socket
import ssl
import threading

import pytest

from jsplit.cli.main import main
from jsplit.errors import Refusal
from jsplit.net import certificates
from jsplit.net.channel import ConnectionLost
from jsplit.net.grpc_channel import connect, serve
from jsplit.net.tls_diagnosis import tls_refusal
from jsplit.testing import TINY_RUN, free_port, words_for

LIMIT = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two authorities for this host, and one for another."""
    base = tmp_path_factory.mktemp("certs")
    for name, host in (("ours", "127.0.0.1"), ("theirs", "127.0.0.1"), ("far", "a.b")):
        certificates.make_certificates(base / name, [host], 1)
    return base


@pytest.fixture
def credentials(folder):
    def read(name):
        return (
            None
            if name is None
            else certificates.read_credentials(
                folder / name, server=name.endswith("server"), notify=print
            )
        )

    return read


def welcome(channel, identity):
    channel.send(f"you are {identity}".encode())
    with contextlib.suppress(ConnectionLost):
        channel.receive()


@contextlib.contextmanager
def answer_to(server, client):
    """What a client with these credentials hears from a server with those."""
    with (
        serve("127.0.0.1:0", server, 1, LIMIT, welcome) as listener,
        connect(f"127.0.0.1:{listener.port}", client, LIMIT) as channel,
    ):
        yield channel


def test_parties_of_one_authority_trust_each_other(credentials):
    with answer_to(credentials("ours/server"), credentials("ours/client-0")) as channel:
        assert channel.receive(10) == b"you are 0"


BETRAYED = [
    # server, client, the client's refusal
    ("ours/server", None, "NO_CERTIFICATE"),
    ("ours/server", "theirs/client-0", "SERVER_CERTIFICATE"),
    ("far/server", "far/client-0", "SERVER_CERTIFICATE"),  # made for another host
    ("ours/client-0", "ours/client-0", "SERVER_CERTIFICATE"),  # a client as server
    ("ours/server", "ours/server", "CLIENT_CERTIFICATE"),  # a server as client
    (None, "ours/client-0", "NO_TLS"),
]


@pytest.mark.parametrize(("server", "client", "name"), BETRAYED)
def test_what_tls_refuses_is_refused_by_name(server, client, name, credentials):
    with (
        pytest.raises(Refusal) as refused,
        answer_to(credentials(server), credentials(client)) as channel,
    ):
        channel.receive(10)
    assert refused.value.name == name


def test_a_client_of_another_authority_is_refused_even_if_it_trusts_the_server(
    credentials,
):
    other = credentials("theirs/client-0")._replace(
        authority=credentials("ours/client-0").authority
    )
    with (
        pytest.raises(Refusal) as refused,
        answer_to(credentials("ours/server"), other) as channel,
    ):
        channel.receive(10)
    assert refused.value.name == "CLIENT_CERTIFICATE"


def test_a_server_that_is_not_there_is_no_refusal(credentials):
    address = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(ConnectionLost, match="[Cc]onnect"),
        connect(address, credentials("ours/client-0"), LIMIT) as channel,
    ):
        channel.receive(10)


def test_a_server_killed_after_the_handshake_is_no_refusal(folder, credentials):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    server = folder / "ours" / "server"
    context.load_cert_chain(server / "certificate.pem", server / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def serve_once():
            plain, _ = listener.accept()
            listener.close()
            context.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=serve_once, daemon=True)
        thread.start()
        assert tls_refusal(address, credentials("ours/client-0")) is None
        thread.join(10)


def test_join_ends_at_once_where_it_is_not_trusted(
    folder, credentials, tmp_path, capsys
):
    with serve(
        "127.0.0.1:0", credentials("ours/server"), 1, LIMIT, welcome
    ) as listener:
        words = ("join", "--server", f"127.0.0.1:{listener.port}", *words_for(TINY_RUN))
        words += ("--workdir", str(tmp_path / "client"))
        code = main([*words, "--certs", str(folder / "theirs" / "client-0")])
    assert code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this client cannot take part: SERVER_CERTIFICATE")
    assert said.count("\n") == 1
