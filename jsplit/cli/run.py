"""`jsplit run`: a training on one machine, or what a model's cuts cost."""

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jsplit.analysis import tables
from jsplit.cli import parsing
from jsplit.cli.stopping import on_stop, stop_at_signal
from jsplit.cli.terminal import (
    INTERRUPTED,
    complain,
    forget_output,
    last_words,
    say,
)
from jsplit.core.option import Option
from jsplit.data import Dataset
from jsplit.errors import InputError, RunError
from jsplit.experiment import checkpoint, workdir
from jsplit.experiment.build import (
    Experiment,
    blocks_of,
    build,
    check_names,
    load_dataset,
)
from jsplit.experiment.config import (
    ClusterConfig,
    RunConfig,
    check,
    check_cluster,
    differences,
    flat,
    from_mapping,
)
from jsplit.experiment.progress import Progress
from jsplit.experiment.quantities import counted
from jsplit.experiment.run_config import beside_paper
from jsplit.experiment.summary import summarize, write_summary
from jsplit.experiment.train import resume, train
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import (
    ConsoleWriter,
    JsonlWriter,
    TensorBoardWriter,
    Writer,
)
from jsplit.runtime import compilation_cache, device, multihost

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

    settings: tyro.conf.OmitArgPrefixes[RunConfig] = RunConfig()
    cluster: tyro.conf.OmitArgPrefixes[ClusterConfig] = ClusterConfig()
    config: Annotated[
        str | None,
        Option("A TOML file of settings; flags override it. See configs/."),
    ] = None
    resume: Annotated[
        bool,
        Option("The run in --workdir goes on from its last checkpoint."),
        tyro.conf.FlagCreatePairsOff,
    ] = False
    show_cuts: Annotated[
        bool,
        Option("Only the model's cuts for this dataset are printed."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def command(argv: Sequence[str], prog: str) -> int:
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
            joined = multihost.joined(
                cluster.coordinator,
                cluster.process_id,
                cluster.num_processes,
                cluster.coordinator_timeout,
                last_words,
            )
            stack.enter_context(joined)
        device.choose(config.device)
        if cluster.coordinator is not None:
            if not multihost.leads():
                forget_output()
            multihost.check_devices(cluster.num_processes)
            config = _agree(config)
        for note in parsing.notes(argv, config):
            say(note)
        if command.resume:
            return _go_on(config, prog, stack)
        return _start(config, prog, stack)


def _start(config: RunConfig, prog: str, stack: contextlib.ExitStack) -> int:
    with multihost.together():
        if config.workdir is not None and multihost.leads():
            workdir.check_unused(workdir.path_of(config.workdir))
    dataset = _load(config)
    stack.enter_context(compilation_cache.kept(config.compile_cache, say))
    experiment = build(config, dataset)

    def open_new() -> str:
        described = workdir.described(dataset)
        return str(stack.enter_context(workdir.open_new(config, described)).path)

    folder = RunFolder(Path(multihost.share(open_new)))
    return _carry_out(experiment, folder, Progress(experiment), prog)


def _go_on(config: RunConfig, prog: str, stack: contextlib.ExitStack) -> int:
    with multihost.together():
        assert config.workdir is not None
        folder, kept, described = workdir.read_workdir(workdir.path_of(config.workdir))
        # More epochs than before are no other run, but more of the same.
        longer = config.epochs > kept.epochs
        same = dataclasses.replace(kept, epochs=config.epochs) if longer else kept
        workdir.check_same(folder, config, same)
    dataset = _load(config)
    with multihost.together():
        workdir.check_data(folder, described, dataset)
    stack.enter_context(compilation_cache.kept(config.compile_cache, say))
    begun = multihost.share(lambda: checkpoint.latest(folder.checkpoints)) is not None
    # Once there is a checkpoint, the weights that it began with need not be there.
    experiment = build(
        dataclasses.replace(config, init=None) if begun else config, dataset
    )
    experiment = experiment._replace(config=config)
    with multihost.together():
        if multihost.leads():
            stack.enter_context(workdir.lock(folder.path))
            if longer:
                workdir.extend(folder, config.epochs)
    progress = resume(experiment, folder)
    say(f"resuming {folder.path} after epoch {progress.epochs}")
    if longer:
        whole = config.all_epochs
        say(
            f"it goes on to {whole} epochs instead of {kept.all_epochs}, at the "
            f"learning rates of epochs {progress.epochs + 1} to {whole} in a run of "
            f"{whole}"
        )
    return _carry_out(experiment, folder, progress, prog)


def _agree(config: RunConfig) -> RunConfig:
    """Process 0's settings; only where things lie may differ between processes."""
    theirs = multihost.share(lambda: flat(config))
    agreed = from_mapping(theirs, "process 0")
    with multihost.together():
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
    with multihost.together():
        dataset = load_dataset(config, say)
    fingerprint = multihost.share(lambda: dataset.fingerprint)
    with multihost.together():
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
    interrupted = f"interrupted; go on with: {resuming}"
    try:
        with on_stop(interrupted):
            _print_plan(experiment, folder, progress)
            if not _train(experiment, folder, progress):
                say(f"saved after epoch {progress.epochs}; go on with: {resuming}")
                return INTERRUPTED
            with multihost.together():
                if multihost.leads():
                    _report(experiment, folder, progress)
    except KeyboardInterrupt:
        return complain(interrupted, INTERRUPTED)
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
    base = parsing.settings(argv)
    named = parsing.option(argv, "--workdir")
    if "--resume" in argv and named and parsing.option(argv, "--config") is None:
        base = flat(workdir.read_workdir(workdir.path_of(named))[1])
    return parsing.parse(RunCommand(), argv, prog, DESCRIPTION, base)


def _train(experiment: Experiment, folder: RunFolder, progress: Progress) -> bool:
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(
            stop_at_signal("stopping when this chunk is saved")
        )
        writers: list[Writer] = []
        with multihost.together():
            for make in (
                lambda: JsonlWriter(folder.metrics),
                lambda: TensorBoardWriter(folder.tensorboard, progress.epochs),
                lambda: ConsoleWriter(states=progress.ledger.states),
            ):
                if multihost.leads():
                    writers.append(stack.enter_context(contextlib.closing(make())))
        return train(experiment, folder, progress, writers, stopping)


def _draw(folder: RunFolder, progress: Progress, summary: dict[str, Any]) -> None:
    from jsplit.analysis import (
        run_plots as plots,  # Matplotlib takes its time, and is needed only here.
    )

    title = (
        f"{summary['dataset']}, {summary['model']} cut {summary['cut']}, "
        f"{counted(summary['clients'], 'client')}, {summary['gate']} gate, "
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
        f"{config.model} cut after block {experiment.cut}, "
        f"{counted(config.clients, 'client')}, {config.gate.name} gate, "
        f"{config.codec} up, {config.grad_codec} down"
        + "".join(f", {words}" for words in beside_paper(config))
        + f", {counted(config.epochs, 'epoch')} of server batches of "
        f"{layout.members * layout.batch}, in {folder.path}"
    )
    if config.init is not None:
        say(f"beginning with the weights of {config.init} ({config.init_part})")
    emulated = config.precision == "bfloat16" and jax.default_backend() == "cpu"
    say(
        f"computing on {device.describe()}, in {config.precision}"
        + (", which a CPU only emulates: slower than float32" if emulated else "")
    )
    caveat = config.gate.caveat(config.unlike)
    if caveat is not None:
        say(f"note: {caveat}")
    if config.mesh:
        say(
            f"sharing clients and batches over {counted(jax.device_count(), 'device')}"
            f" of {counted(jax.process_count(), 'process')}"
        )
    if progress.epochs < config.all_epochs:
        say("compiling; the first epoch takes longer")
