"""Sweeps on one device in slices of time, several runs side by side.

    python -m benchmarks.slices 540 configs/sweeps/cifar10_dct.toml --folder runs/all

Makes the runs of the files, each in a process of its own, those of the lowest seed
first, so that little time gives one run of each row and more time gives the seeds. When
the time is up what runs is stopped, and the same command again goes on from the
checkpoints. `jsplit report FOLDER --partial` compares what is finished.

The packages of the library and orbax, rich and pillow are enough; of the extra `cli` no
other is needed. Several processes share an NVIDIA GPU better under its own service
(`nvidia-cuda-mps-control -d` starts it, beforehand).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.quantities import counted
from jsplit.experiment.sweep import check_kept, check_planned, is_done, sweep
from jsplit.experiment.sweep_spec import Planned, read_sweep
from jsplit.runtime import device

PROGRAMS = ".programs"
"""Compiled programs, in the folder of all runs: seeds share one."""

MEMORY = 0.85
"""Of a GPU's memory, what all processes take together."""

REFUSED = 2
"""The exit code for what cannot be used."""


class Run(NamedTuple):
    """One of a sweep file's runs."""

    file: Path
    planned: Planned

    @property
    def label(self) -> str:
        """Its file and its name."""
        return f"{self.file.stem} {self.planned.name}"


class Child(NamedTuple):
    """A process that makes a run, and where it says how that goes."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path


def main(argv: Sequence[str] | None = None) -> None:
    """Makes what there is time for; exits with 2 if what was given cannot be used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=measure.positive, help="how long")
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="of sweeps")
    parser.add_argument("--folder", type=Path, required=True, help="of all runs")
    parser.add_argument(
        "--processes",
        type=measure.positive,
        default=3,
        help="runs side by side, default 3",
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a run, in this process
    asked = parser.parse_args(argv)
    # Those that it started end with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if asked.only is not None:
            sys.exit(make(asked.files[0], asked.only, asked.folder))
        sys.exit(make_all(asked.files, asked.folder, asked.processes, asked.seconds))
    except InputError as error:
        parser.error(str(error))


def make_all(
    files: Sequence[Path], folder: Path, processes: int, seconds: float
) -> int:
    """Makes the runs of all files for so long; returns the exit code.

    Raises:
        InputError: if a file, the folder, the data or the device cannot be used; then
            no further run begins.
    """
    runs = in_order(files, folder)
    workdir.make_folder(folder, "--folder")
    with workdir.lock(folder):
        waiting = [run for run in runs if not is_done(place_of(run, folder))]
        say(f"{counted(len(waiting), 'run')} to make, {processes} side by side")
        failed = take_turns(waiting, folder, processes, seconds)
    done = sum(is_done(place_of(run, folder)) for run in runs)
    say(f"{done} of {counted(len(runs), 'run')} finished in {folder}")
    if failed:
        say(f"failed: {', '.join(failed)}; see the logs in {folder}")
    return 1 if failed else 0


def take_turns(
    runs: Sequence[Run], folder: Path, processes: int, seconds: float
) -> list[str]:
    """Makes runs side by side, a new one where one has ended; names those that broke.

    Raises:
        InputError: if a run refuses what it was given, as the others would.
    """
    began = time.monotonic()
    waiting = list(runs)
    children: list[Child] = []
    failed = []
    try:
        while (waiting or children) and time.monotonic() - began < seconds:
            while waiting and len(children) < processes:
                children.append(start(waiting.pop(0), folder, processes))
            time.sleep(0.2)
            for child in [each for each in children if each.process.poll() is not None]:
                children.remove(child)
                words = last_line(child.log)
                say(f"{time.monotonic() - began:.0f} s  {child.run.label}: {words}")
                if child.process.returncode == REFUSED:
                    raise InputError(words)
                if child.process.returncode:
                    failed.append(child.run.label)
    finally:
        for child in children:
            child.process.terminate()
            child.process.wait()
            say(f"stopped: {child.run.label}; the same command goes on")
    return failed


def in_order(files: Sequence[Path], folder: Path) -> list[Run]:
    """All runs of the files, those of the lowest seed first, else in their order.

    Raises:
        InputError: if a file cannot be read, is named twice, or the folder holds other
            runs under the names of these.
    """
    runs = []
    for file in files:
        planned = read_sweep(file)
        check_planned(planned, file)
        check_kept(planned, folder / file.stem)
        runs += [Run(file, each) for each in planned]
    stems = [file.stem for file in files]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(f"{stem}.toml is named twice; name each file once")
    return sorted(runs, key=lambda run: run.planned.config.seed)


def start(run: Run, folder: Path, processes: int) -> Child:
    """Starts the process of a run."""
    within = folder / run.file.stem
    within.mkdir(exist_ok=True)
    log = within / f"{run.planned.name}.log"
    # What the user has set already stays.
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str((folder / PROGRAMS).resolve()),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / processes:.2f}",
    }
    command = [sys.executable, "-m", "benchmarks.slices", "1", str(run.file)]
    command += ["--folder", str(folder), "--only", run.planned.name]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=settings | os.environ, stdout=file, stderr=file
        )
    return Child(run, process, log)


def make(file: Path, name: str, folder: Path) -> int:
    """Makes one run of a file in this process; returns the exit code.

    Raises:
        InputError: if the data or the device cannot be used.
    """
    planned = [each for each in read_sweep(file) if each.name == name]
    device.choose(planned[0].config.device)
    path = folder / file.stem
    outcome = sweep(planned, path, lambda: False, print, event_files=False)
    if not outcome.failed:
        print(in_words(path / name))
    return 1 if outcome.failed else 0


def in_words(path: Path) -> str:
    """What a finished run came to."""
    summary = json.loads((path / "summary.json").read_text())
    return (
        f"test {summary['test_accuracy']:.2%}, "
        f"communication /{summary['communication_reduction']:,.2f}, "
        f"{summary['seconds']:.0f} s"
    )


def place_of(run: Run, folder: Path) -> Path:
    """The folder of a run."""
    return folder / run.file.stem / run.planned.name


def last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def say(line: str) -> None:
    """Says a line to people, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
