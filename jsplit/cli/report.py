"""`jsplit report`: what the finished runs of a folder say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.analysis.comparison import grouped
from jsplit.analysis.report import page, self_contained
from jsplit.analysis.results import read_results
from jsplit.cli import parsing
from jsplit.cli.terminal import say
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.quantities import counted
from jsplit.runtime import atomic

DESCRIPTION = """\
Compares the finished runs below FOLDER, such as those of jsplit sweep, and writes
report.md and report.html (one file, with its pictures in it).
"""


@dataclass(frozen=True)
class ReportCommand:
    """`jsplit report`."""

    GROUP = "report"

    folder: Annotated[
        tyro.conf.Positional[str], Option("Folder with runs below it.", "FOLDER")
    ]
    out: Annotated[
        str | None, Option("The folder for the report. None: FOLDER/report.", "FOLDER")
    ] = None
    partial: Annotated[
        bool,
        Option("Unfinished runs are left out instead of refused."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit report`: writes the page; returns the exit code."""
    asked = parsing.parse(ReportCommand(folder=""), argv, prog, DESCRIPTION)
    if not asked.folder:
        raise InputError(f"{prog} needs a FOLDER with runs below it")
    path = workdir.path_of(asked.folder, "FOLDER")
    out = workdir.path_of(asked.out, "--out") if asked.out else path / "report"
    runs, left_out = read_results(path, partial=asked.partial)
    groups = grouped(runs)
    try:
        # A stop leaves no new folder with half a report; in an old one, each file is
        # the old or the new one.
        with atomic.unfinished(*([] if out.exists() else [out])):
            workdir.make_folder(out, "--out")
            text = page(groups, left_out, out)
            atomic.write_text(out / "report.md", text)
            atomic.write_text(out / "report.html", self_contained(text, out))
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name another") from error
    missing = f"; {len(left_out)} not finished and left out" if left_out else ""
    say(
        f"{counted(len(runs), 'run')} in {out / 'report.html'} and "
        f"{out / 'report.md'}{missing}"
    )
    return 0
