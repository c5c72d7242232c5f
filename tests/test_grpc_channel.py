"""What a stream over gRPC does when the other side does not do its part."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net.channel import ConnectionLost
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
