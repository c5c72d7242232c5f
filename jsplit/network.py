"""`jsplit serve`, `jsplit join` and `jsplit certs`: a run over a network."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jsplit import compiled, data, device, tables, words
from jsplit import folder as folders
from jsplit.build import check_names, load_dataset, shares_of
from jsplit.config import RunConfig, agreement, argument, check
from jsplit.errors import InputError, Refusal, RunError
from jsplit.folder import RunFolder
from jsplit.network_config import MIB, JoinConfig, ServeConfig, check_clients
from jsplit.network_config import check as check_link
from jsplit.terminal import INTERRUPTED, complain, say, stop_at_signal
from jsplit.transport import certificates
from jsplit.transport.batches import Data
from jsplit.transport.client import Client
from jsplit.transport.grpc_line import dialled, listening
from jsplit.transport.handshake import Keys
from jsplit.transport.line import Line, SlowLine, Speed
from jsplit.transport.report import summarize
from jsplit.transport.serving import Run
from jsplit.transport.shelf import Shelf
from jsplit.transport.sides import begin_joining
from jsplit.writers import ConsoleWriter, JsonlWriter, TensorBoardWriter, human_bytes

SERVE = """\
The server of a run over a network: it holds the server part, the gate and the store,
and waits for --clients clients. Give it and every client the same settings (a common
--config FILE is easiest); it needs no data of its own.
"""

JOIN = """\
A client of a run over a network: it keeps its images and its part of the network, and
connects to jsplit serve. Start it again with the same command if it was stopped: it
goes on from its --workdir.
"""

CERTS = """\
Makes a private authority in FOLDER/authority, and in FOLDER/server, FOLDER/client-0,
FOLDER/client-1, ... what each party needs to know the others. Carry each of those to
its machine.
"""


HELD_BY_CLIENTS = {"source": "held by the clients"}
"""What a server's folder says of its data."""


@dataclass(frozen=True)
class ServeCommand:
    """`jsplit serve`."""

    settings: tyro.conf.OmitArgPrefixes[RunConfig]
    link: tyro.conf.OmitArgPrefixes[ServeConfig] = ServeConfig()
    config: Annotated[str | None, argument("A TOML file of settings.")] = None
    resume: Annotated[
        bool,
        argument("Go on with the run in --workdir, if it holds one."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


@dataclass(frozen=True)
class JoinCommand:
    """`jsplit join`."""

    settings: tyro.conf.OmitArgPrefixes[RunConfig]
    link: tyro.conf.OmitArgPrefixes[JoinConfig] = JoinConfig()
    config: Annotated[str | None, argument("A TOML file of settings.")] = None


@dataclass(frozen=True)
class CertsCommand:
    """`jsplit certs`."""

    folder: Annotated[
        tyro.conf.Positional[str], argument("New folder for them.", "DIR")
    ]
    hosts: Annotated[
        tuple[str, ...], argument("Names and addresses of the server.")
    ] = ("localhost", "127.0.0.1")
    clients: Annotated[int, argument("How many clients.")] = 1


def serve(argv: Sequence[str], prog: str) -> int:
    """`jsplit serve`: trains with the clients that come."""
    command = words.parse(
        ServeCommand(settings=words.settings(argv)), argv, prog, SERVE
    )
    config, link = command.settings, command.link
    check(config)
    check_names(config)
    check_link(link)
    check_clients(config.clients)
    if config.mesh:
        raise InputError("--mesh is for jsplit run; a server computes on one device")
    keys = (
        None if link.certs is None else certificates.read(Path(link.certs), server=True)
    )
    device.restrict(config.device)
    device.choose(config.device)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_server_folder(config, resume=command.resume))
        stack.enter_context(compiled.kept(config.compile_cache, say))
        stopping = stack.enter_context(stop_at_signal("stopping"))
        run = Run(config, link, folder, say, stopping)
        listener = stack.enter_context(
            listening(
                link.listen,
                keys,
                config.clients,
                link.message_limit * MIB,
                run.door.admit,
            )
        )
        host = link.listen.rpartition(":")[0]
        say(
            f"listening on {host}:{listener.port} for {config.clients} client(s); "
            f"{config.model}, {config.gate} gate, {config.epochs} epochs, in "
            f"{folder.path}"
        )
        finished = run.carry_out(
            lambda epochs: (
                JsonlWriter(folder.metrics),
                TensorBoardWriter(folder.tensorboard, epochs),
                ConsoleWriter(states=run.ledger.states if run.ledger else ""),
            )
        )
        if not finished:
            say(f"stopped; go on with the same command and --resume, in {folder.path}")
            return INTERRUPTED
        # Else it was finished before, and only told those who did not know.
        if not folder.summary.exists():
            folders.write_json(folder.summary, summarize(config, run))
        summary = _summary(folder)
        tables.show(tables.of_network(summary))
        say(f"all of it is in {folder.path}")
    return 0


def _summary(folder: RunFolder) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder.summary} is damaged ({error}); delete it, and the same command "
            "makes it again"
        ) from error
    return summary


@contextlib.contextmanager
def _server_folder(config: RunConfig, *, resume: bool) -> Iterator[RunFolder]:
    """The run's folder: a new one, or with `resume` the one that is there."""
    path = None if config.workdir is None else folders.path_of(config.workdir)
    if resume and path is None:
        raise InputError("--resume needs the run's folder: add --workdir FOLDER")
    if resume and path is not None and RunFolder(path).config.exists():
        folder, kept, dataset = folders.read(path)
        if dataset != HELD_BY_CLIENTS:
            raise InputError(
                f"--workdir {path} is a run of jsplit run's, not a server's; name the "
                "server's, or a new folder"
            )
        folders.check_same(folder, config, kept)
        with folders.held(path):
            yield folder
        return
    with folders.open_new(config, HELD_BY_CLIENTS) as folder:
        try:
            yield folder
        except InputError:
            # Nothing was trained, so the same command must find nothing in its way.
            ours = {folder.config, folder.traffic}
            if set(folder.path.iterdir()) <= ours:
                for path in ours:
                    path.unlink(missing_ok=True)
            raise


def join(argv: Sequence[str], prog: str) -> int:
    """`jsplit join`: takes part in a run until the server says that it is over."""
    command = words.parse(JoinCommand(settings=words.settings(argv)), argv, prog, JOIN)
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
        else folders.path_of(config.workdir)
    )
    folders.make(path, "--workdir")
    with folders.held(path), compiled.kept(config.compile_cache, say):
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


def certs(argv: Sequence[str], prog: str) -> int:
    """`jsplit certs`: makes what the parties need to know one another."""
    command = words.parse(CertsCommand(folder=""), argv, prog, CERTS)
    if not command.folder:
        raise InputError("name a new folder: jsplit certs FOLDER")
    check_clients(command.clients)
    folder = folders.path_of(command.folder)
    certificates.make(folder, list(command.hosts), command.clients)
    say(
        f"made {folder}/authority, {folder}/server and {folder}/client-0"
        + f" to client-{command.clients - 1}" * (command.clients > 1)
        + "; the key in authority/ stays at home"
    )
    return 0
