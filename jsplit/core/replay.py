"""Mixup of the activations that the server stored (Zhang et al. 2018).

(arXiv:1710.09412; of hidden layers: Verma et al. 2019, arXiv:1806.05236.) The store
holds one view of each example, and in every epoch of C the server sees it again: it
learns it by heart. Mixtures of two are new each time, and cost no traffic.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jsplit.errors import InputError


class Mixture(NamedTuple):
    """What each row of a batch is made of.

    Attributes:
        partner: the row of its second example, `Int32[n]`.
        share: of its first, `Float32[n]` from 1/2 to 1; the second has the rest.
    """

    partner: jax.Array
    share: jax.Array


LEAST, MOST = 1e-3, 1e3
"""Beyond these the draws of Beta leave float32, and mean nothing: all or half."""


def check(mixup: float) -> None:
    """Refuses what is neither 0, for none, nor in reach.

    Raises:
        InputError: naming the value.
    """
    if mixup and not LEAST <= mixup <= MOST:
        raise InputError(
            f"mixup must be 0 (none) or from {LEAST:g} to {MOST:g}, got {mixup}"
        )


def mixed(
    key: Key[Array, ""],
    alpha: float,
    smashed: Float[Array, "n ..."],
    rows: Bool[Array, " n"] | None,
) -> tuple[Float[Array, "n ..."], Mixture]:
    """A batch of decoded activations, mixed in pairs.

    **Guarantees.** Each real row is the partner of one; rows that are padding are their
    own partners, and so is a batch's only real row.

    Args:
        key: of the batch.
        alpha: shares are drawn from Beta(alpha, alpha), each row's its own; the larger
            of the two is the first's. Static.
        smashed: `Float32[n, ...]`.
        rows: which of them are real; None for all.

    Raises:
        InputError: as `check` does, and if `alpha` is 0.
    """
    if not alpha:
        raise InputError("mixup of 0 mixes nothing; leave it out")
    check(alpha)
    order_key, share_key = jax.random.split(key)
    partner = _partners(order_key, len(smashed), rows)
    share = jax.random.beta(share_key, alpha, alpha, partner.shape, dtype=jnp.float32)
    share = jnp.maximum(share, 1 - share)
    weight = share.reshape((-1,) + (1,) * (smashed.ndim - 1))
    return weight * smashed + (1 - weight) * smashed[partner], Mixture(partner, share)


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
