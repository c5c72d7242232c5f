"""`jsplit sweep`: makes the runs that a file stands for."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jsplit.cli import parsing
from jsplit.cli.stopping import on_stop, stop_at_signal
from jsplit.cli.terminal import INTERRUPTED, complain, folded, say
from jsplit.core.option import Option
from jsplit.errors import InputError, RunError
from jsplit.experiment import sweep_spec, workdir
from jsplit.experiment.caveats import caveats_of
from jsplit.experiment.quantities import counted
from jsplit.experiment.sweep import check_kept, check_planned, is_done, sweep
from jsplit.runtime import compilation_cache, device

DESCRIPTION = """\
Makes every run that FILE stands for: all combinations of what its grids list. Finished
ones are kept and broken ones gone on with, so the same command goes on after a stop.
See configs/sweeps/. Then: jsplit report FOLDER.
"""


GO_ON = "interrupted; the same command goes on"


@dataclass(frozen=True)
class SweepCommand:
    """`jsplit sweep`."""

    GROUP = "sweep"

    file: Annotated[
        tyro.conf.Positional[str], Option("TOML file of settings and grids.", "FILE")
    ]
    folder: Annotated[
        str | None,
        Option(
            "The folder of all runs. None: runs/ and the name of the file.", "FOLDER"
        ),
    ] = None
    dry: Annotated[
        bool,
        Option("The runs are only listed, with those that are done."),
        tyro.conf.FlagCreatePairsOff,
    ] = False


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit sweep`: makes the runs of a file; returns the exit code."""
    asked = parsing.parse(SweepCommand(file=""), argv, prog, DESCRIPTION)
    if not asked.file:
        raise InputError(f"{prog} needs a FILE; the ready ones are in configs/sweeps/")
    file = Path(asked.file)
    planned = sweep_spec.read_sweep(file)
    check_planned(planned, file)
    path = workdir.path_of(asked.folder or str(Path("runs") / file.stem), "--folder")
    check_kept(planned, path)
    if asked.dry:
        for run in planned:
            say(f"{'done' if is_done(path / run.name) else 'to do':6} {run.name}")
        return 0
    caveats = (caveat for run in planned for caveat in caveats_of(run.config))
    for caveat in dict.fromkeys(caveats):
        say(folded(f"note: {caveat}"))
    # That of all runs, which one process can choose only once.
    device.choose(planned[0].config.device)
    with contextlib.ExitStack() as stack:
        workdir.make_folder(path, "--folder")
        stack.enter_context(workdir.lock(path, "--folder"))
        stack.enter_context(
            compilation_cache.kept(planned[0].config.compile_cache, say)
        )
        stack.enter_context(on_stop(GO_ON))
        stopping = stack.enter_context(
            stop_at_signal("stopping when this run's chunk is saved")
        )
        outcome = sweep(planned, path, stopping, say)
    if outcome.stopped:
        return complain(GO_ON, INTERRUPTED)
    say(f"{outcome.done} of {counted(len(planned), 'run')} finished in {path}")
    if outcome.failed:
        name, reason = next(iter(outcome.failed.items()))
        raise RunError(
            f"{counted(len(outcome.failed), 'run')} failed; {name}: {reason}; change "
            f"that run in {file}, or leave it out: finished ones are kept"
        )
    return 0
