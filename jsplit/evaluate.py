"""Scores of the two parts together on a held-out set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.steps import Party, Steps, cross_entropy, top_1


class TestSet(NamedTuple):
    """A held-out set in equal batches.

    Attributes:
        examples: `[batches, b, ...]`, raw.
        labels: `Int32[batches, b]`.
        mask: `Bool[batches, b]`, False for the padding of the last batch.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    examples: jax.Array
    labels: jax.Array
    mask: jax.Array


class Scores(NamedTuple):
    """Sums over the test examples: float32 loss, int32 correct, int32 count."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


def make_test_set(
    examples: np.ndarray, labels: np.ndarray, batch_size: int
) -> TestSet:
    """Cuts `[m, ...]` and `Int[m]` into batches, the last one padded."""
    count = len(examples)
    batch = min(batch_size, count)
    batches = -(-count // batch)
    places = np.arange(batches * batch)
    rows = np.where(places < count, places, 0)
    return TestSet(
        jnp.asarray(examples[rows].reshape(batches, batch, *examples.shape[1:])),
        jnp.asarray(labels[rows].reshape(batches, batch), jnp.int32),
        jnp.asarray(places < count).reshape(batches, batch),
    )


def evaluate(
    steps: Steps,
    transform: Callable[[jax.Array], jax.Array],
    client: Party,
    server: Party,
    test: TestSet,
) -> Scores:
    """Scores with running statistics and without dropout.

    Activations pass through the codec, batch by batch, as they would in use.
    """

    def batch(carry: None, x: TestSet) -> tuple[None, Scores]:
        outputs = steps.predict(client, server, transform(x.examples))
        losses = jnp.where(x.mask, cross_entropy(outputs, x.labels), 0.0)
        correct = top_1(outputs, x.labels) & x.mask
        return carry, Scores(
            jnp.sum(losses),
            jnp.sum(correct, dtype=jnp.int32),
            jnp.sum(x.mask, dtype=jnp.int32),
        )

    _, scores = jax.lax.scan(batch, None, test)
    return Scores(*(jnp.sum(leaf, axis=0, dtype=leaf.dtype) for leaf in scores))
