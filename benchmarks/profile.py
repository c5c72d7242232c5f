"""Where does the time of a step go?

    python -m benchmarks.profile
    python -m benchmarks.profile --models resnet18 --state C --rows 20
    python -m benchmarks.profile --models cnn --clients 1000 --steps 20

One epoch of `--steps` steps in one state, in the product's program, under
`jax.profiler`. Every operation of the compiled program carries the name of what it was
traced from; its time, without what runs inside it, is booked there: the step function,
what part of it, and whether forward or backward. A fusion is booked where its last
operation comes from. On a CPU the time is that of threads, of which several work at
once, so shares are shares of the work. `--trace DIR` keeps the trace for TensorBoard
or Perfetto.
"""

import argparse
import collections
import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import measure
from benchmarks.workload import (
    held_in,
    images,
    program_arguments,
    runner,
    simulate,
)
from jsplit.core.simulation import Simulation
from jsplit.core.steps import Steps
from jsplit.core.topology import TOPOLOGIES
from jsplit.typing import STATES

STEPS = "|".join(Steps._fields)
NAMED = re.compile(r'\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{.*?op_name="([^"]*)"')
FUNCTION = re.compile(rf"jit\(({STEPS})\)/?(.*)")
NETWORK = re.compile(r"(transpose\()?(?:jvp\()?Chain\)*/(.*)")
SCOPE = re.compile(r"\b(encode|decode|optimizer)\b")
OUTSIDE = "epoch"
"""Where what belongs to no step is booked: shuffling, gathering, the store."""

Place = tuple[str, str, str]
"""A step function; a part of it; `forward`, `backward` or nothing."""


def main(argv: Sequence[str] | None = None) -> None:
    """Profiles, prints and writes."""
    models = ("vgg11", "vgg13", "resnet18")
    parser = measure.arguments(__doc__, rounds=1, models=models)
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    parser.add_argument("--steps", type=int, default=4, help="default 4, at least 2")
    parser.add_argument("--state", choices="ABC", default="A", help="default A")
    parser.add_argument("--clients", type=measure.positive, default=1, help="default 1")
    parser.add_argument("--topology", choices=TOPOLOGIES, default="parallel")
    parser.add_argument(
        "--rows", type=measure.positive, default=12, help="printed; default 12"
    )
    parser.add_argument("--trace", type=Path, help="keep the traces in this folder")
    settings = measure.settings_of(parser, argv)
    if settings.steps < 2:
        parser.error("--steps must be at least 2: XLA makes no loop of a single one")
    if settings.batch * settings.steps < settings.clients:
        parser.error(f"{settings.clients} clients need as many images: more --steps")
    found = {name: profile_model(name, settings) for name in settings.models}
    settings.trace = settings.trace and str(settings.trace)
    measure.write("profile", settings, {"models": found})


def profile_model(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's shares by place, largest first."""
    dataset = images(settings.batch * settings.steps)
    simulation = simulate(
        name,
        dataset,
        batch=settings.batch,
        clients=settings.clients,
        topology=settings.topology,
    )
    places = places_in(simulation)
    run = runner(simulation, held_in(simulation.state, STATES.index(settings.state)))
    run()  # Compiles.
    with contextlib.ExitStack() as stack:
        folder = settings.trace and settings.trace / name
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with jax.profiler.trace(str(folder)):
            wall = measure.timed(run)
        [path] = folder.glob("plugins/profile/*/*.xplane.pb")
        trace = jax.profiler.ProfileData.from_file(str(path))
        nanoseconds = collections.Counter[Place]()
        for operation, own in own_times(trace):
            nanoseconds[places.get(operation, (OUTSIDE, "", ""))] += own
    total = sum(nanoseconds.values())
    if not total:
        raise SystemExit(f"{name}: the profiler recorded no operation of the program")
    print(f"\n{name}, {settings.state}: {wall / settings.steps:.3f} s a step, wall")
    rows = [
        {"function": place[0], "part": place[1], "pass": place[2], "share": own / total}
        for place, own in nanoseconds.most_common()
    ]
    for row in rows[: settings.rows]:
        words = f"{row['function']:24} {row['part']:20} {row['pass']:9}"
        print(f"  {row['share']:6.1%}  {words}".rstrip())
    print(f"  {sum(row['share'] for row in rows[settings.rows :]):6.1%}  the rest")
    kinds = by_kind(rows)
    print("  in all: " + ", ".join(f"{kind} {kinds[kind]:.1%}" for kind in kinds))
    return {
        "wall_seconds_a_step": wall / settings.steps,
        "work_seconds_a_step": total / 1e9 / settings.steps,
        "by_kind": kinds,
        "rows": rows,
    }


def by_kind(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The shares of convolutions, of normalisation, of coding and so on, in all."""
    shares = collections.Counter[str]()
    for row in rows:
        shares[_kind(row["part"], row["pass"])] += row["share"]
    return dict(shares.most_common())


def _kind(part: str, direction: str) -> str:
    if direction and "/" not in part:  # A block's own work, beside its layers.
        return "ReLU, pooling, sums"
    return part.split("/")[-1].rstrip("_0123456789") or "between parts"


def places_in(simulation: Simulation) -> dict[str, Place]:
    """Where each operation of the compiled program belongs, by its name."""
    given = (simulation.state, *program_arguments(simulation))
    program = simulation.program.run.lower(*given).compile()
    found = map(NAMED.match, program.as_text().splitlines())
    return {match[1]: place_of(match[2]) for match in found if match}


def place_of(traced: str) -> Place:
    """What an operation's `op_name` says of where it comes from.

    >>> place_of("jit(run)/jit(server_step)/transpose(jvp(Chain))/fc1/Dense_0/dot")
    ('server_step', 'fc1/Dense_0', 'backward')
    >>> place_of("jit(run)/while/jit(client_forward)/encode/jit(clip)/max")
    ('client_forward', 'encode', '')
    >>> place_of("jit(run)/while/jit(_shuffle)/sort")
    ('epoch', '', '')
    """
    found = FUNCTION.search(traced)
    if found is None:
        return (OUTSIDE, "", "")
    function, inside = found.groups()
    layer = NETWORK.search(inside)
    if layer:
        direction = "backward" if layer[1] else "forward"
        # The last word is the operation itself.
        part = re.sub(r"/(jit\(.*|[^/]*)$", "", layer[2])
        return (function, part, direction)
    scope = SCOPE.search(inside)
    return (function, scope[0] if scope else "", "")


def own_times(trace: jax.profiler.ProfileData) -> Iterator[tuple[str, float]]:
    """Each operation that ran, and its nanoseconds without those inside it.

    On an accelerator the device's own record is read, else that of the host's threads.
    """
    planes = list(trace.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            events = [
                (event.start_ns, -event.duration_ns, name)
                for event in line.events
                for key, name in event.stats
                if key == "hlo_op"
            ]
            yield from _own(sorted(events))


def _own(events: Iterable[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """From `(start, -duration, name)` in order: an event ends within the one around."""
    around: list[list[Any]] = []  # each: its end, its name, its own time so far
    for start, negative, name in events:
        while around and around[-1][0] <= start:
            _, ended, own = around.pop()
            yield ended, own
        if around:
            around[-1][2] += negative
        around.append([start - negative, name, -negative])
    for _, ended, own in around:
        yield ended, own


if __name__ == "__main__":
    main()
