"""What a client does to its raw examples before its part of the network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Int, Key, Shaped

Training = Callable[[Key[Array, ""], Shaped[Array, "b ..."]], Shaped[Array, "b ..."]]
"""What examples go through before a step of training; may draw from the key."""


class Transform(NamedTuple):
    """What a client does to its raw examples before its part of the network.

    Attributes:
        train: `(key, raw: [b, ...]) -> [b, ...]`, of state A; may augment.
        evaluate: `(raw) -> [b, ...]`.
        views: likewise, of state B, whose results the server sees in every epoch of C:
            one for each view of an example that the store holds, each sent by an epoch
            of B of its own. Empty: one, by `train`.

    Example:
        Noise while training, and images that the server stores without it.

        >>> import jax.numpy as jnp
        >>> transform = Transform(
        ...     train=lambda key, raw: raw + jax.random.normal(key, raw.shape),
        ...     evaluate=lambda raw: raw,
        ...     views=(lambda key, raw: raw, lambda key, raw: raw[:, ::-1]),
        ... )
        >>> for view in range(2):
        ...     transform.refresh(view, jax.random.key(0), jnp.array([[1, 2]])).tolist()
        [[1, 2]]
        [[2, 1]]
    """

    train: Training
    evaluate: Callable[[Shaped[Array, "b ..."]], Shaped[Array, "b ..."]]
    views: tuple[Training, ...] = ()

    @property
    def view_count(self) -> int:
        """Views of each example that the store holds."""
        return max(len(self.views), 1)

    def view(self, number: int) -> Training:
        """What a batch goes through in the B that sends the view of this number."""
        return self.views[number] if self.views else self.train

    def refresh(
        self,
        view: Int[Array, ""] | int,
        key: Key[Array, ""],
        raw: Shaped[Array, "b ..."],
    ) -> Shaped[Array, "b ..."]:
        """The same for a number that is traced."""
        kinds = list(dict.fromkeys(self.views or (self.train,)))
        if len(kinds) == 1:
            return kinds[0](key, raw)
        numbers = jax.numpy.asarray([kinds.index(kind) for kind in self.views])
        return jax.lax.switch(numbers[view], kinds, key, raw)


IDENTITY_TRANSFORM = Transform(lambda key, raw: raw, lambda raw: raw)
