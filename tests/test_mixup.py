"""Mixup of what the server stored: in C alone, and of real examples alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit import loss_gate, make_simulation
from jsplit.codecs import identity
from jsplit.core.gate import freeze_gate
from jsplit.core.metrics import cross_entropy
from jsplit.core.mixup import mixup
from jsplit.core.replay import AS_RECEIVED
from jsplit.core.state import init_side
from jsplit.core.steps import make_steps
from jsplit.errors import InputError
from tests.nets import OPTIMIZER, blobs, dense_parts

SHAPE = (16, 4, 6, 3)


def images(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@given(
    rows=st.sampled_from([1, 2, 5, 12]).flatmap(
        lambda count: st.lists(st.booleans(), min_size=count, max_size=count)
    ),
    seed=st.integers(0, 1000),
    alpha=st.sampled_from([0.2, 1.0, 8.0]),
)
def test_a_mixture_is_of_two_real_rows_by_their_shares(rows, seed, alpha):
    rows = np.asarray(rows)
    x = images(seed, (len(rows), 5))
    made, mixture = mixup(alpha).apply(jax.random.key(seed), x, jnp.asarray(rows))
    itself, partner = np.asarray(mixture.sources).T
    share, rest = np.asarray(mixture.shares).T
    np.testing.assert_array_equal(itself, np.arange(len(rows)))
    np.testing.assert_allclose(share + rest, 1)
    assert share.dtype == np.float32 and (0.5 <= share).all() and (share <= 1).all()
    weight = share[:, None]
    expected = weight * x + (1 - weight) * np.asarray(x)[partner]
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)
    real = np.flatnonzero(rows)
    assert sorted(partner[real]) == list(real)  # each one is a partner once
    if len(real) > 1:
        assert (partner[real] != real).all()
    padding = np.flatnonzero(~rows)
    np.testing.assert_array_equal(partner[padding], padding)


def test_shares_are_drawn_from_beta():
    x = images(shape=(4000, 1))
    for alpha, expected in ((1.0, 0.75), (0.2, 0.899)):
        _, mixture = mixup(alpha).apply(jax.random.key(3), x, None)
        # Of the larger of two shares; for ALPHA 0.2 by 4 million draws of NumPy.
        np.testing.assert_allclose(mixture.shares[:, 0].mean(), expected, atol=0.01)


@pytest.mark.parametrize("alpha", [-0.5, np.nan, np.inf, 1e-40, 1e30])
def test_a_mixup_out_of_range_is_named(alpha):
    with pytest.raises(InputError, match="mixup must be 0 .* or from 0.001 to 1000"):
        mixup(alpha)


def steps_of(replay, received_replay=AS_RECEIVED):
    client, server = dense_parts()
    steps = make_steps(
        client,
        server,
        client_optimizer=OPTIMIZER,
        server_optimizer=OPTIMIZER,
        codec=identity(),
        grad_codec=identity(),
        replay=replay,
        received_replay=received_replay,
    )
    smashed = images(1, (6, 8))
    party = init_side(server, OPTIMIZER, jax.random.key(0), smashed)
    packets = jax.vmap(identity().encode)(smashed[:, None])
    labels = jnp.asarray([[0], [1], [2], [0], [1], [2]], jnp.int32)
    return server, steps, party, packets, labels, smashed


def test_the_step_of_c_learns_the_mixture_and_that_of_b_does_not():
    server, steps, party, packets, labels, smashed = steps_of(mixup(1.0))
    mask = jnp.asarray([[True]] * 5 + [[False]])
    key, step_size = jax.random.key(5), jnp.float32(0.1)
    given_ = (party, packets, labels, mask, key, step_size)
    trained, metrics = steps.offline_step(*given_)

    mix_key = jax.random.fold_in(key, 2**31 - 1)
    made, mixture = mixup(1.0).apply(mix_key, smashed, mask[:, 0])
    partner, share = mixture.sources[:, 1], mixture.shares[:, 0]

    def mean_loss(params):
        outputs, _ = server.apply(
            {"params": params}, made, mask=None, key=key, train=True
        )
        own = cross_entropy(outputs, labels[:, 0])
        other = cross_entropy(outputs, labels[partner, 0])
        return jnp.mean((share * own + (1 - share) * other)[:5])

    loss, gradient = jax.value_and_grad(mean_loss)(party.variables["params"])
    np.testing.assert_allclose(float(metrics.loss) / 5, loss, rtol=1e-6)
    assert metrics.examples == 5
    updates, _ = OPTIMIZER.update(gradient, party.opt_state, party.variables["params"])
    expected = jax.tree.map(
        lambda value, update: value + step_size * update,
        party.variables["params"],
        updates,
    )
    chex.assert_trees_all_close(trained.variables["params"], expected, atol=1e-6)

    usual = steps_of(AS_RECEIVED)[1]
    chex.assert_trees_all_equal(steps.server_step(*given_), usual.server_step(*given_))
    chex.assert_trees_all_equal(usual.offline_step(*given_), usual.server_step(*given_))


def test_the_step_of_b_learns_the_mixture_where_it_is_asked_to():
    _, steps, party, packets, labels, _ = steps_of(mixup(1.0), mixup(1.0))
    given_ = (party, packets, labels, None, jax.random.key(5), jnp.float32(0.1))
    chex.assert_trees_all_equal(steps.server_step(*given_), steps.offline_step(*given_))


def test_the_gradient_that_goes_back_in_a_is_that_of_what_came():
    server, steps, party, packets, labels, smashed = steps_of(AS_RECEIVED, mixup(1.0))
    key = jax.random.key(5)
    given_ = (party, packets, labels, None, key, jnp.float32(0.1))
    trained, _, replies = steps.server_step_with_reply(*given_)
    chex.assert_trees_all_close(trained, steps.server_step(*given_)[0], atol=1e-6)

    def mean_loss(smashed):
        mix_key = jax.random.fold_in(key, 2**31 - 1)
        made, mixture = mixup(1.0).apply(mix_key, smashed, None)
        outputs, _ = server.apply(party.variables, made, mask=None, key=key, train=True)
        own, others = mixture.shares.T
        lost = own * cross_entropy(outputs, labels[:, 0])
        return jnp.mean(
            lost + others * cross_entropy(outputs, labels[mixture.sources[:, 1], 0])
        )

    # Each of the six clients gets the gradient of its own mean loss, not of all.
    expected = 6 * jax.grad(mean_loss)(smashed)
    np.testing.assert_allclose(replies.payload[:, 0], expected, rtol=1e-4, atol=1e-7)


def simulation(replay, gate=None):
    return make_simulation(
        *dense_parts(),
        blobs(90),
        blobs(30, seed=1),
        gate=gate or freeze_gate(2),
        optimizer=OPTIMIZER,
        batch_size=16,
        replay=replay,
    )


def test_only_epochs_of_c_see_what_is_mixed():
    sizes = np.full(6, 0.05)
    _, plain, ledger = simulation(AS_RECEIVED).run(sizes)
    _, other, same = simulation(mixup(1.0)).run(sizes)
    assert ledger.states == same.states == "AABCCC"
    first = jax.tree.map(lambda leaf: leaf[:3], (plain, other))
    chex.assert_trees_all_equal(*first)
    assert (np.asarray(plain.train.loss[3:]) < np.asarray(other.train.loss[3:])).all()
    assert ledger.wire == same.wire


def test_the_loss_gate_runs_with_references_of_the_same_state():
    gate = loss_gate(0.3, initial_loss=np.log(3), reference="same-state")
    _, _, ledger = simulation(mixup(1.0), gate).run(np.full(8, 0.05))
    assert ledger.states.startswith("A") and "BC" in ledger.states
