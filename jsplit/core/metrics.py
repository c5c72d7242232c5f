"""Losses and scores: of a batch, of an epoch, of a held-out set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

LossFunction = Callable[[Float[Array, "n ..."], Int[Array, " n"]], Float[Array, " n"]]
"""The loss of each example, of outputs and labels."""

CorrectFunction = Callable[[Float[Array, "n ..."], Int[Array, " n"]], Bool[Array, " n"]]
"""Whether each example is predicted right, of outputs and labels."""


class Metrics(NamedTuple):
    """Sums over the examples of a batch that are not padding.

    Attributes:
        loss: float32, sum of the examples' losses.
        correct: int32, examples predicted right.
        examples: int32, how many.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array

    @property
    def mean_loss(self) -> Float[Array, "..."]:
        """Of an example, float32; NaN where there is none."""
        return self.loss / self.examples.astype(jnp.float32)


def no_metrics() -> Metrics:
    """The sums over no examples."""
    return Metrics(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def sum_up(
    losses: Float[Array, " n"],
    correct: Bool[Array, " n"],
    rows: Bool[Array, " n"] | None,
) -> Metrics:
    """The metrics of a batch: `Float[n]`, `Bool[n]`, and which of them count.

    Example:
        >>> losses, correct = jnp.array([0.5, 1.0, 9.0]), jnp.array([True, False, True])
        >>> metrics = sum_up(losses, correct, rows=jnp.array([True, True, False]))
        >>> float(metrics.loss), int(metrics.correct), int(metrics.examples)
        (1.5, 1, 2)
        >>> float(metrics.mean_loss)
        0.75
    """
    if rows is not None:
        losses = jnp.where(rows, losses, 0.0)
        correct = correct & rows
    count = jnp.int32(losses.size) if rows is None else jnp.sum(rows, dtype=jnp.int32)
    return Metrics(jnp.sum(losses), jnp.sum(correct, dtype=jnp.int32), count)


def total(metrics: Metrics) -> Metrics:
    """The sum of metrics stacked along a first axis.

    Example:
        >>> steps = Metrics(jnp.array([1.5, 0.5]), jnp.array([1, 2]), jnp.array([2, 2]))
        >>> float(total(steps).mean_loss)
        0.5
    """
    return Metrics(*(jnp.sum(leaf, axis=0, dtype=leaf.dtype) for leaf in metrics))


def added(one: Metrics, other: Metrics) -> Metrics:
    """The sum of two."""
    return Metrics(*map(jnp.add, one, other))


def cross_entropy(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"]
) -> Float[Array, " n"]:
    """Softmax cross-entropy of each example: `[n, classes]`, `Int[n]` to `[n]`.

    Example:
        >>> losses = cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> [f"{loss:.4f}" for loss in losses], f"{np.log(4):.4f}"
        (['1.3863', '1.3863'], '1.3863')
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def top_1(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"]
) -> Bool[Array, " n"]:
    """Whether the largest logit is the label's: `Bool[n]`.

    Example:
        >>> top_1(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
        [True, False]
    """
    return jnp.argmax(logits, axis=-1) == labels


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

    Example:
        >>> test = make_held_out(np.eye(5), np.arange(5), batch_size=3)
        >>> test.examples.shape
        (2, 3, 5)
        >>> test.mask.tolist()
        [[True, True, True], [True, True, False]]
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
    predict: Callable[
        [Shaped[Array, "b ..."], Bool[Array, " b"]], Float[Array, "b ..."]
    ],
    test: HeldOut,
    loss: LossFunction,
    correct: CorrectFunction,
) -> Metrics:
    """Scores a network on a held-out set.

    Args:
        predict: raw examples `[b, ...]` and which of them are real, `Bool[b]`, to
            outputs.
        test: the held-out set.
        loss: of each example.
        correct: of each example.

    Example:
        >>> test = make_held_out(np.eye(3), np.array([0, 1, 1]), batch_size=2)
        >>> scores = evaluate(lambda x, mask: x, test, cross_entropy, top_1)
        >>> int(scores.correct), int(scores.examples)
        (2, 3)
    """

    def batch(carry: None, x: HeldOut) -> tuple[None, Metrics]:
        outputs = predict(x.examples, x.mask)
        return carry, sum_up(
            loss(outputs, x.labels), correct(outputs, x.labels), x.mask
        )

    return total(jax.lax.scan(batch, None, test)[1])
