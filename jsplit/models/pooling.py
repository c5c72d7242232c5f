"""How a 2x2 maximum is taken: one function, two ways.

On a GPU or TPU it is XLA's own window reduction. On a CPU it is three maxima of
strided slices, with a gradient written by hand: value and gradient of a window
reduction take 6 to 15 times as long there, and those of plain slices make an epoch of
`cnn` take 1.1 (one client) to 1.6 times (four) as long.

`python -m benchmarks.poolings` measures both on every image that the models pool;
`benchmarks/results/poolings_cpu.json` has what it found.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]


def max_pool(x: Images) -> Float[Array, "b h2 w2 c"]:
    """2x2 maximum with stride 2; an odd last row or column is dropped.

    Of equal values the first one, row by row, takes the gradient. An image of one row
    or column is left as it is, so that a deep network also takes small images.
    """
    h, w = x.shape[1:3]
    if min(h, w) < 2:
        return x
    way = POOLINGS[pooling(jax.default_backend())]
    return way(x[:, : h // 2 * 2, : w // 2 * 2])


def pooling(backend: str) -> str:
    """The name of the faster way on `backend`, as `jax.default_backend()` says it."""
    return "slices" if backend == "cpu" else "native"


def native(x: Images) -> Float[Array, "b h2 w2 c"]:
    """XLA's own window reduction."""
    return nn.max_pool(x, (2, 2), (2, 2))


@jax.custom_vjp
def slices(x: Images) -> Float[Array, "b h2 w2 c"]:
    """The largest of four strided slices."""
    return _pool(x)[0]


def _pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima, and which of its four places each one came from, as int8.

    The places are kept rather than looked for again by value: where XLA computes the
    values a second time with other rounding, none would equal the maximum.
    """
    upper, right_above = _larger(x[:, ::2, ::2], x[:, ::2, 1::2])
    lower, right_below = _larger(x[:, 1::2, ::2], x[:, 1::2, 1::2])
    largest, below = _larger(upper, lower)
    return largest, jnp.where(below == 1, 2 + right_below, right_above)


def _larger(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(first, second), (second > first).astype(jnp.int8)


def _unpool(place: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    b, h, w, c = dy.shape
    places = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    chosen = place[:, :, None, :, None] == places
    dx = jnp.where(chosen, dy[:, :, None, :, None], jnp.zeros((), dy.dtype))
    return (dx.reshape(b, 2 * h, 2 * w, c),)


slices.defvjp(_pool, _unpool)

POOLINGS: dict[str, Callable[[Images], Images]] = {"native": native, "slices": slices}
"""Each `[b, h, w, c] -> [b, h / 2, w / 2, c]` of even `h` and `w`."""
