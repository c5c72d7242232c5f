"""Mixup of the activations that the server stored (Zhang et al. 2018).

(arXiv:1710.09412; of hidden layers: Verma et al. 2019, arXiv:1806.05236.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jsplit.core.replay import Mixture, Replay
from jsplit.errors import InputError


def mixup(alpha: float) -> Replay:
    """Mixtures of pairs by shares of Beta(alpha, alpha).

    The loss of a mixture is that of both labels by their shares, and it is predicted
    right if the label of the larger one is. Such losses are no measure for others: take
    a loss gate whose reference is `same-state`.

    **Guarantees.** Each real row is the partner of one; rows that are padding are their
    own partners, and so is a batch's only real row.

    Args:
        alpha: shares are drawn from Beta(alpha, alpha), each row's its own; the larger
            of the two is the first's. Static.

    Raises:
        InputError: if `alpha` is out of reach.

    Example:
        >>> smashed = jnp.array([[0.0], [1.0], [2.0], [9.0]])
        >>> real = jnp.array([True, True, True, False])
        >>> _, mixture = mixup(1.0).apply(jax.random.key(0), smashed, real)
        >>> sorted(mixture.sources[:, 1].tolist()), int(mixture.sources[3, 1])
        ([0, 1, 2, 3], 3)
        >>> bool((mixture.shares[:, 0] >= 0.5).all())
        True
    """
    if not alpha:
        raise InputError("mixup of 0 mixes nothing; leave it out")
    check_mixup(alpha)

    def apply(
        key: Key[Array, ""],
        smashed: Float[Array, "n ..."],
        rows: Bool[Array, " n"] | None,
    ) -> tuple[Float[Array, "n ..."], Mixture]:
        order_key, share_key = jax.random.split(key)
        partner = _partners(order_key, len(smashed), rows)
        draws = jax.random.beta(
            share_key, alpha, alpha, partner.shape, dtype=jnp.float32
        )
        share = jnp.maximum(draws, 1 - draws)
        weight = share.reshape((-1,) + (1,) * (smashed.ndim - 1))
        mixed = weight * smashed + (1 - weight) * smashed[partner]
        sources = jnp.stack([jnp.arange(len(smashed)), partner], axis=1)
        return mixed, Mixture(sources, jnp.stack([share, 1 - share], axis=1))

    return Replay(apply)


LEAST, MOST = 1e-3, 1e3
"""Beyond these the draws of Beta leave float32, and mean nothing: all or half."""


def check_mixup(mixup: float) -> None:
    """Refuses what is neither 0, for none, nor in reach.

    Raises:
        InputError: naming the value.

    Example:
        >>> check_mixup(0), check_mixup(0.4)
        (None, None)
        >>> check_mixup(-1)
        Traceback (most recent call last):
        jsplit.errors.InputError: mixup must be 0 (none) or from 0.001 to 1000, got -1
    """
    if mixup and not LEAST <= mixup <= MOST:
        raise InputError(
            f"mixup must be 0 (none) or from {LEAST:g} to {MOST:g}, got {mixup}"
        )


def _partners(
    key: jax.Array, count: int, rows: Bool[Array, " n"] | None
) -> Int[Array, " n"]:
    """For each real row another one: the next of them in a random circle."""
    real = jnp.ones(count, bool) if rows is None else rows
    # Real rows first, in a random order.
    order = jnp.lexsort((jax.random.uniform(key, (count,)), ~real))
    after = (jnp.arange(count) + 1) % jnp.maximum(jnp.sum(real, dtype=jnp.int32), 1)
    itself = jnp.arange(count)
    return jnp.where(real, itself.at[order].set(order[after]), itself)
