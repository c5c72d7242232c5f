"""What do more clients cost, on the same data?

    python -m benchmarks.clients
    python -m benchmarks.clients --clients 1 10 --examples 2000

An epoch of A for each number of clients side by side and in turns, the examples dealt
out evenly, so that `proportional` would be `parallel`. Each configuration is compiled
in a process of its own, for its memory, and the processes are told in turns to train an
epoch. Ratios are against the fewest clients in parallel. Where clients outnumber a
batch, each still sends one example (parallel: a server batch of as many); in turns, a
client's batch is at most what it has. So the number of server steps differs: the
layout is printed.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.worker import Worker
from benchmarks.workload import images, runner, simulate
from jsplit.core.state import EpochRecord
from jsplit.core.topology import TOPOLOGIES, make_layout


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=3, models=("cnn",))
    parser.add_argument(
        "--clients",
        type=measure.positive,
        nargs="+",
        default=[1, 10, 100, 1000],
        help="numbers",
    )
    parser.add_argument(
        "--examples", type=measure.positive, default=10_000, help="of all clients"
    )
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="of the server"
    )
    settings = measure.settings_of(parser, argv)
    found = {name: measure_clients(name, settings) for name in settings.models}
    measure.write("clients", settings, {"models": found})


def measure_clients(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's epochs and memory by configuration."""
    with contextlib.ExitStack() as stack:
        workers = {
            f"{topology} {clients}": stack.enter_context(
                Worker(
                    make_epochs,
                    model=name,
                    clients=clients,
                    topology=topology,
                    examples=settings.examples,
                    batch=settings.batch,
                )
            )
            for clients in settings.clients
            for topology in ("parallel", "sequential")
        }
        for worker in workers.values():
            worker()
        seconds = measure.interleave(workers, settings.rounds)
        memory = {side: worker.memory() for side, worker in workers.items()}
        made = {side: worker.made for side, worker in workers.items()}
    first = f"parallel {min(settings.clients)}"
    print(f"\n{name}, {settings.examples} examples; an epoch of A")
    print(
        f"  {'clients':16} {'seconds':>8} {'x ' + first:>24} {'peak MB':>8} "
        f"{'server steps x batch':>21}"
    )
    found = {}
    for side in workers:
        topology, clients = side.split()
        layout = layout_of(topology, int(clients), settings.examples, settings.batch)
        ratio = measure.ratio(seconds, side, first)
        peak = memory[side]["peak_device"] or memory[side]["peak_rss"] or 0
        steps = f"{layout['steps']} x {layout['server_batch']}"
        print(
            f"  {side:16} {statistics.median(seconds[side]):8.3f} "
            f"{measure.show(ratio, 2):>24} {peak / 1e6:8.0f} {steps:>21}"
        )
        found[side] = {
            "seconds": measure.spread(seconds[side]),
            "ratio": ratio,
            "memory_before": made[side],
            "memory": memory[side],
            "layout": layout,
        }
    return found


def layout_of(topology: str, clients: int, examples: int, batch: int) -> dict[str, int]:
    """The server's steps in an epoch, and how large each is."""
    sizes = [examples // clients + (n < examples % clients) for n in range(clients)]
    layout = make_layout(sizes, TOPOLOGIES[topology], batch)
    return {
        "steps": layout.groups * layout.steps,
        "server_batch": layout.members * layout.batch,
        "client_batch": layout.batch,
    }


def make_epochs(
    *, model: str, clients: int, topology: str, examples: int, batch: int
) -> Callable[[], EpochRecord]:
    """In a worker: an epoch of A a call; the first one compiles."""
    dataset = images(examples)
    simulation = simulate(
        model, dataset, batch=batch, clients=clients, topology=topology
    )
    return runner(simulation, simulation.state)


if __name__ == "__main__":
    main()
