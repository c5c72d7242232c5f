"""What a client does to its raw examples before its part of the network."""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Transform(NamedTuple):
    """What a client does to its raw examples before its part of the network.

    Attributes:
        train: `(key, raw: [b, ...]) -> [b, ...]`, of state A; may augment.
        evaluate: `(raw) -> [b, ...]`.
        refresh: likewise, of state B, whose result the server sees in every epoch of C.
            None: `train`.
    """

    train: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], jax.Array]
    refresh: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def training(self, *, sync: bool) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """What a training batch goes through in A if `sync`, else in B."""
        return self.train if sync else self.refresh or self.train


IDENTITY_TRANSFORM = Transform(lambda key, raw: raw, lambda raw: raw)
