"""`jsplit join`: a client of a run over a network."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jsplit import data
from jsplit.cli import parsing
from jsplit.cli.terminal import INTERRUPTED, complain, say
from jsplit.errors import InputError, Refusal
from jsplit.experiment import workdir
from jsplit.experiment.build import check_names, load_dataset, shares_of
from jsplit.experiment.config import RunConfig, agreement, argument, check
from jsplit.experiment.writers import human_bytes
from jsplit.net import certificates
from jsplit.net.batches import Data
from jsplit.net.channel import Line, SlowLine, Speed
from jsplit.net.client import Client
from jsplit.net.client_store import Shelf
from jsplit.net.config import MIB, JoinConfig, check_clients
from jsplit.net.config import check as check_link
from jsplit.net.grpc_channel import dialled
from jsplit.net.handshake import Keys
from jsplit.net.init import begin_joining
from jsplit.runtime import compilation_cache, device

JOIN = """\
A client of a run over a network: it keeps its images and its part of the network, and
connects to jsplit serve. Start it again with the same command if it was stopped: it
goes on from its --workdir.
"""


@dataclass(frozen=True)
class JoinCommand:
    """`jsplit join`."""

    settings: tyro.conf.OmitArgPrefixes[RunConfig] = RunConfig()
    link: tyro.conf.OmitArgPrefixes[JoinConfig] = JoinConfig()
    config: Annotated[str | None, argument("A TOML file of settings.")] = None


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit join`: takes part in a run until the server says that it is over."""
    command = parsing.parse(JoinCommand(), argv, prog, JOIN, parsing.settings(argv))
    config, link = command.settings, command.link
    check(config)
    check_names(config)
    check_link(link)
    check_clients(config.clients)
    if link.client >= config.clients:
        raise InputError(
            f"--client {link.client} is not one of --clients {config.clients}; give 0 "
            f"to {config.clients - 1}"
        )
    speed = None if link.link is None else Speed.of(link.link)
    keys = (
        None
        if link.certs is None
        else certificates.read(Path(link.certs), server=False)
    )
    device.restrict(config.device)
    device.choose(config.device)
    held = data_of(config, link)
    path = (
        Path("runs") / f"client-{link.client}"
        if config.workdir is None
        else workdir.path_of(config.workdir)
    )
    workdir.make(path, "--workdir")
    with workdir.held(path), compilation_cache.kept(config.compile_cache, say):
        shelf = Shelf(path)
        client = client_of(config, link.client, held, shelf)
        say(
            f"client {link.client} with {len(held.labels)} examples, to the server at "
            f"{link.server}; what must last is in {path}"
        )
        try:
            done = client.run(lambda: _line(link, keys, speed), link.patience)
        except Refusal as refusal:
            # Not by itself will it be taken next time.
            raise InputError(f"this client cannot take part: {refusal}") from refusal
        except KeyboardInterrupt:
            return complain(
                "interrupted; the same command goes on where it was", INTERRUPTED
            )
    score = (
        f", test accuracy {done.correct / done.examples:.2%}" if done.examples else ""
    )
    say(
        f"done: {done.epochs} epochs{score}; sent {human_bytes(client.traffic.sent)}, "
        f"received {human_bytes(client.traffic.received)}"
    )
    return 0


@contextlib.contextmanager
def _line(link: JoinConfig, keys: Keys | None, speed: Speed | None) -> Iterator[Line]:
    with dialled(link.server, keys, link.message_limit * MIB) as line:
        if speed is None:
            yield line
            return
        slow = SlowLine(line, speed)
        try:
            yield slow
        finally:
            slow.finish()


def data_of(config: RunConfig, link: JoinConfig) -> Data:
    """What the client holds: all of its dataset, or its share of a common one."""
    dataset = load_dataset(config, say)
    rows = np.arange(len(dataset.train_labels))
    if not link.own_data:
        rows = shares_of(config, dataset)[link.client]
    return Data(
        dataset.train_images[rows],
        dataset.train_labels[rows],
        dataset.test_images,
        dataset.test_labels,
        dataset.num_classes,
    )


def client_of(config: RunConfig, number: int, held: Data, shelf: Shelf) -> Client:
    """A client of a run with these settings."""
    image, classes = held.images.shape[1:], held.classes
    return Client(
        number,
        config.clients == 1,
        held,
        agreement(config),
        data.channel_sums(held.images),
        lambda moments: begin_joining(config, image, classes, moments),
        shelf,
        say,
    )
