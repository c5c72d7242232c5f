"""A networked run within one process: the server and the clients over queues."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jsplit.cli.join import load_client_data, make_client
from jsplit.core.gates import FreezeGate
from jsplit.experiment import checkpoint
from jsplit.experiment.config import RunConfig, agreement
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net.channel import Channel, local_channel
from jsplit.net.client import Client
from jsplit.net.client_store import ClientStateStore
from jsplit.net.config import JoinConfig, ServeConfig
from jsplit.net.server_run import ServerRun
from jsplit.wire.messages import UNNAMED, VERSION, Hello

TINY_RUN = RunConfig(
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


def make_clients(config: RunConfig, path: Path) -> list[Client]:
    """Makes all clients of a run whose dataset is shared out among them."""
    return [
        make_client(
            config,
            number,
            load_client_data(config, JoinConfig(client=number)),
            ClientStateStore(path / f"client-{number}"),
        )
        for number in range(config.clients)
    ]


def hello_of(config: RunConfig, **changes: Any) -> Hello:
    """What a client with gray images of 8x8 says first, but for the changes."""
    examples = (config.train_examples or 0) // config.clients
    values = examples * 8 * 8
    honest = Hello(
        version=VERSION,
        client=0,
        token=UNNAMED,
        run=UNNAMED,
        task=0,
        answered=0,
        examples=examples,
        held_out=0,
        classes=10,
        class_names=UNNAMED,
        image=(8, 8, 1),
        sums=((100 * values, 100**2 * values),),
        stored=(),
        settings=agreement(config),
    )
    return dataclasses.replace(honest, **changes)


SERVING = ServeConfig(linger=10)


def run_in_process(
    config: RunConfig,
    path: Path,
    serving: ServeConfig = SERVING,
    through: Callable[[Channel], Channel] = lambda channel: channel,
) -> tuple[ServerRun, list[Client]]:
    """Runs the product's server and clients in this process, over queues.

    Args:
        config: of the run.
        path: a folder, in which the server and each client get their own.
        serving: how to serve it.
        through: makes of a client's channel the one that it uses.

    Returns:
        The run and its clients, after the end.
    """
    folder = RunFolder(path / "server")
    folder.path.mkdir(parents=True, exist_ok=True)
    run = ServerRun(config, serving, folder, print, lambda: False)
    clients = make_clients(config, path)

    @contextlib.contextmanager
    def connect(number: int) -> Iterator[Channel]:
        with local_channel(run.admission.handle_connection, number) as channel:
            yield through(channel)

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
    assert run.train(lambda epochs: (JsonlWriter(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return run, clients


@contextlib.contextmanager
def waiting_server(
    config: RunConfig, path: Path, **serving: Any
) -> Iterator[tuple[ServerRun, list[str]]]:
    """Runs a server that waits for its clients, and stops it when the context is left.

    Args:
        config: of the run.
        path: of the server's folder.
        **serving: fields of its `ServeConfig`.

    Yields:
        The run, and what it has said so far.
    """
    stop = threading.Event()
    said: list[str] = []
    folder, how = RunFolder(path), ServeConfig(**serving)
    run = ServerRun(config, how, folder, said.append, stop.is_set)
    thread = threading.Thread(target=run.train, args=(lambda epochs: (),), daemon=True)
    thread.start()
    try:
        yield run, said
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def result_of(path: Path, like_run: ServerRun) -> dict[str, Any]:
    """All that a run ended with, from its folder, to be compared by `==`.

    Args:
        path: the folder that holds the server's.
        like_run: a run of the same settings, for the structure of its state.
    """
    folder = RunFolder(path / "server")
    epochs = checkpoint.latest(folder.checkpoints)
    assert epochs is not None and like_run.state is not None
    like = {
        "server": like_run.state.server,
        "gate": like_run.state.gate,
        "client": {} if like_run.state.client is None else like_run.state.client,
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


def _bytes(counter: dict[str, Any]) -> dict[str, int]:
    """What crossed, as if it had not been compressed, nor been there already."""
    counts: dict[str, int] = {}
    for name in ("crossed", "saved"):
        for kind, way, length in counter[name]:
            counts[f"{kind} {way}"] = counts.get(f"{kind} {way}", 0) + length
    return {kind: count for kind, count in counts.items() if "handshake" not in kind}
