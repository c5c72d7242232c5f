"""Does a run survive `kill -9` at any moment?

    python -m benchmarks.kills                 # 100 kills: about a quarter of an hour
    python -m benchmarks.kills --kills 10

Short runs of real processes over mutual TLS (`cnn`, two clients, both topologies in
turn). Server and clients are killed at random moments and started again, until so many
kills have struck. Every run must end bit for bit as one that was left alone: same
weights on both sides, same states, same losses, same bytes.
"""

import dataclasses
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from jsplit.net import certificates
from jsplit.testing import (
    TINY_RUN,
    NetworkProcesses,
    compile_once,
    result_of,
    run_in_process,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Kills, compares, prints and writes."""
    parser = measure.arguments(__doc__, rounds=1, models=["cnn"])
    parser.add_argument(
        "--kills", type=measure.positive, default=100, help="default 100"
    )
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    settings = measure.settings_of(parser, argv)
    draw = random.Random(settings.seed)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as base, compile_once(Path(base)) as cache:
        certs = Path(base) / "certs"
        certificates.make_certificates(certs, ["127.0.0.1"], 2)
        references = {}
        for topology in ("parallel", "sequential"):
            config = dataclasses.replace(
                TINY_RUN, clients=2, topology=topology, epochs=8
            )
            path = Path(base) / topology
            run, _ = run_in_process(config, path)
            references[topology] = (config, run, result_of(path, run))
        while sum(len(run["killed"]) for run in runs) < settings.kills:
            topology = ("parallel", "sequential")[len(runs) % 2]
            path = Path(base) / f"run-{len(runs)}"
            path.mkdir()
            runs.append(one_run(*references[topology], path, cache, certs, draw))
            print(f"{topology:10} {runs[-1]}", flush=True)
    struck = sum(len(run["killed"]) for run in runs)
    same = sum(len(run["killed"]) for run in runs if run["same"])
    print(f"{same} of {struck} kills in {len(runs)} runs changed nothing")
    measure.write("kills", settings, {"kills": struck, "unchanged": same, "runs": runs})


def one_run(
    config: Any,
    run_like: Any,
    expected: dict[str, Any],
    path: Path,
    cache: Path,
    certs: Path,
    draw: random.Random,
) -> dict[str, Any]:
    """A run with kills at random moments until it ends; what came of it."""
    killed: list[str] = []
    began = time.monotonic()
    with NetworkProcesses(config, path, cache, certs) as started:
        for name in started.names():
            started.start(name)
        while started.running["server"].poll() is None and len(killed) < 8:
            time.sleep(draw.uniform(0.5, 6.0))
            victim = draw.choice(started.names())
            if started.running[victim].poll() is None:
                started.kill(victim)
                killed.append(victim)
                started.start(victim)
        code = started.running["server"].wait(300)
        # A client that was killed after its last word finds no server any more.
    return {
        "killed": killed,
        "code": code,
        "same": code == 0 and result_of(path, run_like) == expected,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    main()
