"""`jsplit serve`: the server of a run over a network."""

import contextlib
import importlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.analysis import tables
from jsplit.analysis.results import read_summary
from jsplit.cli import parsing
from jsplit.cli.stopping import on_stop, stop_at_signal
from jsplit.cli.terminal import INTERRUPTED
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import check_names
from jsplit.experiment.caveats import caveats_of
from jsplit.experiment.config import RunConfig, check, differences
from jsplit.experiment.plain_target import outcome_line, with_curve, with_kept_curve
from jsplit.experiment.trained import load_run
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter, TensorBoardWriter
from jsplit.net.certificates import read_credentials
from jsplit.net.client_manager import POLL
from jsplit.net.config import MIB, ServeConfig, check_clients, check_network
from jsplit.net.connection_watch import ConnectionWatch
from jsplit.net.events import Event, Say, failures_logged, logging_to_stdout
from jsplit.net.grpc_channel import serve
from jsplit.net.prediction import PredictionServer, run_name
from jsplit.net.server_events import EpochLog, listening_to_train, run_finished
from jsplit.net.server_run import ServerRun
from jsplit.net.setup import check_beginning, check_codecs
from jsplit.net.status import Status, status_of
from jsplit.net.summary import summarize
from jsplit.net.tcp_meter import TcpMeter
from jsplit.runtime import atomic, compilation_cache, device, folders

SERVE = """\
The server of a run over a network: it holds the server part, the gate and the store,
and waits for --clients clients. Give it and every client the same settings, most
easily by a common --config FILE; it needs no data of its own.
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
    if config.mesh:
        raise InputError("--mesh is for jsplit run; a server computes on one device")
    with logging_to_stdout(link.log) as say:
        for note in parsing.notes(argv, config):
            say(note)
        words = [prog, *argv] + ["--resume"] * (not command.resume)
        return _train(config, link, say, words, resume=command.resume)


def _train(
    config: RunConfig, link: ServeConfig, say: Say, words: list[str], *, resume: bool
) -> int:
    """Serves a training, which these words go on with; returns the exit code."""
    credentials = read_credentials(link.certs, server=True, notify=say)
    if link.status_port is not None:
        # Before there is a folder: it may not be installed.
        importlib.import_module("prometheus_client")
    device.choose(config.device)
    with contextlib.ExitStack() as stack:
        config, folder = stack.enter_context(_server_folder(config, resume=resume))
        stack.enter_context(folders.private(folder.path, "--workdir", say))
        stack.enter_context(compilation_cache.kept(config.compile_cache, say))
        if config.workdir is None:
            words = [*words, "--workdir", str(folder.path)]
        go_on = f"go on with: {' '.join([words[0], shlex.join(words[1:])])}"
        stopping = _hear_signals(stack, say, f"interrupted; {go_on}")
        run = ServerRun(config, link, folder, say, stopping)
        meter = TcpMeter(run.admission.handle_connection)
        watch = stack.enter_context(ConnectionWatch(say))
        stack.enter_context(_status(link, run, meter, watch, say))
        listener = stack.enter_context(
            serve(
                link.listen,
                credentials,
                config.clients,
                link.message_limit * MIB,
                meter.handle_connection,
                watch,
                link.ping_timeout,
            )
        )
        stack.enter_context(failures_logged(say))
        host = link.listen.rpartition(":")[0]
        for caveat in caveats_of(config):
            say(f"note: {caveat}")
        say(listening_to_train(config, f"{host}:{listener.port}", folder.path))
        finished = run.train(
            lambda epochs: (
                JsonlWriter(folder.metrics),
                TensorBoardWriter(folder.tensorboard, epochs),
                EpochLog(say),
                meter,
            )
        )
        if not finished:
            say(Event(f"stopped; {go_on}", "stopped"))
            return INTERRUPTED
        # A run that had finished before has its summary already.
        if not folder.summary.exists():
            atomic.write_json(folder.summary, summarize(config, run, meter.measure()))
        summary = read_summary(folder, networked=True)
        if link.log == "text":
            tables.show(tables.of_network(summary))
        outcome = outcome_line(summary)
        if outcome is not None:
            say(outcome)
        say(run_finished(summary, folder.path))
    return 0


def _hear_signals(
    stack: contextlib.ExitStack, say: Say, interrupted: str
) -> Callable[[], bool]:
    """Logs signals; returns whether one asked for a stop."""
    stack.enter_context(on_stop(interrupted, lambda line: say(Event(line, "stopped"))))
    return stack.enter_context(
        stop_at_signal("stopping", lambda line: say(Event(line, "stopping")))
    )


@contextlib.contextmanager
def _status(
    link: ServeConfig, run: ServerRun, meter: TcpMeter, watch: ConnectionWatch, say: Say
) -> Iterator[None]:
    """Answers on the status port, if one is wanted."""
    if link.status_port is None:
        yield
        return
    # Not above: nothing else needs prometheus_client.
    from jsplit.net.status_server import HOST, serve_status

    def take() -> Status:
        return status_of(run, link.wait, meter, watch.count)

    with serve_status(link.status_port, take) as port:
        say(
            Event(
                f"status at http://{HOST}:{port}/healthz and /metrics",
                "listening",
                what="status",
                address=f"{HOST}:{port}",
            )
        )
        yield


def _predict(config: RunConfig, link: ServeConfig) -> int:
    """Serves predictions until somebody stops it; returns the exit code."""
    if config.workdir is None:
        raise InputError("--predict needs the server's folder: add --workdir FOLDER")
    if link.status_port is not None:
        raise InputError("--status-port is for a training; leave it out with --predict")
    given = differences(RunConfig(), config)
    if given:
        flag = given[0].partition(" ")[0]
        raise InputError(
            f"{flag} is for a training; with --predict the folder says all settings: "
            "leave it out"
        )
    check_network(link)
    limit = link.message_limit * MIB
    with contextlib.ExitStack() as stack:
        say = stack.enter_context(logging_to_stdout(link.log))
        credentials = read_credentials(link.certs, server=True, notify=say)
        device.choose(config.device)
        model = load_run(config.workdir, say)
        server = PredictionServer(model, run_name(model.folder), say)
        clients = model.description.config.clients
        watch = stack.enter_context(ConnectionWatch(say))
        stopping = _hear_signals(stack, say, "interrupted")
        answer = server.handle_connection
        listener = stack.enter_context(
            serve(
                link.listen,
                credentials,
                clients,
                limit,
                answer,
                watch,
                link.ping_timeout,
            )
        )
        host = link.listen.rpartition(":")[0]
        say(
            Event(
                f"listening on {host}:{listener.port} to predict with the half of "
                f"{model.folder} after epoch {model.epochs}; Ctrl-C ends it",
                "listening",
                what="predictions",
                address=f"{host}:{listener.port}",
            )
        )
        while not stopping():
            time.sleep(POLL)
        say(Event("stopped", "stopped"))
    return INTERRUPTED


@contextlib.contextmanager
def _server_folder(
    config: RunConfig, *, resume: bool
) -> Iterator[tuple[RunConfig, RunFolder]]:
    """The run's folder: a new one, or with `resume` the one that is there.

    Beside it the config, with what the run that it names had recorded.
    """
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
        config = with_kept_curve(config, kept)
        workdir.check_same(folder, config, kept)
        with workdir.lock(path):
            yield config, folder
        return
    config = with_curve(config, None)
    with workdir.open_new(config, HELD_BY_CLIENTS, mode=0o700) as folder:
        try:
            yield config, folder
        except InputError:
            # Nothing was trained, so the same command must find nothing in its way.
            ours = {folder.config, folder.traffic}
            if set(folder.path.iterdir()) <= ours:
                for path in ours:
                    path.unlink(missing_ok=True)
            raise
