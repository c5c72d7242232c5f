"""How long until the network is good, over a slow link?

    python -m benchmarks.link                          # 10 Mbit/s, 40 ms each way
    python -m benchmarks.link --link 1mbit/100ms --train 1000

Server and client are processes over loopback and mutual TLS, with the client's
channel slowed to the link. Three ways on the same data, begun with another one in each
round, each round another seed: `plain` is always A in float32; `float8` is always A in
float8; `gated` is float8 under the loss gate. The held-out set is coded and sent
whenever the client's part has changed, in every way. Time is counted from the first
plan, so both sides have started, but it includes compiling.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.quantities import human_bytes
from jsplit.net import certificates
from jsplit.testing import compile_once, run_in_processes

FLOAT32 = {"codec": "identity", "grad_codec": "identity"}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"gate": "always", **FLOAT32},
    "float8": {"gate": "always"},
    "gated": {"gate": "loss"},
}
GOALS = (0.6, 0.7, 0.75)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=3, models=["cnn"])
    parser.add_argument("--link", default="10mbit/40ms", help="default 10mbit/40ms")
    parser.add_argument(
        "--train", type=measure.positive, default=2000, help="images; default 2000"
    )
    parser.add_argument(
        "--test", type=measure.positive, default=500, help="images; default 500"
    )
    parser.add_argument(
        "--epochs", type=measure.positive, default=15, help="default 15"
    )
    settings = measure.settings_of(parser, argv)
    found = {name: measure_model(name, settings) for name in settings.models}
    measure.write("link", settings, {"models": found})


def measure_model(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's runs, by way."""
    config = RunConfig(
        model=name,
        dataset="fashion_mnist_10k",
        train_examples=settings.train,
        test_examples=settings.test,
        epochs=settings.epochs,
    )
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as base, compile_once(Path(base)) as cache:
        certs = Path(base) / "certs"
        certificates.make_certificates(certs, ["127.0.0.1"], 1)
        for seed in range(settings.rounds):
            for way in measure.in_turn(WAYS, seed):
                path = Path(base) / f"{way}-{seed}"
                path.mkdir()
                chosen = changed(config, seed=seed, **WAYS[way])
                runs[way].append(one_run(chosen, path, cache, certs, settings.link))
                print(f"{way:8} {runs[way][-1]}", flush=True)
    print(f"\n{name} over {settings.link}; medians of {settings.rounds} seeds")
    goals = "".join(f"{f's to {goal:.0%}':>11}" for goal in GOALS)
    print(f"  {'':8}{goals}{'s in all':>11}{'accuracy':>10}{'crossed':>10}  states")
    for way, made in runs.items():
        times = "".join(
            f"{_median([run['seconds_to'][str(goal)] for run in made]):>11}"
            for goal in GOALS
        )
        seconds = statistics.median(run["seconds"] for run in made)
        accuracy = statistics.median(run["test_accuracy"] for run in made)
        crossed = statistics.median(run["bytes"] for run in made)
        print(
            f"  {way:8}{times}{seconds:>11.0f}{accuracy:>10.1%}"
            f"{human_bytes(crossed):>10}  {made[0]['states']}"
        )
    return runs


def one_run(
    config: RunConfig, path: Path, cache: Path, certs: Path, link: str
) -> dict[str, Any]:
    """A run of real processes; what it reached when."""
    ways = {"serve": ("--evaluate", 1), "join": ("--link", link)}
    run_in_processes(config, path, cache, certs, **ways, seconds=3600)
    folder = path / "server"
    summary = json.loads((folder / "summary.json").read_text())
    epochs = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return {
        "seed": config.seed,
        "states": summary["states"],
        "seconds": summary["seconds"],
        "bytes": summary["network"]["counted"]["total"],
        "test_accuracy": summary["test_accuracy"],
        "seconds_to": {
            str(goal): next(
                (e["seconds"] for e in epochs if e["test_accuracy"] >= goal), None
            )
            for goal in GOALS
        },
    }


def _median(seconds: Sequence[float | None]) -> str:
    """Of runs of which some may not have got there; those count as the longest."""
    ordered = sorted(float("inf") if s is None else s for s in seconds)
    middle = ordered[len(ordered) // 2]
    return "never" if middle == float("inf") else f"{middle:.0f}"


if __name__ == "__main__":
    main()
