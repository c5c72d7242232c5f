"""The recipe of training, by numbers worked out by hand: whole epochs.

Networks are two matrices with biases, whose gradients are written out here in NumPy's
float64.
"""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.codecs import identity
from jsplit.core.gates import FreezeGate, LossGate
from jsplit.core.simulation import make_simulation
from jsplit.core.state import SideState
from jsplit.core.steps import make_steps
from jsplit.experiment.build import optimizer_of
from jsplit.experiment.config import RunConfig
from jsplit.experiment.step_sizes import step_sizes_of
from jsplit.typing import STATES, Packet
from tests.nets import blobs, dense_parts

CLASSES = 3
DECAY, MOMENTUM = 0.1, 0.9
CONFIG = RunConfig(
    epochs=6,
    learning_rate=0.5,
    momentum=MOMENTUM,
    weight_decay=DECAY,
    gate=FreezeGate(3),
)
RUN = (("A", 0.5), ("A", 0.5), ("A", 0.1), ("B", 0.1), ("C", 0.02), ("C", 0.004))
"""Each epoch's state and learning rate: 30, 60 and 80 % of 6 are 1.8, 3.6 and 4.8."""


class Layer(NamedTuple):
    """A side's bias and matrix, and how fast each of them moves."""

    weights: list[np.ndarray]
    velocity: list[np.ndarray]


def layer_of(party):
    trees = (party.variables["params"], party.opt_state)
    return Layer(*([np.float64(x) for x in jax.tree.leaves(tree)] for tree in trees))


def assert_close(theirs, mine):
    for one, other in zip(theirs, mine, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def descend(layer, gradients, rate):
    parts = list(zip(*layer, gradients, strict=True))
    velocity = [MOMENTUM * v + gradient + DECAY * w for w, v, gradient in parts]
    weights = [w - rate * v for (w, _, _), v in zip(parts, velocity, strict=True)]
    return Layer(weights, velocity)


def hidden_of(client, examples):
    bias, matrix = client.weights
    return np.maximum(examples @ matrix + bias, 0)


def server_step(server, hidden, labels, rate):
    """Also the sum of the losses, and how far each output is from what is wanted."""
    bias, matrix = server.weights
    scores = np.exp(hidden @ matrix + bias)
    guess = scores / scores.sum(axis=1, keepdims=True)
    loss = -np.log(guess[np.arange(len(labels)), labels]).sum()
    errors = guess - np.eye(CLASSES)[labels]
    mean = errors / len(labels)
    return descend(server, [mean.sum(axis=0), hidden.T @ mean], rate), loss, errors


def step_of_a(clients, server, batches, rate):
    """A batch for each client; one without examples stays as it is."""
    hidden = [hidden_of(c, x) for c, (x, _) in zip(clients, batches, strict=True)]
    labels = [y for _, y in batches]
    matrix = server.weights[1]
    server, loss, errors = server_step(
        server, np.concatenate(hidden), np.concatenate(labels), rate
    )
    edges = np.cumsum([len(y) for y in labels])[:-1]
    moved = []
    for client, (x, y), h, error in zip(
        clients, batches, hidden, np.split(errors, edges), strict=True
    ):
        if len(y):
            # Of this client's own mean loss.
            back = (error / len(y)) @ matrix.T * (h > 0)
            client = descend(client, [back.sum(axis=0), x.T @ back], rate)
        moved.append(client)
    return moved, server, loss


def averaged(clients, counts):
    shares = [count / sum(counts) for count in counts]

    def mean(lists):
        return [
            sum(share * leaf for share, leaf in zip(shares, leaves, strict=True))
            for leaves in zip(*lists, strict=True)
        ]

    return Layer(
        mean([c.weights for c in clients]), mean([c.velocity for c in clients])
    )


def epoch_of_a(client, server, steps, counts, rate):
    clients, losses = [client] * len(counts), 0.0
    for batches in steps:
        clients, server, loss = step_of_a(clients, server, batches, rate)
        losses += loss
    return averaged(clients, counts), server, losses


def simulation_of(examples, labels, sizes, **more):
    settings = {
        "gate": CONFIG.gate.make(CLASSES),
        "optimizer": optimizer_of(CONFIG),
        "codec": identity(),
        "grad_codec": identity(),
        "shares": np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1]),
    }
    train = (examples, labels)
    return make_simulation(*dense_parts(CLASSES), train, train, **settings | more)


def one_epoch(simulation, state, rate):
    """Any number of them share one compiled program."""
    return simulation.program.run(
        jax.tree.map(jnp.copy, state),
        simulation.shards,
        simulation.test,
        simulation.key,
        jnp.full(1, rate, jnp.float32),
        jnp.ones(1, bool),
    )


@pytest.fixture(scope="module")
def run():
    """Two clients of 6 and 2 examples, all in one batch: no order can matter."""
    (x, y), sizes = blobs(8), (6, 2)
    simulation = simulation_of(x, y, sizes, batch_size=12)
    state = simulation.state
    client, server = layer_of(state.client), layer_of(state.server)
    shares = [(x[:6], y[:6]), (x[6:], y[6:])]
    ran, losses, theirs, mine = "", [], [], []
    for (letter, rate), size in zip(RUN, step_sizes_of(CONFIG), strict=True):
        state, record = one_epoch(simulation, state, size)
        ran += STATES[int(record.state[0])]
        if letter == "A":
            client, server, loss = epoch_of_a(client, server, [shares], sizes, rate)
        else:
            server, loss, _ = server_step(server, hidden_of(client, x), y, rate)
        losses.append((float(record.train.loss[0]), loss))
        theirs.append((layer_of(state.client), layer_of(state.server)))
        mine.append((client, server))
    assert ran == "".join(letter for letter, _ in RUN)
    return SimpleNamespace(
        simulation=simulation, losses=losses, theirs=theirs, mine=mine
    )


def test_the_server_takes_the_steps_of_the_recipe_in_a_b_and_c(run):
    for (_, theirs), (_, mine) in zip(run.theirs, run.mine, strict=True):
        assert_close(theirs.weights, mine.weights)
        assert_close(theirs.velocity, mine.velocity)


def test_after_a_the_clients_parts_are_averaged_by_their_examples(run):
    for (theirs, _), (mine, _) in zip(run.theirs[:3], run.mine, strict=False):
        assert_close(theirs.weights, mine.weights)


def test_after_a_the_clients_momentum_is_averaged_by_their_examples(run):
    for (theirs, _), (mine, _) in zip(run.theirs[:3], run.mine, strict=False):
        assert_close(theirs.velocity, mine.velocity)


def test_in_b_and_c_the_client_keeps_its_part_and_its_momentum(run):
    last_of_a, _ = run.mine[2]
    for theirs, _ in run.theirs[3:]:
        assert_close(theirs.weights, last_of_a.weights)
        assert_close(theirs.velocity, last_of_a.velocity)


def test_the_training_loss_is_the_sum_over_the_examples_before_each_step(run):
    np.testing.assert_allclose(*zip(*run.losses, strict=True), rtol=1e-4)


def test_a_network_that_guesses_blindly_loses_what_the_gate_begins_with(run):
    """8 examples of 3 classes: 8 log(3), and the gate compares with log(3)."""
    state = run.simulation.state
    blind = jax.tree.map(jnp.zeros_like, state.server)
    _, record = one_epoch(run.simulation, state.replace(server=blind), 0.5)
    loss = float(record.train.loss[0])
    assert loss == pytest.approx(8 * 1.0986123, rel=1e-5)
    gate = LossGate(1e-3).make(CLASSES)
    after = gate.update(gate.init(), jnp.float32(loss / 8))
    assert STATES[int(after.state)] == "B"


def test_clients_go_ways_of_their_own_until_the_end_of_an_epoch_of_a():
    """Of 4 and 2 examples in batches of 2: the second sits out the second step.

    Each holds copies of one example, so that the order in which it takes them is none.
    """
    (x, y), sizes = blobs(2, seed=3), (4, 2)
    simulation = simulation_of(
        np.repeat(x, sizes, axis=0), np.repeat(y, sizes), sizes, batch_size=4
    )
    assert (simulation.layout.steps, simulation.layout.batch) == (2, 2)
    two = [(x[i : i + 1].repeat(2, axis=0), y[i : i + 1].repeat(2)) for i in (0, 1)]
    none = (x[:0], y[:0])
    state = simulation.state
    client, server = layer_of(state.client), layer_of(state.server)
    for rate in (0.5, 0.1):
        state, record = one_epoch(simulation, state, rate)
        client, server, loss = epoch_of_a(
            client, server, [two, [two[0], none]], sizes, rate
        )
        assert float(record.train.loss[0]) == pytest.approx(loss, rel=1e-4)
        for party, layer in ((state.client, client), (state.server, server)):
            for theirs, mine in zip(layer_of(party), layer, strict=True):
                assert_close(theirs, mine)


def test_each_client_is_sent_the_gradient_of_the_mean_over_its_own_examples():
    """Logits of +h and -h at h = 0: of label 0 the gradient is -1, of label 1 it is 1.

    A client of 4 examples is sent a quarter of that for each, and a client of 1 all of
    it; by the mean over the batch both would be sent a fifth.
    """
    steps = make_steps(
        *dense_parts(2),
        client_optimizer=optimizer_of(CONFIG),
        server_optimizer=optimizer_of(CONFIG),
        codec=identity(),
        grad_codec=identity(),
    )
    layer = {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}
    variables = {"params": {"Dense_0": layer}}
    server = SideState(variables, optimizer_of(CONFIG).init(variables["params"]))
    _, _, replies = steps.server_step_with_reply(
        server,
        Packet(jnp.zeros((2, 4, 1)), jnp.zeros((2, 0), jnp.uint8)),
        jnp.array([[0, 1, 1, 0], [1, 0, 0, 0]]),
        jnp.arange(4)[None] < jnp.array([[4], [1]]),
        jax.random.key(0),
        jnp.float32(0.1),
    )
    np.testing.assert_allclose(
        replies.payload[..., 0],
        [[-0.25, 0.25, 0.25, -0.25], [1.0, 0.0, 0.0, 0.0]],
        rtol=1e-6,
    )
