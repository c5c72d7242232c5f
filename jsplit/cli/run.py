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

from jsplit import data
from jsplit.analysis import tables
from jsplit.cli import parsing, training
from jsplit.cli.stopping import on_stop
from jsplit.cli.terminal import (
    INTERRUPTED,
    complain,
    folded,
    forget_output,
    last_words,
    own_command,
    say,
)
from jsplit.cli.training import Finished
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
from jsplit.experiment.compare_folder import COMPARE, plain_folder
from jsplit.experiment.config import (
    ClusterConfig,
    RunConfig,
    check,
    check_cluster,
    differences,
    flat,
    from_mapping,
)
from jsplit.experiment.plain import (
    check_not_plain,
    plain_of,
)
from jsplit.experiment.plain_target import outcome_line, with_kept_curve
from jsplit.experiment.progress import Progress
from jsplit.experiment.train import compressed_before, resume
from jsplit.experiment.workdir import RunFolder
from jsplit.runtime import compilation_cache, device, multihost

Begun = tuple[Experiment, RunFolder, Progress]
"""A run to carry out, where it is kept and where it stands."""

DESCRIPTION = """\
Split learning under a loss-based gate: each epoch runs in state A (client and server
train), B (activations up only) or C (nothing is sent: the server trains on what it
stored), and everything sent is an 8-bit float of searched format (arXiv 2107.09786).

First try: python run.py --config configs/quickstart.toml --compare

Plain split learning: --gate always --codec identity --grad-codec identity; --compare
trains it beside another run and shows both.

To look: --show-cuts prints what each cut of a model sends and computes.
"""


@dataclass(frozen=True)
class RunCommand:
    """`jsplit run`: the run's settings, and how to go about it."""

    GROUP = "run"

    settings: tyro.conf.OmitArgPrefixes[RunConfig] = RunConfig()
    cluster: tyro.conf.OmitArgPrefixes[ClusterConfig] = ClusterConfig()
    config: Annotated[
        str | None,
        Option(
            "A TOML file of settings, such as those in configs/. Flags override it.",
            "FILE",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option("The run in --workdir goes on from its last checkpoint."),
        tyro.conf.FlagCreatePairsOff,
    ] = False
    compare: Annotated[
        bool,
        Option(
            "Plain split learning (always A, float32, the same data and seed) is "
            "trained, too, and both are shown side by side at the end."
        ),
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
    if command.compare:
        check_not_plain(config)
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
        return _run(config, prog, stack, command)


def _run(
    config: RunConfig, prog: str, stack: contextlib.ExitStack, command: RunCommand
) -> int:
    """Trains as the command says; once there is a folder, it can be gone on with."""
    with multihost.together():
        if command.resume:
            assert config.workdir is not None
            earlier, kept, _ = _kept(config)
            config = with_kept_curve(config, kept)
            workdir.check_file(earlier, config, kept)
        elif config.workdir is not None and multihost.leads():
            workdir.check_unused(workdir.path_of(config.workdir))
    dataset = _load(config)
    stack.enter_context(compilation_cache.kept(config.compile_cache, say))
    begin = _go_on if command.resume else _start
    experiment, folder, progress = begin(config, dataset, stack)
    go_on = f"{prog} --resume --workdir {shlex.quote(str(folder.path))}"
    go_on += " --compare" if command.compare else ""
    interrupted = f"interrupted; go on with: {go_on}"
    try:
        with on_stop(interrupted):
            say(data.line_of(dataset))
            say(folded(f"source: {dataset.source}"))
            run = training.finish(experiment, folder, progress, go_on)
            plain = None
            if run is not None and command.compare:
                del experiment, progress  # The device has room for one of the two.
                begun = _begin_plain(config, folder, dataset, stack)
                plain = training.finish(*begun, go_on)
            if run is None or (command.compare and plain is None):
                return INTERRUPTED
            with multihost.together():
                if multihost.leads():
                    _report(folder, run, plain)
    except KeyboardInterrupt:
        return complain(interrupted, INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            forget_output()
        raise RunError(
            f"writing failed ({error}); mend that, then go on with: {go_on}"
        ) from error
    return 0


def _start(config: RunConfig, dataset: Dataset, stack: contextlib.ExitStack) -> Begun:
    experiment = build(config, dataset)

    def open_new() -> str:
        described = workdir.described(dataset)
        whole = experiment.config
        return str(stack.enter_context(workdir.open_new(whole, described)).path)

    folder = RunFolder(Path(multihost.share(open_new)))
    return experiment, folder, Progress(experiment)


def _go_on(config: RunConfig, dataset: Dataset, stack: contextlib.ExitStack) -> Begun:
    with multihost.together():
        folder, kept, described = _kept(config)
        workdir.check_data(folder, described, dataset)
    begun = multihost.share(lambda: checkpoint.latest(folder.checkpoints)) is not None
    # Once there is a checkpoint, the weights that it began with need not be there.
    experiment = build(
        dataclasses.replace(config, init=None) if begun else config, dataset
    )
    experiment = experiment._replace(config=config)
    # More epochs than before are no other run, but more of the same.
    longer = config.epochs > kept.epochs
    with multihost.together():
        if multihost.leads():
            stack.enter_context(workdir.lock(folder.path))
            if longer:
                workdir.extend(folder, config.epochs)
    progress = resume(experiment, folder)
    whole = config.all_epochs
    if progress.epochs == whole:
        say(
            f"{folder.path} has finished already; --epochs N goes on to N epochs, "
            f"N above {config.epochs}"
        )
    else:
        say(f"resuming {folder.path} after epoch {progress.epochs}")
        if config.lossless and begun and compressed_before(progress) is None:
            say(
                "note: --lossless counts nothing, because it was not given in all "
                f"{progress.epochs} epochs before"
            )
    if longer:
        say(
            f"it goes on to {whole} epochs instead of {kept.all_epochs}, at the "
            f"learning rates of epochs {progress.epochs + 1} to {whole} in a run of "
            f"{whole}"
        )
    return experiment, folder, progress


def _kept(config: RunConfig) -> tuple[RunFolder, RunConfig, dict[str, Any]]:
    """The run in the config's folder, which must be the same, or shorter.

    Raises:
        InputError: if there is none, it was started otherwise, or it is longer.
    """
    assert config.workdir is not None
    folder, kept, described = workdir.read_workdir(workdir.path_of(config.workdir))
    config = with_kept_curve(config, kept)
    same = dataclasses.replace(kept, epochs=config.epochs)
    if config.epochs < kept.epochs and not differences(same, config):
        raise InputError(
            f"--resume --epochs {config.epochs}: a run cannot be shortened, and "
            f"{folder.path} has {kept.epochs} epochs; say --epochs {kept.epochs}, or "
            "more to go on with it"
        )
    longer = config.epochs > kept.epochs
    workdir.check_same(folder, config, same if longer else kept)
    return folder, kept, described


def _begin_plain(
    config: RunConfig, folder: RunFolder, dataset: Dataset, stack: contextlib.ExitStack
) -> Begun:
    """The run of plain split learning beside the one in a folder: new, or gone on."""
    path = plain_folder(folder.path)
    say(folded(f"now plain split learning with the same settings, in {path.path}"))
    plain = dataclasses.replace(plain_of(config), workdir=str(path.path))
    begun = multihost.share(lambda: path.config.exists())
    return (_go_on if begun else _start)(plain, dataset, stack)


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


def _report(folder: RunFolder, run: Finished, plain: Finished | None) -> None:
    tables.show(tables.of_summary(run.summary, plain and plain.summary))
    outcome = outcome_line(run.summary)
    if outcome is not None:
        say(outcome)
    if plain is not None:
        # Matplotlib takes its time, and is needed only here.
        from jsplit.analysis import run_plots

        picture = folder.path / COMPARE / "accuracy_against_bytes.png"
        run_plots.both_against_bytes(
            run.records, plain.records, picture, title=run.title
        )
        say(folded(f"accuracy against bytes of both: {picture}"))
    say(f"all of it is in {folder.path}")
    program, named = own_command(), shlex.quote(str(folder.path))
    say(f"next: {program} predict {named} IMAGES")
    say(f"      {program} report {named}")


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
