"""Which way of taking a 2x2 maximum is faster, shape by shape?

    python -m benchmarks.poolings

Every image that the models pool at 32x32 (28x28 for cnn, too), value and gradient,
inside a scan as in the product. What `jsplit.models.pooling` chooses is marked.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks import measure
from jsplit.models import MODELS, Chain
from jsplit.models.layers import ConvBlock
from jsplit.models.pooling import POOLINGS, pooling

LOOPS = 10  # steps of a scan


class Shape(NamedTuple):
    """Images `[batch, edge, edge, channels]`."""

    batch: int
    edge: int
    channels: int


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = measure.arguments(__doc__, rounds=7, models=("cnn", "vgg11", "vgg13"))
    parser.add_argument("--batch", type=measure.positive, default=128, help="128")
    settings = measure.settings_of(parser, argv)
    shapes = [
        shape
        for name in settings.models
        for edge in ((28, 32) if name == "cnn" else (32,))
        for shape in shapes_of(name, edge, settings.batch)
    ]
    if not shapes:
        parser.error(f"none of these pools: {' '.join(settings.models)}")
    rows = [_measured(shape, settings) for shape in dict.fromkeys(shapes)]
    measure.write("poolings", settings, {"shapes": rows})


def shapes_of(model: str, edge: int, batch: int) -> list[Shape]:
    """Every image that a model pools, in order."""
    found: list[Shape] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, ConvBlock):
            if layer.pool:
                found.append(Shape(batch, args[0].shape[1], layer.features))
        return call(*args, **kwargs)

    x = jax.ShapeDtypeStruct((1, edge, edge, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(Chain(MODELS[model](10)).init, jax.random.key(0), x)
    return found


def _measured(shape: Shape, settings: argparse.Namespace) -> dict[str, Any]:
    sides = {name: _loop(shape, name) for name in POOLINGS}
    for call in sides.values():
        call()
    seconds = measure.interleave(sides, settings.rounds)
    medians = {name: statistics.median(seconds[name]) / LOOPS for name in sides}
    chosen = pooling(jax.default_backend())
    [other] = POOLINGS.keys() - {chosen}
    saved = measure.ratio(seconds, other, chosen)
    print(
        "x".join(map(str, (shape.batch, shape.edge, *shape[1:])))
        + ": "
        + "  ".join(
            f"{name}{'*' if name == chosen else ''} {1e3 * value:.2f} ms"
            for name, value in medians.items()
        )
        + f"  {other} / {chosen} {measure.show(saved, 2)}",
        flush=True,
    )
    return {
        **shape._asdict(),
        "milliseconds": measure.spreads(seconds, 1e3 / LOOPS),
        "chosen": chosen,
        f"{other}/{chosen}": saved,
    }


def _loop(shape: Shape, name: str) -> Callable[[], None]:
    """Value and gradient `LOOPS` times over, each depending on the one before."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (shape.batch, shape.edge, *shape[1:]))
    x = x[:, : shape.edge // 2 * 2, : shape.edge // 2 * 2]
    half = (shape.batch, shape.edge // 2, shape.edge // 2, shape.channels)
    dy = jax.random.normal(keys[1], half)

    @jax.jit
    def run(x: jax.Array, dy: jax.Array) -> jax.Array:
        def step(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            y, pullback = jax.vjp(POOLINGS[name], x + carry)
            [dx] = pullback(dy + carry)
            # Of every value, so that none of it is left out.
            return carry + 1e-9 * (jnp.sum(y) + jnp.sum(dx)), None

        return jax.lax.scan(step, jnp.float32(0), None, length=LOOPS)[0]

    return lambda: run(x, dy).block_until_ready()


if __name__ == "__main__":
    main()
