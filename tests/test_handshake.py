"""Over real TLS, a party that is not trusted is told so by name, and at once."""

import contextlib
import socket
import ssl
import threading

import pytest

from jsplit.cli.main import main
from jsplit.errors import Refusal
from jsplit.net import certificates
from jsplit.net.channel import Lost
from jsplit.net.grpc_channel import dialled, listening
from jsplit.net.handshake import refusal_of
from tests.networked import TINY, flags, free_port

LIMIT = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two authorities for this host, and one for another."""
    base = tmp_path_factory.mktemp("certs")
    for name, host in (("ours", "127.0.0.1"), ("theirs", "127.0.0.1"), ("far", "a.b")):
        certificates.make(base / name, [host], 1)
    return base


@pytest.fixture
def keys(folder):
    def read(name):
        return (
            None
            if name is None
            else certificates.read(folder / name, server=name.endswith("server"))
        )

    return read


def welcome(line, identity):
    line.send(f"you are {identity}".encode())
    with contextlib.suppress(Lost):
        line.receive()


@contextlib.contextmanager
def answer_to(server, client):
    """What a client with these keys hears from a server with those."""
    with (
        listening("127.0.0.1:0", server, 1, LIMIT, welcome) as listener,
        dialled(f"127.0.0.1:{listener.port}", client, LIMIT) as line,
    ):
        yield line


def test_parties_of_one_authority_trust_each_other(keys):
    with answer_to(keys("ours/server"), keys("ours/client-0")) as line:
        assert line.receive(10) == b"you are 0"


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
def test_what_tls_refuses_is_refused_by_name(server, client, name, keys):
    with (
        pytest.raises(Refusal) as refused,
        answer_to(keys(server), keys(client)) as line,
    ):
        line.receive(10)
    assert refused.value.name == name


def test_a_client_of_another_authority_is_refused_even_if_it_trusts_the_server(keys):
    other = keys("theirs/client-0")._replace(authority=keys("ours/client-0").authority)
    with (
        pytest.raises(Refusal) as refused,
        answer_to(keys("ours/server"), other) as line,
    ):
        line.receive(10)
    assert refused.value.name == "CLIENT_CERTIFICATE"


def test_a_server_that_is_not_there_is_no_refusal(keys):
    address = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(Lost, match="[Cc]onnect"),
        dialled(address, keys("ours/client-0"), LIMIT) as line,
    ):
        line.receive(10)


def test_a_server_killed_after_the_handshake_is_no_refusal(folder, keys):
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
        assert refusal_of(address, keys("ours/client-0")) is None
        thread.join(10)


def test_join_ends_at_once_where_it_is_not_trusted(folder, keys, tmp_path, capsys):
    with listening("127.0.0.1:0", keys("ours/server"), 1, LIMIT, welcome) as listener:
        words = ("join", "--server", f"127.0.0.1:{listener.port}", *flags(TINY))
        words += ("--workdir", str(tmp_path / "client"))
        code = main([*words, "--certs", str(folder / "theirs" / "client-0")])
    assert code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this client cannot take part: SERVER_CERTIFICATE")
    assert said.count("\n") == 1
