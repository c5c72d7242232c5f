"""What a client does so that its activations tell less of its examples.

Gaussian noise, and NoPeek's penalty (Vepakomma et al. 2020, arXiv:2008.09161): the
distance correlation of Szekely, Rizzo and Bakirov (2007) of a batch and its
activations, from 0 for independence, which no small batch reaches, to 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


class Defence(NamedTuple):
    """What a client does so that its activations tell less of its examples.

    Attributes:
        nopeek: weight of the distance correlation of a batch and its activations in
            what the client minimises; its work is not counted as client computation.
        noise: standard deviation of the Gaussian noise on activations before they are
            coded, over their root mean square in the batch; new in every batch of A and
            B, and there in evaluation too.
    """

    nopeek: float = 0.0
    noise: float = 0.0


NO_DEFENCE = Defence()


def check_defence(defence: Defence) -> None:
    """Refuses strengths that are none.

    Raises:
        ValueError: naming the one that is negative or not finite.

    Example:
        >>> check_defence(Defence(noise=-1.0))
        Traceback (most recent call last):
        ValueError: defence.noise must be finite and at least 0, got -1.0
    """
    for name, strength in defence._asdict().items():
        if not 0 <= strength < math.inf:
            raise ValueError(
                f"defence.{name} must be finite and at least 0, got {strength}"
            )


def blank(
    smashed: Float[Array, "b ..."], mask: Bool[Array, " b"] | None
) -> Float[Array, "b ..."]:
    """Zeroes padded rows: they are not sent, and must not sway the format search.

    Example:
        >>> rows = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> blank(rows, jnp.array([True, False])).tolist()
        [[1.0, 2.0], [0.0, 0.0]]
    """
    if mask is None:
        return smashed
    kept = mask.reshape((-1,) + (1,) * (smashed.ndim - 1))
    return jnp.where(kept, smashed, jnp.zeros_like(smashed))


def blurred(
    defence: Defence,
    smashed: Float[Array, "b ..."],
    mask: Bool[Array, " b"] | None,
    key: Key[Array, ""],
) -> Float[Array, "b ..."]:
    """The activations with the defence's noise on them.

    Args:
        defence: says how much.
        smashed: `[b, ...]`.
        mask: which rows are real; None for all.
        key: of the step.

    Example:
        >>> smashed = 3 * jnp.ones((1000, 8))
        >>> sent = blurred(Defence(noise=0.5), smashed, None, jax.random.key(0))
        >>> f"{jnp.std(sent - smashed):.1f}"
        '1.5'
    """
    if not defence.noise:
        return smashed
    # Not of what the part itself drew from.
    draws = jax.random.normal(jax.random.fold_in(key, 2**31 - 1), smashed.shape)
    squares = jnp.mean(jnp.square(blank(smashed, mask)))
    share = 1.0 if mask is None else jnp.maximum(jnp.mean(mask), 1 / mask.size)
    return smashed + defence.noise * jnp.sqrt(squares / share) * draws


def penalty(
    defence: Defence,
    x: Float[Array, "b ..."],
    smashed: Float[Array, "b ..."],
    mask: Bool[Array, " b"] | None,
) -> Float[Array, "b ..."] | None:
    """The gradient at the cut of NoPeek's penalty; None where there is none.

    Example:
        Activations that took a step against it tell less.

        >>> x = jnp.array([[0.0], [1.0], [3.0], [4.0]])
        >>> z = jnp.array([[0.0], [1.0], [2.0], [5.0]])
        >>> less = z - penalty(Defence(nopeek=1.0), x, z, None)
        >>> told = [distance_correlation(x, z, None) for z in (z, less)]
        >>> f"{told[0]:.3f}, {told[1]:.3f}"
        '0.931, 0.919'
    """
    if not defence.nopeek:
        return None
    gradient = jax.grad(lambda smashed: distance_correlation(x, smashed, mask))
    return defence.nopeek * gradient(smashed)


def distance_correlation(
    x: Float[Array, "b ..."], z: Float[Array, "b ..."], mask: Bool[Array, " b"] | None
) -> Float[Array, ""]:
    """The sample distance correlation of the rows that `mask` keeps; 0 for none.

    Args:
        x: `[b, ...]`.
        z: `[b, ...]`; the result can be differentiated with respect to it.
        mask: which rows count; None for all.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [3.0], [4.0]])
        >>> same = distance_correlation(x, 5 - 2 * x, None)
        >>> nothing = distance_correlation(x, jnp.ones((4, 1)), None)
        >>> f"{same:.3f}, {nothing:.3f}"
        '1.000, 0.000'
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
