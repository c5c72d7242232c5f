"""How much activations tell of the images, without an attack: two dependences."""

import functools
from typing import NamedTuple

import dcor
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jsplit.typing import PyTree

EXAMPLES = 1000
"""Of the distance correlation, whose work is quadratic."""

HIDDEN, FEATURES, BATCH, STEPS, RATE = 128, 32, 128, 500, 2e-3
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
    x, z = (_flat(array[:EXAMPLES]).astype(np.float64) for array in (images, smashed))
    order = np.random.default_rng(seed).permutation(len(z))
    return Correlation(
        float(dcor.distance_correlation(x, z)),
        float(dcor.distance_correlation(x, z[order])),
    )


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


def information(images: np.ndarray, smashed: np.ndarray, seed: int) -> Information:
    """A neural lower bound of mutual information, of the kind of MINE.

    A critic scores pairs, as in MINE (Belghazi et al. 2018). The bound is InfoNCE (van
    den Oord et al. 2018), `E[log(exp T(x, z) / mean over x' of exp T(x', z))]`: MINE's
    own, from few samples, can exceed what it bounds (Poole et al. 2019). It is
    maximised on two thirds of the examples and taken on the rest. Activations are a
    function of the images but for rounding and noise, so the information itself may be
    far above.
    """
    x, z = _normal(_flat(images)), _normal(_flat(smashed))
    seen = 2 * len(x) // 3
    fit = functools.partial(_fitted, jnp.asarray(x[:seen]), jnp.asarray(z[:seen]))
    critic = Critic()
    found = []
    for restart in range(RESTARTS):
        params = fit(jax.random.fold_in(jax.random.key(seed), restart))
        pairs = critic.apply(params, jnp.asarray(x[seen:]), jnp.asarray(z[seen:]))
        found.append(float(_bound(jnp.asarray(pairs))) / np.log(2))
    return Information(
        float(np.mean(found)),
        float(np.std(found, ddof=1)),
        float(np.log2(len(x) - seen)),
    )


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _normal(array: np.ndarray) -> np.ndarray:
    return ((array - array.mean()) / (array.std() + 1e-6)).astype(np.float32)


def _bound(pairs: jax.Array) -> jax.Array:
    """InfoNCE in nats, of scores `[n, n]`; what belongs together is on the diagonal."""
    together = jnp.diagonal(jax.nn.log_softmax(pairs, axis=0))
    return jnp.mean(together) + np.log(len(pairs))


@jax.jit
def _fitted(x: jax.Array, z: jax.Array, key: jax.Array) -> PyTree:
    critic, optimizer = Critic(), optax.adam(RATE)
    start, draws = jax.random.split(key)
    params = critic.init(start, x[:2], z[:2])

    def step(
        carry: tuple[PyTree, PyTree], key: jax.Array
    ) -> tuple[tuple[PyTree, PyTree], None]:
        params, state = carry
        size = min(BATCH, len(x))
        rows = jax.random.choice(key, len(x), (size,), replace=False)

        def loss(params: PyTree) -> jax.Array:
            return -_bound(jnp.asarray(critic.apply(params, x[rows], z[rows])))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, jax.random.split(draws, STEPS))[0][0]
