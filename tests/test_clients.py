"""How several clients share an epoch: who holds what, in which order, and averages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jsplit.codecs import float8
from jsplit.core.gate import freeze_gate
from jsplit.core.model_part import from_flax
from jsplit.core.schedule import plan_epoch
from jsplit.core.topology import PARALLEL, SEQUENTIAL
from tests.nets import dense_parts
from tests.simulations import LR, TRAIN, by_hand, deal, simulate, states_of


@pytest.mark.parametrize("topology", [PARALLEL, SEQUENTIAL], ids=lambda t: t.name)
def test_one_client_in_any_topology_equals_no_topology_at_all(topology):
    """The scan against the bare steps: the same floats up to XLA's fusing, 1e-6."""
    simulation = simulate(topology=topology, codec=float8(), grad_codec=float8())
    state, _, _ = simulation.run([LR] * 3)
    client, server = by_hand(simulation, 3)
    chex.assert_trees_all_close(
        (state.client, state.server), (client, server), atol=1e-6
    )


def test_one_client_parallel_equals_one_client_sequential_to_the_bit():
    ends = [
        simulate(topology=topology).run([LR] * 3)[0]
        for topology in (PARALLEL, SEQUENTIAL)
    ]
    chex.assert_trees_all_equal(*ends)


@pytest.mark.parametrize("topology", [PARALLEL, SEQUENTIAL], ids=lambda t: t.name)
@pytest.mark.parametrize("sizes", [(5, 5), (7, 1, 3), (1, 1, 9), (11,)], ids=str)
def test_each_epoch_of_each_state_uses_every_example_exactly_once(topology, sizes):
    """Labels are powers of two in the loss: its sum is exact only if none repeats."""
    count = sum(sizes)
    examples, labels = TRAIN[0][:count], np.arange(count, dtype=np.int32)

    def powers(outputs, labels):
        weight = jnp.exp2(labels.astype(jnp.float32))
        return weight + 0.0 * outputs.sum(axis=-1)

    simulation = simulate(
        dense_parts(count),
        (examples, labels),
        (examples, labels),
        shares=deal(sizes),
        topology=topology,
        batch_size=4,
        gate=freeze_gate(1),
        loss=powers,
    )
    _, record, _ = simulation.run([0.0] * 4)
    assert states_of(record) == "ABCC"
    np.testing.assert_array_equal(record.train.loss, [2.0**count - 1] * 4)
    np.testing.assert_array_equal(record.train.examples, [count] * 4)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    topology=st.sampled_from([PARALLEL, SEQUENTIAL]),
    batch=st.integers(1, 16),
)
def test_epoch_order_is_a_permutation_of_each_clients_shard(sizes, topology, batch):
    from jsplit.core.shards import make_shards
    from jsplit.core.topology import make_layout

    shares = deal(sizes)
    layout = make_layout(sizes, topology, batch)
    examples = np.zeros((sum(sizes), 1), np.float32)
    shards = make_shards(examples, np.zeros(sum(sizes)), shares, layout)
    orders = [
        np.asarray(plan_epoch(jax.random.key(seed), shards, layout).rows)
        for seed in (0, 1)
    ]
    for order in orders:
        rows = order.reshape(len(sizes), -1)
        for share, row in zip(shares, rows, strict=True):
            assert sorted(row[: len(share)]) == list(share)
    if max(sizes) > 8:
        assert not np.array_equal(*orders)


def test_parallel_clients_average_their_parts_weighted_by_examples():
    """One step of two clients with 4 and 2 examples, against each on its own."""
    both = simulate(shares=deal((4, 2)), batch_size=8)
    state, _, _ = both.run([LR])
    alone = []
    for share in deal((4, 2)):
        one = simulate(train=(TRAIN[0][share], TRAIN[1][share]), batch_size=8)
        # The server that both saw, and each client's gradient of its own mean loss.
        alone.append(one.run([LR])[0].client)
    expected = jax.tree.map(lambda a, b: (4 * a + 2 * b) / 6, *alone)
    chex.assert_trees_all_close(state.client, expected, atol=1e-6)


def test_sequential_clients_are_one_client_that_visits_the_shards_in_turn():
    """With the codec's packets and the order per shard the same, so is the result."""
    shares = deal((20, 20, 20))
    turns = simulate(shares=shares, topology=SEQUENTIAL)
    state, _, _ = turns.run([LR])
    client, server = turns.state.client, turns.state.server
    key = jax.random.fold_in(turns.key, 0)
    orders = np.asarray(plan_epoch(key, turns.shards, turns.layout).rows)
    for number, rows in enumerate(orders[:, 0]):
        packet, residual = turns.steps.client_forward(
            client, TRAIN[0][rows], None, turns.key
        )
        packets = jax.tree.map(lambda leaf: leaf[None], packet)
        server_key = jax.random.fold_in(jax.random.fold_in(key, 1), number)
        server, _, replies = turns.steps.server_step_with_reply(
            server, packets, TRAIN[1][rows][None], None, server_key, jnp.float32(LR)
        )
        reply = jax.tree.map(lambda leaf: leaf[0], replies)
        client = turns.steps.client_backward(
            client, residual, reply, None, jnp.float32(LR)
        )
    chex.assert_trees_all_close(
        (state.client, state.server), (client, server), atol=1e-6
    )


def test_shares_and_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many labels as examples"):
        simulate(train=(TRAIN[0], TRAIN[1][:-1]))
    with pytest.raises(ValueError, match="shares needs a client"):
        simulate(shares=[])
    with pytest.raises(ValueError, match="twice"):
        simulate(shares=[np.arange(5), np.arange(4, 9)])
    with pytest.raises(ValueError, match="from 0 to 59"):
        simulate(shares=[np.arange(5), np.asarray([60])])


def test_a_module_with_statistics_and_no_mask_is_refused_where_batches_are_padded():
    class Unmasked(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))

    parts = (from_flax(Unmasked()), dense_parts()[1])
    with pytest.raises(ValueError, match="must take the keyword `mask`"):
        simulate(parts, batch_size=7)
    assert simulate(parts, batch_size=20).layout.steps == 3


def test_uneven_sequential_clients_are_one_client_that_visits_the_shards():
    """The steps that a small client sits out move nothing, on either side."""
    shares = deal((40, 10))
    turns = simulate(shares=shares, topology=SEQUENTIAL, batch_size=10)
    assert turns.layout.steps == 4
    state, _, _ = turns.run([LR])
    client, server = turns.state.client, turns.state.server
    key = jax.random.fold_in(turns.key, 0)
    orders = np.asarray(plan_epoch(key, turns.shards, turns.layout).rows)
    for share, order in zip(shares, orders[:, 0], strict=True):
        for rows in order[: len(share)].reshape(-1, 10):
            packet, residual = turns.steps.client_forward(
                client, TRAIN[0][rows], None, key
            )
            packets = jax.tree.map(lambda leaf: leaf[None], packet)
            server, _, replies = turns.steps.server_step_with_reply(
                server, packets, TRAIN[1][rows][None], None, key, jnp.float32(LR)
            )
            reply = jax.tree.map(lambda leaf: leaf[0], replies)
            client = turns.steps.client_backward(
                client, residual, reply, None, jnp.float32(LR)
            )
    ends = (state.client, state.server)
    chex.assert_trees_all_close(ends, (client, server), atol=1e-6)
