"""What do a million wrong messages do?

    python -m benchmarks.fuzz                       # a few minutes
    python -m benchmarks.fuzz --messages 10000 --live 100

Random bytes and changed, cut, joined and repeated messages: first to the reader of
messages and payloads alone, then, a few thousand, over gRPC and mutual TLS to a live
server while an honest client trains with it, half of them in place of a hello and half
where a batch is due. Nothing but a message or a named refusal may come of any, memory
must not grow, and the honest client's run must end bit for bit as usual.
"""

import collections
import contextlib
import dataclasses
import io
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from jsplit.errors import Refusal
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net import certificates, reconnect
from jsplit.net.channel import Channel, ConnectionLost
from jsplit.net.client import Client
from jsplit.net.config import MIB, ServeConfig
from jsplit.net.grpc_channel import connect as grpc_connect
from jsplit.net.grpc_channel import serve
from jsplit.net.server_run import ServerRun
from jsplit.testing import TINY_RUN, hello_of, make_clients, result_of, run_in_process
from jsplit.wire import compress, expand
from jsplit.wire.messages import (
    ClientWeights,
    Done,
    Goodbye,
    Labels,
    Message,
    Place,
    Plan,
    Tensor,
    WeightsKept,
    Welcome,
    read_message,
    write_message,
)

ANSWER = 0.5
"""Seconds for an answer to a lie; some, such as a part of a long message, get none."""

LIMIT = 64 * MIB
"""Of a message."""

CONFIG = dataclasses.replace(TINY_RUN, clients=2, epochs=8)


def main(argv: Sequence[str] | None = None) -> None:
    """Fuzzes, compares, prints and writes."""
    parser = measure.arguments(__doc__, rounds=1, models=["cnn"])
    parser.add_argument(
        "--messages", type=measure.positive, default=1_000_000, help="to the reader"
    )
    parser.add_argument(
        "--live", type=measure.positive, default=5_000, help="to a live server"
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    settings = measure.settings_of(parser, argv)
    draw = random.Random(settings.seed)
    reconnect.FIRST_PAUSE = reconnect.LONGEST_PAUSE = (
        0.002  # It comes back thousands of times.
    )
    found = {
        "reader": to_reader(draw, settings.messages),
        "server": to_server(draw, settings.live),
    }
    for place, counts in found.items():
        print(place, counts)
    measure.write("fuzz", settings, found)


def messages() -> list[Message]:
    """One of each kind, as an honest party might send it."""
    rng = np.random.default_rng(0)
    place, name = Place(1, 2, 3), bytes(range(16))
    codes = rng.geometric(0.4, 2000).astype(np.uint8).tobytes()
    return [
        hello_of(CONFIG, client=1, held_out=100),
        Welcome(name, name, True, True, False, 40, 200, ((0.5, 0.2),)),
        Labels(False, b"\xff" * 200),
        Tensor(place, 0, 40, 50, b"\1\5", compress(codes)),
        ClientWeights(place, name, compress(codes)),
        WeightsKept(place, name),
        Plan(place, 1, 0, bytes(8), name),
        Done(8, 70, 100, name),
        Goodbye(),
    ]


def spoil(draw: random.Random, good: list[bytes]) -> bytes:
    """Random bytes, or a good message changed, cut, joined with another, or whole."""
    data = bytearray(draw.choice(good))
    match draw.randrange(6):
        case 0:
            return draw.randbytes(draw.randrange(200))
        case 1:
            return bytes(data[: draw.randrange(len(data))])
        case 2:
            return bytes(data + draw.choice(good))
        case 3:
            return bytes(data)
        case _:
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            return bytes(data)


def to_reader(draw: random.Random, count: int) -> dict[str, object]:
    """Reads each message, and expands its payload if it has one."""
    good = [write_message(message) for message in messages()]
    seen: collections.Counter[str] = collections.Counter()
    before = 0
    for number in range(count):
        if number == min(20_000, count // 2):
            before = measure.memory()["rss"] or 0
        try:
            message = read_message(spoil(draw, good))
            seen[type(message).__name__] += 1
            if isinstance(message, Tensor | ClientWeights):
                expand(message.body, 2000)
                seen["expanded"] += 1
        except Refusal as refusal:
            seen[refusal.name] += 1
    grown = (measure.memory()["rss"] or 0) - before
    return {"messages": count, "came_of_it": dict(seen), "memory_grown_bytes": grown}


def to_server(draw: random.Random, count: int) -> dict[str, object]:
    """Sends them between the messages of client 1, while client 0 trains honestly."""
    seen: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as base, contextlib.ExitStack() as stack:
        undisturbed, _ = run_in_process(CONFIG, Path(base) / "alone")
        expected = result_of(Path(base) / "alone", undisturbed)
        path = Path(base) / "attacked"
        folder = RunFolder(path / "server")
        folder.path.mkdir(parents=True)
        serving = ServeConfig(greeting=5, linger=30, wait=600)
        run = ServerRun(CONFIG, serving, folder, lambda line: None, lambda: False)
        honest, liar = make_clients(CONFIG, path)
        good = [write_message(message) for message in messages()]
        certs = Path(base) / "certs"
        certificates.make_certificates(certs, ["127.0.0.1"], 2)
        credentials = certificates.read_credentials(
            certs / "server", server=True, notify=print
        )
        server = serve(
            "127.0.0.1:0", credentials, 2, LIMIT, run.admission.handle_connection
        )
        port = stack.enter_context(server).port

        def connect(number: int) -> contextlib.AbstractContextManager[Channel]:
            credentials = certificates.read_credentials(
                certs / f"client-{number}", server=False, notify=print
            )
            return grpc_connect(f"127.0.0.1:{port}", credentials, LIMIT)

        @contextlib.contextmanager
        def lying() -> Iterator[Channel]:
            with connect(1) as channel:
                yield LyingChannel(channel, draw, good, seen, count, liar)

        threads = [
            threading.Thread(target=target, daemon=True)
            for target in (
                lambda: run.train(lambda epochs: (JsonlWriter(folder.metrics),)),
                lambda: honest.run(lambda: connect(0), 600.0),
                lambda: liar.run(lying, 600.0),
            )
        ]
        before = measure.memory()["rss"] or 0
        # The liar says so each time that it is shown out.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(1200)
        grown = (measure.memory()["rss"] or 0) - before
        ended = not any(thread.is_alive() for thread in threads)
        unchanged = ended and result_of(path, undisturbed) == expected
    return {
        "messages": sum(seen.values()),
        "came_of_it": dict(seen),
        "memory_grown_bytes": grown,
        "honest_run_unchanged": unchanged,
    }


class LyingChannel:
    """Slips wrong messages in between; each one costs it the connection."""

    def __init__(
        self,
        channel: Channel,
        draw: random.Random,
        good: list[bytes],
        seen: collections.Counter[str],
        count: int,
        liar: Client,
    ):
        self.remote = channel.remote
        self._channel, self._draw, self._good = channel, draw, good
        self._seen, self._count, self._liar = seen, count, liar
        self._due = "hello"

    def send(self, data: bytes) -> None:
        """A lie first, mostly; then the truth.

        The very first word is true: what a client says of its data binds it.
        """
        more = sum(self._seen.values()) < self._count
        often = {"hello": 0.5, "batch": 0.995}[self._due]
        if more and self._liar.traffic.received and self._draw.random() < often:
            self._lie()
        self._channel.send(data)
        self._due = "batch"

    def _lie(self) -> None:
        self._channel.send(spoil(self._draw, self._good))
        try:
            while True:
                self._channel.receive(ANSWER)
        except Refusal as refusal:
            self._seen[f"for a {self._due}: {refusal.name}"] += 1
        except ConnectionLost:
            self._seen[f"for a {self._due}: connection ended"] += 1
        except TimeoutError:
            self._seen[f"for a {self._due}: no answer"] += 1
        raise ConnectionLost("for a lie")

    def receive(self, timeout: float | None = None) -> bytes:
        """As it comes."""
        return self._channel.receive(timeout)

    def close(self, reason: Refusal | None = None) -> None:
        """As it is."""
        self._channel.close(reason)


if __name__ == "__main__":
    main()
