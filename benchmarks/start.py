"""How long until a run trains: imports, compilation, first epoch, cold and cached.

    python -m benchmarks.start
    python -m benchmarks.start --models cnn --rounds 1

Every figure is of fresh processes, one at a time; needs the whole installation.

    none   without kept programs: --compile-cache off
    fill   with an empty folder of them, which it fills
    warm   with that one

`breakdown` follows what the command does (import, load and build, compile, train
one epoch); `run.py` is the command itself, from start to end, with its pictures
and checkpoint. Both train one epoch of `--steps` steps, so that starting is all there
is to see.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure

ROOT = Path(__file__).parent.parent
CACHES = ("none", "fill", "warm")

BREAKDOWN = """
import json, sys, time
marks = [time.time()]
import jsplit.cli.run
marks.append(time.time())
import jax, jax.numpy as jnp
from jsplit.runtime import compilation_cache
from jsplit.experiment.build import build, load_dataset
config = jsplit.cli.run.parse(sys.argv[1:], "run.py").settings
cache = compilation_cache.kept(config.compile_cache, print)
cache.__enter__()
simulation = build(config, load_dataset(config, print)).simulation
marks.append(time.time())
given = (simulation.state, simulation.shards, simulation.test, simulation.key,
         jnp.full(1, 0.05, jnp.float32), jnp.ones(1, bool))
program = simulation.program.run.lower(*given).compile()
marks.append(time.time())
jax.block_until_ready(program(*given))
marks.append(time.time())
print(json.dumps(marks))
"""
STAGES = ("python", "import", "build", "compile", "first_epoch")
"""What ends at each of the breakdown's marks."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=3, models=("cnn", "resnet18"))
    parser.add_argument(
        "--steps", type=measure.positive, default=2, help="of the epoch, default 2"
    )
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    parser.add_argument("--caches", nargs="+", default=CACHES, choices=CACHES)
    settings = measure.settings_of(parser, argv)
    found = {name: measure_start(name, settings) for name in settings.models}
    measure.write("start", settings, {"models": found})


def measure_start(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's seconds, each round with a cache of its own."""
    stages: dict[str, dict[str, list[float]]] = {
        cache: {stage: [] for stage in (*STAGES, "run.py")} for cache in settings.caches
    }
    for _ in range(settings.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for cache in settings.caches:
                # Two folders: either way of starting fills its own.
                marks = breakdown(name, settings, cache, Path(folder, "breakdown"))
                marks["run.py"] = command(name, settings, cache, Path(folder, "run"))
                for stage, seconds in marks.items():
                    stages[cache][stage].append(seconds)
    print(f"\n{name}, seconds (median of {settings.rounds})")
    print(f"  {'cache':6}" + "".join(f"{stage:>12}" for stage in (*STAGES, "run.py")))
    for cache, found in stages.items():
        medians = "".join(f"{statistics.median(s):12.2f}" for s in found.values())
        print(f"  {cache:6}{medians}", flush=True)
    return {
        cache: {stage: measure.spread(seconds) for stage, seconds in found.items()}
        for cache, found in stages.items()
    }


def breakdown(
    name: str, settings: argparse.Namespace, cache: str, folder: Path
) -> dict[str, float]:
    """Seconds of each stage of a fresh process."""
    before = time.time()
    done = _python("-c", BREAKDOWN, *_flags(name, settings, cache, folder))
    marks = [before, *json.loads(done.splitlines()[-1])]
    pairs = zip(marks[1:], marks[:-1], strict=True)
    return {
        stage: end - start for stage, (end, start) in zip(STAGES, pairs, strict=True)
    }


def command(name: str, settings: argparse.Namespace, cache: str, folder: Path) -> float:
    """Seconds of the command itself, from start to end."""
    with tempfile.TemporaryDirectory() as parent:
        flags = _flags(name, settings, cache, folder)
        before = time.time()
        _python("run.py", *flags, "--workdir", str(Path(parent, "run")))
        return time.time() - before


def _flags(
    name: str, settings: argparse.Namespace, cache: str, folder: Path
) -> list[str]:
    values = {
        "model": name,
        "dataset": "fashion_mnist_10k",
        "train-examples": settings.steps * settings.batch,
        "test-examples": 100,
        "batch-size": settings.batch,
        "epochs": 1,
        "compile-cache": "off" if cache == "none" else folder,
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def _python(*words: str) -> str:
    """Runs Python in the root of the repository; what it prints.

    Raises:
        RuntimeError: if it fails.
    """
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:1])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
