"""`jsplit report`: what the finished runs of a folder say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jsplit.analysis.comparison import grouped
from jsplit.analysis.csv_text import as_csv
from jsplit.analysis.report import page, self_contained
from jsplit.analysis.results import read_results
from jsplit.analysis.run_rows import rows_of
from jsplit.cli import parsing
from jsplit.cli.terminal import say
from jsplit.core.option import Option
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.quantities import counted
from jsplit.runtime import atomic

DESCRIPTION = """\
Compares the finished runs below FOLDER, such as those of jsplit sweep, and writes
report.md, report.html (one file, with its pictures in it) and runs.csv, which has every
figure and every setting of each run. Of a run's folder it reads config.json and
summary.json alone.
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
            atomic.write_text(out / "runs.csv", as_csv(rows_of(groups, path)))
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name another") from error
    missing = f"; {len(left_out)} not finished and left out" if left_out else ""
    say(
        f"{counted(len(runs), 'run')} in {out / 'report.html'}, "
        f"{out / 'report.md'} and {out / 'runs.csv'}{missing}"
    )
    return 0
