"""Timing several sides of a question in turns, and writing down what was found.

Machines drift: clocks, neighbours and caches change within minutes. So no side is
measured in a run of its own. Every round calls each side once, a ratio is taken within
its round, and what is reported is the median of the rounds' ratios and their spread.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jsplit.models import MODELS

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")

Seconds = dict[str, list[float]]
"""Of each side, one for each round."""


def arguments(
    doc: str, *, rounds: int, models: Iterable[str]
) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes.

    Args:
        doc: the benchmark's docstring.
        rounds: by default.
        models: measured by default.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=positive, default=rounds, help=f"default {rounds}"
    )
    models = list(models)
    parser.add_argument(
        "--models", nargs="+", default=models, choices=MODELS, help=" ".join(models)
    )
    parser.add_argument("--out", type=Path, help="default results/NAME_BACKEND.json")
    return parser


def positive(text: str) -> int:
    """A count from a command line.

    Raises:
        argparse.ArgumentTypeError: unless it is a whole number of at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 1, got {text}"
        )
    return int(text)


def settings_of(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parses, and says so if the machine is not quiet.

    A file that cannot be written is refused before anything is measured.
    """
    settings = parser.parse_args(argv)
    if settings.out is not None:
        check_out(parser, settings.out)
    settings.load_before = os.getloadavg()[0]
    if settings.load_before > 0.5:
        print(
            f"load average {settings.load_before:.1f}: others compute here, and these "
            "figures will not hold (PyTorch's threads wait for each other and suffer "
            "most)",
            file=sys.stderr,
        )
    return settings


def check_out(parser: argparse.ArgumentParser, out: Path) -> None:
    """Makes the folder of what `--out` names, and refuses what cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {out}: {error.strerror}")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        parser.error(f"--out {out}: not a file that can be written")


def interleave(sides: Mapping[str, Callable[[], Any]], rounds: int) -> Seconds:
    """Times every side once a round.

    The side that begins moves on, so that none always follows the same neighbour.

    Args:
        sides: warmed up by a call of each; each returns when its work is done, not
            when it is dispatched.
        rounds: how many.
    """
    seconds: Seconds = {name: [] for name in sides}
    for number in range(rounds):
        for name in in_turn(sides, number):
            seconds[name].append(timed(sides[name]))
    return seconds


def in_turn(sides: Iterable[str], number: int) -> list[str]:
    """The order of the sides in a round: another one begins each time."""
    names = list(sides)
    first = number % len(names)
    return names[first:] + names[:first]


def timed(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and largest, and the values themselves."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


def spreads(seconds: Seconds, factor: float = 1.0) -> dict[str, dict[str, Any]]:
    """The spread of every side's times, each multiplied by a factor."""
    return {
        side: spread([factor * value for value in times])
        for side, times in seconds.items()
    }


def ratio(seconds: Seconds, side: str, against: str) -> dict[str, Any]:
    """How many times as long `side` takes as `against`: the rounds' ratios."""
    pairs = zip(seconds[side], seconds[against], strict=True)
    return spread([a / b for a, b in pairs])


def show(found: Mapping[str, Any], places: int = 3) -> str:
    """A spread for people: `1.234 (1.200 to 1.310)`."""
    median, least, most = (
        f"{found[name]:.{places}f}" for name in ("median", "min", "max")
    )
    return f"{median} ({least} to {most})"


def write(
    name: str,
    settings: argparse.Namespace,
    found: Mapping[str, Any],
    title: str | None = None,
) -> Path:
    """Writes what was found with all that one needs to judge it; returns where.

    Args:
        name: of the benchmark.
        settings: it ran with; `settings.out` says where to, if set.
        found: the figures, plain values.
        title: of the file, where one benchmark has several.
    """
    path = settings.out or RESULTS / f"{title or name}_{jax.default_backend()}.json"
    chosen = {key: value for key, value in vars(settings).items() if key != "out"}
    record = {
        "benchmark": name,
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "settings": chosen,
        "environment": environment(),
        **found,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}", flush=True)
    return path


def environment() -> dict[str, Any]:
    """The device, the machine, the versions and the commit.

    `commit` and `uncommitted` are None in a copy without its history.
    """
    changed = _git("status", "--porcelain", "--", "jsplit", "benchmarks/*.py", "tests")
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": None if changed is None else bool(changed),
    }


def memory() -> dict[str, int | None]:
    """Bytes of this process now and at most, and at most on its device if known.

    From /proc: `getrusage` also counts what the parent had when it started this
    process.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kilobytes = dict(line.split(":", 1) for line in status.splitlines())
    device = jax.devices()[0].memory_stats() or {}
    return {
        "rss": 1024 * int(kilobytes["VmRSS"].split()[0]),
        "peak_rss": 1024 * int(kilobytes["VmHWM"].split()[0]),
        "device": device.get("bytes_in_use"),
        "peak_device": device.get("peak_bytes_in_use"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """What git says; None where there is none, as in a copy without its history."""
    try:
        return subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
