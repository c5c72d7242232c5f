"""Scores on a held-out set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.steps import Metrics, sum_up, total


class HeldOut(NamedTuple):
    """A held-out set in equal batches.

    Attributes:
        examples: `[batches, b, ...]`, raw.
        labels: `Int32[batches, b]`.
        mask: `Bool[batches, b]`, False for the padding of the last batch.
    """

    examples: jax.Array
    labels: jax.Array
    mask: jax.Array


def make_held_out(
    examples: np.ndarray, labels: np.ndarray, batch_size: int, devices: int = 1
) -> HeldOut:
    """Cuts `[m, ...]` and `Int[m]` into batches, the last one padded.

    Where several devices share a batch, each batch is padded to a multiple of them: its
    examples, and so the scores, stay those of one device.
    """
    count = len(examples)
    batch = min(batch_size, count)
    batches = -(-count // batch)
    column = np.arange(-(-batch // devices) * devices)
    places = np.arange(batches)[:, None] * batch + column
    mask = (column < batch) & (places < count)
    rows = np.where(mask, places, 0)
    return HeldOut(
        jnp.asarray(examples[rows]),
        jnp.asarray(labels[rows], jnp.int32),
        jnp.asarray(mask),
    )


def evaluate(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    test: HeldOut,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    correct: Callable[[jax.Array, jax.Array], jax.Array],
) -> Metrics:
    """Scores a network on a held-out set.

    Args:
        predict: raw examples `[b, ...]` and which of them are real, `Bool[b]`, to
            outputs.
        test: the held-out set.
        loss: of each example, `(outputs, labels) -> Float32[b]`.
        correct: of each example, `(outputs, labels) -> Bool[b]`.
    """

    def batch(carry: None, x: HeldOut) -> tuple[None, Metrics]:
        outputs = predict(x.examples, x.mask)
        return carry, sum_up(
            loss(outputs, x.labels), correct(outputs, x.labels), x.mask
        )

    return total(jax.lax.scan(batch, None, test)[1])
