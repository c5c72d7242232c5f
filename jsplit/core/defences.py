"""NoPeek's penalty: how much activations depend on the images (Vepakomma et al. 2020).

(arXiv:2008.09161.) The distance correlation of Szekely, Rizzo and Bakirov (2007) of a
batch, from 0 for independence, which no small batch reaches, to 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def distance_correlation(
    x: Float[Array, "b ..."], z: Float[Array, "b ..."], mask: Bool[Array, " b"] | None
) -> Float[Array, ""]:
    """The sample distance correlation of the rows that `mask` keeps; 0 for none.

    Args:
        x: `[b, ...]`.
        z: `[b, ...]`; the result can be differentiated with respect to it.
        mask: which rows count; None for all.
    """
    kept = jnp.ones(len(x)) if mask is None else mask.astype(jnp.float32)
    weights = kept / jnp.maximum(jnp.sum(kept), 1)
    one, other = _centered(x, weights), _centered(z, weights)

    def mean(product: jax.Array) -> jax.Array:
        return weights @ product @ weights

    variances = mean(one * one) * mean(other * other)
    covariance = jnp.maximum(mean(one * other), 0)
    return _root(covariance / jnp.maximum(_root(variances), _TINY))


_TINY = 1e-12


def _root(value: jax.Array) -> jax.Array:
    """The square root, with a gradient of 0 where the value is 0."""
    positive = value > _TINY
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1)), 0)


def _centered(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """Distances between rows, less the means of both rows, plus the mean of all."""
    flat = rows.reshape(len(rows), -1)
    squares = jnp.sum(jnp.square(flat), axis=1)
    products = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
    squared = squares[:, None] + squares[None] - 2 * products
    squared = jnp.where(jnp.eye(len(rows), dtype=bool), 0, squared)
    distances = _root(squared)
    means = distances @ weights
    return distances - means[:, None] - means[None] + weights @ means
