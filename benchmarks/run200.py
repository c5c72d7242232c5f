"""What does a run with the paper's states save against always A, and is memory flat?

    python -m benchmarks.run200
    python -m benchmarks.run200 --epochs 40 --chunk 5

200 epochs with the paper's counts (5 A, 5 B, 190 C: A and B by turns, then C) against
200 of A, on the same images, each in a process of its own. The processes take turns,
a chunk of epochs each, so both see the same machine; a chunk is one call of the
compiled program, evaluation included. Compiling is not counted. Memory is read after
each chunk.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.worker import Worker
from benchmarks.workload import images, runner, simulate
from jsplit.core.gate import Gate, GateState
from jsplit.core.state import EpochRecord
from jsplit.typing import STATES, SYNC

SYNCED = 5
"""Epochs of A, and of B, in the paper's cheapest run."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=1, models=("cnn",))
    parser.add_argument(
        "--epochs", type=measure.positive, default=200, help="default 200"
    )
    parser.add_argument(
        "--chunk", type=measure.positive, default=10, help="epochs of a turn"
    )
    parser.add_argument(
        "--examples", type=measure.positive, default=1280, help="default 1280"
    )
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    settings = measure.settings_of(parser, argv)
    if settings.epochs < 2 * SYNCED or settings.epochs % settings.chunk:
        parser.error(f"--epochs must be a multiple of --chunk, at least {2 * SYNCED}")
    found = {name: measure_runs(name, settings) for name in settings.models}
    measure.write("run200", settings, {"models": found})


def measure_runs(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's two runs, `--rounds` times."""
    runs = [race(name, settings) for _ in range(settings.rounds)]
    sides = ("gated", "always A")
    totals = {side: [sum(run["seconds"][side]) for run in runs] for side in sides}
    whole = measure.ratio(totals, "gated", "always A")
    # Of the chunks that are all C, whose ratios can be compared.
    first = -(-2 * SYNCED // settings.chunk)
    late = {
        side: [s for run in runs for s in run["seconds"][side][first:]]
        for side in sides
    }
    chunk = measure.ratio(late, "gated", "always A") if late["gated"] else None
    print(f"\n{name}, {settings.epochs} epochs of {settings.examples} examples")
    print(f"  gated: {runs[0]['states']['gated']}")
    for side in sides:
        print(f"  {side:9} {measure.show(measure.spread(totals[side]), 1)} s")
    print(f"  gated / always A         {measure.show(whole)}")
    if chunk:
        print(f"  the same, chunks of C    {measure.show(chunk)}")
    print(f"  {'MB after epoch':20}" + "".join(f"{e:>8}" for e in _marks(settings)))
    for side in sides:
        memory = runs[0]["memory"][side]
        for kind in ("rss", "peak_rss", "device", "peak_device"):
            values = [memory[e // settings.chunk - 1][kind] for e in _marks(settings)]
            if None not in values:
                row = "".join(f"{value / 1e6:8.0f}" for value in values)
                print(f"  {side + ' ' + kind:20}{row}")
    return {"ratio": whole, "ratio_of_c_chunks": chunk, "runs": runs}


def race(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Both runs once, in turns: seconds, states and memory by chunk."""
    shared = {
        "model": name,
        "chunk": settings.chunk,
        "examples": settings.examples,
        "batch": settings.batch,
    }
    sides = {"gated": paper_states(settings.epochs), "always A": "A" * settings.epochs}
    seconds: measure.Seconds = {side: [] for side in sides}
    memory: dict[str, list[Any]] = {side: [] for side in sides}
    states = dict.fromkeys(sides, "")
    with contextlib.ExitStack() as stack:
        workers = {
            side: stack.enter_context(Worker(make_run, schedule=schedule, **shared))
            for side, schedule in sides.items()
        }
        for number in range(settings.epochs // settings.chunk):
            order = list(workers)[:: 1 if number % 2 else -1]
            for side in order:
                before = time.perf_counter()
                states[side] += workers[side]()
                seconds[side].append(time.perf_counter() - before)
                memory[side].append(workers[side].memory())
    return {"states": states, "seconds": seconds, "memory": memory}


def make_run(
    *, model: str, schedule: str, chunk: int, examples: int, batch: int
) -> Callable[[], str]:
    """In a worker: a chunk of epochs a call, which tells their states."""
    dataset = images(examples, max(1, examples // 5))  # as CIFAR-10: 5 to 1
    simulation = simulate(model, dataset, batch=batch, gate=scheduled_gate(schedule))
    runner(simulation, simulation.state, chunk)()  # compiles; its epochs are dropped
    run = runner(simulation, simulation.state, chunk)

    def call() -> str:
        record: EpochRecord = run()
        return "".join(STATES[state] for state in record.state)

    return call


def paper_states(epochs: int) -> str:
    """5 A and 5 B by turns, C from then on."""
    return "AB" * SYNCED + "C" * (epochs - 2 * SYNCED)


class _Plan(NamedTuple):
    states: jax.Array
    epoch: jax.Array


def scheduled_gate(states: str) -> Gate:
    """A gate that goes through `states`, such as `"ABABCC"`, whatever the loss.

    Raises:
        ValueError: if they do not begin with A: nothing is stored before.
    """
    if not states.startswith(STATES[SYNC]):
        raise ValueError(f"states must begin with A, got {states!r}")
    numbers = [STATES.index(state) for state in states]

    def init() -> GateState:
        plan = _Plan(jnp.asarray(numbers, jnp.int32), jnp.int32(0))
        return GateState(jnp.int32(SYNC), plan)

    def update(gate: GateState, mean_loss: jax.Array) -> GateState:
        del mean_loss
        plan = gate.memory._replace(epoch=gate.memory.epoch + 1)
        # Beyond its end the last state holds.
        return GateState(plan.states[jnp.minimum(plan.epoch, len(numbers) - 1)], plan)

    return Gate(init, update)


def _marks(settings: argparse.Namespace) -> list[int]:
    """Epochs at which memory is printed: the ends of chunks nearest to these."""
    wanted = [max(1, settings.epochs * share // 20) for share in (1, 5, 10, 20)]
    ends = [-(-epoch // settings.chunk) * settings.chunk for epoch in wanted]
    return sorted(set(ends))


if __name__ == "__main__":
    main()
