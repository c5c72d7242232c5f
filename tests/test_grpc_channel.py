"""What a stream over gRPC does when the other side does not do its part."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net.channel import ConnectionLost
from jsplit.net.config import JoinConfig
from jsplit.net.grpc_channel import connect, serve
from jsplit.net.server_run import ServerRun
from jsplit.net.tcp_meter import TcpMeter
from jsplit.testing import TINY_RUN, make_clients, words_for
from jsplit.testing.network import SERVING
from tests.tiers import sample

LIMIT = 2**20


def test_a_client_that_does_not_read_loses_its_channel():
    sent, ended = [], threading.Event()

    def handle_connection(channel, identity):
        try:
            while len(sent) < 1000:
                channel.send(bytes(100_000))
                sent.append(channel.out.waiting)
        except ConnectionLost:
            ended.set()

    with (
        serve("127.0.0.1:0", None, 1, LIMIT, handle_connection) as listener,
        connect(f"127.0.0.1:{listener.port}", None, LIMIT),
    ):
        assert ended.wait(30)
    assert len(sent) < 100 and max(sent) <= 16


@pytest.mark.parametrize(
    "host", sample(["127.0.0.1", "localhost", "127.0.0.2"], "localhost")
)
def test_what_goes_without_tls_goes_through_no_proxy(monkeypatch, host):
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        named = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, named)
        with (
            serve(f"{host}:0", None, 1, LIMIT, lambda to, _: to.send(b"hi")) as server,
            connect(f"{host}:{server.port}", None, LIMIT) as channel,
        ):
            assert channel.receive(20) == b"hi"


def test_a_server_that_cannot_listen_says_so_in_a_line_and_leaves_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ("serve", "--insecure", "--listen", address, *words_for(TINY_RUN))
        ended = subprocess.run(
            [sys.executable, "-m", "jsplit", *words, "--workdir", tmp_path / "server"],
            env={k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and address in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert not (tmp_path / "server").exists()


def test_in_state_c_nothing_crosses_the_socket(tmp_path):
    class Watching(JsonlWriter):
        """Notes after each epoch what has crossed."""

        def write(self, record):
            super().write(record)
            seen.append(meter.measure())

    seen = []
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    run = ServerRun(TINY_RUN, SERVING, folder, print, lambda: False)
    meter = TcpMeter(run.admission.handle_connection)
    (client,) = make_clients(TINY_RUN, tmp_path)
    with serve("127.0.0.1:0", None, 1, 64 * LIMIT, meter.handle_connection) as listener:
        address = f"127.0.0.1:{listener.port}"
        thread = threading.Thread(
            target=client.run,
            args=(lambda: connect(address, None, 64 * LIMIT), 60.0),
            daemon=True,
        )
        thread.start()
        assert run.train(lambda epochs: (Watching(folder.metrics),))
        thread.join(30)
    assert not thread.is_alive() and run.ledger.states == "AABCCC"
    assert len({measured.messages for measured in seen[2:5]}) == 1
    one_epoch = seen[1].tcp - seen[0].tcp
    # Beside what acknowledges the last batches: HTTP/2's windows, and pings.
    assert 0 <= seen[4].tcp - seen[2].tcp < 200 < one_epoch / 100


@contextlib.contextmanager
def slow_road(port, rate):
    """A port on the way to another, by which `rate` bytes a second come through.

    It reads through a small buffer, so that what is under way waits at the sender, as
    behind a slow line.
    """
    with socket.socket() as entrance:
        entrance.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        entrance.bind(("127.0.0.1", 0))
        entrance.listen()
        entrance.settimeout(60)

        def carry(source, target, delay):
            with contextlib.suppress(OSError):
                while data := source.recv(4_096):
                    target.sendall(data)
                    time.sleep(delay * len(data))
            target.close()

        def travel():
            with contextlib.suppress(OSError):
                while True:
                    near, _ = entrance.accept()
                    far = socket.create_connection(("127.0.0.1", port))
                    for ends in ((near, far, 1 / rate), (far, near, 0)):
                        threading.Thread(target=carry, args=ends, daemon=True).start()

        threading.Thread(target=travel, daemon=True).start()
        yield entrance.getsockname()[1]


@contextlib.contextmanager
def echo(rate, ping_timeout):
    """A channel by a slow road to a server that sends back what comes."""

    def send_back(channel, identity):
        with contextlib.suppress(ConnectionLost):
            channel.send(channel.receive())

    with (
        serve("127.0.0.1:0", None, 1, LIMIT, send_back) as server,
        slow_road(server.port, rate) as port,
        connect(f"127.0.0.1:{port}", None, LIMIT, ping_timeout) as channel,
    ):
        yield channel


@pytest.mark.slow
def test_a_message_that_takes_long_on_a_slow_link_arrives_over_one_connection():
    """Keepalive's ping waits behind it, and must not be taken for a dead link."""
    size, rate = 1_000_000, 50_000
    with echo(rate, JoinConfig.ping_timeout) as channel:
        started = time.monotonic()
        channel.send(bytes(size))
        assert channel.receive(90) == bytes(size)
        assert time.monotonic() - started > 0.5 * size / rate


@pytest.mark.slow
def test_a_ping_that_is_not_answered_in_time_breaks_the_connection():
    with pytest.raises(ConnectionLost, match="ping timeout|timed out"):
        with echo(50_000, 2.0) as channel:
            channel.send(bytes(1_000_000))
            channel.receive(90)
