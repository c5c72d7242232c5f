"""Several views of each example in the store, each from an epoch of B of its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit import make_simulation
from jsplit.codecs import identity
from jsplit.core import schedule, store
from jsplit.core.gate import freeze_gate, periodic_gate
from jsplit.core.gate_phases import view_of, with_views
from jsplit.core.topology import PARALLEL, SEQUENTIAL, make_layout
from jsplit.core.transform import Transform
from jsplit.data import VIEWS, views_of
from jsplit.errors import InputError
from jsplit.typing import STATES
from tests.nets import OPTIMIZER, blobs, dense_parts

SCALES = (1.0, 0.5, 2.0)
"""By which the views of these tests multiply an example."""


def scaled(scale):
    return lambda key, raw: raw * scale


TRANSFORM = Transform(
    scaled(7.0), lambda raw: raw, views=tuple(scaled(scale) for scale in SCALES)
)


def simulation(views=3, gate=None, **changes):
    transform = TRANSFORM._replace(views=TRANSFORM.views[:views])
    given = {"gate": gate or freeze_gate(1), "transform": transform, "batch_size": 16}
    return make_simulation(
        *dense_parts(),
        blobs(50),
        blobs(30, seed=1),
        optimizer=OPTIMIZER,
        codec=identity(),
        grad_codec=identity(),
        **(given | changes),
    )


def states_of(gate, epochs):
    now, states = gate.init(), ""
    for _ in range(epochs):
        states += STATES[int(now.state)]
        now = gate.update(now, jnp.float32(0.5))
    return states


@pytest.mark.parametrize(
    ("gate", "views", "states"),
    [
        (freeze_gate(2), 1, "AABCCCCC"),
        (freeze_gate(2), 3, "AABBBCCC"),
        (freeze_gate(0), 2, "BBCCCCCC"),
        (periodic_gate(5), 2, "ABBCCABB"),
        (periodic_gate(3), 4, "ABBABBAB"),
    ],
)
def test_there_are_as_many_epochs_of_b_as_views(gate, views, states):
    assert states_of(with_views(gate, views), len(states)) == states


def test_the_view_of_an_epoch_counts_its_bs_since_the_last_a():
    states = "AABBCABBBC"
    assert [view_of(states, n, 2) for n in (2, 3, 6, 7, 8)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("topology", [PARALLEL, SEQUENTIAL])
def test_each_view_holds_what_its_epoch_of_b_sent(topology):
    shares = [np.arange(20), np.arange(20, 50)]
    made = simulation(gate=freeze_gate(0), shares=shares, topology=topology)
    state, _, ledger = made.run(np.full(4, 0.05))
    assert ledger.states == "BBBC"
    stored, layout, client = state.store.examples, made.layout, dense_parts()[0]
    assert (np.asarray(state.store.refreshed) == 3).all()
    for view, scale in enumerate(SCALES):
        for group, member in np.ndindex(layout.groups, layout.members):
            rows = np.asarray(made.shards.rows[group, member])
            count = int(made.shards.counts[group, member])
            at = (view, group, member)
            positions = np.asarray(stored.positions[at]).reshape(-1)
            assert sorted(positions) == list(range(layout.slots))
            filled = positions < count
            examples = rows[positions[filled]]
            sent = np.asarray(stored.packets.payload[at]).reshape(len(positions), -1)
            part = made.state.client.variables["params"]
            raw = np.asarray(made.shards.examples)[examples] * scale
            expected, _ = client.apply(
                {"params": part}, raw, mask=None, key=None, train=False
            )
            np.testing.assert_allclose(sent[filled], expected, rtol=1e-4, atol=1e-5)
            labels = np.asarray(stored.labels[at]).reshape(-1)[filled]
            np.testing.assert_array_equal(
                labels, np.asarray(made.shards.labels)[examples]
            )


def test_an_epoch_of_c_learns_each_example_once_from_any_of_its_views():
    made = simulation(gate=freeze_gate(0))
    state, _, _ = made.run(np.full(3, 0.05))
    key = schedule.epoch_key(made.key, 3)
    filled = (jnp.arange(made.layout.slots) < 50)[None, None]
    plan = schedule.plan_offline(key, filled, made.layout, padded=True)
    drawn = store.with_views(state.store, key, plan, made.layout)
    real = np.asarray(plan.mask[..., 0])
    taken = store.take(state.store.examples, drawn.slots[real], drawn.views[real])
    assert sorted(taken.positions.tolist()) == list(range(50))
    first = store.take(state.store.examples, plan.slots[real])
    np.testing.assert_array_equal(taken.positions, first.positions)
    np.testing.assert_array_equal(taken.labels, first.labels)
    assert set(np.asarray(drawn.views[real]).tolist()) == {0, 1, 2}


def test_one_view_is_the_run_that_it_was():
    """With one view nothing is drawn, and the gate is not wrapped."""
    one = simulation(views=1).run(np.full(4, 0.05))
    alone = Transform(scaled(7.0), lambda raw: raw, (scaled(1.0),))
    other = simulation(transform=alone).run(np.full(4, 0.05))
    chex.assert_trees_all_equal(one[0], other[0])
    gate = freeze_gate(2)
    assert with_views(gate, 1) is gate


def test_a_b_after_an_a_begins_the_views_anew():
    made = simulation(gate=periodic_gate(3))
    state, _, ledger = made.run(np.full(5, 0.05))
    assert ledger.states == "ABBAB"
    assert state.store.refreshed.tolist() == [[1]]
    layout = make_layout([50], PARALLEL, 16)
    key = schedule.epoch_key(made.key, 9)
    plan = schedule.plan_offline(key, jnp.ones((1, 1, 64), bool), layout, padded=True)
    drawn = store.with_views(state.store, key, plan, layout)
    assert not np.asarray(drawn.views).any()


def test_every_view_is_counted():
    _, _, one = simulation(views=1).run(np.full(6, 0.05))
    _, _, three = simulation(views=3).run(np.full(6, 0.05))
    assert (one.states, three.states) == ("ABCCCC", "ABBBCC")
    a, b = three.costs.grad_payload_bits, three.costs.payload_bits
    assert three.paper_bits - one.paper_bits == 2 * 50 * b
    assert three.paper_bits == 50 * (4 * b + a)
    payload = simulation(views=3).state.store.examples.packets.payload
    assert (
        payload.nbytes
        == 3 * simulation(views=1).state.store.examples.packets.payload.nbytes
    )


def test_views_of_images_are_what_their_names_say():
    images = np.random.default_rng(0).integers(1, 255, (40, 8, 8, 3), dtype=np.uint8)
    key = jax.random.key(0)
    seen = {
        name: np.asarray(view(key, jnp.asarray(images), 1))
        for name, view in VIEWS.items()
    }
    np.testing.assert_array_equal(seen["plain"], images)
    np.testing.assert_array_equal(seen["mirrored"], images[:, :, ::-1])
    moves = [(down, right) for down in (0, 1, 2) for right in (0, 1, 2)]
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])

    def crops(number, turned):
        for down, right in moves:
            crop = padded[number, down : down + 8, right : right + 8]
            yield crop[:, ::-1] if turned else crop

    def is_one_of(found, number, turned):
        return any(np.array_equal(found, crop) for crop in crops(number, turned))

    cropped = [is_one_of(found, n, False) for n, found in enumerate(seen["cropped"])]
    assert all(cropped)
    turned = [is_one_of(found, n, True) for n, found in enumerate(seen["augmented"])]
    kept = [is_one_of(found, n, False) for n, found in enumerate(seen["augmented"])]
    assert all(np.asarray(turned) | kept) and 5 < sum(turned) < 35


@pytest.mark.parametrize(
    "names",
    ["", "plain,", "turned", "plain;mirrored", "plain,plain", "augmented," * 65],
)
def test_views_that_are_none_are_refused(names):
    with pytest.raises(InputError, match="--views"):
        views_of(names)
