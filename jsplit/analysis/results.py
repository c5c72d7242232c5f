"""Finished runs, read from their folders: those on one machine and over a network."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import check_kept_names
from jsplit.experiment.canonical import canonical
from jsplit.experiment.compare_folder import COMPARE
from jsplit.experiment.config import RunConfig
from jsplit.experiment.quantities import some_of
from jsplit.experiment.workdir import RunFolder

NEEDED = (
    *("dataset", "dataset_source", "train_examples", "test_examples", "image_shape"),
    *("cut", "states", "test_accuracy", "device", "versions", "wire_reduction"),
    *("communication_reduction", "client_compute_reduction"),
)
"""Entries of a summary that comparing and reporting read."""

NETWORKED = ("bytes", "always_a_float32", "seconds", "network")
"""What they read besides of a networked run's."""

NETWORK = ("counted", "saved", "absent_epochs")
"""And in its section `network`."""


class FinishedRun(NamedTuple):
    """A finished run.

    Attributes:
        path: of its folder.
        config: it was made with.
        fingerprint: of its data; None where only the clients of the run know it.
        summary: what `summary.json` holds.
        extended_from: epochs after which it was to end, each time before it was given
            more; empty if it never was.
        classes: of its data; None where an earlier version, or the clients, know it.
    """

    path: Path
    config: RunConfig
    fingerprint: str | None
    summary: dict[str, Any]
    extended_from: tuple[int, ...] = ()
    classes: int | None = None

    @property
    def network(self) -> dict[str, Any] | None:
        """What only a networked run counted; None for one on one machine."""
        return self.summary.get("network")


def read_results(path: Path, *, partial: bool) -> tuple[list[FinishedRun], list[str]]:
    """All finished runs below a folder, and the names of those that are not.

    Args:
        path: the folder.
        partial: whether unfinished ones are left out; else they are refused.

    Raises:
        InputError: if there is no folder, no finished run, an unfinished one, a damaged
            summary, or runs on different data.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; name one with runs below it")
    runs, unfinished = [], []
    for config in sorted(path.rglob("config.json")):
        folder = RunFolder(config.parent)
        name = str(folder.path.relative_to(path))
        if not folder.summary.exists():
            unfinished.append(name)
            continue
        _, settings, dataset = workdir.read_workdir(folder.path)
        check_kept_names(settings, folder.path)
        fingerprint = dataset.get("fingerprint")
        # Only the clients of a networked run could tell.
        summary = read_summary(folder, networked=fingerprint is None)
        earlier = workdir.extended_from(folder)
        classes = dataset.get("classes")
        runs.append(
            FinishedRun(folder.path, settings, fingerprint, summary, earlier, classes)
        )
    if not runs:
        raise InputError(
            f"{path} has no finished run below it"
            + (f", but {len(unfinished)} unfinished" if unfinished else "")
            + "; make some with jsplit run or jsplit sweep"
        )
    if unfinished and not partial:
        raise InputError(
            f"{len(unfinished)} of {len(runs) + len(unfinished)} runs in {path} are "
            f"not finished ({some_of(unfinished)}); go on with them, or say --partial"
        )
    runs = _without_repeats(runs)
    _check_data(runs, path)
    return runs, unfinished


def read_summary(folder: RunFolder, *, networked: bool) -> dict[str, Any]:
    """A finished run's summary, with all that comparing and reporting read.

    Args:
        folder: of the run.
        networked: whether it is the server's folder of a networked run.

    Raises:
        InputError: if the summary is damaged or of another version, with the command
            that makes it again from the run's last checkpoint.
    """
    needed = (*NEEDED, *NETWORKED) if networked else NEEDED
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
        missing = [name for name in needed if name not in dict(summary)]
        if networked and not missing:
            inner = dict(summary["network"])
            missing = [name for name in NETWORK if name not in inner]
        if missing:
            raise ValueError(f"no {missing[0]}")
    except (OSError, ValueError, TypeError) as error:
        path = shlex.quote(str(folder.path))
        again = (
            f"jsplit serve --resume --linger 0 --workdir {path}, with the settings and "
            "the --certs that the run had, makes it again without its clients"
            if networked
            else f"jsplit run --resume --workdir {path} makes it again"
        )
        raise InputError(
            f"{folder.summary} is damaged or of another version ({error}); delete it, "
            f"and {again}"
        ) from error
    return summary


def _without_repeats(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs without those that `--compare` made again.

    Each comparison trains plain split learning, so that two of them may hold the same
    run. Runs repeat to the bit: one of them says it.
    """
    made = {_identity(run) for run in runs if not _compares(run)}
    found = []
    for run in runs:
        if not _compares(run) or _identity(run) not in made:
            found.append(run)
            made.add(_identity(run))
    return found


def _compares(run: FinishedRun) -> bool:
    return run.path.parent.name == COMPARE


def _identity(run: FinishedRun) -> tuple[Any, ...]:
    return canonical(run.config), run.fingerprint, run.extended_from, run.classes


def _check_data(runs: Sequence[FinishedRun], path: Path) -> None:
    first = next((run for run in runs if run.fingerprint is not None), runs[0])
    for run in runs:
        same = run.fingerprint == first.fingerprint
        if run.fingerprint is None:
            # Only its clients could tell more.
            same = _size(run) == _size(first)
        # A file may name more classes than its images have.
        same &= None in (run.classes, first.classes) or run.classes == first.classes
        if not same:
            raise InputError(
                f"runs in {path} are on different data ({_data(first)} and "
                f"{_data(run)}); report on each kind in a folder of its own"
            )


def _size(run: FinishedRun) -> tuple[Any, ...]:
    return run.summary["train_examples"], tuple(run.summary["image_shape"])


def _data(run: FinishedRun) -> str:
    count, shape = _size(run)
    name = run.summary["dataset"] or run.summary["dataset_source"]
    classes = "" if run.classes is None else f" and {run.classes} classes"
    return f"{name}, {count} images of {'x'.join(map(str, shape))}{classes}"
