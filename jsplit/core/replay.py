"""Mixup of the activations that the server stored (Zhang et al. 2018).

(arXiv:1710.09412; of hidden layers: Verma et al. 2019, arXiv:1806.05236.) The store
holds one view of each example, and in every epoch of C the server sees it again: it
learns it by heart. Mixtures of two are new each time, and cost no traffic.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jsplit.errors import InputError

LossOf = Callable[[Int[Array, " n"]], Float[Array, " n"]]
"""Maps labels `Int[n]` to the losses of a batch's outputs with them, `Float32[n]`."""

LossesOf = Callable[[LossOf, Int[Array, " n"]], Float[Array, " n"]]
"""How the losses of what is learned from follow from labels: `(loss_of, labels)`."""


class Replay(Protocol):
    """What the server does to activations before it learns from them.

    Takes the key of the step, the decoded activations `[n, ...]` and which rows are
    real (None: all). Gives the activations to learn from, and how their losses follow
    from labels: `(loss_of, labels) -> Float32[n]`.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        smashed: Float[Array, "n ..."],
        rows: Bool[Array, " n"] | None,
        /,
    ) -> tuple[Float[Array, "n ..."], LossesOf]:
        """See the class."""
        ...


def as_received(
    key: Key[Array, ""], smashed: Float[Array, "n ..."], rows: Bool[Array, " n"] | None
) -> tuple[Float[Array, "n ..."], LossesOf]:
    """The activations as they are."""
    return smashed, lambda loss_of, labels: loss_of(labels)


def mixup(alpha: float) -> Replay:
    """Mixtures of pairs by shares of Beta(alpha, alpha); `as_received` where 0.

    The loss of a mixture is that of both labels by their shares.

    Raises:
        InputError: as `check` does.

    Example:
        >>> smashed = jnp.array([[0.0], [1.0], [2.0], [3.0]])
        >>> mixtures, losses = mixup(0.4)(jax.random.key(0), smashed, None)
        >>> loss_of = lambda labels: jnp.where(labels == 0, 0.0, 1.0)
        >>> of_all = losses(loss_of, jnp.array([0, 1, 0, 1]))
        >>> mixtures.shape, 0 <= min(of_all.tolist()) <= max(of_all.tolist()) <= 1
        ((4, 1), True)
    """
    check(alpha)
    if not alpha:
        return as_received

    def replay(
        key: Key[Array, ""],
        smashed: Float[Array, "n ..."],
        rows: Bool[Array, " n"] | None,
    ) -> tuple[Float[Array, "n ..."], LossesOf]:
        # Not of what the server's part itself draws from.
        smashed, mixture = mixed(
            jax.random.fold_in(key, 2**31 - 1), alpha, smashed, rows
        )

        def losses(loss_of: LossOf, labels: Int[Array, " n"]) -> Float[Array, " n"]:
            own, others = loss_of(labels), loss_of(labels[mixture.partner])
            return mixture.share * own + (1 - mixture.share) * others

        return smashed, losses

    return replay


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

    Example:
        >>> check(0), check(0.4)
        (None, None)
        >>> check(-1)
        Traceback (most recent call last):
        jsplit.errors.InputError: mixup must be 0 (none) or from 0.001 to 1000, got -1
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

    Example:
        >>> smashed = jnp.array([[0.0], [1.0], [2.0], [9.0]])
        >>> real = jnp.array([True, True, True, False])
        >>> _, mixture = mixed(jax.random.key(0), 1.0, smashed, real)
        >>> sorted(mixture.partner.tolist()), int(mixture.partner[3])
        ([0, 1, 2, 3], 3)
        >>> bool((mixture.share >= 0.5).all())
        True
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
