"""The whole program, small enough for tests: in this process or in one of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jsplit.cli.main import main
from jsplit.experiment.build import Experiment, build, load_dataset
from jsplit.experiment.train import resume
from jsplit.experiment.workdir import RunFolder, read_workdir
from jsplit.testing import compile_once as compile_once

ROOT = Path(__file__).parent.parent
EPOCHS = 16
STATES = "AAB" + "C" * (EPOCHS - 3)
TINY = (
    *("--model", "cnn", "--dataset", "fashion_mnist_10k", "--image-size", "8"),
    *("--train-examples", "200", "--test-examples", "100"),
    *("--gate", "freeze", "--sync-epochs", "2", "--epochs", str(EPOCHS)),
)
"""Two steps an epoch, all three states, and one program to compile."""


def run_here(*flags: object) -> int:
    """`run.py` with these flags, in this process."""
    return main(["run", *map(str, flags)], prog="run.py")


@contextlib.contextmanager
def start(
    *flags: object,
    cache: Path,
    env: Mapping[str, str] = MappingProxyType({}),
    **how: Any,
) -> Iterator[subprocess.Popen]:
    """`run.py` with these flags, in a process of its own that does not outlive this."""
    settings = {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    settings |= {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "run.py", *map(str, flags)],
        **{"cwd": ROOT, "text": True, **how},
        env=os.environ | settings | env,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def within(seconds: float, condition: Callable[[], Any]) -> None:
    """Waits for what must happen within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def experiment_of(path: Path) -> Experiment:
    """The experiment of a run's folder, to read its checkpoints with."""
    config = read_workdir(path)[1]
    return build(config, load_dataset(config, print))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records in `metrics.jsonl`; none if it is missing."""
    metrics = path / "metrics.jsonl"
    text = metrics.read_text() if metrics.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def result_of(path: Path, experiment: Experiment) -> dict[str, Any]:
    """All that a run computed, without what it took: fit for `==`."""
    progress = resume(experiment, RunFolder(path))
    leaves, _ = jax.tree_util.tree_flatten_with_path(progress.state)
    summary = json.loads((path / "summary.json").read_text())
    del summary["seconds"]
    unlike = ("seconds", "eta_seconds")
    return {
        "arrays": {
            jax.tree_util.keystr(name): (str(leaf.dtype), np.asarray(leaf).tobytes())
            for name, leaf in leaves
        },
        "records": [
            {name: value for name, value in line.items() if name not in unlike}
            for line in lines_of(path)
        ],
        "summary": summary,
    }


def files_under(path: Path) -> list[str]:
    """Everything below a folder, by name."""
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


def refused(capsys: Any, command: Callable[[], int]) -> str:
    """The one line on standard error of a command that leaves nothing behind."""
    before = files_under(Path.cwd())
    assert command() == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert shown.err.endswith("\n") and "Traceback" not in shown.err + shown.out
    assert "\x1b" not in shown.err
    assert files_under(Path.cwd()) == before
    return shown.err
