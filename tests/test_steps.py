"""The step functions: split training is training, and the wire stays out of it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jsplit.codecs import float8, identity
from jsplit.core.metrics import cross_entropy
from jsplit.core.model_part import from_flax
from jsplit.core.state import init_side
from jsplit.core.steps import Steps, make_steps
from jsplit.models import MODELS, Chain
from jsplit.typing import Packet
from tests.nets import OPTIMIZER, cnn_parts, dense_parts, images

KEY = jax.random.key(0)
STEP = jnp.float32(0.05)


def steps_of(client, server, codec=None, grad_codec=None, **more) -> Steps:
    return make_steps(
        client,
        server,
        client_optimizer=OPTIMIZER,
        server_optimizer=OPTIMIZER,
        codec=codec or identity(),
        grad_codec=grad_codec or identity(),
        **more,
    )


def parties_of(client, server, x):
    @jax.jit
    def both(x):
        first = init_side(client, OPTIMIZER, jax.random.key(1), x)
        smashed, _ = client.apply(first.variables, x, mask=None, key=KEY, train=False)
        return first, init_side(server, OPTIMIZER, jax.random.key(2), smashed)

    return both(x[:1])


def one_packet(packet: Packet) -> Packet:
    return jax.tree.map(lambda leaf: leaf[None], packet)


def sync_step(steps, client, server, x, y, mask=None, key=KEY):
    """One batch in state A of a single client, by the step functions alone."""
    packet, residual = steps.client_forward(client, x, mask, key)
    rows = None if mask is None else mask[None]
    server, metrics, replies = steps.server_step_with_reply(
        server, one_packet(packet), y[None], rows, key, STEP
    )
    reply = jax.tree.map(lambda leaf: leaf[0], replies)
    client = steps.client_backward(client, residual, reply, mask, STEP)
    return client, server, metrics


def unsplit_step(whole, variables, opt_state, x, y):
    def mean_loss(params):
        outputs, moved = whole.apply(
            {**variables, "params": params}, x, mask=None, key=KEY, train=True
        )
        return jnp.mean(cross_entropy(outputs, y)), moved

    gradients, moved = jax.grad(mean_loss, has_aux=True)(variables["params"])
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, variables["params"])
    updates = jax.tree.map(lambda update: STEP * update, updates)
    params = optax.apply_updates(variables["params"], updates)
    return {**moved, "params": params}, opt_state


@pytest.mark.parametrize(
    "jitted",
    [
        pytest.param(False, id="op by op"),
        pytest.param(True, id="jitted", marks=pytest.mark.slow),
    ],
)
def test_identity_and_state_a_equal_unsplit_training(jitted):
    """To the bit op by op on a CPU; else to 1e-6.

    XLA fuses the jitted steps otherwise, and a GPU's convolutions vary by themselves.
    """
    exact = not jitted and jax.default_backend() == "cpu"
    x, y = images(24)
    client, server = cnn_parts()
    steps = steps_of(client, server)
    whole = from_flax(Chain(MODELS["cnn"](3)))
    one, two = parties_of(client, server, x)
    with jax.disable_jit(not jitted):
        variables = {
            kind: {**one.variables[kind], **two.variables[kind]}
            for kind in two.variables
            if kind in one.variables
        }
        opt_state = OPTIMIZER.init(variables["params"])
        whole_step = jax.jit(lambda v, o, x, y: unsplit_step(whole, v, o, x, y))
        for batch in range(2):
            part = slice(8 * batch, 8 * batch + 8)
            one, two, _ = sync_step(steps, one, two, x[part], y[part])
            variables, opt_state = whole_step(variables, opt_state, x[part], y[part])
    for kind in variables:
        mine = {**one.variables[kind], **two.variables[kind]}
        if exact:
            chex.assert_trees_all_equal(mine, variables[kind])
        else:
            chex.assert_trees_all_close(mine, variables[kind], atol=1e-6, rtol=1e-5)


def test_client_gradient_is_the_pullback_of_the_decoded_gradient():
    """Not the gradient of a cast: the codec is applied, never differentiated."""
    x, y = images(8)
    client, server = cnn_parts()
    one, two = parties_of(client, server, x)
    codec = float8()
    steps = steps_of(client, server, codec, codec)
    moved, _, _ = sync_step(steps, one, two, x, y)

    def forward(params):
        return client.apply(
            {**one.variables, "params": params}, x, mask=None, key=KEY, train=True
        )[0]

    smashed, pullback = jax.vjp(forward, one.variables["params"])
    decoded = codec.decode(codec.encode(smashed))

    def mean_loss(smashed):
        outputs, _ = server.apply(
            two.variables, smashed, mask=None, key=KEY, train=True
        )
        return jnp.mean(cross_entropy(outputs, y))

    gradient = codec.decode(codec.encode(jax.grad(mean_loss)(decoded)))
    (expected,) = pullback(gradient)
    updates, _ = OPTIMIZER.update(expected, one.opt_state, one.variables["params"])
    params = jax.tree.map(lambda p, u: p + STEP * u, one.variables["params"], updates)
    chex.assert_trees_all_close(moved.variables["params"], params, atol=1e-6)


def test_padded_rows_change_nothing():
    x, y = images(8)
    client, server = cnn_parts()
    one, two = parties_of(client, server, x)
    steps = steps_of(client, server, float8(), float8())
    plain = sync_step(steps, one, two, x[:5], y[:5])
    garbage = x.copy()
    garbage[5:] = 1e6
    mask = jnp.arange(8) < 5
    masked = sync_step(steps, one, two, garbage, y, mask)
    chex.assert_trees_all_close(masked, plain, atol=1e-5, rtol=1e-4)
    assert int(masked[2].examples) == 5


class ByDirection(nn.Module):
    """Looks at the direction of its input alone, and zeros have none."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x / jnp.linalg.norm(x, axis=-1, keepdims=True))


def test_padded_rows_give_no_nan_where_a_part_divides_by_what_came():
    client, server = dense_parts()[0], from_flax(ByDirection())
    x, y = jax.random.normal(KEY, (6, 4)), jnp.arange(6) % 3
    steps, parties = steps_of(client, server), parties_of(client, server, x)
    mask = jnp.arange(6) < 4
    padded = sync_step(steps, *parties, x, y, mask)
    alone = sync_step(steps, *parties, x[:4], y[:4])
    chex.assert_trees_all_close(padded, alone, rtol=1e-5, atol=1e-6)
    packet = one_packet(steps.client_refresh(parties[0], x, mask, KEY))
    server, _ = steps.server_step(parties[1], packet, y[None], mask[None], KEY, STEP)
    chex.assert_tree_all_finite(server)


def test_client_whose_rows_are_all_padding_keeps_everything():
    x, y = images(8)
    client, server = cnn_parts()
    one, two = parties_of(client, server, x)
    steps = steps_of(client, server)
    mask = jnp.stack([jnp.ones(8, bool), jnp.zeros(8, bool)])
    packets, residuals = jax.vmap(steps.client_forward, (None, None, 0, None))(
        one, x, mask, KEY
    )
    _, _, replies = steps.server_step_with_reply(
        two, packets, jnp.stack([y, y]), mask, KEY, STEP
    )
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    moved = jax.vmap(steps.client_backward, (0, 0, 0, 0, None))(
        pair, residuals, replies, mask, STEP
    )
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], moved), one)
    chex.assert_tree_all_finite(moved)
    first = jax.tree.map(lambda leaf: leaf[0], moved)
    assert not np.array_equal(
        jax.tree.leaves(first.variables["params"])[0],
        jax.tree.leaves(one.variables["params"])[0],
    )


def test_each_client_receives_the_gradient_of_its_own_mean_loss():
    """Whatever its share of the server's batch, here 6 and 2 of 8 examples."""
    x, y = images(12)
    client, server = dense_parts()
    x = x.reshape(12, -1)
    one, two = parties_of(client, server, x)
    steps = steps_of(client, server)
    batches, labels = x.reshape(2, 6, -1), y.reshape(2, 6)
    mask = jnp.stack([jnp.ones(6, bool), jnp.arange(6) < 2])
    packets, _ = jax.vmap(steps.client_forward, (None, 0, 0, None))(
        one, batches, mask, KEY
    )
    _, _, replies = steps.server_step_with_reply(two, packets, labels, mask, KEY, STEP)
    for member, count in ((0, 6), (1, 2)):
        alone, _ = steps.client_forward(one, batches[member][:count], None, KEY)
        _, _, reply = steps.server_step_with_reply(
            two, one_packet(alone), labels[member][None, :count], None, KEY, STEP
        )
        np.testing.assert_allclose(
            replies.payload[member][:count], reply.payload[0], atol=1e-6
        )


def test_state_b_normalises_as_told_and_sends_what_evaluation_will_see():
    x, _ = images(8)
    client, server = cnn_parts()
    one, _ = parties_of(client, server, x)
    running = steps_of(client, server).client_refresh(one, x, None, KEY)
    batch = steps_of(client, server, refresh_statistics="batch").client_refresh(
        one, x, None, KEY
    )
    evaluated, _ = client.apply(one.variables, x, mask=None, key=KEY, train=False)
    trained, _ = client.apply(one.variables, x, mask=None, key=KEY, train=True)
    np.testing.assert_allclose(running.payload, evaluated, atol=1e-6)
    np.testing.assert_allclose(batch.payload, trained, atol=1e-5)
    assert not np.allclose(running.payload, batch.payload, atol=1e-2)


def test_stored_rows_as_packets_of_one_are_what_the_packet_was():
    """State C hands the server one-example packets; the step must not notice."""
    x, y = images(8)
    client, server = cnn_parts()
    one, two = parties_of(client, server, x)
    steps = steps_of(client, server, float8(), float8())
    packet = steps.client_refresh(one, x, None, KEY)
    rows = Packet(packet.payload[:, None], jnp.tile(packet.header, (8, 1)))
    whole = steps.server_step(two, one_packet(packet), y[None], None, KEY, STEP)
    apart = steps.server_step(two, rows, y[:, None], None, KEY, STEP)
    chex.assert_trees_all_close(whole, apart, atol=1e-6)


def test_unknown_refresh_statistics_are_refused():
    client, server = dense_parts()
    with pytest.raises(ValueError, match="'running' or 'batch', got 'none'"):
        steps_of(client, server, refresh_statistics="none")


def test_server_whose_rows_are_all_padding_keeps_everything():
    x, y = images(8)
    client, server = cnn_parts()
    one, two = parties_of(client, server, x)
    steps = steps_of(client, server)
    packet = steps.client_refresh(one, x, None, KEY)
    batch = (one_packet(packet), y[None], jnp.zeros((1, 8), bool), KEY, STEP)
    # Momentum, which would move the parameters without any gradient.
    two = two.replace(opt_state=jax.tree.map(jnp.ones_like, two.opt_state))
    for moved in (
        steps.server_step(two, *batch)[0],
        steps.server_step_with_reply(two, *batch)[0],
    ):
        chex.assert_trees_all_equal(moved, two)


def test_padded_rows_do_not_sway_the_codec_in_evaluation():
    x, _ = images(8)
    client, server = cnn_parts()
    one, two = parties_of(client, server, x)
    steps = steps_of(client, server, float8(), float8())
    garbage = x.copy()
    garbage[5:] = 1e8
    outputs = steps.predict(one, two, garbage, jnp.arange(8) < 5)
    np.testing.assert_allclose(
        outputs[:5], steps.predict(one, two, x[:5]), atol=1e-5, rtol=1e-4
    )
