"""What a split step is measured against in JAX: no cut, and no client.

Both train in a jitted scan over steps, as the product does, since a convolution may
run at another speed outside; with the product's layers, optimizer and images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.workload import LEARNING_RATE, optimizer, simulate, transform
from jsplit.core.metrics import Metrics, cross_entropy, sum_up, top_1
from jsplit.core.model_part import from_flax
from jsplit.core.simulation import Simulation
from jsplit.core.state import SideState
from jsplit.data import Dataset
from jsplit.models import MODELS, Chain
from jsplit.typing import Packet, Variables


def unsplit_epochs(
    name: str, dataset: Dataset, variables: Variables, *, batch: int
) -> Callable[[], float]:
    """Plain training of the uncut network, an epoch a call; returns its mean loss."""
    part = from_flax(Chain(MODELS[name](dataset.num_classes)))
    sgd, preprocess = optimizer(), transform(dataset).evaluate
    images, labels = (
        jnp.asarray(dataset.train_images),
        jnp.asarray(dataset.train_labels),
    )

    def step(
        party: SideState, x: tuple[jax.Array, jax.Array]
    ) -> tuple[SideState, Metrics]:
        rows, key = x

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            logits, variables = part.apply(
                {**party.variables, "params": params},
                preprocess(images[rows]),
                mask=None,
                key=key,
                train=True,
            )
            losses = cross_entropy(logits, labels[rows])
            metrics = sum_up(losses, top_1(logits, labels[rows]), None)
            return losses.mean(), (variables, metrics)

        params = party.variables["params"]
        gradients, (variables, metrics) = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = sgd.update(gradients, party.opt_state, params)
        updates = jax.tree.map(lambda update: LEARNING_RATE * update, updates)
        params = optax.apply_updates(params, updates)
        return SideState({**variables, "params": params}, opt_state), metrics

    def epoch(party: SideState, key: jax.Array) -> tuple[SideState, Metrics]:
        order = jax.random.permutation(key, len(labels)).reshape(-1, batch)
        return jax.lax.scan(step, party, (order, jax.random.split(key, len(order))))

    return _repeat(epoch, SideState(variables, sgd.init(variables["params"])))


def server_epochs(
    name: str, dataset: Dataset, simulation: Simulation, *, batch: int
) -> Callable[[], float]:
    """The server's own steps on float32 activations that lie ready, in order."""
    plain = simulate(name, dataset, batch=batch, codec="identity")
    raw = jnp.asarray(dataset.train_images).reshape(-1, batch, *dataset.image_shape)
    labels = jnp.asarray(dataset.train_labels).reshape(-1, 1, batch)
    preprocess = transform(dataset).evaluate
    client, key = simulation.state.client, jax.random.key(0)
    smashed = jax.lax.map(
        lambda x: plain.steps.client_forward(client, preprocess(x), None, key)[0], raw
    )

    def step(
        server: SideState, x: tuple[Packet, jax.Array, jax.Array]
    ) -> tuple[SideState, Metrics]:
        packet, labels, key = x
        packets = jax.tree.map(lambda leaf: leaf[None], packet)
        return plain.steps.server_step(
            server, packets, labels, None, key, jnp.float32(LEARNING_RATE)
        )

    def epoch(server: SideState, key: jax.Array) -> tuple[SideState, Metrics]:
        keys = jax.random.split(key, len(labels))
        return jax.lax.scan(step, server, (smashed, labels, keys))

    return _repeat(epoch, simulation.state.server)


def _repeat(
    epoch: Callable[[SideState, jax.Array], tuple[SideState, Metrics]], party: SideState
) -> Callable[[], float]:
    """Goes on from `party` by one compiled epoch a call; returns its mean loss."""
    run = jax.jit(epoch, donate_argnums=0)
    party, number = jax.tree.map(jnp.copy, party), 0

    def call() -> float:
        nonlocal party, number
        party, metrics = run(party, jax.random.key(number))
        jax.block_until_ready(party)
        number += 1
        return float(metrics.loss.sum()) / int(metrics.examples.sum())

    return call
