"""Networked runs for tests: in this process over queues, or in several."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jsplit.cli.join import client_of, data_of
from jsplit.core.gates import FreezeGate
from jsplit.experiment import checkpoint
from jsplit.experiment.config import RunConfig, agreement, flat
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net.channel import Line, local_line
from jsplit.net.client import Client
from jsplit.net.client_store import Shelf
from jsplit.net.config import JoinConfig, ServeConfig
from jsplit.net.run import Run
from jsplit.wire.messages import NOBODY, VERSION, Hello

ROOT = Path(__file__).parent.parent

TINY = RunConfig(
    model="cnn",
    dataset="fashion_mnist_10k",
    image_size=8,
    train_examples=200,
    test_examples=100,
    gate=FreezeGate(2),
    epochs=6,
    batch_size=40,
)
"""Five steps an epoch with one client; A, A, B, C, C, C."""


def clients_of(config: RunConfig, path: Path) -> list[Client]:
    """All clients of a run whose data is shared out."""
    return [
        client_of(
            config,
            number,
            data_of(config, JoinConfig(client=number)),
            Shelf(path / f"client-{number}"),
        )
        for number in range(config.clients)
    ]


def hello_of(config: RunConfig, **changes: Any) -> Hello:
    """What a client with gray images of 8x8 says first, but for the changes."""
    examples = config.train_examples // config.clients
    values = examples * 8 * 8
    honest = Hello(
        version=VERSION,
        client=0,
        token=NOBODY,
        run=NOBODY,
        task=0,
        answered=0,
        examples=examples,
        held_out=0,
        classes=10,
        image=(8, 8, 1),
        sums=((100 * values, 100**2 * values),),
        held=(),
        settings=agreement(config),
    )
    return honest._replace(**changes)


SERVING = ServeConfig(linger=10)


def run_locally(
    config: RunConfig,
    path: Path,
    serving: ServeConfig = SERVING,
    through: Callable[[Line], Line] = lambda line: line,
) -> tuple[Run, list[Client]]:
    """A run in this process: the product's server and clients, over queues.

    `through` makes of a client's line the one that it uses.
    """
    folder = RunFolder(path / "server")
    folder.path.mkdir(parents=True, exist_ok=True)
    run = Run(config, serving, folder, print, lambda: False)
    clients = clients_of(config, path)

    @contextlib.contextmanager
    def connect(number: int) -> Iterator[Line]:
        with local_line(run.door.admit, number) as line:
            yield through(line)

    threads = [
        threading.Thread(
            target=client.run,
            args=(lambda number=number: connect(number), 60.0),
            daemon=True,
        )
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    assert run.carry_out(lambda epochs: (JsonlWriter(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return run, clients


def flags(config: RunConfig) -> list[str]:
    """The words that say these settings."""
    words = []
    for name, value in flat(config).items():
        if value == flat(RunConfig()).get(name) or value is None:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    return words


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def process(*words: object, cache: Path, log: Path) -> Iterator[subprocess.Popen]:
    """`jsplit` with these words, in a process that does not outlive this."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
        "GRPC_VERBOSITY": "ERROR",
    }
    with open(log, "ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "jsplit", *map(str, words)],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=out,
            stderr=out,
        )
    with child:
        try:
            yield child
        finally:
            child.kill()


class Parties:
    """A server and its clients as processes, which can be killed and started again."""

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        cache: Path,
        certs: Path | None,
        serve: Sequence[object] = (),
        join: Sequence[object] = (),
    ):
        self.config, self.path, self.cache = config, path, cache
        self.certs, self.serve, self.join = certs, serve, join
        self.address = f"127.0.0.1:{free_port()}"
        self.stack = contextlib.ExitStack()
        self.running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Parties":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def names(self) -> list[str]:
        return ["server", *(f"client-{n}" for n in range(self.config.clients))]

    def start(self, name: str) -> subprocess.Popen:
        trust = (
            ("--insecure",) if self.certs is None else ("--certs", self.certs / name)
        )
        common = (*flags(self.config), "--workdir", self.path / name, *trust)
        if name == "server":
            words = ("serve", "--listen", self.address, "--resume", *self.serve)
        else:
            number = name.removeprefix("client-")
            words = ("join", "--server", self.address, "--client", number, *self.join)
        self.running[name] = self.stack.enter_context(
            process(*words, *common, cache=self.cache, log=self.path / f"{name}.log")
        )
        return self.running[name]

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()

    def wait(self, seconds: float = 240) -> dict[str, int]:
        """Every party's exit code."""
        deadline = time.monotonic() + seconds
        return {
            name: child.wait(max(deadline - time.monotonic(), 0.1))
            for name, child in self.running.items()
        }

    def log(self, name: str) -> str:
        path = self.path / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def run_apart(
    config: RunConfig,
    path: Path,
    cache: Path,
    certs: Path | None,
    serve: Sequence[object] = (),
    join: Sequence[object] = (),
    seconds: float = 240,
) -> None:
    """An undisturbed run of real processes, in so many seconds.

    Raises:
        RuntimeError: with what the parties said, if one of them failed.
    """
    with Parties(config, path, cache, certs, serve, join) as parties:
        for name in parties.names():
            parties.start(name)
        codes = parties.wait(seconds)
        if set(codes.values()) != {0}:
            raise RuntimeError("\n".join(map(parties.log, parties.names())))


def result_of(path: Path, run_like: Run) -> dict[str, Any]:
    """All that a run ended with, from its folder: fit for `==`."""
    folder = RunFolder(path / "server")
    epochs = checkpoint.latest(folder.checkpoints)
    assert epochs is not None and run_like.state is not None
    like = {
        "server": run_like.state.server,
        "gate": run_like.state.gate,
        "client": {} if run_like.state.client is None else run_like.state.client,
    }
    small, meta, _ = checkpoint.restore(folder.checkpoints, epochs, like, None)
    leaves, _ = jax.tree_util.tree_flatten_with_path(small)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    unlike = ("seconds", "eta_seconds", "clients", "counted_bytes")
    return {
        "epochs": epochs,
        "digest": meta["digest"],
        "arrays": {
            jax.tree_util.keystr(name): np.asarray(leaf).tobytes()
            for name, leaf in leaves
        },
        "records": [
            {name: value for name, value in line.items() if name not in unlike}
            for line in lines
        ],
        "bytes": _bytes(meta["account"]),
    }


def _bytes(account: dict[str, Any]) -> dict[str, int]:
    """What crossed, as if it had not been compressed, nor been there already."""
    counts: dict[str, int] = {}
    for name in ("crossed", "saved"):
        for kind, way, length in account[name]:
            counts[f"{kind} {way}"] = counts.get(f"{kind} {way}", 0) + length
    return {kind: count for kind, count in counts.items() if "handshake" not in kind}
