"""A client's data, and the batches that it makes of them when the server says so."""

import functools
import json
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.accounting.cost_model import packets_of
from jsplit.core import schedule
from jsplit.core.schedule import ClientPlan
from jsplit.core.simulation import TEST_BATCH
from jsplit.core.transform import Transform
from jsplit.data import fingerprint_of
from jsplit.net.tensors import padded
from jsplit.typing import Packet
from jsplit.wire import digest_of
from jsplit.wire.messages import UNNAMED

_PLAN = jax.jit(schedule.plan_client, static_argnums=(1, 2, 3))
_STEP = jax.jit(schedule.client_batch, static_argnums=2)


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
        class_names: what they are called; None where the data does not say.
    """

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    class_names: tuple[str, ...] | None = None

    @property
    def class_names_digest(self) -> bytes:
        """Of what the classes are called, in order; `UNNAMED` where that is not said.

        A name that one machine spells with combined characters and another without, as
        their file systems do, is the same.
        """
        if self.class_names is None:
            return UNNAMED
        names = [unicodedata.normalize("NFC", name) for name in self.class_names]
        return digest_of(json.dumps(names).encode())

    @property
    def fingerprint(self) -> str:
        """Of images, labels and held-out set, each in its order."""
        return fingerprint_of(
            (self.images, self.labels, self.test_images, self.test_labels)
        )


class BatchSizes(NamedTuple):
    """The sizes of a run's batches, which the server decides.

    Attributes:
        batch: a client's examples in a step.
        slots: places for examples in an epoch, a multiple of `batch`.
    """

    batch: int
    slots: int


class Batches:
    """The batches of one client in one run.

    Args:
        data: what it holds.
        transform: of raw images.
        sizes: of training batches.
        proportional: whether the client spreads its examples over all steps.

    Attributes:
        count: batches of a training epoch.
        held_out_count: batches of the held-out set.
    """

    def __init__(
        self,
        data: ClientData,
        transform: Transform,
        sizes: BatchSizes,
        *,
        proportional: bool,
    ):
        self._data = data
        self._sizes = sizes
        self._examples = len(data.labels)
        self._images = jnp.asarray(data.images)
        self._take = functools.cache(_gathered)
        self._transform = transform
        self._evaluate = jax.jit(transform.evaluate)
        self._test_batch = min(TEST_BATCH, len(data.test_labels))
        self._dealt_over = sizes.slots // sizes.batch if proportional else None
        self.count = packets_of(self._examples, sizes.batch, self._dealt_over)
        self.held_out_count = (
            -(-len(data.test_labels) // self._test_batch) if self._test_batch else 0
        )

    def plan(self, key_data: bytes) -> ClientPlan:
        """What follows from the key data that the server sends for an epoch."""
        key = jax.random.wrap_key_data(jnp.asarray(np.frombuffer(key_data, np.uint32)))
        return _PLAN(key, self._examples, self._sizes.slots, self._dealt_over)

    def rows(self, number: int) -> int:
        """How many examples a training batch has."""
        return schedule.rows_of_batch(
            self._examples, number, self._sizes.batch, self._dealt_over
        )

    def mask(self, number: int) -> np.ndarray | None:
        """Which of a batch's rows are examples, `Bool[batch]`.

        None where all of this client's batches are full.
        """
        if self._sizes.slots == self._examples:
            return None
        return np.arange(self._sizes.batch) < self.rows(number)

    def training(
        self, plan: ClientPlan, number: int, view: int | None = None
    ) -> tuple[jax.Array, np.ndarray | None, jax.Array]:
        """A batch `[batch, ...]`, its mask, and the key that the part draws from.

        Of the B that sends a view, or else as A learns from them.
        """
        now = _STEP(plan, number, self._sizes.batch)
        transform = self._transform
        take = self._take(transform.train if view is None else transform.view(view))
        rows = schedule.example_at(now.positions, self._examples)
        x = take(self._images, rows, now.transform_key)
        return x, self.mask(number), now.part_key

    def labels(self, plan: ClientPlan, number: int) -> np.ndarray:
        """Those of the same batch, `Int32[batch]`."""
        at = slice(number * self._sizes.batch, (number + 1) * self._sizes.batch)
        rows = schedule.example_at(np.asarray(plan.order)[at], self._examples)
        return self._data.labels[rows].astype(np.int32)

    def held_out(self, number: int) -> tuple[jax.Array, np.ndarray]:
        """A batch of the held-out set, and which of its rows are examples."""
        places = number * self._test_batch + np.arange(self._test_batch)
        mask = places < len(self._data.test_labels)
        return self._evaluate(self._data.test_images[np.where(mask, places, 0)]), mask

    def padded(self, reply: Packet) -> Packet:
        """A packet of a batch's examples with zeros for the rows that are none."""
        return padded(reply, self._sizes.batch)
