"""`jsplit serve`: the server of a run over a network."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jsplit.analysis import tables
from jsplit.analysis.results import read_summary
from jsplit.cli import parsing
from jsplit.cli.stopping import on_stop, stop_at_signal
from jsplit.cli.terminal import INTERRUPTED, say
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import check_names
from jsplit.experiment.config import RunConfig, check, differences
from jsplit.experiment.console import ConsoleWriter
from jsplit.experiment.quantities import counted
from jsplit.experiment.trained import load_run
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter, TensorBoardWriter
from jsplit.net import certificates
from jsplit.net.client_manager import POLL
from jsplit.net.config import MIB, ServeConfig, check_clients, check_network
from jsplit.net.credentials import Credentials
from jsplit.net.grpc_channel import serve
from jsplit.net.prediction import PredictionServer, run_name
from jsplit.net.server_run import ServerRun
from jsplit.net.setup import check_beginning, check_codecs
from jsplit.net.summary import summarize
from jsplit.net.tcp_meter import TcpMeter
from jsplit.runtime import atomic, compilation_cache, device

SERVE = """\
The server of a run over a network: it holds the server part, the gate and the store,
and waits for --clients clients. Give it and every client the same settings (a common
--config FILE is easiest); it needs no data of its own.
"""

HELD_BY_CLIENTS = {"source": "held by the clients"}
"""What the folder of a server says about its data."""


@dataclass(frozen=True)
class ServeCommand:
    """`jsplit serve`."""

    GROUP = "run"

    settings: tyro.conf.OmitArgPrefixes[RunConfig] = RunConfig()
    link: tyro.conf.OmitArgPrefixes[ServeConfig] = ServeConfig()
    config: Annotated[
        str | None, Option("A TOML file of settings. Flags override it.", "FILE")
    ] = None
    resume: Annotated[
        bool,
        Option("Go on with the run in --workdir, if it holds one."),
        tyro.conf.FlagCreatePairsOff,
    ] = False
    predict: Annotated[
        bool,
        Option(
            "Nothing is trained: the half in --workdir answers jsplit predict "
            "--server, until it is stopped."
        ),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit serve`: trains with the clients that come."""
    command = parsing.parse(ServeCommand(), argv, prog, SERVE, parsing.settings(argv))
    config, link = command.settings, command.link
    if command.predict:
        return _predict(config, link)
    check(config)
    check_names(config)
    check_network(link)
    check_clients(config.clients)
    check_codecs(config)
    check_beginning(config)
    for note in parsing.notes(argv, config):
        say(note)
    if config.mesh:
        raise InputError("--mesh is for jsplit run; a server computes on one device")
    credentials = _credentials(link)
    device.choose(config.device)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_server_folder(config, resume=command.resume))
        stack.enter_context(compilation_cache.kept(config.compile_cache, say))
        go_on = f"go on with the same command and --resume, in {folder.path}"
        stack.enter_context(on_stop(f"interrupted; {go_on}"))
        stopping = stack.enter_context(stop_at_signal("stopping"))
        run = ServerRun(config, link, folder, say, stopping)
        meter = TcpMeter(run.admission.handle_connection)
        listener = stack.enter_context(
            serve(
                link.listen,
                credentials,
                config.clients,
                link.message_limit * MIB,
                meter.handle_connection,
            )
        )
        host = link.listen.rpartition(":")[0]
        caveat = config.gate.caveat(config.unlike)
        if caveat is not None:
            say(f"note: {caveat}")
        say(
            f"listening on {host}:{listener.port} for "
            f"{counted(config.clients, 'client')}; {config.model}, "
            f"{config.gate.name} gate, {counted(config.epochs, 'epoch')}, in "
            f"{folder.path}"
        )
        finished = run.train(
            lambda epochs: (
                JsonlWriter(folder.metrics),
                TensorBoardWriter(folder.tensorboard, epochs),
                ConsoleWriter(states=run.ledger.states if run.ledger else ""),
                meter,
            )
        )
        if not finished:
            say(f"stopped; {go_on}")
            return INTERRUPTED
        # A run that had finished before has its summary already.
        if not folder.summary.exists():
            atomic.write_json(folder.summary, summarize(config, run, meter.measure()))
        tables.show(tables.of_network(read_summary(folder, networked=True)))
        say(f"all of it is in {folder.path}")
    return 0


def _credentials(link: ServeConfig) -> Credentials | None:
    if link.certs is None:
        return None
    return certificates.read_credentials(Path(link.certs), server=True)


def _predict(config: RunConfig, link: ServeConfig) -> int:
    """Serves predictions until somebody stops it."""
    if config.workdir is None:
        raise InputError("--predict needs the server's folder: add --workdir FOLDER")
    given = differences(RunConfig(), config)
    if given:
        flag = given[0].partition(" ")[0]
        raise InputError(
            f"{flag} is for a training; with --predict the folder says all settings: "
            "leave it out"
        )
    check_network(link)
    credentials = _credentials(link)
    device.choose(config.device)
    model = load_run(config.workdir, say)
    server = PredictionServer(model, run_name(model.folder), say)
    clients = model.description.config.clients
    limit = link.message_limit * MIB
    with (
        stop_at_signal("stopping") as stopping,
        serve(
            link.listen, credentials, clients, limit, server.handle_connection
        ) as listener,
    ):
        host = link.listen.rpartition(":")[0]
        say(
            f"listening on {host}:{listener.port} to predict with the half of "
            f"{model.folder} after epoch {model.epochs}; Ctrl-C ends it"
        )
        while not stopping():
            time.sleep(POLL)
    return 0


@contextlib.contextmanager
def _server_folder(config: RunConfig, *, resume: bool) -> Iterator[RunFolder]:
    """The run's folder: a new one, or with `resume` the one that is there."""
    path = None if config.workdir is None else workdir.path_of(config.workdir)
    if resume and path is None:
        raise InputError("--resume needs the run's folder: add --workdir FOLDER")
    if resume and path is not None and RunFolder(path).config.exists():
        folder, kept, dataset = workdir.read_workdir(path)
        if dataset != HELD_BY_CLIENTS:
            raise InputError(
                f"--workdir {path} is a run of jsplit run's, not a server's; name the "
                "server's, or a new folder"
            )
        workdir.check_same(folder, config, kept)
        with workdir.lock(path):
            yield folder
        return
    with workdir.open_new(config, HELD_BY_CLIENTS) as folder:
        try:
            yield folder
        except InputError:
            # Nothing was trained, so the same command must find nothing in its way.
            ours = {folder.config, folder.traffic}
            if set(folder.path.iterdir()) <= ours:
                for path in ours:
                    path.unlink(missing_ok=True)
            raise
