"""`jsplit sweep`: many runs, one after another, each in a folder of its own.

Runs that differ only in what the compiled program takes as arguments (seed, threshold,
period, ...) share one program. The same command again goes on where it was stopped.
"""

import contextlib
import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jsplit.data import Dataset
from jsplit.errors import InputError, RunError
from jsplit.experiment import workdir
from jsplit.experiment.build import (
    Experiment,
    build,
    check_kept_names,
    check_names,
    load_dataset,
    shape_of,
    share_program,
)
from jsplit.experiment.canonical import canonical
from jsplit.experiment.config import RunConfig, differences
from jsplit.experiment.console import ConsoleWriter
from jsplit.experiment.plain_target import with_kept_curve
from jsplit.experiment.progress import Progress, states_in_words
from jsplit.experiment.quantities import counted
from jsplit.experiment.summary import summarize
from jsplit.experiment.sweep_spec import Planned
from jsplit.experiment.train import resume, train
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter, TensorBoardWriter, Writer
from jsplit.runtime import atomic


class Outcome(NamedTuple):
    """How a sweep went.

    Attributes:
        done: runs that are finished, of this sitting or an earlier one.
        failed: names of those that broke, with the reason.
        stopped: whether it was asked to stop before the end.
    """

    done: int
    failed: dict[str, str]
    stopped: bool


def sweep(
    planned: Sequence[Planned],
    path: Path,
    stopping: Callable[[], bool],
    say: Callable[[str], None],
    *,
    event_files: bool = True,
) -> Outcome:
    """Makes those runs that are not finished yet, each in a folder under `path`.

    Those of one shape follow one another. A run that breaks (its loss is not finite)
    does not keep the others from being made.

    Args:
        planned: the runs.
        path: the folder of all of them.
        stopping: whether to stop, asked before each chunk.
        say: takes lines for people.
        event_files: whether TensorBoard's are written, too, which needs tensorboardX.

    Raises:
        InputError: if the data of a run cannot be had, or does not fit its settings.
    """
    left = [run for run in _by_shape(planned) if not is_done(path / run.name)]
    done = len(planned) - len(left)
    if done:
        say(f"{done} of {counted(len(planned), 'run')} finished already")
    failed: dict[str, str] = {}
    dataset: tuple[dict[str, object], Dataset] | None = None
    earlier: Experiment | None = None
    began, epochs = time.monotonic(), 0
    for place, run in enumerate(left):
        wanted = _data_of(run.config)
        if dataset is None or dataset[0] != wanted:
            dataset = (wanted, load_dataset(run.config, say))
        config = _as_kept(dataclasses.replace(run.config, workdir=str(path / run.name)))
        experiment = build(config, dataset[1])
        if earlier is not None:
            experiment = share_program(experiment, earlier)
        earlier = experiment
        try:
            progress = _carry_out(experiment, stopping, event_files)
        except RunError as error:
            failed[run.name] = str(error)
            say(f"failed: {run.name}: {error}")
            continue
        if progress is None:
            return Outcome(done, failed, stopped=True)
        done += 1
        epochs += run.config.all_epochs
        ahead = sum(other.config.all_epochs for other in left[place + 1 :])
        seconds = round((time.monotonic() - began) / epochs * ahead)
        say(
            f"{path.name} {done}/{len(planned)}  {_line(run.name, progress)}  "
            f"ETA {datetime.timedelta(seconds=seconds)}"
        )
    return Outcome(done, failed, stopped=False)


def is_done(path: Path) -> bool:
    """Whether the run in this folder is finished."""
    return RunFolder(path).summary.exists()


def check_planned(planned: Sequence[Planned], file: Path) -> None:
    """Refuses unknown names, several devices, and a run that is there twice."""
    devices = {run.config.device for run in planned}
    if len(devices) > 1:
        raise InputError(
            f"{file}: a sweep computes on one device, but its runs name "
            f"{sorted(devices)}; set device under [settings]"
        )
    names: dict[RunConfig, str] = {}
    for run in planned:
        try:
            check_names(run.config)
        except InputError as error:
            raise InputError(f"{file}, {run.name}: {error}") from error
        same = names.setdefault(canonical(run.config), run.name)
        if same != run.name:
            raise InputError(
                f"{file}: {run.name} is the same run as {same}: they differ "
                "in nothing that its result depends on; leave one of them out"
            )


def check_kept(planned: Sequence[Planned], path: Path) -> None:
    """Refuses a folder that holds other runs under the names of these.

    Raises:
        InputError: naming the run and the settings that differ.
    """
    for run in planned:
        folder = workdir.path_of(str(path / run.name), "the folder of a run,")
        if not RunFolder(folder).config.exists():
            continue
        _, kept, _ = workdir.read_workdir(folder)
        check_kept_names(kept, folder)
        asked = with_kept_curve(run.config, kept)
        differing = differences(canonical(kept), canonical(asked))
        if differing:
            raise InputError(
                f"{folder} holds a run with other settings ({'; '.join(differing)}); "
                "name another --folder, or remove that run"
            )


def _as_kept(config: RunConfig) -> RunConfig:
    """The config with what an earlier sitting read of a run that it names."""
    assert config.workdir is not None
    path = Path(config.workdir)
    if not RunFolder(path).config.exists():
        return config
    return with_kept_curve(config, workdir.read_workdir(path)[1])


def _carry_out(
    experiment: Experiment, stopping: Callable[[], bool], event_files: bool
) -> Progress | None:
    """Makes a run, or goes on with it; None if it was asked to stop."""
    assert experiment.config.workdir is not None
    path = Path(experiment.config.workdir)
    with contextlib.ExitStack() as stack:
        dataset = experiment.dataset
        if RunFolder(path).config.exists():
            folder, _, described = workdir.read_workdir(path)
            workdir.check_data(folder, described, dataset)
            stack.enter_context(workdir.lock(path))
            progress = resume(experiment, folder)
        else:
            folder = stack.enter_context(
                workdir.open_new(experiment.config, workdir.described(dataset))
            )
            progress = Progress(experiment)
        writers: list[Writer] = [JsonlWriter(folder.metrics)]
        if event_files:
            writers.append(TensorBoardWriter(folder.tensorboard, progress.epochs))
        if sys.stdout.isatty():
            writers.append(ConsoleWriter(states=progress.ledger.states, keep=False))
        for writer in writers:
            stack.enter_context(contextlib.closing(writer))
        if not train(experiment, folder, progress, writers, stopping):
            return None
        atomic.write_json(folder.summary, summarize(experiment, progress))
        return progress


def _by_shape(planned: Sequence[Planned]) -> list[Planned]:
    """Runs that may share a program one after another; else in their order."""
    shapes = [shape_of(run.config) for run in planned]
    return sorted(planned, key=lambda run: shapes.index(shape_of(run.config)))


def _data_of(config: RunConfig) -> dict[str, object]:
    """What decides which images a run sees."""
    names = (
        "dataset", "data_dir", "image_size", "train_examples", "test_examples",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def _line(name: str, progress: Progress) -> str:
    last = progress.records[-1]
    return (
        f"{name}  {states_in_words(progress.ledger.states, longest=40)}  "
        f"test {last['test_accuracy']:.2%}  "
        f"comm /{last['communication_reduction']:.2f}  "
        f"compute /{last['client_compute_reduction']:.2f}  {progress.seconds:.0f} s"
    )
