"""A training whose float32 sums are exact, so that their order cannot show.

Examples, weights and gradients are multiples of a power of two, and small: no sum of
them needs more than the 24 bits of a float32, so in whatever order they are added up
the same bits come out. Only codecs and optimizer round. Where a mesh ends with other
bits than one device does, it is by a mistake.

    python -m tests.exact CLIENTS

trains on one device and on a mesh of all, and prints what each array ended as.
"""

import json
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.core.gate import freeze_gate
from jsplit.core.model_part import ModelPart
from jsplit.core.simulation import make_simulation

EXAMPLES, BATCH, CLASSES, WIDTH = 160, 64, 8, 16
"""Batches of 64, 64 and 32, in four clients of 16, 16 and 8: powers of two."""

EPOCHS = 6  # AABCCC
CLIENT_GRID, SERVER_GRID = 8, 64
"""Weights are multiples of 1 / 8 and 1 / 64; each averaging adds two bits."""


def linear(inputs: int, outputs: int, grid: int) -> ModelPart:
    """A matrix product; its weights begin between -1 and 1."""

    def init(key, x):
        kernel = jax.random.randint(key, (inputs, outputs), -grid, grid + 1)
        return {"params": {"kernel": kernel.astype(jnp.float32) / grid}}

    def apply(variables, x, *, mask, key, train):
        return x @ variables["params"]["kernel"], variables

    return ModelPart(init, apply, masks=True)


def size(labels):
    """Of an example: 1 to 128, so that parts of a packet have other best scales."""
    return 2.0 ** labels.astype(np.float32)


def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """An absolute error, whose gradient is a sign.

    An example weighs as much less as it is larger, so that in a sum over examples all
    terms are of one size; the packets of gradients have theirs the other way round.
    """
    wanted = 4.0 * jax.nn.one_hot(labels, CLASSES)
    return jnp.abs(outputs - wanted).sum(axis=-1) / size(labels)


def optimizer() -> optax.GradientTransformation:
    """Momentum in whole numbers, and weights that move by 1 / 8 or 1 / 4 or stay."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradients, trace, params=None):
        def moved(gradient, before):
            return jnp.clip(jnp.round(1024 * gradient + before / 2), -4096, 4096)

        trace = jax.tree.map(moved, gradients, trace)
        return jax.tree.map(lambda t: -jnp.round(t / 2048) / 8, trace), trace

    return optax.GradientTransformation(init, update)


def ended(clients: int, *, mesh: bool) -> dict[str, str]:
    """A checksum for each array that a run of all three states ends with."""
    draw = np.random.default_rng(0)
    # A batch has few of the largest and few of the smallest examples.
    labels = draw.binomial(CLASSES - 1, 0.5, EXAMPLES)
    examples = draw.integers(-3, 4, (EXAMPLES, WIDTH)) * size(labels)[:, None]
    data = (examples.astype(np.float32), labels)
    simulation = make_simulation(
        linear(WIDTH, WIDTH, CLIENT_GRID),
        linear(WIDTH, CLASSES, SERVER_GRID),
        data,
        data,
        gate=freeze_gate(2),
        optimizer=optimizer(),
        shares=np.split(np.arange(EXAMPLES), clients),
        batch_size=BATCH,
        loss=loss,
        devices=jax.devices() if mesh else None,
    )
    state, record, _ = simulation.run(np.ones(EPOCHS))
    leaves, _ = jax.tree_util.tree_flatten_with_path((state, record))
    return {
        jax.tree_util.keystr(name): f"{zlib.crc32(np.asarray(leaf).tobytes()):08x}"
        for name, leaf in leaves
    }


if __name__ == "__main__":
    clients = int(sys.argv[1])
    print(json.dumps([ended(clients, mesh=mesh) for mesh in (False, True)]))
