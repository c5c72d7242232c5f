"""`jsplit privacy`: attacks what finished runs sent."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.analysis.comparison import grouped
from jsplit.analysis.privacy_report import (
    attackable,
    attacks,
    check_checkpoints,
    left_to_attack,
    line,
    page,
)
from jsplit.analysis.report import self_contained
from jsplit.analysis.results import read_results
from jsplit.cli import parsing
from jsplit.cli.terminal import say
from jsplit.core.option import Option
from jsplit.data import Dataset
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import load_dataset
from jsplit.experiment.quantities import counted
from jsplit.runtime import atomic, compilation_cache, device

DESCRIPTION = """\
Attacks what each finished run at or below FOLDER sent, as an honest-but-curious server
could, and writes privacy.json and privacy.png into the run's folder and a comparison
into FOLDER/privacy. Networked runs are left out: their images stayed with the clients.
The same command again goes on after a stop. It needs the extra jsplit[privacy].
"""


@dataclass(frozen=True)
class PrivacyCommand:
    """`jsplit privacy`."""

    GROUP = "privacy"

    folder: Annotated[
        tyro.conf.Positional[str],
        Option("Folder of a run, or one with runs below it.", "FOLDER"),
    ]
    out: Annotated[
        str | None,
        Option("The folder for the comparison. None: FOLDER/privacy.", "FOLDER"),
    ] = None
    device: Annotated[str, parsing.DEVICE] = "auto"
    partial: Annotated[
        bool,
        Option("Unfinished runs are left out instead of refused."),
        tyro.conf.FlagCreatePairsOff,
    ] = False
    again: Annotated[
        bool,
        Option("Runs that have a privacy.json are attacked anew."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit privacy`: attacks, compares, writes; returns the exit code."""
    asked = parsing.parse(PrivacyCommand(folder=""), argv, prog, DESCRIPTION)
    if not asked.folder:
        raise InputError(f"{prog} needs the FOLDER of a run, or one with runs below it")
    path = workdir.path_of(asked.folder, "FOLDER")
    out = workdir.path_of(asked.out, "--out") if asked.out else path / "privacy"
    found, _ = read_results(path, partial=asked.partial)
    runs, networked = attackable(found)
    note = None
    if networked:
        names = ", ".join(str(run.path.relative_to(path)) for run in networked)
        note = (
            f"left out {counted(len(networked), 'networked run')}, whose images stayed "
            f"with their clients: {names}"
        )
    groups = grouped(runs)
    _check_extra()
    device.choose(asked.device)
    left = [left_to_attack(group, again=asked.again) for group in groups]
    check_checkpoints(run for of_group in left for run in of_group)
    workdir.make_folder(out, "--out")
    if note is not None:
        say(note)

    @functools.cache  # One for all runs: `read_results` lets no other pass.
    def dataset() -> Dataset:
        loaded = load_dataset(runs[0].config, lambda line: None)
        folder, _, described = workdir.read_workdir(runs[0].path)
        workdir.check_data(folder, described, loaded)
        return loaded

    count = sum(map(len, left))
    if count < len(runs):
        say(f"{len(runs) - count} of {counted(len(runs), 'run')} attacked before")
    places = itertools.count(1)
    with compilation_cache.kept(runs[0].config.compile_cache, say):
        for group, of_group in zip(groups, left, strict=True):
            for run, figures in attacks(group, of_group, dataset):
                place = f"{next(places)}/{count}"
                say(f"{place}  {run.path.name}  {line(figures)}")
    with atomic.unfinished(*([] if any(out.iterdir()) else [out])):
        text = page(groups, note)
        atomic.write_text(out / "privacy.md", text)
        atomic.write_text(out / "privacy.html", self_contained(text, out))
    say(
        f"{counted(len(runs), 'run')} in {out / 'privacy.html'} and "
        f"{out / 'privacy.md'}"
    )
    return 0


def _check_extra() -> None:
    try:
        import dcor  # noqa: F401
        import skimage  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"jsplit privacy needs {error.name}, of the extra: "
            "pip install 'jsplit[privacy]'"
        ) from error
