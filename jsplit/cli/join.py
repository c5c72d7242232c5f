"""`jsplit join`: a client of a run over a network."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jsplit import data
from jsplit.cli import parsing
from jsplit.cli.stopping import on_stop
from jsplit.cli.terminal import INTERRUPTED, complain, say
from jsplit.core.option import Option
from jsplit.core.state import SideState
from jsplit.errors import InputError, Refusal
from jsplit.experiment import workdir
from jsplit.experiment.build import check_names, load_dataset, shares_of
from jsplit.experiment.config import RunConfig, agreement, check, flag
from jsplit.experiment.description import ModelDescription
from jsplit.experiment.quantities import counted, human_bytes
from jsplit.net import certificates
from jsplit.net.batches import ClientData
from jsplit.net.channel import Channel
from jsplit.net.client import Client
from jsplit.net.client_store import ClientStateStore
from jsplit.net.config import MIB, JoinConfig, check_clients, check_network
from jsplit.net.credentials import Credentials
from jsplit.net.events import Event, Say, failures_logged, logging_to_stdout
from jsplit.net.grpc_channel import connect
from jsplit.net.link_simulation import LinkSpeed, SlowChannel
from jsplit.net.setup import check_beginning, check_codecs, prepare_client
from jsplit.runtime import atomic, compilation_cache, device, folders

JOIN = """\
A client of a run over a network: it keeps its images and its part of the network, and
connects to jsplit serve. Start it again with the same command if it was stopped: it
goes on from its --workdir.
"""


GO_ON = "interrupted; the same command goes on where it was"


@dataclass(frozen=True)
class JoinCommand:
    """`jsplit join`."""

    GROUP = "run"

    settings: tyro.conf.OmitArgPrefixes[RunConfig] = RunConfig()
    link: tyro.conf.OmitArgPrefixes[JoinConfig] = JoinConfig()
    config: Annotated[
        str | None, Option("A TOML file of settings. Flags override it.", "FILE")
    ] = None


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit join`: takes part in a run until the server says that it is over."""
    if "--resume" in argv:
        raise InputError(
            "--resume is for jsplit serve: a client goes on by itself in the same "
            "--workdir; leave it out"
        )
    command = parsing.parse(JoinCommand(), argv, prog, JOIN, parsing.settings(argv))
    config, link = command.settings, command.link
    check(config)
    check_names(config)
    check_network(link)
    check_clients(config.clients)
    check_codecs(config)
    check_beginning(config)
    if link.client >= config.clients:
        raise InputError(
            f"--client {link.client} is not one of --clients {config.clients}; give 0 "
            f"to {config.clients - 1}"
        )
    speed = None if link.link is None else LinkSpeed.from_text(link.link)
    with logging_to_stdout(link.log) as say:
        for note in parsing.notes(argv, config):
            say(note)
        return _take_part(config, link, speed, say)


def _take_part(
    config: RunConfig, link: JoinConfig, speed: LinkSpeed | None, say: Say
) -> int:
    """Takes part in the run; returns the exit code."""
    credentials = certificates.read_credentials(link.certs, server=False, notify=say)
    device.choose(config.device)
    held = load_client_data(config, link, say)
    path = (
        Path("runs") / f"client-{link.client}"
        if config.workdir is None
        else workdir.path_of(config.workdir)
    )
    made = workdir.make_folder(path, "--workdir", 0o700)
    with (
        workdir.lock(path),
        atomic.removed_if_empty(made),
        compilation_cache.kept(config.compile_cache, say),
        on_stop(GO_ON, lambda line: say(Event(line, "stopped"))),
        failures_logged(say),
        contextlib.ExitStack() as stack,
    ):
        store = ClientStateStore(path)  # Which refuses a folder that is not a client's.
        stack.enter_context(folders.private(path, "--workdir", say))
        client = make_client(config, link.client, held, store, say)
        say(
            Event(
                f"client {link.client} with {counted(len(held.labels), 'example')}, to "
                f"the server at {link.server}; what must last is in {path}",
                "joining",
                client=link.client,
                examples=len(held.labels),
                server=link.server,
            )
        )
        try:
            done = client.run(
                lambda: _open_channel(link, credentials, speed), link.patience
            )
        except Refusal as refusal:
            # The server would refuse it again: only a person can change that.
            raise InputError(f"this client cannot take part: {refusal}") from refusal
        except KeyboardInterrupt:
            return complain(GO_ON, INTERRUPTED)
    score = (
        f", test accuracy {done.correct / done.examples:.2%}" if done.examples else ""
    )
    say(
        Event(
            f"done: {counted(done.epochs, 'epoch')}{score}; "
            f"sent {human_bytes(client.traffic.sent)}, "
            f"received {human_bytes(client.traffic.received)} since this start",
            "finished",
            client=link.client,
            epochs=done.epochs,
            test_accuracy=done.correct / done.examples if done.examples else None,
            sent=client.traffic.sent,
            received=client.traffic.received,
        )
    )
    return 0


@contextlib.contextmanager
def _open_channel(
    link: JoinConfig, credentials: Credentials | None, speed: LinkSpeed | None
) -> Iterator[Channel]:
    limit = link.message_limit * MIB
    with connect(link.server, credentials, limit, link.ping_timeout) as channel:
        if speed is None:
            yield channel
            return
        slow = SlowChannel(channel, speed)
        try:
            yield slow
        finally:
            slow.finish()


def load_client_data(
    config: RunConfig, link: JoinConfig, notify: Say = say
) -> ClientData:
    """Loads what the client holds: all of its dataset, or its share of a common one.

    How many examples a common one has is no limit of the client's own.
    """
    if link.own_data:
        config = _without_limits(config, notify)
    dataset = load_dataset(config, notify)
    rows = np.arange(len(dataset.train_labels))
    if not link.own_data:
        rows = shares_of(config, dataset)[link.client]
    return ClientData(
        dataset.train_images[rows],
        dataset.train_labels[rows],
        dataset.test_images,
        dataset.test_labels,
        dataset.num_classes,
        dataset.class_names,
    )


def _without_limits(config: RunConfig, notify: Say) -> RunConfig:
    """The config without what cuts a common dataset, which is said."""
    limits = {
        flag(name): getattr(config, name)
        for name in ("train_examples", "test_examples")
        if getattr(config, name) is not None
    }
    if limits:
        words = " and ".join(f"{name} {count}" for name, count in limits.items())
        are = "are" if len(limits) > 1 else "is"
        notify(
            f"note: --own-data takes all of {config.dataset}; {words} {are} for a "
            "common set and not heeded"
        )
    return dataclasses.replace(config, train_examples=None, test_examples=None)


def make_client(
    config: RunConfig,
    number: int,
    held: ClientData,
    store: ClientStateStore,
    notify: Say = say,
) -> Client:
    """Makes a client of a run with these settings."""
    image, classes = held.images.shape[1:], held.classes

    def keep_model(moments: data.Moments, part: SideState) -> None:
        names = held.class_names
        about = ModelDescription(config, image, classes, names, *moments)
        store.save_model(about, part.variables)

    return Client(
        number,
        config.clients == 1,
        held,
        agreement(config),
        data.channel_sums(held.images),
        lambda moments: prepare_client(config, image, classes, moments),
        store,
        notify,
        keep_model=keep_model,
    )
