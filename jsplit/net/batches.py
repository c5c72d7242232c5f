"""A client's data, and the batches that it makes of them when the server says so."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.algorithm import Transform
from jsplit.core.schedule import order_of, step_keys
from jsplit.net.tensors import padded
from jsplit.typing import Packet

_ORDER = jax.jit(order_of, static_argnums=2)
_KEYS = jax.jit(step_keys)


def _gathered(
    transform: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[..., jax.Array]:
    """Transforms the images at some rows: `(images, rows, key) -> [b, ...]`."""
    return jax.jit(lambda images, rows, key: transform(key, images[rows]))


class ClientData(NamedTuple):
    """What a client holds.

    Attributes:
        images: uint8 `[n, h, w, c]`.
        labels: `Int32[n]`.
        test_images: uint8 `[m, h, w, c]`.
        test_labels: `Int32[m]`.
        classes: that labels come from.
    """

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int


class BatchSizes(NamedTuple):
    """The sizes of a run's batches, which the server decides.

    Attributes:
        batch: a client's examples in a step.
        slots: places for examples in an epoch, a multiple of `batch`.
    """

    batch: int
    slots: int


class EpochDraws(NamedTuple):
    """The random choices of an epoch.

    Attributes:
        key: of the epoch.
        order: the examples in the order in which they are taken, `Int32[slots]`.
    """

    key: jax.Array
    order: np.ndarray


class Batches:
    """The batches of one client in one run.

    Args:
        data: what it holds.
        transform: of raw images.
        sizes: of training batches.
        test_batch: held-out examples that are coded together.

    Attributes:
        count: batches of a training epoch.
        held_out_count: batches of the held-out set.
    """

    def __init__(
        self, data: ClientData, transform: Transform, sizes: BatchSizes, test_batch: int
    ):
        self._data = data
        self._sizes = sizes
        self._examples = len(data.labels)
        self._images = jnp.asarray(data.images)
        once = functools.cache(_gathered)  # compiled once where A and B do the same
        self._sync, self._refresh = (
            once(transform.training(sync=sync)) for sync in (True, False)
        )
        self._evaluate = jax.jit(transform.evaluate)
        self._test_batch = min(test_batch, len(data.test_labels))
        self.count = -(-self._examples // sizes.batch)
        self.held_out_count = (
            -(-len(data.test_labels) // self._test_batch) if self._test_batch else 0
        )

    def draw(self, key_data: bytes) -> EpochDraws:
        """Makes the random choices that follow from the key data of a plan."""
        key = jax.random.wrap_key_data(jnp.asarray(np.frombuffer(key_data, np.uint32)))
        order = np.asarray(_ORDER(key, self._examples, self._sizes.slots))
        return EpochDraws(key, order % self._examples)

    def rows(self, number: int) -> int:
        """How many examples a training batch has; only the last may have fewer."""
        return min(self._examples - number * self._sizes.batch, self._sizes.batch)

    def mask(self, number: int) -> np.ndarray | None:
        """Which of a batch's rows are examples, `Bool[batch]`.

        None where no client of the run has batches that are not full.
        """
        if self._sizes.slots == self._examples:
            return None
        return np.arange(self._sizes.batch) < self.rows(number)

    def training(
        self, draws: EpochDraws, number: int, *, sync: bool
    ) -> tuple[jax.Array, np.ndarray | None, jax.Array]:
        """A batch `[batch, ...]`, its mask, and the key that the part draws from.

        Of state A if `sync`, else of B.
        """
        at = slice(number * self._sizes.batch, (number + 1) * self._sizes.batch)
        for_transform, for_part = _KEYS(draws.key, number)
        take = self._sync if sync else self._refresh
        x = take(self._images, draws.order[at], for_transform)
        return x, self.mask(number), for_part

    def held_out(self, number: int) -> tuple[jax.Array, np.ndarray]:
        """A batch of the held-out set, and which of its rows are examples."""
        places = number * self._test_batch + np.arange(self._test_batch)
        mask = places < len(self._data.test_labels)
        return self._evaluate(self._data.test_images[np.where(mask, places, 0)]), mask

    def padded(self, reply: Packet) -> Packet:
        """A packet of a batch's examples with zeros for the rows that are none."""
        return padded(reply, self._sizes.batch)
