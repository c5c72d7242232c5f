"""The budget gate by the losses of a plain run: when it spends, and on what."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.accounting.ledger import Ledger
from jsplit.core.budget import budget_gate
from jsplit.core.plain_curve import PlainCurve, read_curve
from jsplit.typing import STATES
from tests.test_budget_gate import (
    EPOCHS,
    FLAT,
    UNITS,
    around,
    eighths,
    epochs_of,
    loss_sequences,
    run_of,
    states_of,
)

allowed_sequences = st.lists(
    st.one_of(eighths, st.sampled_from([0.0, math.inf])), min_size=1, max_size=EPOCHS
)


def lagging(losses, allowed):
    """Of each epoch, as the gate sees it."""
    bounds = [allowed[min(epoch, len(allowed) - 1)] for epoch in range(len(losses))]
    return [
        math.isfinite(loss) and np.float32(loss) > np.float32(bound)
        for loss, bound in zip(losses, bounds, strict=True)
    ]


@given(
    losses=loss_sequences,
    allowed=allowed_sequences.map(lambda found: (found * EPOCHS)[:EPOCHS]),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    views=st.integers(1, 3),
    share=st.one_of(st.none(), st.floats(0, 1)),
    new_views=st.booleans(),
)
def test_by_a_plain_run_it_never_overdraws_and_spends_only_where_it_lags(
    losses, allowed, sizes, views, share, new_views
):
    costs, epochs, budget = run_of(sizes, False, views, 0, share or 0)
    budget = None if share is None else budget
    how = {"allowed_losses": allowed, "new_views": new_views, "initial_loss": 2.3}
    states, reasons, left = epochs_of(
        budget_gate(budget, epochs, **how), losses, views=views
    )
    if budget is not None:
        assert Ledger.of(costs, states).wire_bytes <= budget
    late = lagging(losses, allowed)
    for epoch in range(1, EPOCHS):
        before, now = states[epoch - 1], states[epoch]
        # The round after A is not asked for by a loss, nor are its further views.
        asked = now == "A" or (before == "C" and now == "B")
        assert not asked or late[epoch - 1], (states, epoch)
        if not late[epoch - 1] or before == "B":
            continue
        cost = epochs.sync if before == "A" else epochs.later_sync + epochs.round
        if left[epoch - 1] >= cost:
            assert (
                now == "A" and reasons[epoch] == "the loss lags behind the plain run's"
            )
        elif before == "C" and new_views and left[epoch - 1] >= epochs.later_round:
            assert now == "B" and reasons[epoch].endswith("pays for new views alone")
        else:
            assert now == ("B" if before == "A" else "C")


@pytest.mark.parametrize(
    ("allowed", "states"),
    [
        # Far above all losses, far below, and one that a plateau of losses crosses.
        ([9.0], "ABCCCCCCCCCCCCCC"),
        ([0.0], "AAAAAAAAAAAAAAAA"),
        ([2.5, 2.5, 2.5, 2.5, 1.9, 2.5], "ABCCCABCCCCCCCCC"),
    ],
)
def test_without_a_limit_it_spends_for_as_long_as_it_lags(allowed, states):
    """The table of docs/guides/gates.md."""
    assert states_of(FLAT, None, allowed_losses=allowed) == states


def test_a_limit_beside_a_plain_run_ends_what_is_spent():
    losses, allowed = FLAT, [0.0]
    assert states_of(losses, 5, allowed_losses=allowed) == "AA" + "B" + "C" * 13
    _, reasons, left = epochs_of(
        budget_gate(5, UNITS, initial_loss=2.3, allowed_losses=allowed), losses
    )
    lags = "the loss lags behind the plain run's"
    assert reasons[1:3] == [lags, f"{lags} and the budget pays for no further A"]
    assert reasons[4] == f"{lags} and the budget pays for nothing more"
    assert left[-1] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_never_lags(bad):
    assert states_of([bad] * EPOCHS, None, allowed_losses=[0.0]) == "AB" + "C" * 14


def test_other_allowed_losses_are_no_new_trace_but_falls_of_the_loss_are():
    gates = [
        budget_gate(budget, UNITS, initial_loss=2.3, allowed_losses=allowed)
        for budget, allowed in [(None, [1.0, 0.5]), (9, [math.inf, 2.0]), (9, ())]
    ]
    chex.clear_trace_counter()
    # That of the first for all, as runs of a sweep have it.
    update = jax.jit(chex.assert_max_traces(gates[0].update, n=2))
    due = []
    for gate in gates:
        state = gate.init()
        for loss in (2.2, 2.2):
            state = update(state, jnp.asarray(loss, jnp.float32))
        due.append(STATES[int(state.state)])
    assert due == ["A", "C", "C"]


@pytest.mark.parametrize("views", [1, 2])
def test_an_update_by_a_plain_run_changes_no_dtype(views):
    how = {"initial_loss": 2.3, "allowed_losses": [1.0, 0.5]}
    gate = around(budget_gate(None, UNITS, **how), views, 1)
    before = jax.eval_shape(gate.init)
    after = jax.eval_shape(gate.update, before, jax.ShapeDtypeStruct((), jnp.float32))
    assert after == before
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((before, after)))


# What points of accuracy are in losses

fractions = st.floats(0, 1, width=32)
curves = st.lists(st.tuples(st.floats(0, 9, width=32), fractions), min_size=1).map(
    lambda pairs: PlainCurve("runs/plain", 10, 400, *zip(*pairs, strict=True))
)


@given(curve=curves, points=st.floats(0, 100), more=st.floats(0, 100))
def test_what_is_allowed_is_never_below_the_plain_run_and_grows_with_the_points(
    curve, points, more
):
    few, many = curve.allowed(points), curve.allowed(points + more)
    assert few.shape == (len(curve.losses),) and few.dtype == np.float32
    assert (few >= np.asarray(curve.losses, np.float32)).all()
    # Where a more accurate epoch had the lower loss, as a training has it.
    falls = np.diff([math.log(10), *curve.losses]) <= 0
    if falls.all():
        assert (many >= few - 1e-6).all()


def test_points_are_told_as_the_loss_of_the_plain_run_when_it_had_so_many_less():
    losses, accuracies = (2.0, 1.5, 1.0, 0.5, 0.4), (0.3, 0.5, 0.45, 0.6, 0.6)
    curve = PlainCurve("runs/plain", 10, 400, losses, accuracies)
    # Halfway between 0.5 and 0.6, of epochs 2 and 4: that of 3 was no best.
    expected = [2.0 + (math.log(10) - 2) / 4, 1.625, 1.625, 1.0, 1.0]
    np.testing.assert_allclose(curve.allowed(5), expected, rtol=1e-6)
    np.testing.assert_allclose(curve.allowed(0), [2.0, 1.5, 1.5, 0.5, 0.5])
    np.testing.assert_allclose(curve.allowed(100), [math.log(10)] * 5, rtol=1e-6)


@given(curve=curves)
def test_a_curve_is_read_back_as_the_gate_sees_it(curve):
    read = read_curve(curve.text())
    assert read is not None
    for of in ("losses", "accuracies"):
        found, written = (np.asarray(getattr(each, of)) for each in (read, curve))
        np.testing.assert_array_equal(found.astype(np.float32), written)
    assert read.text() == curve.text()
    assert (read.run, read.classes, read.examples) == ("runs/plain", 10, 400)


@pytest.mark.parametrize("points", [-0.1, math.nan, math.inf])
def test_points_out_of_range_are_named(points):
    with pytest.raises(ValueError, match="points must be finite and at least 0"):
        PlainCurve("runs/plain", 10, 400, (1.0,), (0.5,)).allowed(points)
