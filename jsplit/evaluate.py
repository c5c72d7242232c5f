"""Scores on a held-out set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.steps import Metrics, sum_up, total


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


def make_held_out(examples: np.ndarray, labels: np.ndarray, batch_size: int) -> HeldOut:
    """Cuts `[m, ...]` and `Int[m]` into batches, the last one padded."""
    count = len(examples)
    batch = min(batch_size, count)
    batches = -(-count // batch)
    places = np.arange(batches * batch)
    rows = np.where(places < count, places, 0)
    return HeldOut(
        jnp.asarray(examples[rows].reshape(batches, batch, *examples.shape[1:])),
        jnp.asarray(labels[rows].reshape(batches, batch), jnp.int32),
        jnp.asarray(places < count).reshape(batches, batch),
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
