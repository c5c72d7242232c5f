"""The budget gate: what it may spend, and what it spends it on."""

import dataclasses
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.core.budget import REASONS, budget_gate
from jsplit.core.epoch_costs import EpochCosts, payload_costs, wire_costs
from jsplit.core.gate_phases import after_local, with_views
from jsplit.core.wide import whole
from jsplit.typing import STATES

EPOCHS = 16
COSTS = CostModel(
    sizes=(400,),
    batch=100,
    sequential=False,
    values=8,
    payload_bits=64,
    grad_payload_bits=64,
    header_bytes=12,
    grad_header_bytes=12,
    label_bytes=1,
    labels_header_bytes=9,
    part_bytes=900,
    part_header_bytes=10,
    plan_bytes=20,
    kept_bytes=9,
    forward_macs=100,
    sync_macs=300,
    head_bytes=50,
    local_macs=310,
)
UNITS = EpochCosts(0, 2, 1, 2, 1, 2, 1)
"""A costs twice what B does."""

FALLING = [1.8 * 0.8**epoch for epoch in range(EPOCHS)]
FLAT = [2.0] * EPOCHS
RISING = [2 * 1.1**epoch for epoch in range(EPOCHS)]

eighths = st.integers(1, 24).map(lambda n: n / 8)
any_loss = st.one_of(eighths, st.sampled_from([math.nan, math.inf, -math.inf, -1.0]))
any_losses = st.lists(any_loss, min_size=EPOCHS, max_size=EPOCHS)
# Such as ask for A again and again, and such as do so now and then.
mostly_falling = st.lists(
    st.sampled_from([0.5, 0.5, 0.5, 1.0]), min_size=EPOCHS, max_size=EPOCHS
).map(lambda factors: list(2 * np.cumprod(factors)))
loss_sequences = st.one_of(any_losses, mostly_falling)


@functools.cache
def compiled(views=1, alone=False):
    """All epochs as one jitted scan; the gate's numbers ride in the state."""
    gate = around(budget_gate(8, UNITS, initial_loss=2.3), views, int(alone))

    def epoch(state, loss):
        return gate.update(state, loss), (state.state, gate.report(state))

    return jax.jit(lambda state, losses: jax.lax.scan(epoch, state, losses)[1])


def around(gate, views, local_epochs):
    return after_local(with_views(gate, views), local_epochs)


def epochs_of(gate, losses, views=1, local_epochs=0):
    """States, reasons and what is left, of an epoch for each loss."""
    start = around(gate, views, local_epochs).init()
    run = compiled(views, local_epochs > 0)
    states, reports = run(start, jnp.asarray(losses, jnp.float32))
    reasons = [REASONS[reason] for reason in np.asarray(reports.reason)]
    left = [whole(left) for left in np.asarray(reports.left)]
    return "".join(STATES[state] for state in np.asarray(states)), reasons, left


def states_of(losses, budget, costs=UNITS, **how):
    names = ("views", "local_epochs")
    phases = {name: how.pop(name) for name in names if name in how}
    how = {"initial_loss": 2.3, **how}
    return epochs_of(budget_gate(budget, costs, **how), losses, **phases)[0]


# Guarantees

every_run = given(
    losses=loss_sequences,
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    sequential=st.booleans(),
    views=st.integers(1, 3),
    local_epochs=st.integers(0, 2),
    share=st.floats(0, 1),
    learned_alone=st.booleans(),
    known_filters=st.booleans(),
    new_views=st.booleans(),
    min_fall=st.sampled_from([0.0, 0.05, 0.5]),
    patience=st.integers(1, 3),
)


def run_of(sizes, sequential, views, local_epochs, share, paper=False):
    """Costs of such a run and a budget, from the least one to that of all A."""
    costs = dataclasses.replace(
        COSTS,
        sizes=tuple(sizes),
        sequential=sequential and len(sizes) > 1,
        payload_bits=8 * 10**9,
        grad_payload_bits=8 * 10**9,
        views=views,
        local_epochs=local_epochs,
    )
    if paper:
        epochs, most = payload_costs(costs), "A" * EPOCHS
        most = Ledger.of(costs, most).paper_bits
    else:
        epochs = wire_costs(costs)
        most = Ledger.of(costs, "L" * local_epochs + "A" * EPOCHS).wire_bytes
    least = epochs.least
    return costs, epochs, least + int(share * max(most - least, 0))


@pytest.mark.parametrize("paper", [False, True])
@every_run
def test_what_a_run_sends_never_exceeds_the_budget_whatever_the_losses(
    paper, losses, sizes, sequential, views, local_epochs, share, **how
):
    kind = (sizes, sequential, views, local_epochs, share, paper)
    costs, epochs, budget = run_of(*kind)
    gate = budget_gate(budget, epochs, initial_loss=2.3, **how)
    states, _, left = epochs_of(gate, losses, views, local_epochs)
    ledger = Ledger.of(costs, states)
    sent = ledger.paper_bits if paper else ledger.wire_bytes
    assert sent <= budget
    # What is left is exact where nothing is set aside any more.
    if states[-1] == "C":
        assert sent + left[-1] == budget


@every_run
def test_the_first_epoch_sends_and_c_comes_when_the_store_is_full(
    losses, sizes, sequential, views, local_epochs, share, **how
):
    _, epochs, budget = run_of(sizes, sequential, views, local_epochs, share)
    phases = {"views": views, "local_epochs": local_epochs}
    states = states_of(losses, budget, epochs, **phases, **how)
    assert states[:local_epochs] == "L" * local_epochs
    sent = states[local_epochs:]
    ready = how["learned_alone"] or how["known_filters"]
    assert sent[0] in ("B" if ready else "AB")
    # A round comes at the start, after A, or after C, and is whole before C.
    assert re.fullmatch(f"(A*{'B' * views}C+)*A*B{{0,{views}}}", sent)


@given(losses=loss_sequences)
def test_states_and_reasons_are_a_function_of_the_losses_alone(losses):
    gate = budget_gate(9, UNITS, initial_loss=2.3, new_views=True)
    whole_run, (states, reasons, left) = epochs_of(gate, losses), ("", [], [])
    state = gate.init()
    for loss in losses:
        report = gate.report(state)
        states += STATES[int(state.state)]
        reasons.append(REASONS[int(report.reason)])
        left.append(whole(report.left))
        state = gate.update(state, jnp.float32(loss))
    assert whole_run == (states, reasons, left)


# What it does


@pytest.mark.parametrize(
    ("losses", "states"),
    [
        (FALLING, "AAABBCCCCCCCCCCC"),
        (FLAT, "ABBCCCCABBCCCCCC"),
        (RISING, "ABBCCCCABBCCCCCC"),
    ],
    ids=["falling", "flat", "rising"],
)
def test_what_three_a_and_two_views_cost_is_spent_by_the_loss(losses, states):
    """The table of docs/guides/gates.md."""
    costs = payload_costs(dataclasses.replace(COSTS, views=2))
    budget = Ledger.of(COSTS, "AAABB").paper_bits
    assert states_of(losses, budget, costs, views=2, initial_loss=2.0) == states


def test_a_falling_loss_spends_all_but_a_round_on_a():
    for budget in range(1, 2 * EPOCHS):
        syncs = (budget - 1) // 2
        states = "A" * syncs + "B" + "C" * EPOCHS
        assert states_of(FALLING, budget) == states[:EPOCHS]


def test_a_stall_buys_a_with_a_round_and_then_new_views_alone():
    losses = [1.5, 1.5, *[0.9] * (EPOCHS - 2)]
    how = {"patience": 2, "initial_loss": 1.5}
    assert states_of(losses, 6, **how) == "ABCCCABCCCCCCCCC"
    # Two of what is left pay for B: if it sends something new.
    assert states_of(losses, 6, new_views=False, **how).count("B") == 2
    assert states_of(losses, 7, new_views=True, **how) == "ABCCCABCCCBCCCCC"


def test_after_learning_alone_it_begins_with_views_and_a_follows_a_stall():
    how = {"views": 2, "local_epochs": 2, "learned_alone": True, "patience": 1}
    how |= {"initial_loss": 2.0}
    costs = EpochCosts(0, 2, 2, 2, 2, 2, 2)
    assert states_of(FLAT, 8, costs, **how) == "LLBBCCABBCCCCCCC"
    assert states_of(FALLING, 8, costs, **how) == "LLBB" + "C" * (EPOCHS - 4)
    assert states_of(FLAT, 2, costs, **how) == "LLBB" + "C" * (EPOCHS - 4)


def test_known_filters_begin_with_views_and_a_follows_a_stall():
    how = {"views": 2, "known_filters": True, "patience": 1, "initial_loss": 2.0}
    costs = EpochCosts(0, 2, 2, 2, 2, 2, 2)
    assert states_of(FLAT, 8, costs, **how) == "BBCCABBCCCCCCCCC"
    assert states_of(FALLING, 8, costs, **how) == "BB" + "C" * (EPOCHS - 2)
    assert states_of(FALLING, 2, costs, **how) == "BB" + "C" * (EPOCHS - 2)
    gate = budget_gate(8, costs, initial_loss=2.0, known_filters=True)
    assert epochs_of(gate, FLAT)[1][0] == "the client's filters are known beforehand"


def test_every_epoch_says_why_it_has_its_state():
    gate = budget_gate(7, UNITS, initial_loss=2.0, new_views=True, patience=2)
    losses = [1.0, 1.0, 0.5, *[0.5] * (EPOCHS - 3)]
    states, reasons, left = epochs_of(gate, losses)
    assert list(zip(states[:13], reasons, left, strict=False)) == [
        ("A", "nothing was learned yet", 4),
        ("A", "the loss of A still falls", 2),
        ("B", "the loss of A no longer falls", 2),
        ("C", "the store is full", 2),
        ("C", "the loss of C has not stalled", 2),
        ("C", "the loss of C has not stalled", 2),
        ("B", "the loss of C has stalled and the budget pays for new views alone", 1),
        ("C", "the store is full", 1),
        ("C", "the loss of C has not stalled", 1),
        ("C", "the loss of C has not stalled", 1),
        ("B", "the loss of C has stalled and the budget pays for new views alone", 0),
        ("C", "the store is full", 0),
        ("C", "the loss of C has not stalled", 0),
    ]
    why = "the loss of C has stalled and the budget pays for nothing more"
    assert reasons[14] == why
    two = epochs_of(budget_gate(1, UNITS, initial_loss=2), FLAT, 2, 1)
    assert two[0].startswith("LBBC")
    assert two[1][:4] == [
        "the clients learn alone first",
        "the budget pays for no A",
        "the store takes a further view",
        "the store is full",
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_buys_nothing(bad):
    assert states_of([bad] * EPOCHS, 32, new_views=True) == "AB" + "C" * (EPOCHS - 2)


# What it costs


def test_costs_are_those_of_the_ledger_wherever_an_epoch_comes():
    states = "LLAABBCCABBCBBC"
    for sizes, sequential in [((400,), False), ((3, 9), False), ((3, 9, 5), True)]:
        costs = dataclasses.replace(
            COSTS, sizes=sizes, sequential=sequential, views=2, local_epochs=2
        )
        of = wire_costs(costs)
        named = of.before, of.first_sync, of.sync, of.round
        later = of.later_sync, of.round, of.later_round
        assert sum(named) + sum(later) == Ledger.of(costs, states).wire_bytes
        first = Ledger.of(costs, "LLBB").wire_bytes
        assert of.least == first
        paper = payload_costs(costs)
        count = 2 * paper.sync + paper.round + paper.later_sync + 2 * paper.round
        assert count == Ledger.of(costs, states).paper_bits


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    sequential=st.booleans(),
    losses=loss_sequences,
    views=st.integers(1, 2),
    draws=st.randoms(use_true_random=False),
)
def test_epochs_that_go_on_without_a_client_never_send_more_than_was_paid_for(
    sizes, sequential, losses, views, draws
):
    costs = dataclasses.replace(
        COSTS, sizes=tuple(sizes), sequential=sequential, views=views, local_epochs=1
    )
    of = wire_costs(costs)
    budget = of.least + 3 * of.later_sync + 3 * of.round
    states = states_of(losses, budget, of, views=views, local_epochs=1, patience=1)
    whole_run, ledger = Ledger(costs), Ledger(costs)
    for state in states:
        whole_run.add(state)
        gone = draws.sample(range(len(sizes)), draws.randrange(len(sizes)))
        ledger.add(state, gone if state != "C" else ())
        assert ledger.wire_bytes <= whole_run.wire_bytes <= budget


# Its numbers


def test_more_than_sixty_bits_still_never_overdraws():
    huge = EpochCosts(0, 2**62, 5, 2**62, 5, 2**62, 5)
    assert states_of(FALLING, 2**61, huge) == "B" + "C" * (EPOCHS - 1)
    assert states_of(FALLING, 2**63, huge).count("A") == 1
    assert states_of(FALLING, 2**90, UNITS) == "A" * EPOCHS


def test_another_budget_is_no_new_trace():
    gates = [
        budget_gate(budget, costs, initial_loss=loss, **how)
        for budget, costs, loss, how in [
            (9, UNITS, 2.3, {}),
            (1, UNITS, 0.1, {"learned_alone": True, "patience": 9}),
            (2**50, wire_costs(COSTS), 1.0, {"new_views": True, "min_fall": 0}),
        ]
    ]
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(gates[0].update, n=1))
    for gate in gates:
        state = gate.init()
        for loss in (2.0, 1.0, math.nan):
            state = update(state, jnp.asarray(loss, jnp.float32))


@pytest.mark.parametrize("views", [1, 2])
def test_an_update_changes_no_dtype(views):
    gate = around(budget_gate(9, UNITS, initial_loss=2.3), views, 1)
    before = jax.eval_shape(gate.init)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    after = jax.eval_shape(gate.update, before, loss)
    chex.assert_trees_all_equal_structs(before, after)
    assert after == before
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((before, after)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"budget": 0}, "budget must be at least 1"),
        ({"initial_loss": math.nan}, "initial_loss must be"),
        ({"min_fall": 1.0}, "min_fall must be"),
        ({"min_fall": -0.1}, "min_fall must be"),
        ({"patience": 0}, "patience must be"),
        ({"allowed_losses": [1.0, math.nan]}, "allowed_losses must be"),
    ],
)
def test_an_argument_out_of_range_is_named(how, message):
    with pytest.raises(ValueError, match=message):
        budget_gate(**{"budget": 9, "costs": UNITS, "initial_loss": 2.3, **how})
