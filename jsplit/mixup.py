"""Mixup of the activations that the server stored (Zhang et al. 2018).

(arXiv:1710.09412; of hidden layers: Verma et al. 2019, arXiv:1806.05236.) The store
holds one view of each example, and in every epoch of C the server sees it again: it
learns it by heart. Mixtures of two are new each time, and cost no traffic.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Mixture(NamedTuple):
    """What each row of a batch is made of.

    Attributes:
        partner: the row of its second example, `Int32[n]`.
        share: of its first, `Float32[n]` from 1/2 to 1; the second has the rest.
    """

    partner: jax.Array
    share: jax.Array


def mixed(
    key: Key[Array, ""],
    alpha: float,
    smashed: Float[Array, "n ..."],
    rows: Bool[Array, " n"] | None,
) -> tuple[Float[Array, "n ..."], Mixture]:
    """A batch of decoded activations, mixed in pairs.

    **Guarantees.** Each real row is the partner of one; rows that are padding are in
    no mixture but their own. A batch of one real row is mixed with itself.

    Args:
        key: of the batch.
        alpha: shares are drawn from Beta(alpha, alpha), each row's its own; the larger
            of the two is the first's. Static, finite, more than 0.
        smashed: `[n, ...]`.
        rows: which of them are real; None for all.

    Raises:
        ValueError: if `alpha` is outside what is said above.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be finite and more than 0, got {alpha}")
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
