"""The epoch scan: what each state does and sends, and what does not matter."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jsplit import data
from jsplit.codecs import float8
from jsplit.core.gate import freeze_gate, loss_gate, periodic_gate
from jsplit.core.model_part import from_flax
from jsplit.core.schedule import plan_epoch
from jsplit.core.topology import PARALLEL, SEQUENTIAL
from jsplit.core.transform import Transform
from tests.nets import OPTIMIZER, dense_parts, images, normed_parts
from tests.simulations import (
    LR,
    TRAIN,
    loops_of_an_epoch,
    names_called_in,
    simulate,
    states_of,
)


def test_state_a_with_the_identity_codec_is_plain_unsplit_training():
    """Whole epochs, same batches: to 1e-6, since XLA fuses the two otherwise."""
    simulation = simulate()
    state, _, _ = simulation.run([LR] * 3)

    def mean_loss(params, x, y):
        hidden = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"][None])
        logits = hidden @ params[1]["kernel"] + params[1]["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    sides = (simulation.state.client, simulation.state.server)
    params = tuple(side.variables["params"]["Dense_0"] for side in sides)
    opt_state = OPTIMIZER.init(params)
    for epoch in range(3):
        key = jax.random.fold_in(simulation.key, epoch)
        plan = plan_epoch(key, simulation.shards, simulation.layout)
        order = np.asarray(plan.rows).reshape(3, 20)
        for rows in order:
            gradients = jax.grad(mean_loss)(params, TRAIN[0][rows], TRAIN[1][rows])
            updates, opt_state = OPTIMIZER.update(gradients, opt_state, params)
            params = jax.tree.map(lambda p, u: p + LR * u, params, updates)
    ends = tuple(
        side.variables["params"]["Dense_0"] for side in (state.client, state.server)
    )
    chex.assert_trees_all_close(ends, params, atol=1e-6, rtol=1e-5)


def test_a_huge_threshold_gives_a_b_c_c_and_zero_gives_a_for_ever():
    huge = simulate(gate=loss_gate(1e9, initial_loss=1.0))
    state, record, ledger = huge.run([LR] * 5)
    assert states_of(record) == ledger.states == "ABCCC"
    zero = loss_gate(0.0, initial_loss=1.0).init()
    again = dataclasses.replace(huge.state, gate=zero)
    _, record, _ = huge._replace(state=again).run([LR] * 5)
    assert states_of(record) == "AAAAA"


def test_state_b_leaves_the_client_untouched_and_state_c_the_store_as_well():
    simulation = simulate(normed_parts(), gate=freeze_gate(1))
    ends = [simulation.state]
    for epochs in (1, 2, 3):
        ends.append(simulation.run([LR] * epochs)[0])
    start, a, b, c = ends
    chex.assert_trees_all_equal(b.client, a.client)
    chex.assert_trees_all_equal(c.client, a.client)
    chex.assert_trees_all_equal(c.store, b.store)
    for before, after in ((start, a), (a, b), (b, c)):
        old, new = (jax.tree.leaves(s.server.variables) for s in (before, after))
        assert not all(np.array_equal(o, n) for o, n in zip(old, new, strict=True))
    assert not np.array_equal(
        a.store.examples.packets.payload, b.store.examples.packets.payload
    )


def test_state_c_still_lowers_the_training_loss():
    simulation = simulate(gate=freeze_gate(1))
    _, record, _ = simulation.run([LR] * 12)
    assert states_of(record) == "AB" + 10 * "C"
    losses = np.asarray(record.train.loss)
    assert losses[-1] < 0.8 * losses[2]


def test_trace_shows_that_state_c_calls_no_client_code_and_b_no_gradient():
    simulation = simulate()
    jaxpr = jax.make_jaxpr(simulation.program.run)(
        simulation.state,
        simulation.shards,
        simulation.test,
        simulation.key,
        jnp.ones(1),
        jnp.ones(1, bool),
    )
    called = [names_called_in(loop) for loop in loops_of_an_epoch(jaxpr.jaxpr)]
    clients = {"client_forward", "client_refresh", "client_backward"}
    assert called[0] & clients == {"client_forward", "client_backward"}
    assert "server_step_with_reply" in called[0]
    assert called[1] & clients == {"client_refresh"}
    servers = {"server_step", "server_step_with_reply", "offline_step"}
    assert called[1] & servers == {"server_step"}
    assert not called[2] & clients
    assert called[2] & servers == {"offline_step"}


def test_another_threshold_seed_or_learning_rate_compiles_nothing_anew():
    traced = []

    def loss(outputs, labels):
        traced.append(1)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)

    simulation = simulate(loss=loss, gate=loss_gate(0.1, initial_loss=1.0))
    simulation.run([LR] * 2)
    first = len(traced)
    for threshold, seed, rate in ((0.5, 1, 0.1), (3.0, 2, 0.01)):
        gate = loss_gate(threshold, initial_loss=2.0, warmup=1).init()
        state = dataclasses.replace(simulation.state, gate=gate)
        simulation._replace(state=state, key=jax.random.key(seed)).run([rate] * 2)
    assert len(traced) == first > 0


def test_another_period_compiles_nothing_anew():
    simulation = simulate(gate=periodic_gate(2))
    _, record, _ = simulation.run([LR] * 6)
    assert states_of(record) == "ABABAB"
    size = simulation.program.run._cache_size()
    state = dataclasses.replace(simulation.state, gate=periodic_gate(3).init())
    _, record, _ = simulation._replace(state=state).run([LR] * 6)
    assert states_of(record) == "ABCABC"
    assert simulation.program.run._cache_size() == size == 1


def test_chunks_of_1_3_or_all_epochs_give_the_same_states_and_parameters():
    """States exactly; parameters to 1e-6, since another scan length is recompiled."""
    simulation = simulate(gate=loss_gate(0.15, initial_loss=math.log(3)))
    epochs = 7
    ends = []
    for chunk in (1, 3, epochs):
        state = jax.tree.map(jnp.copy, simulation.state)
        states = ""
        for first in range(0, epochs, chunk):
            active = jnp.arange(first, first + chunk) < epochs
            state, record = simulation.program.run(
                state,
                simulation.shards,
                simulation.test,
                simulation.key,
                jnp.full(chunk, LR),
                active,
            )
            states += states_of(record)[: int(active.sum())]
        ends.append((states, state))
    assert ends[0][0] == ends[1][0] == ends[2][0]
    assert set(ends[0][0]) >= {"A", "B"}
    for _, state in ends:
        assert int(state.epoch) == epochs
        chex.assert_trees_all_close(state, ends[0][1], atol=1e-6, rtol=1e-5)


def test_store_holds_codes_and_the_header_of_each_examples_packet():
    simulation = simulate(gate=freeze_gate(1), codec=float8())
    state, _, _ = simulation.run([LR] * 2)
    payload, header = state.store.examples.packets
    assert payload.dtype == header.dtype == jnp.uint8
    key = jax.random.fold_in(simulation.key, 1)
    order = plan_epoch(key, simulation.shards, simulation.layout).rows
    labels = TRAIN[1][np.asarray(order)].reshape(state.store.examples.labels.shape)
    np.testing.assert_array_equal(state.store.examples.labels, labels)
    for number in range(3):
        rows = slice(20 * number, 20 * number + 20)
        packet = simulation.steps.client_refresh(
            state.client, TRAIN[0][np.asarray(order)[0, 0, rows]], None, key
        )
        np.testing.assert_array_equal(payload[0, 0, 0, number], packet.payload)
        for row in header[0, 0, 0, number]:
            np.testing.assert_array_equal(row, packet.header)


@pytest.mark.parametrize("topology", [PARALLEL, SEQUENTIAL])
def test_the_store_is_8_bit_and_never_copied_whole(topology):
    count, width = 4096, 1024
    train = np.ones((count, 5), np.float32), np.zeros(count, np.int32)
    simulation = simulate(
        parts=(from_flax(nn.Dense(width)), from_flax(nn.Dense(3))),
        train=train,
        test=(train[0][:8], train[1][:8]),
        codec=float8("e4m3"),
        shares=np.split(np.arange(count), 2),
        topology=topology,
        batch_size=32,
    )
    store = simulation.state.store.examples.packets.payload
    assert store.dtype == jnp.uint8 and store.nbytes == count * width
    compiled = simulation.program.run.lower(
        simulation.state,
        simulation.shards,
        simulation.test,
        simulation.key,
        jnp.ones(3),
        jnp.ones(3, bool),
    ).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < store.nbytes / 2


def test_augmented_runs_are_repeatable_and_seeds_differ():
    train, test = images(40), images(20, 1)
    raw = (np.clip(train[0] * 40 + 100, 0, 255).astype(np.uint8), train[1])
    raw_test = (np.clip(test[0] * 40 + 100, 0, 255).astype(np.uint8), test[1])
    transform = Transform(
        lambda key, x: data.preprocess(
            data.augment(key, x, padding=1, flip=True), (0.4,), (0.2,)
        ),
        lambda x: data.preprocess(x, (0.4,), (0.2,)),
    )
    runs = [
        simulate(normed_parts(), raw, raw_test, transform=transform, seed=seed)
        for seed in (0, 0, 1)
    ]
    ends = [run.run([LR])[0].client for run in runs]
    chex.assert_trees_all_equal(ends[0], ends[1])
    leaf = jax.tree.leaves(ends[0].variables["params"])[0]
    assert not np.array_equal(leaf, jax.tree.leaves(ends[2].variables["params"])[0])


@pytest.mark.parametrize("augmented", [False, True])
def test_state_b_transforms_as_a_does_unless_told_otherwise(augmented):
    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("by", nn.initializers.ones, ())

    def train(key, raw):
        return raw + 100

    views = () if augmented else (lambda key, raw: raw,)
    transform = Transform(train, lambda raw: raw, views)
    parts = (from_flax(Scale()), dense_parts()[1])
    simulation = simulate(parts, gate=freeze_gate(1), transform=transform)
    state, record, _ = simulation.run([1e-4, 1e-4])
    assert states_of(record) == "AB"
    sent = TRAIN[0] + 100 * augmented
    expected = state.client.variables["params"]["by"] * sent
    stored = state.store.examples.packets.payload.reshape(sent.shape)
    # Shuffled; a column alone tells which example is which.
    order, place = (np.argsort(x[:, 0]) for x in (expected, stored))
    np.testing.assert_allclose(stored[place], expected[order], rtol=1e-5)


def test_outputs_stay_finite_with_a_codec_whatever_the_activations():
    """Tiny and huge inputs pass the wire as finite numbers, as float8 promises."""
    scaled = (TRAIN[0] * np.float32(1e30), TRAIN[1])
    simulation = simulate(train=scaled, codec=float8())
    packet, _ = simulation.steps.client_forward(
        simulation.state.client, scaled[0][:20], None, simulation.key
    )
    assert np.isfinite(float8().decode(packet)).all()


def test_labels_and_smashed_data_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="labels must be integers from 0"):
        simulate(train=(TRAIN[0], TRAIN[1].astype(np.float32)))
    with pytest.raises(ValueError, match="labels must be integers from 0"):
        simulate(train=(TRAIN[0], TRAIN[1] - 1))

    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x).astype(jnp.bfloat16)

    with pytest.raises(ValueError, match="one float32 array at the cut"):
        simulate((from_flax(Half()), dense_parts()[1]))
