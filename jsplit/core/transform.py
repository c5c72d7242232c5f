"""What a client does to its raw examples before its part of the network."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Key, Shaped

Training = Callable[[Key[Array, ""], Shaped[Array, "b ..."]], Shaped[Array, "b ..."]]
"""What examples go through before a step of training; may draw from the key."""


class Transform(NamedTuple):
    """What a client does to its raw examples before its part of the network.

    Attributes:
        train: `(key, raw: [b, ...]) -> [b, ...]`, of state A; may augment.
        evaluate: `(raw) -> [b, ...]`.
        refresh: likewise, of state B, whose result the server sees in every epoch of C.
            None: `train`.

    Example:
        Noise while training, and images that the server stores without it.

        >>> import jax, jax.numpy as jnp
        >>> transform = Transform(
        ...     train=lambda key, raw: raw + jax.random.normal(key, raw.shape),
        ...     evaluate=lambda raw: raw,
        ...     refresh=lambda key, raw: raw,
        ... )
        >>> refresh = transform.training(sync=False)
        >>> refresh(jax.random.key(0), jnp.array([1.0, 2.0])).tolist()
        [1.0, 2.0]
    """

    train: Training
    evaluate: Callable[[Shaped[Array, "b ..."]], Shaped[Array, "b ..."]]
    refresh: Training | None = None

    def training(self, *, sync: bool) -> Training:
        """What a training batch goes through in A if `sync`, else in B."""
        return self.train if sync else self.refresh or self.train


IDENTITY_TRANSFORM = Transform(lambda key, raw: raw, lambda raw: raw)
