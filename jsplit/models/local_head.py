"""The head by which a client learns alone: pooled activations and a linear layer."""

import jax
import jax.numpy as jnp
from flax import linen as nn

GRID = 4
"""Cells along each side of a map to which the head pools it, if it has more."""


class LocalHead(nn.Module):
    """Logits of activations at the cut.

    Maps are averaged to at most 4x4 cells, so that the head costs a small client next
    to nothing; anything else goes in as it is.

    Attributes:
        classes: logits that come out.

    Example:
        >>> head, maps = LocalHead(10), jnp.ones((2, 16, 16, 32))
        >>> variables = head.init(jax.random.key(0), maps)
        >>> variables["params"]["Dense_0"]["kernel"].shape
        (512, 10)
        >>> head.apply(variables, maps).shape
        (2, 10)
    """

    classes: int

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """`[b, ...]` to `[b, classes]`."""
        if x.ndim == 4:
            x = _pooled(_pooled(x, axis=1), axis=2)
        x = x.reshape(len(x), -1)
        return nn.Dense(self.classes, dtype=x.dtype)(x)


def _pooled(x: jax.Array, axis: int) -> jax.Array:
    """The mean over equal runs of cells along an axis; what is left over is cut off."""
    length = x.shape[axis]
    cells = min(length, GRID)
    run = length // cells
    kept = jax.lax.slice_in_dim(x, 0, cells * run, axis=axis)
    shape = (*x.shape[:axis], cells, run, *x.shape[axis + 1 :])
    return jnp.mean(kept.reshape(shape), axis=axis + 1)
