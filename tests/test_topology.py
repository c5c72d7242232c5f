import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.accounting.cost_model import packets_of
from jsplit.core.schedule import plan_client, rows_of_batch
from jsplit.core.topology import (
    PARALLEL,
    PROPORTIONAL,
    SEQUENTIAL,
    TOPOLOGIES,
    average,
    make_layout,
    spread,
)

sizes_ = st.lists(st.integers(1, 400), min_size=1, max_size=12)
batches = st.integers(1, 300)
topologies = st.sampled_from([PARALLEL, SEQUENTIAL])

average_jit = jax.jit(average)


def test_parallel_is_one_group_of_all_and_sequential_a_group_for_each():
    for clients in (1, 2, 7):
        assert PARALLEL.arrange(clients) == (1, clients)
        assert SEQUENTIAL.arrange(clients) == (clients, 1)
        assert PROPORTIONAL.arrange(clients) == (1, clients)
    assert list(TOPOLOGIES) == ["parallel", "sequential", "proportional"]
    assert all(topology.name == name for name, topology in TOPOLOGIES.items())


@given(sizes=sizes_, topology=topologies, batch_size=batches)
def test_every_example_has_a_place_and_no_step_is_idle(sizes, topology, batch_size):
    layout = make_layout(sizes, topology, batch_size)
    assert layout.groups * layout.members == len(sizes)
    assert layout.examples == sum(sizes)
    assert layout.slots >= max(sizes)
    assert layout.slots - layout.batch < max(sizes)
    offline = layout.offline_steps * layout.offline_batch
    assert offline >= sum(sizes)
    assert offline - layout.offline_batch < sum(sizes)


@given(sizes=sizes_, topology=topologies, batch_size=batches)
def test_the_members_share_the_batch_equally(sizes, topology, batch_size):
    layout = make_layout(sizes, topology, batch_size)
    whole = layout.batch * layout.members
    if batch_size < layout.members:
        assert layout.batch == 1
    elif layout.batch < max(sizes):
        assert whole <= batch_size < whole + layout.members
    else:
        assert whole <= batch_size


@given(sizes=sizes_, topology=topologies, batch_size=batches)
def test_no_step_is_wider_than_the_largest_client(sizes, topology, batch_size):
    layout = make_layout(sizes, topology, batch_size)
    assert layout.batch <= max(sizes)
    assert layout.offline_batch <= sum(sizes)
    wanted = max(1, batch_size // layout.members) * layout.members
    assert layout.offline_batch == min(wanted, sum(sizes))


@given(sizes=sizes_, topology=topologies, batch_size=batches)
def test_the_layout_says_whether_rows_are_padded(sizes, topology, batch_size):
    layout = make_layout(sizes, topology, batch_size)
    places = layout.groups * layout.members * layout.slots
    assert layout.padded == (places > sum(sizes))
    offline = layout.offline_steps * layout.offline_batch
    assert layout.offline_padded == (offline > sum(sizes))


@given(sizes=sizes_, batch_size=batches)
def test_in_proportion_each_is_spread_over_all_steps_and_a_has_as_many_as_c(
    sizes, batch_size
):
    layout = make_layout(sizes, PROPORTIONAL, batch_size)
    assert layout.dealt_over == layout.steps == layout.offline_steps
    assert layout.padded == (layout.members * layout.slots > sum(sizes))
    rows = np.array(
        [
            [
                rows_of_batch(size, number, layout.batch, layout.dealt_over)
                for number in range(layout.steps)
            ]
            for size in sizes
        ]
    )
    assert rows.max() == layout.batch and (rows.sum(axis=1) == sizes).all()
    # Each gives to a step what is due to it, to within an example.
    assert (abs(rows - np.array(sizes)[:, None] / layout.steps) < 1).all()
    # Batches with examples come first, and the last one is not one of few.
    filled = (rows > 0).sum(axis=1)
    assert filled.tolist() == [
        packets_of(size, layout.batch, layout.dealt_over) for size in sizes
    ]
    assert all(row[:count].all() for row, count in zip(rows, filled, strict=True))


@given(size=st.integers(1, 60), steps=st.integers(1, 20), seed=st.integers(0, 1000))
def test_in_proportion_a_client_takes_each_of_its_examples_once(size, steps, seed):
    batch = -(-size // steps)
    plan = plan_client(jax.random.key(seed), size, steps * batch, steps)
    order, mask = np.asarray(plan.order), np.asarray(plan.mask)
    assert sorted(order[mask].tolist()) == list(range(size))
    assert sorted(order.tolist()) == list(range(steps * batch))
    assert mask.reshape(steps, batch).sum(axis=1).tolist() == [
        rows_of_batch(size, number, batch, steps) for number in range(steps)
    ]


@given(sizes=sizes_, batch_size=batches)
def test_in_proportion_no_client_needs_more_than_is_foreseen_of_the_largest(
    sizes, batch_size
):
    # What a server foresees is of as many clients that hold as much.
    largest = max(sizes)
    foreseen = make_layout([largest] * len(sizes), PROPORTIONAL, batch_size)
    layout = make_layout(sizes, PROPORTIONAL, batch_size)
    assert layout.batch <= min(foreseen.offline_batch, largest)
    assert layout.slots <= largest + foreseen.steps
    assert layout.server_batch <= max(batch_size, len(sizes))


def test_in_proportion_equal_clients_do_what_they_do_in_parallel():
    alike = [
        make_layout([200] * 5, topology, 100) for topology in (PARALLEL, PROPORTIONAL)
    ]
    assert alike[1] == alike[0]._replace(dealt_over=10)
    plans = [
        plan_client(jax.random.key(0), 200, layout.slots, layout.dealt_over)
        for layout in alike
    ]
    chex.assert_trees_all_equal(*plans)


def test_equal_shards_of_whole_batches_are_not_padded():
    layout = make_layout([200] * 5, PARALLEL, 100)
    assert (layout.batch, layout.steps, layout.padded) == (20, 10, False)
    assert (layout.offline_batch, layout.offline_steps) == (100, 10)
    assert not layout.offline_padded
    assert make_layout([200] * 4 + [199], PARALLEL, 100).padded


@pytest.mark.parametrize(
    ("sizes", "batch_size", "message"),
    [
        ([], 8, "every client needs an example"),
        ([5, 0], 8, "every client needs an example"),
        ([5, 5], 0, "batch_size must be at least 1"),
    ],
)
def test_an_impossible_layout_is_refused(sizes, batch_size, message):
    with pytest.raises(ValueError, match=message):
        make_layout(sizes, PARALLEL, batch_size)


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.standard_normal((3, 4, 2)).astype(np.float32),
        "scalar": rng.standard_normal(3).astype(np.float32),
        "half": rng.standard_normal((3, 2)).astype(jnp.bfloat16),
        "count": rng.integers(0, 100, (3, 2), np.int32),
    }


@given(
    seed=st.integers(0, 1000),
    shares=st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
def test_the_average_is_the_weighted_mean(seed, shares):
    weights = np.asarray(shares, np.float32) / np.float32(sum(shares))
    trees = tree(seed)
    averaged = average_jit(trees, jnp.asarray(weights))
    for name, tolerance in (("kernel", 1e-6), ("scalar", 1e-6), ("half", 3e-2)):
        expected = np.average(trees[name].astype(np.float64), axis=0, weights=shares)
        np.testing.assert_allclose(
            averaged[name].astype(jnp.float32), expected, atol=4 * tolerance
        )
        assert averaged[name].dtype == trees[name].dtype


@given(seed=st.integers(0, 1000))
def test_of_counters_the_largest_is_taken(seed):
    trees = tree(seed)
    weights = jnp.asarray([0.9, 0.05, 0.05], jnp.float32)
    count = average_jit(trees, weights)["count"]
    assert count.dtype == jnp.int32
    np.testing.assert_array_equal(count, trees["count"].max(axis=0))


def test_a_single_weight_of_one_gives_back_the_same_bits():
    values = [1.1, -0.0, 3.4e38, -1e-37, np.inf, np.nan, 1 + 2**-23]
    alone = {
        "floats": np.array([values], np.float32),
        "halves": np.array([values], np.float32).astype(jnp.bfloat16),
        "count": np.array([7], np.int32),
    }
    averaged = average_jit(alone, jnp.ones(1, jnp.float32))
    for name, leaf in alone.items():
        assert np.asarray(averaged[name]).tobytes() == leaf[0].tobytes()
        assert averaged[name].dtype == leaf.dtype


def test_spread_gives_each_member_a_copy():
    one = {"kernel": jnp.arange(6.0).reshape(2, 3), "step": jnp.asarray(4)}
    copies = spread(one, 5)
    chex.assert_tree_shape_prefix(copies, (5,))
    for member in range(5):
        chex.assert_trees_all_equal(jax.tree.map(lambda x, m=member: x[m], copies), one)


def test_the_average_of_copies_is_the_original():
    one = {"kernel": jnp.asarray([0.5, -3.25, 1024.0]), "step": jnp.asarray(4)}
    copies = spread(one, 4)
    averaged = average(copies, jnp.full(4, 0.25))
    chex.assert_trees_all_equal(averaged, one)
