"""What the server makes of stored activations before it learns from them in state C.

The store holds one view of each example, and the server sees it again in every epoch of
C: it learns it by heart. Views that cost no traffic can be made at the cut: mirrored
ones, and mixtures of two (mixup, Zhang et al. 2018, arXiv:1710.09412, of hidden layers
as in Verma et al. 2019, arXiv:1806.05236).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jsplit.errors import InputError


class Replay(NamedTuple):
    """How stored activations are varied; by default not at all.

    Attributes:
        mixup: ALPHA of the Beta(ALPHA, ALPHA) that a pair's shares are drawn from; 0:
            nothing is mixed.
        mirror: whether half of the examples, drawn anew each time, are turned left to
            right.
    """

    mixup: float = 0.0
    mirror: bool = False


AS_STORED = Replay()


class Mixture(NamedTuple):
    """A batch of which every example is made of two.

    Attributes:
        partner: the row of each example's second, `Int32[n]`.
        share: of the first, `Float32[n]` from 1/2 to 1; the second has the rest.
    """

    partner: jax.Array
    share: jax.Array


def varied(
    replay: Replay,
    key: Key[Array, ""],
    smashed: Float[Array, "n ..."],
    rows: Bool[Array, " n"] | None,
) -> tuple[Float[Array, "n ..."], Mixture | None]:
    """A batch of decoded activations as the server learns from it.

    **Guarantees.** Rows that are padding are in no mixture but their own. A batch of
    one real row is mixed with itself. `AS_STORED` is the identity.

    Args:
        replay: how.
        key: of the batch.
        smashed: `[n, ...]`; `[n, h, w, c]` to be mirrored.
        rows: which of them are real; None for all.

    Returns:
        The batch, and what it is mixed of; None where nothing is.

    Raises:
        InputError: as `check` does.
    """
    check(replay, smashed.shape[1:])
    count = len(smashed)
    mirror_key, order_key, share_key = jax.random.split(key, 3)
    if replay.mirror:
        turned = jax.random.bernoulli(mirror_key, 0.5, (count, 1, 1, 1))
        smashed = jnp.where(turned, smashed[:, :, ::-1], smashed)
    if not replay.mixup:
        return smashed, None
    partner = _partners(order_key, count, rows)
    share = jax.random.beta(
        share_key, replay.mixup, replay.mixup, (count,), dtype=jnp.float32
    )
    share = jnp.maximum(share, 1 - share)
    weight = share.reshape((-1,) + (1,) * (smashed.ndim - 1))
    mixed = weight * smashed + (1 - weight) * smashed[partner]
    return mixed, Mixture(partner, share)


def check(replay: Replay, smashed_shape: tuple[int, ...]) -> None:
    """Refuses what cannot be done to activations of a shape, one example's.

    Raises:
        InputError: if activations without a width are to be mirrored, or `mixup` is no
            finite number from 0.
    """
    if not 0 <= replay.mixup < math.inf:
        raise InputError(
            f"mixup must be a finite number, at least 0, got {replay.mixup}"
        )
    if replay.mirror and len(smashed_shape) != 3:
        raise InputError(
            "activations can be mirrored where they are [height, width, channels], not "
            f"{list(smashed_shape)}; cut earlier, or leave the mirroring out"
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
