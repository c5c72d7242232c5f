"""Which way of computing a convolution is fastest, shape by shape?

    python -m benchmarks.lowerings                      # the models' shapes
    python -m benchmarks.lowerings --models cnn --batch 16
    python -m benchmarks.lowerings --whole --models vgg11 vgg13 resnet18

Every convolution of the models at 32x32 (28x28 for cnn, too), value and gradients (of
images of up to 3 channels none: those are the data), inside a scan as in the product;
and some with few images, as many clients have. XLA's
own convolution takes part for few images; with `--native` for all, which takes hours.
What `jsplit.models.convolution` chooses is marked. With `--whole` another question:
a whole step in A, the convolution of the images themselves by im2col and by Winograd.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks import measure
from benchmarks.workload import held_in, images, runner, simulate
from jsplit.models import MODELS, Chain, convolution
from jsplit.models.convolution import LOWERINGS, lowering
from jsplit.models.layers import Conv
from jsplit.typing import SYNC

LOOPS = 3  # steps of a scan


class Shape(NamedTuple):
    """One convolution: images `[batch, edge, edge, inputs]`."""

    batch: int
    edge: int
    inputs: int
    outputs: int
    size: int
    stride: int


SMALL = [
    Shape(batch, edge, inputs, outputs, 3, 1)
    for edge, inputs, outputs in (
        (32, 3, 64),
        (16, 64, 128),
        (8, 256, 256),
        (4, 512, 512),
        (2, 512, 512),
    )
    for batch in (1, 4, 16)
]
"""Few images: what one of many clients has, and the last ones of a test set."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=7, models=MODELS)
    parser.add_argument(
        "--batch", type=measure.positive, default=128, help="default 128"
    )
    parser.add_argument("--native", action="store_true", help="XLA's own for all")
    parser.add_argument(
        "--whole", action="store_true", help="whole steps, by the first convolution"
    )
    settings = measure.settings_of(parser, argv)
    if settings.whole:
        found = {name: whole_steps(name, settings) for name in settings.models}
        measure.write("lowerings", settings, {"models": found}, "lowerings_whole")
        return
    shapes = [
        shape
        for name in settings.models
        for edge in ((28, 32) if name == "cnn" else (32,))
        for channels in (1, 3)
        for shape in shapes_of(name, edge, channels, settings.batch)
    ]
    rows = [_measured(shape, settings) for shape in dict.fromkeys(shapes + SMALL)]
    best = sum(row["chosen"] == row["fastest"] for row in rows)
    worst = max(row["chosen_over_fastest"] for row in rows)
    print(f"chosen is fastest for {best} of {len(rows)}; at worst {worst:.2f} times")
    measure.write("lowerings", settings, {"shapes": rows})


def whole_steps(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Time of a step in A with Winograd for three channels, over that with im2col."""
    dataset = images(settings.batch * LOOPS)
    sides = {}
    for way, limit in (("winograd", 2), ("im2col", 3)):
        with mock.patch.object(convolution, "_FEW_CHANNELS", limit):
            simulation = simulate(name, dataset, batch=settings.batch)
            sides[way] = runner(simulation, held_in(simulation.state, SYNC))
            sides[way]()  # Compiles, while the limit holds.
    seconds = measure.interleave(sides, settings.rounds)
    found = measure.ratio(seconds, "winograd", "im2col")
    print(f"{name}: winograd / im2col {measure.show(found)}", flush=True)
    return {
        "ratio": found,
        "seconds_a_step": measure.spreads(seconds, 1 / LOOPS),
    }


def shapes_of(model: str, edge: int, channels: int, batch: int) -> list[Shape]:
    """Every convolution of a model for such images, in order."""
    found: list[Shape] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, Conv):
            _, height, _, inputs = args[0].shape
            found.append(
                Shape(batch, height, inputs, layer.features, layer.size, layer.stride)
            )
        return call(*args, **kwargs)

    x = jax.ShapeDtypeStruct((1, edge, edge, channels), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(Chain(MODELS[model](10)).init, jax.random.key(0), x)
    return found


def _measured(shape: Shape, settings: argparse.Namespace) -> dict[str, Any]:
    names = ["im2col"]
    names += ["winograd"] if (shape.size, shape.stride) == (3, 1) else []
    names += ["dense"] if shape.edge <= 4 else []
    names += ["native"] if settings.native or shape in SMALL else []
    sides = {name: _loop(shape, name) for name in names}
    for call in sides.values():
        call()
    seconds = measure.interleave(sides, settings.rounds)
    medians = {name: statistics.median(seconds[name]) / LOOPS for name in names}
    given = (shape.batch, shape.edge, shape.edge, shape.inputs)
    chosen = lowering(
        jax.default_backend(), given, shape.size, shape.stride, jnp.float32
    )
    fastest = min(medians, key=medians.__getitem__)
    pixels = shape.batch * math.ceil(shape.edge / shape.stride) ** 2
    passes = 2 if shape.inputs <= 3 else 3
    sums = passes * pixels * shape.size**2 * shape.inputs * shape.outputs
    print(
        f"{shape.batch:4}x{shape.edge}x{shape.edge}x{shape.inputs} to {shape.outputs}, "
        f"{shape.size}x{shape.size}/{shape.stride}: "
        + "  ".join(
            f"{name}{'*' if name == chosen else ''} {1e3 * value:.2f} ms "
            f"({2e-9 * sums / value:.0f} GFLOP/s)"
            for name, value in medians.items()
        ),
        flush=True,
    )
    return {
        **shape._asdict(),
        "milliseconds": measure.spreads(seconds, 1e3 / LOOPS),
        "chosen": chosen,
        "fastest": fastest,
        "chosen_over_fastest": medians.get(chosen, math.nan) / medians[fastest],
    }


def _loop(shape: Shape, name: str) -> Callable[[], None]:
    """Value and gradients `LOOPS` times over, each depending on the one before."""
    keys = jax.random.split(jax.random.key(0), 3)
    b, edge, inputs, outputs, size, stride = shape
    x = jax.random.normal(keys[0], (b, edge, edge, inputs))
    kernel = jax.random.normal(keys[1], (size, size, inputs, outputs))
    out = math.ceil(edge / stride)
    dy = jax.random.normal(keys[2], (b, out, out, outputs))

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        def step(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            def value(*of: jax.Array) -> jax.Array:
                images, weights = of if len(of) == 2 else (x + carry, *of)
                return LOWERINGS[name](images, weights, stride)

            of = (kernel + carry,) if inputs <= 3 else (x + carry, kernel + carry)
            y, pullback = jax.vjp(value, *of)
            ends = [leaf.reshape(-1)[0] for leaf in (y, *pullback(dy + carry))]
            return carry + 1e-9 * sum(ends), None

        return jax.lax.scan(step, jnp.float32(0), None, length=LOOPS)[0]

    return lambda: run(x, kernel, dy).block_until_ready()


if __name__ == "__main__":
    main()
