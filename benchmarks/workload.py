"""What the benchmarks train: the product's own simulation, on real images.

Every model runs on the embedded Fashion-MNIST, padded to 32x32 and repeated to three
channels, the size of CIFAR-10. There is no augmentation, on any side; each step
gathers its uint8 images and normalises them, on every side.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jsplit import data
from jsplit.codecs import CODECS
from jsplit.core.gate import Gate, GateState, always_gate
from jsplit.core.model_part import from_flax
from jsplit.core.simulation import Simulation, make_simulation
from jsplit.core.state import EpochRecord, TrainState
from jsplit.core.topology import TOPOLOGIES
from jsplit.core.transform import Transform
from jsplit.data import Dataset
from jsplit.models import MODELS, split
from jsplit.typing import Variables

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
"""The lab's recipe, as the command line's defaults."""


def images(train: int, test: int = 1) -> Dataset:
    """Real images uint8 [n, 32, 32, 3]; one to test on makes evaluation negligible."""
    return data.prepare_images(
        data.load("fashion_mnist_10k"),
        image_size=32,
        channels=3,
        train_examples=train,
        test_examples=test,
    )


def transform(dataset: Dataset) -> Transform:
    """Normalisation alone."""
    mean, std = data.normalization(dataset.train_images)
    return Transform(
        lambda key, raw: data.preprocess(raw, mean, std),
        lambda raw: data.preprocess(raw, mean, std),
    )


def optimizer() -> optax.GradientTransformation:
    """SGD as `jsplit run` makes it; the learning rate is the step size."""
    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.trace(MOMENTUM),
        optax.scale(-1.0),
    )


def simulate(
    model: str,
    dataset: Dataset,
    *,
    batch: int,
    codec: str = "float8",
    clients: int = 1,
    topology: str = "parallel",
    gate: Gate | None = None,
) -> Simulation:
    """The model at its usual cut, one codec both ways; without a `gate` always A."""
    client, server = split(MODELS[model](dataset.num_classes), MODELS[model].usual_cut)
    return make_simulation(
        from_flax(client),
        from_flax(server),
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
        gate=gate or always_gate(),
        optimizer=optimizer(),
        codec=CODECS[codec],
        grad_codec=CODECS[codec],
        shares=data.partition(
            dataset.train_labels, clients=clients, scheme="iid", seed=0
        ),
        topology=TOPOLOGIES[topology],
        batch_size=batch,
        transform=transform(dataset),
    )


def runner(
    simulation: Simulation, state: TrainState, length: int = 1
) -> Callable[[], EpochRecord]:
    """Trains on from `state` by `length` epochs a call, in the product's program."""
    state = jax.tree.map(jnp.copy, state)  # the program consumes what it is given
    rest = program_arguments(simulation, length)

    def run() -> EpochRecord:
        nonlocal state
        state, record = simulation.program.run(state, *rest)
        jax.block_until_ready(state)
        return jax.device_get(record)

    return run


def program_arguments(simulation: Simulation, length: int = 1) -> tuple[Any, ...]:
    """What the program takes after the state, for `length` epochs."""
    step_sizes = jnp.full(length, LEARNING_RATE, jnp.float32)
    active = jnp.ones(length, bool)
    return (simulation.shards, simulation.test, simulation.key, step_sizes, active)


def held_in(state: TrainState, which: int) -> TrainState:
    """The same, whose every further epoch runs in the state `which` (0 A, 1 B, 2 C).

    All three run in one compiled program, the product's: `always_gate` leaves the gate
    state that it is given, and this gives it another.
    """
    return dataclasses.replace(state, gate=GateState(jnp.int32(which), ()))


def uncut(simulation: Simulation) -> Variables:
    """The uncut network's variables: those of client and server, before training."""
    client, server = simulation.state.client, simulation.state.server
    return jax.tree.map(
        jnp.copy,
        {
            kind: {**client.variables.get(kind, {}), **server.variables.get(kind, {})}
            for kind in {*client.variables, *server.variables}
        },
    )
