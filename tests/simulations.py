"""Small simulations, and what they are compared with."""

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.codecs import identity
from jsplit.core.gate import always_gate
from jsplit.core.schedule import plan_epoch
from jsplit.core.simulation import make_simulation
from jsplit.typing import STATES
from tests.nets import OPTIMIZER, blobs, dense_parts

TRAIN, TEST = blobs(60), blobs(30, seed=1)


LR = 0.05


def simulate(parts=None, train=TRAIN, test=TEST, **more):
    client, server = parts or dense_parts()
    settings = {
        "gate": always_gate(),
        "optimizer": OPTIMIZER,
        "batch_size": 20,
        # Quick to compile; the tests that are about a codec name it.
        "codec": identity(),
        "grad_codec": identity(),
    }
    return make_simulation(client, server, train, test, **{**settings, **more})


def states_of(record):
    return "".join(STATES[state] for state in np.asarray(record.state))


def deal(sizes):
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def by_hand(simulation, epochs, train=TRAIN):
    """State A of one client, by the step functions alone: no scan, no topology."""
    steps, layout = simulation.steps, simulation.layout
    client, server = simulation.state.client, simulation.state.server
    for epoch in range(epochs):
        key = jax.random.fold_in(simulation.key, epoch)
        plan = plan_epoch(key, simulation.shards, layout)
        order, keys = np.asarray(plan.rows)[0, 0], plan.clients.key
        for number in range(layout.steps):
            rows = order[number * layout.batch : (number + 1) * layout.batch]
            draw = jax.random.split(jax.random.fold_in(keys[0, 0], number))[1]
            packet, residual = steps.client_forward(client, train[0][rows], None, draw)
            server_key = jax.random.fold_in(jax.random.fold_in(key, 1), number)
            packets = jax.tree.map(lambda leaf: leaf[None], packet)
            server, _, replies = steps.server_step_with_reply(
                server,
                packets,
                train[1][rows][None],
                None,
                server_key,
                jnp.float32(LR),
            )
            reply = jax.tree.map(lambda leaf: leaf[0], replies)
            client = steps.client_backward(
                client, residual, reply, None, jnp.float32(LR)
            )
    return client, server


def inner(jaxpr):
    return [
        sub
        for eqn in jaxpr.eqns
        for sub in jax.extend.core.jaxprs_in_params(eqn.params)
    ]


def loops_of_an_epoch(jaxpr):
    """The bodies of the three loops over turns, one for each state."""
    bodies = [
        eqn.params["body_jaxpr"].jaxpr
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "while"
    ]
    if len(bodies) == 3:
        return bodies
    return next(filter(None, map(loops_of_an_epoch, inner(jaxpr))), None)


def names_called_in(jaxpr):
    names = {eqn.params["name"] for eqn in jaxpr.eqns if "name" in eqn.params}
    return names.union(*map(names_called_in, inner(jaxpr)))
