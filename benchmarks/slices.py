"""Sweeps on one device in slices of time, several runs side by side.

    python -m benchmarks.slices 540 configs/sweeps/cifar10_dct.toml --folder runs/all

Makes the runs of the files, each in a process of its own, those of the lowest seed
first, so that little time gives one run of each row and more time gives the seeds. When
the time is up what runs is stopped, and the same command again goes on from the
checkpoints. `jsplit report FOLDER --partial` compares what is finished.

The packages of the library and orbax, rich and pillow are enough; of the extra `cli` no
other is needed. Several processes share an NVIDIA GPU better under its own service
(`nvidia-cuda-mps-control -d` starts it, beforehand).

Exits with 0 when all runs are finished, 1 if one broke, 2 for what cannot be used, and
3 if the time was up before.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure
from jsplit.cli.stopping import SIGNALS
from jsplit.cli.terminal import complain, say
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.quantities import counted
from jsplit.experiment.sweep import check_kept, check_planned, is_done, sweep
from jsplit.experiment.sweep_spec import Planned, read_sweep
from jsplit.experiment.workdir import RunFolder
from jsplit.runtime import device

PROGRAMS = ".programs"
"""Compiled programs, in the folder of all runs: seeds share one."""

MEMORY = 0.85
"""Of a GPU's memory, what all processes take together."""

DONE, BROKE, REFUSED, TIME_UP = range(4)
"""Exit codes, as above."""

PATIENCE = 5.0
"""Seconds that processes have to end before they are killed."""

NEWS = 30.0
"""Seconds from one line on what is running to the next."""


class Run(NamedTuple):
    """One of a sweep file's runs.

    Attributes:
        file: that it stands in.
        planned: the run.
        path: its folder.
    """

    file: Path
    planned: Planned
    path: Path

    @property
    def label(self) -> str:
        """Its file and its name."""
        return f"{self.file.stem} {self.planned.name}"


class Child(NamedTuple):
    """A process that makes a run.

    Attributes:
        run: that it makes.
        process: which lives no longer than its standard input is open.
        log: what it says.
        said: bytes that were in the log before.
    """

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    said: int


def main(argv: Sequence[str] | None = None) -> None:
    """Makes what there is time for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=measure.positive, help="how long")
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="of sweeps")
    parser.add_argument("--folder", required=True, help="of all runs")
    parser.add_argument(
        "--processes",
        type=measure.positive,
        default=3,
        help="runs side by side, default 3",
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a run, in this process
    asked = parser.parse_args(argv)
    try:
        if not asked.folder:
            raise InputError("--folder is empty; name a folder for all runs")
        folder = workdir.path_of(asked.folder, "--folder")
        if asked.only is not None:
            end_with_parent()
            sys.exit(make(asked.files[0], asked.only, folder))
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
        sys.exit(make_all(asked.files, folder, asked.processes, asked.seconds))
    except InputError as error:
        sys.exit(complain(error, REFUSED))


def make_all(
    files: Sequence[Path], folder: Path, processes: int, seconds: float
) -> int:
    """Makes the runs of all files for so long; returns the exit code.

    Raises:
        InputError: if a file or the folder cannot be used, or as many runs as there are
            processes, and at least two, refuse the data or the device one after
            another.
    """
    runs = in_order(files, folder)
    for path in {run.path.parent for run in runs}:
        workdir.make_folder(path, "--folder")
    with workdir.lock(folder, "--folder"):
        waiting = [run for run in runs if not is_done(run.path)]
        say(f"{counted(len(waiting), 'run')} to make, {processes} side by side")
        failed = take_turns(waiting, folder, processes, seconds)
    done = sum(is_done(run.path) for run in runs)
    say(f"{done} of {counted(len(runs), 'run')} finished in {folder}")
    if failed:
        say(f"failed: {', '.join(failed)}; see their logs in {folder}")
        return BROKE
    return DONE if done == len(runs) else TIME_UP


def in_order(files: Sequence[Path], folder: Path) -> list[Run]:
    """All runs of the files, those of the lowest seed first, else in their order.

    Raises:
        InputError: if a file cannot be read, two have one name, or the folder holds
            other runs under the names of these.
    """
    runs = []
    for number, file in enumerate(files):
        if file.stem in {other.stem for other in files[:number]}:
            raise InputError(
                f"{file}: another file is called {file.stem}, too, and so would be the "
                "folder of its runs; rename one, or name it once"
            )
        planned = read_sweep(file)
        check_planned(planned, file)
        check_kept(planned, folder / file.stem)
        runs += [Run(file, each, folder / file.stem / each.name) for each in planned]
    return sorted(runs, key=lambda run: run.planned.config.seed)


def take_turns(
    runs: Sequence[Run], folder: Path, processes: int, seconds: float
) -> list[str]:
    """Makes runs side by side, a new one where one has ended; names those that broke.

    Raises:
        InputError: see `make_all`.
    """
    began = news = time.monotonic()
    waiting = list(runs)
    children: list[Child] = []
    failed: list[str] = []
    refused = 0  # One after another.
    try:
        while (waiting or children) and time.monotonic() - began < seconds:
            while waiting and len(children) < processes:
                children.append(start(waiting.pop(0), folder, processes))
            time.sleep(0.2)
            for child in [each for each in children if each.process.poll() is not None]:
                children.remove(child)
                child.process.communicate()  # Closes its standard input.
                words, code = said_last(child), child.process.returncode
                say(f"{time.monotonic() - began:.0f} s  {child.run.label}: {words}")
                failed += [child.run.label] * (code != DONE)
                refused = refused + 1 if code == REFUSED else 0
                if refused >= max(2, processes) or refused == len(runs):
                    raise InputError(words)
            if time.monotonic() - news > NEWS:
                news = time.monotonic()
                going = ", ".join(progress_of(child.run) for child in children)
                say(f"{news - began:.0f} s  running: {going}")
    finally:
        stop(children)
    return failed


def start(run: Run, folder: Path, processes: int) -> Child:
    """Starts the process of a run."""
    log = run.path.with_name(f"{run.planned.name}.log")
    # What the user has set already stays.
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str((folder / PROGRAMS).resolve()),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY / processes:.4f}",
    }
    command = [sys.executable, "-m", "benchmarks.slices", "1", str(run.file)]
    command += ["--folder", str(folder), "--only", run.planned.name]
    try:
        with log.open("ab") as file:
            said = file.tell()  # The process moves the end as it writes.
            process = subprocess.Popen(
                command,
                env=settings | os.environ,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                # Ctrl-C is for the one that was started, which ends the others.
                start_new_session=True,
            )
            return Child(run, process, log, said)
    except OSError as error:
        raise InputError(f"--folder {folder}: {error.strerror} ({log})") from error


def stop(children: Sequence[Child]) -> None:
    """Ends processes, which keep what their checkpoints have."""
    running = [child for child in children if child.process.poll() is None]
    for child in running:
        child.process.terminate()
    until = time.monotonic() + PATIENCE
    for child in running:
        try:
            child.process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
    for child in children:
        child.process.communicate()
        done = is_done(child.run.path)
        say(f"{'ended' if done else 'stopped'}: {progress_of(child.run)}")


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # Nothing is ever written.
        os._exit(128 + signal.SIGHUP)

    threading.Thread(target=watch, daemon=True).start()


def make(file: Path, name: str, folder: Path) -> int:
    """Makes one run of a file in this process; returns the exit code.

    Raises:
        InputError: if there is no such run, or the data or the device cannot be used.
    """
    planned = [each for each in read_sweep(file) if each.name == name]
    if not planned:
        raise InputError(f"{file} has no run {name} any more; start again")
    device.choose(planned[0].config.device)
    path = folder / file.stem
    outcome = sweep(planned, path, lambda: False, print, event_files=False)
    if outcome.failed:
        return BROKE
    print(in_words(path / name))
    return DONE


def in_words(path: Path) -> str:
    """What a finished run came to."""
    summary = json.loads(RunFolder(path).summary.read_text())
    return (
        f"test {summary['test_accuracy']:.2%}, "
        f"communication /{summary['communication_reduction']:,.2f}, "
        f"{summary['seconds']:.0f} s"
    )


def progress_of(run: Run) -> str:
    """How far a run is."""
    epochs = 0
    with contextlib.suppress(FileNotFoundError):
        epochs = RunFolder(run.path).metrics.read_bytes().count(b"\n")
    return f"{run.label} {epochs}/{run.planned.config.all_epochs}"


def said_last(child: Child) -> str:
    """The last line that a process has written."""
    code = child.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}; if memory ran out, take fewer --processes"
    with child.log.open("rb") as file:
        file.seek(child.said)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"it ended with {code}"


if __name__ == "__main__":
    main()
