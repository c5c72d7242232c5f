"""How fast is an epoch in A over the network, against one process?

    python -m benchmarks.network
    python -m benchmarks.network --models cnn --examples 512 --rounds 3

Each round makes a run of always A three ways, beginning with another one each time:
`simulation`, the one compiled program; `process`, the product's server and client in
one process, over queues; and `network`, the two as processes over loopback and mutual
TLS. What is compared is the median epoch of each run after the first, which compiles.
Beside it: TCP's bytes over those of the messages, and what a simulated link costs.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from jsplit.cli.main import main as jsplit
from jsplit.core.gates import AlwaysGate
from jsplit.experiment.config import RunConfig
from jsplit.net import certificates
from jsplit.testing import compile_once, run_in_process, run_in_processes, words_for


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=3, models=["vgg11"])
    parser.add_argument(
        "--examples", type=measure.positive, default=512, help="default 512"
    )
    parser.add_argument("--epochs", type=measure.positive, default=4, help="default 4")
    parser.add_argument("--link", help="of the client, such as 10mbit/40ms")
    settings = measure.settings_of(parser, argv)
    found = {name: measure_model(name, settings) for name in settings.models}
    measure.write("network", settings, {"models": found})


def measure_model(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's figures."""
    config = RunConfig(
        model=name,
        dataset="fashion_mnist_10k",
        image_size=32,
        train_examples=settings.examples,
        test_examples=100,
        augment=False,
        gate=AlwaysGate(),
        epochs=settings.epochs,
    )
    link = () if settings.link is None else ("--link", settings.link)
    seconds: measure.Seconds = {"simulation": [], "process": [], "network": []}
    with tempfile.TemporaryDirectory() as base, compile_once(Path(base)) as cache:
        certs = Path(base) / "certs"
        certificates.make_certificates(certs, ["127.0.0.1"], 1)
        for number in range(settings.rounds + 1):
            for side in measure.in_turn(seconds, number):
                path = Path(base) / f"{side}-{number}"
                path.mkdir()
                if side == "simulation":
                    words = [
                        "run",
                        *words_for(config),
                        "--workdir",
                        str(path / "server"),
                    ]
                    assert jsplit(words) == 0
                elif side == "process":
                    run_in_process(config, path)
                else:
                    run_in_processes(
                        config, path, cache, certs, join=link, seconds=1800
                    )
                if number:  # The first round compiles.
                    seconds[side].append(epoch_of(path / "server" / "metrics.jsonl"))
        summary = json.loads(
            (path.parent / f"network-{number}" / "server" / "summary.json").read_text()
        )
    ratios = {
        f"{side}/network": measure.ratio(seconds, side, "network")
        for side in ("process", "simulation")
    }
    print(f"\n{name}: seconds an epoch of {settings.examples} images")
    for side, times in seconds.items():
        print(f"  {side:12} {measure.show(measure.spread(times), 2)}")
    for pair, ratio in ratios.items():
        print(f"  {pair:20} {measure.show(ratio)}")
    print(f"  framing: {summary['network']['socket']}", flush=True)
    return {
        "seconds": measure.spreads(seconds),
        "ratios": ratios,
        "socket": summary["network"]["socket"],
        "counted": summary["network"]["counted"],
        "saved": summary["network"]["saved"],
    }


def epoch_of(metrics: Path) -> float:
    """The median seconds of an epoch after the first."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    marks = [line["seconds"] for line in lines]
    # The last one also scores the held-out set.
    return statistics.median(
        b - a for a, b in zip(marks[:-2], marks[1:-1], strict=True)
    )


if __name__ == "__main__":
    main()
