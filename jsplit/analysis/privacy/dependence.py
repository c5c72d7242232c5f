"""How much activations tell of the images, without an attack: two dependences."""

from typing import NamedTuple

import dcor
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from scipy.spatial.distance import cdist

from jsplit.analysis.privacy.view import View
from jsplit.typing import PyTree

EXAMPLES = 1000
"""Of the distance correlation, whose work is quadratic."""

HIDDEN, FEATURES, BATCH, STEPS, RATE = 128, 32, 128, 600, 1e-3
STRETCHES = 20  # of training, after each of which the critic is judged
RESTARTS = 3


class Correlation(NamedTuple):
    """A distance correlation (Szekely, Rizzo and Bakirov 2007), from 0 to 1.

    Attributes:
        value: of images and activations.
        shuffled: of images and others' activations: what chance and the many
            dimensions make of no dependence at all.
    """

    value: float
    shuffled: float


class Information(NamedTuple):
    """A lower bound of the mutual information of images and activations, in bits.

    Attributes:
        bits: mean over independently trained critics, on examples that none has seen.
        deviation: of those, sample standard deviation.
        ceiling: what the estimate can reach at most with so many examples: near it,
            each image is told from all others, and the bound says no more.
    """

    bits: float
    deviation: float
    ceiling: float


def correlation(images: np.ndarray, smashed: np.ndarray, seed: int) -> Correlation:
    """The distance correlation of images `[n, ...]` and activations `[n, ...]`."""
    # As `dcor.distance_correlation`, which computes the distances anew each time and
    # (0.7) without SciPy's loop: over ten times as long.
    x, z = (
        dcor.double_centered(cdist(rows, rows))
        for rows in (_flat(array[:EXAMPLES]) for array in (images, smashed))
    )
    order = np.random.default_rng(seed).permutation(len(z))
    return Correlation(_cosine(x, z), _cosine(x, z[np.ix_(order, order)]))


def _cosine(x: np.ndarray, z: np.ndarray) -> float:
    """The distance correlation of doubly centred distances; 0 where all are equal."""
    variances = dcor.mean_product(x, x) * dcor.mean_product(z, z)
    covariance = max(dcor.mean_product(x, z), 0.0)
    return float(np.sqrt(covariance / np.sqrt(variances))) if variances > 0 else 0.0


class Critic(nn.Module):
    """Scores every pair of an image and an activation: `[n, ...]` twice to `[n, n]`."""

    @nn.compact
    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """A product of features, so that all pairs cost little more than `n`."""
        sides = [
            nn.Dense(FEATURES)(nn.relu(nn.Dense(HIDDEN)(nn.LayerNorm()(side))))
            for side in (x, z)
        ]
        return sides[0] @ sides[1].T / np.sqrt(FEATURES)


def information(known: View, sent: View, seed: int) -> Information:
    """A neural lower bound of mutual information, of the kind of MINE.

    A critic scores pairs, as in MINE (Belghazi et al. 2018). The bound is InfoNCE (van
    den Oord et al. 2018), `E[log(exp T(x, z) / mean over x' of exp T(x', z))]`: MINE's
    own, from few samples, can exceed what it bounds (Poole et al. 2019). It is
    maximised on three quarters of the public examples, stopped where the rest of them
    say so, and taken on the private ones; below 0, where it says nothing, it is 0.
    Activations are a function of the images but for rounding and noise, so the
    information itself may be far above.

    Args:
        known: public examples.
        sent: private ones.
        seed: of the critics.
    """
    public, private = (
        [
            jnp.asarray(_normal(_flat(side), _flat(like)))
            for side, like in (
                (view.images, known.images),
                (view.smashed, known.smashed),
            )
        ]
        for view in (known, sent)
    )
    found = []
    for restart in range(RESTARTS):
        params = _fitted(*public, jax.random.fold_in(jax.random.key(seed), restart))
        bits = float(_bound(_pairs(params, *private))) / np.log(2)
        found.append(max(bits, 0.0))
    return Information(
        float(np.mean(found)),
        float(np.std(found, ddof=1)),
        float(np.log2(len(sent.images))),
    )


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _normal(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    return ((array - like.mean()) / (like.std() + 1e-6)).astype(np.float32)


@jax.jit
def _pairs(params: PyTree, x: jax.Array, z: jax.Array) -> jax.Array:
    return jnp.asarray(Critic().apply(params, x, z))


def _bound(pairs: jax.Array) -> jax.Array:
    """InfoNCE in nats, of scores `[n, n]`; what belongs together is on the diagonal."""
    together = jnp.diagonal(jax.nn.log_softmax(pairs, axis=0))
    return jnp.mean(together) + np.log(len(pairs))


@jax.jit
def _fitted(x: jax.Array, z: jax.Array, key: jax.Array) -> PyTree:
    """The critic that does best on the last quarter, trained on what is before it."""
    seen = 3 * len(x) // 4
    optimizer = optax.adam(RATE)
    start, draws = jax.random.split(key)
    params = Critic().init(start, x[:2], z[:2])

    def step(
        carry: tuple[PyTree, PyTree], key: jax.Array
    ) -> tuple[tuple[PyTree, PyTree], None]:
        params, state = carry
        size = min(BATCH, seen)
        rows = jax.random.choice(key, seen, (size,), replace=False)

        def loss(params: PyTree) -> jax.Array:
            return -_bound(_pairs(params, x[rows], z[rows]))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    def stretch(carry: _Search, keys: jax.Array) -> tuple[_Search, None]:
        params, state = jax.lax.scan(step, carry[:2], keys)[0]
        value = _bound(_pairs(params, x[seen:], z[seen:]))
        better = value > carry.value
        best = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), params, carry.best
        )
        return _Search(params, state, best, jnp.maximum(value, carry.value)), None

    carry = _Search(params, optimizer.init(params), params, jnp.float32(-jnp.inf))
    keys = jax.random.split(draws, (STRETCHES, STEPS // STRETCHES))
    return jax.lax.scan(stretch, carry, keys)[0].best


class _Search(NamedTuple):
    """Where a critic's training stands, and the best of it so far."""

    params: PyTree
    state: PyTree
    best: PyTree
    value: jax.Array
