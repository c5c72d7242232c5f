"""The command line: `jsplit run` (`run.py` is the same), and the way to the others."""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jsplit import compiled, device, hosts, sweep, tables, words
from jsplit import folder as folders
from jsplit.build import Experiment, blocks_of, build, check_names, load_dataset
from jsplit.config import (
    ClusterConfig,
    RunConfig,
    check,
    check_cluster,
    differences,
    from_mapping,
)
from jsplit.data import Dataset
from jsplit.errors import InputError, RunError
from jsplit.folder import RunFolder
from jsplit.progress import Progress
from jsplit.summary import summarize, write_summary
from jsplit.terminal import (
    INTERRUPTED,
    complain,
    forget_output,
    last_words,
    say,
    stop_at_signal,
)
from jsplit.train import resume, train
from jsplit.writers import (
    ConsoleWriter,
    JsonlWriter,
    TensorBoardWriter,
    Writer,
)

NETWORK = ("serve", "join", "certs")
"""Commands of a client and a server on two machines."""

COMMANDS = ("run", "sweep", "report", "privacy", *NETWORK)

DESCRIPTION = """\
Split learning under a loss-based gate: each epoch runs in state A (client and server
train), B (activations up only) or C (nothing is sent: the server trains on what it
stored), and everything sent is an 8-bit float of searched format (arXiv 2107.09786).

First try: python run.py --config configs/quickstart.toml

Plain split learning: --gate always --codec identity --grad-codec identity.

To look: --show-cuts prints what each cut of a model sends and computes.
"""


@dataclass(frozen=True)
class RunCommand:
    """`jsplit run`: the run's settings, and how to go about it."""

    settings: tyro.conf.OmitArgPrefixes[RunConfig]
    cluster: tyro.conf.OmitArgPrefixes[ClusterConfig] = ClusterConfig()
    config: Annotated[
        str | None,
        tyro.conf.arg(help="A TOML file of settings; flags override it. See configs/."),
    ] = None
    resume: Annotated[
        bool,
        tyro.conf.arg(help="Go on with the run in --workdir from its last checkpoint."),
        tyro.conf.FlagCreatePairsOff,
    ] = False
    show_cuts: Annotated[
        bool,
        tyro.conf.arg(help="Print the model's cuts for this dataset, and stop."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def main(argv: Sequence[str] | None = None, prog: str = "jsplit run") -> int:
    """Runs a command; returns the exit code.

    0: done. 2: bad input, nothing was changed. 1: the run failed. 130: interrupted,
    saved. What went wrong is one line on standard error.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] == ["run"]:
            return run(argv[1:], prog)
        if argv[:1] == ["sweep"]:
            return sweep.command(argv[1:], "jsplit sweep")
        if argv[:1] == ["report"]:
            from jsplit import report  # With Matplotlib, which takes its time.

            return report.command(argv[1:], "jsplit report")
        if argv[:1] == ["privacy"]:
            from jsplit import leaks

            return leaks.command(argv[1:], "jsplit privacy")
        if argv[:1] and argv[0] in NETWORK:
            # Not above: a run on one machine needs neither gRPC nor certificates.
            from jsplit import network

            return getattr(network, argv[0])(argv[1:], f"jsplit {argv[0]}")
        if argv in ([], ["-h"], ["--help"]):
            print(f"usage: jsplit {{{','.join(COMMANDS)}}} [OPTIONS]")
            print("see --help of each, such as jsplit run --help")
            return 0
        raise InputError(
            f"unknown command {argv[0]!r}; the commands are {', '.join(COMMANDS)}"
        )
    except InputError as error:
        return complain(error, 2)
    except BrokenPipeError:
        forget_output()
        return 1
    except (RunError, OSError) as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        return complain("interrupted before the run began", INTERRUPTED)


def run(argv: Sequence[str], prog: str) -> int:
    """`jsplit run`: trains, or prints a model's cuts."""
    command = parse(argv, prog)
    config = command.settings
    check(config)
    check_names(config)
    check_cluster(command.cluster)
    device.restrict(config.device)
    if command.show_cuts:
        dataset = load_dataset(config, say)
        blocks = blocks_of(config, dataset)
        tables.show(tables.of_cuts(config.model, blocks, dataset.image_shape))
        return 0
    if command.resume and config.workdir is None:
        raise InputError("--resume needs the run's folder: add --workdir FOLDER")
    with contextlib.ExitStack() as stack:
        cluster = command.cluster
        if cluster.coordinator is not None:
            joined = hosts.joined(
                cluster.coordinator,
                cluster.process_id,
                cluster.num_processes,
                cluster.coordinator_timeout,
                last_words,
            )
            stack.enter_context(joined)
        device.choose(config.device)
        if cluster.coordinator is not None:
            hosts.check_devices()
            if not hosts.leads():
                forget_output()
            config = _agree(config)
        if command.resume:
            return _go_on(config, prog, stack)
        return _start(config, prog, stack)


def _start(config: RunConfig, prog: str, stack: contextlib.ExitStack) -> int:
    with hosts.together():
        if config.workdir is not None and hosts.leads():
            folders.check_unused(folders.path_of(config.workdir))
    dataset = _load(config)
    stack.enter_context(compiled.kept(config.compile_cache, say))
    experiment = build(config, dataset)

    def open_new() -> str:
        described = folders.described(dataset)
        return str(stack.enter_context(folders.open_new(config, described)).path)

    folder = RunFolder(Path(hosts.share(open_new)))
    return _carry_out(experiment, folder, Progress(experiment), prog)


def _go_on(config: RunConfig, prog: str, stack: contextlib.ExitStack) -> int:
    with hosts.together():
        assert config.workdir is not None
        folder, kept, described = folders.read(folders.path_of(config.workdir))
        folders.check_same(folder, config, kept)
    dataset = _load(config)
    with hosts.together():
        folders.check_data(folder, described, dataset)
    stack.enter_context(compiled.kept(config.compile_cache, say))
    experiment = build(config, dataset)
    with hosts.together():
        if hosts.leads():
            stack.enter_context(folders.held(folder.path))
    progress = resume(experiment, folder)
    say(f"resuming {folder.path} after epoch {progress.epochs}")
    return _carry_out(experiment, folder, progress, prog)


def _agree(config: RunConfig) -> RunConfig:
    """Process 0's settings; only where things lie may differ between processes."""
    theirs = hosts.share(lambda: dict(vars(config)))
    agreed = from_mapping(theirs, "process 0")
    with hosts.together():
        differing = differences(agreed, config)
        if differing:
            raise InputError(
                f"this process was started otherwise than process 0 "
                f"({'; '.join(differing)}); give all of them the same flags"
            )
    return dataclasses.replace(
        agreed,
        workdir=config.workdir,
        data_dir=config.data_dir,
        compile_cache=config.compile_cache,
        device=config.device,
        mesh=config.mesh or jax.process_count() > 1,
    )


def _load(config: RunConfig) -> Dataset:
    """The dataset, which must be the same on every process."""
    with hosts.together():
        dataset = load_dataset(config, say)
    fingerprint = hosts.share(lambda: dataset.fingerprint)
    with hosts.together():
        if dataset.fingerprint != fingerprint:
            raise InputError(
                f"this process has other data ({dataset.source}) than process 0; give "
                "all of them the same --dataset and the same files"
            )
    return dataset


def _carry_out(
    experiment: Experiment, folder: RunFolder, progress: Progress, prog: str
) -> int:
    """Trains and reports; from here on there is a folder to go on with."""
    resuming = f"{prog} --resume --workdir {shlex.quote(str(folder.path))}"
    try:
        _print_plan(experiment, folder, progress)
        if not _train(experiment, folder, progress):
            say(f"saved after epoch {progress.epochs}; go on with: {resuming}")
            return INTERRUPTED
        with hosts.together():
            if hosts.leads():
                _report(experiment, folder, progress)
    except KeyboardInterrupt:
        return complain(f"interrupted; go on with: {resuming}", INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            forget_output()
        raise RunError(
            f"writing failed ({error}); mend that, then go on with: {resuming}"
        ) from error
    return 0


def _report(experiment: Experiment, folder: RunFolder, progress: Progress) -> None:
    summary = summarize(experiment, progress)
    write_summary(folder, summary)
    _draw(folder, progress, summary)
    tables.show(tables.of_summary(summary))
    say(f"all of it is in {folder.path}")


def parse(argv: Sequence[str], prog: str) -> RunCommand:
    """The command that the words on the command line ask for.

    Defaults come from `--config FILE`, and for `--resume` from the run's folder.

    Raises:
        InputError: if a word is not understood.
    """
    base = words.settings(argv)
    workdir = words.option(argv, "--workdir")
    if "--resume" in argv and workdir and words.option(argv, "--config") is None:
        base = folders.read(folders.path_of(workdir))[1]
    return words.parse(RunCommand(settings=base), argv, prog, DESCRIPTION)


def _train(experiment: Experiment, folder: RunFolder, progress: Progress) -> bool:
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(
            stop_at_signal("stopping when this chunk is saved")
        )
        writers: list[Writer] = []
        with hosts.together():
            for make in (
                lambda: JsonlWriter(folder.metrics),
                lambda: TensorBoardWriter(folder.tensorboard, progress.epochs),
                lambda: ConsoleWriter(states=progress.ledger.states),
            ):
                if hosts.leads():
                    writers.append(stack.enter_context(contextlib.closing(make())))
        return train(experiment, folder, progress, writers, stopping)


def _draw(folder: RunFolder, progress: Progress, summary: dict[str, Any]) -> None:
    from jsplit import plots  # Matplotlib takes its time, and is needed only here.

    title = (
        f"{summary['dataset']}, {summary['model']} cut {summary['cut']}, "
        f"{summary['clients']} client(s), {summary['gate']} gate, "
        f"seed {summary['seed']}"
    )
    plots.accuracy_against_bytes(
        progress.records, folder.path / "accuracy_against_bytes.png", title=title
    )
    plots.loss_by_epoch(
        progress.records, folder.path / "loss_by_epoch.png", title=title
    )


def _print_plan(experiment: Experiment, folder: RunFolder, progress: Progress) -> None:
    config, dataset = experiment.config, experiment.dataset
    layout = experiment.simulation.layout
    say(f"data: {dataset.name}, {dataset.source}")
    say(
        f"{config.model} cut after block {experiment.cut}, {config.clients} client(s), "
        f"{config.gate} gate"
        + f" (losses against: {config.reference})" * (config.gate == "loss")
        + f", {config.codec} up, {config.grad_codec} down"
        + f", mixup {config.mixup:g} in C" * (config.mixup > 0)
        + f", {config.epochs} epochs of server batches of "
        f"{layout.members * layout.batch}, in {folder.path}"
    )
    emulated = config.precision == "bfloat16" and jax.default_backend() == "cpu"
    say(
        f"computing on {device.describe()}, in {config.precision}"
        + (", which a CPU only emulates: slower than float32" if emulated else "")
    )
    if config.mesh:
        say(
            f"sharing clients and batches over {jax.device_count()} devices"
            f" of {jax.process_count()} process(es)"
        )
    if progress.epochs < config.epochs:
        say("compiling; the first epoch takes longer")
