"""How long is a step, against plain JAX and against PyTorch?

    python -m benchmarks.step                     # all three models
    python -m benchmarks.step --models vgg11 --rounds 3

Sides, in turns, on the same images, batch, model and first weights:

    A, B, C        an epoch of `--steps` steps in that state, in the product's program
    unsplit        the same blocks as one network: a plain JAX training, in a scan
    server         the server's steps on float32 activations that lie ready
    torch          split learning in PyTorch, eager
    torch.compile  the same, client and server compiled

The goals: torch/A and unsplit/A, which are above 1 where state A is the faster one, and
C/server, which is above 1 where drawing from the store costs time.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.unsplit import server_epochs, unsplit_epochs
from benchmarks.workload import (
    LEARNING_RATE,
    held_in,
    images,
    runner,
    simulate,
    transform,
    uncut,
)
from jsplit.data import Dataset
from jsplit.models import MODELS, Chain
from jsplit.typing import Variables

RATIOS = (
    ("torch", "A"),
    ("torch.compile", "A"),
    ("unsplit", "A"),
    ("C", "server"),
    ("unsplit", "B"),
    ("unsplit", "C"),
    ("torch", "B"),
    ("torch", "C"),
    ("torch", "unsplit"),
)
"""Seconds of the first over seconds of the second; the goals' first."""

Sides = dict[str, Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    models = ("vgg11", "vgg13", "resnet18")
    parser = measure.arguments(__doc__, rounds=5, models=models)
    steps = 4 if jax.default_backend() == "cpu" else 50
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    parser.add_argument(
        "--steps", type=int, default=steps, help=f"a call, at least 2; here {steps}"
    )
    parser.add_argument(
        "--codec", default="float8", help="both ways, default float8; torch has none"
    )
    parser.add_argument(
        "--padded",
        action="store_true",
        help="an example fewer in A, B and C, so that every step heeds a mask, as "
        "with 50,000 images in batches of 128",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out"
    )
    settings = measure.settings_of(parser, argv)
    if settings.steps < 2:
        parser.error("--steps must be at least 2: XLA makes no loop of a single one")
    found = {name: measure_model(name, settings) for name in settings.models}
    measure.write("step", settings, {"models": found})


def measure_model(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """One model's figures."""
    count = settings.steps * settings.batch
    dataset = images(count)
    simulation = simulate(
        name,
        images(count - 1) if settings.padded else dataset,
        batch=settings.batch,
        codec=settings.codec,
    )
    variables = uncut(simulation)
    # The first epoch compiles, and fills the store for C.
    started, record, _ = simulation.run(np.full(1, LEARNING_RATE))
    sides: Sides = {
        "unsplit": unsplit_epochs(name, dataset, variables, batch=settings.batch),
        "server": server_epochs(name, dataset, simulation, batch=settings.batch),
    }
    others, notes = torch_sides(name, dataset, variables, settings)
    sides |= others
    first_losses = {"A": float(record.train.loss[0]) / int(record.train.examples[0])}
    for side in list(sides):
        try:
            first_losses[side] = sides[side]()
        except Exception as error:
            if side != "torch.compile":  # which needs a C++ compiler, or Triton
                raise
            del sides[side]
            notes["torch.compile"] = f"failed: {type(error).__name__}: {error}"[:500]
    for which, state in enumerate("ABC"):
        sides[state] = runner(simulation, held_in(started, which))
        sides[state]()
    seconds = measure.interleave(sides, settings.rounds)
    ratios = {
        f"{side}/{against}": measure.ratio(seconds, side, against)
        for side, against in RATIOS
        if side in sides and against in sides
    }
    speed = {side: count / statistics.median(seconds[side]) for side in sides}
    _print(name, seconds, speed, ratios, notes, settings.steps)
    return {
        "cut": MODELS[name].usual_cut,
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "seconds": measure.spreads(seconds),
        "images_per_second": speed,
        "ratios": ratios,
        "first_losses": first_losses,
        **notes,
    }


def torch_sides(
    name: str,
    dataset: Dataset,
    variables: Variables,
    settings: argparse.Namespace,
) -> tuple[Sides, dict[str, Any]]:
    """PyTorch's sides, not yet warm, and what is to be said of them.

    Raises:
        ValueError: if the two networks are not the same function.
    """
    try:
        from benchmarks import torch_loop
    except ImportError as error:
        return {}, {"torch": f"not measured: {error}"}
    cut = MODELS[name].usual_cut
    loops = {
        "torch" + (".compile" if compiled else ""): torch_loop.Loop(
            name, cut, dataset, variables, compiled=compiled
        )
        for compiled in ([False] if settings.no_compile else [False, True])
    }
    difference = _difference(name, dataset, variables, loops["torch"].logits(4))
    if not difference < 0.02:  # TF32 and another order of sums, not another network
        raise ValueError(f"{name}: logits of PyTorch and jsplit differ: {difference}")
    sides: Sides = {side: loop.epochs(settings.batch) for side, loop in loops.items()}
    return sides, {"torch": torch_loop.configuration(), "logits_differ": difference}


def _difference(
    name: str, dataset: Dataset, variables: Variables, logits: np.ndarray
) -> float:
    """The largest difference of the first images' logits, over the largest logit."""
    x = transform(dataset).evaluate(dataset.train_images[: len(logits)])
    chain = Chain(MODELS[name](dataset.num_classes))
    expected = np.asarray(jax.jit(chain.apply)(variables, x))
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def _print(
    name: str,
    seconds: measure.Seconds,
    speed: dict[str, float],
    ratios: dict[str, Any],
    notes: dict[str, Any],
    steps: int,
) -> None:
    print(f"\n{name}, cut after block {MODELS[name].usual_cut}", flush=True)
    for side, rate in speed.items():
        pace = measure.spread([1000 * value / steps for value in seconds[side]])
        print(f"  {side:14} {rate:9.1f} images/s, ms a step {measure.show(pace, 1)}")
    for pair, found in ratios.items():
        print(f"  {pair:22} {measure.show(found)}")
    if isinstance(notes.get("torch.compile"), str):
        print(f"  torch.compile {notes['torch.compile']}")


if __name__ == "__main__":
    main()
