"""What the server does to activations before it learns from them, at no traffic.

The store holds a few views of each example, and in every epoch of C the server sees one
of them again: it learns them by heart. Moving stored maps by whole cells, mirroring
them, blanking a square, or mixing two examples makes each time new. A replay is a value
of pure functions; several become one by `chain`, as optax transformations do.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

LossOf = Callable[[Int[Array, " n"]], Float[Array, " n"]]
"""Maps labels `Int[n]` to the losses of a batch's outputs with them, `Float32[n]`."""


class Mixture(NamedTuple):
    """What each row of a batch is made of.

    Attributes:
        sources: the rows of its examples, the one with the largest share first,
            `Int32[n, m]`.
        shares: of each of these, summing to 1, `Float32[n, m]`.
    """

    sources: jax.Array
    shares: jax.Array


class Replay(NamedTuple):
    """What the server does to activations before it learns from them, as a value.

    Attributes:
        apply: `apply(key, smashed, rows) -> (smashed, Mixture | None)`, of the key of
            the step, decoded activations `Float32[n, ...]` and which rows are real
            (`Bool[n]`; None: all). The mixture says which examples' labels each row
            has; None: its own.
        check: `check(smashed_shape)` refuses, with an `InputError`, activations for
            which the replay means nothing; the shape is that of one example.
    """

    apply: Callable[..., tuple[jax.Array, Mixture | None]]
    check: Callable[[tuple[int, ...]], None] = lambda smashed_shape: None


AS_RECEIVED = Replay(lambda key, smashed, rows: (smashed, None))
"""The activations as they are."""


def chain(*replays: Replay) -> Replay:
    """These replays one after another; of one alone, that one.

    Each draws from a key of its own.

    Example:
        Maps are moved by up to a cell and then mixed in pairs.

        >>> from jsplit.core.mixup import mixup
        >>> from jsplit.core.map_moves import shift
        >>> replay = chain(shift(1), mixup(1.0))
        >>> maps = jnp.arange(32.0).reshape(2, 4, 4, 1)
        >>> moved, mixture = replay.apply(jax.random.key(0), maps, None)
        >>> moved.shape, mixture.sources.tolist()
        ((2, 4, 4, 1), [[0, 1], [1, 0]])
        >>> chain().apply(jax.random.key(0), maps, None)[1] is None
        True
    """
    if not replays:
        return AS_RECEIVED
    if len(replays) == 1:
        return replays[0]

    def apply(
        key: Key[Array, ""],
        smashed: Float[Array, "n ..."],
        rows: Bool[Array, " n"] | None,
    ) -> tuple[Float[Array, "n ..."], Mixture | None]:
        made: Mixture | None = None
        for number, replay in enumerate(replays):
            own = jax.random.fold_in(key, number)
            smashed, mixture = replay.apply(own, smashed, rows)
            made = _of_mixtures(made, mixture)
        return smashed, made

    def check(smashed_shape: tuple[int, ...]) -> None:
        for replay in replays:
            replay.check(smashed_shape)

    return Replay(apply, check)


def _of_mixtures(first: Mixture | None, second: Mixture | None) -> Mixture | None:
    """The examples of mixtures of mixtures."""
    if first is None or second is None:
        return second or first
    rows = len(first.sources)
    shares = second.shares[..., None] * first.shares[second.sources]
    return Mixture(
        first.sources[second.sources].reshape(rows, -1), shares.reshape(rows, -1)
    )


def losses(
    loss_of: LossOf, labels: Int[Array, " n"], mixture: Mixture | None
) -> Float[Array, " n"]:
    """The loss of each row: that of all its examples' labels, by their shares.

    Example:
        >>> shares = jnp.array([[0.75, 0.25], [0.75, 0.25]])
        >>> mixture = Mixture(jnp.array([[0, 1], [1, 0]]), shares)
        >>> def loss_of(labels):
        ...     return labels.astype(jnp.float32)
        >>> losses(loss_of, jnp.array([0, 4]), mixture).tolist()
        [1.0, 3.0]
    """
    if mixture is None:
        return loss_of(labels)
    parts = (
        share * loss_of(labels[source])
        for source, share in zip(mixture.sources.T, mixture.shares.T, strict=True)
    )
    return functools.reduce(jnp.add, parts)
