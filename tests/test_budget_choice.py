"""The budget gate as it is chosen: what may cross, how it is said, what is refused."""

import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.accounting.byte_counts import bytes_from, bytes_text
from jsplit.accounting.ledger import Ledger
from jsplit.core.epoch_costs import wire_costs
from jsplit.core.gate_choice import RunFacts
from jsplit.core.gates import BudgetGate
from jsplit.errors import InputError
from jsplit.experiment.run_facts import facts_of
from jsplit.testing import TINY_RUN
from tests.test_budget_gate import COSTS, EPOCHS, FALLING, epochs_of


def facts(views=2, local_epochs=0, **changes):
    costs = dataclasses.replace(COSTS, views=views, local_epochs=local_epochs)
    return RunFacts(10, 60, False, costs)._replace(**changes)


def test_the_costs_of_a_run_s_facts_are_of_its_views_and_its_epochs_alone():
    """A gate of another package makes its costs of these, also over a network."""
    config = dataclasses.replace(TINY_RUN, views="plain,mirrored", local_epochs=3)
    found = facts_of(config, 10, COSTS)
    assert (found.views, found.local_epochs) == (2, 3)
    assert wire_costs(found.costs) == wire_costs(
        dataclasses.replace(COSTS, views=2, local_epochs=3)
    )


def run_choice(choice, losses, run):
    gate = choice.make_for(run)
    return epochs_of(gate, losses, run.views, run.local_epochs)[0]


def test_a_reduction_as_that_of_a_schedule_buys_that_schedule():
    run = facts(epochs=EPOCHS)
    states = "AAABB" + "C" * (EPOCHS - 5)
    ledger = Ledger.of(COSTS, states)
    reduction = ledger.communication_reduction
    assert run_choice(BudgetGate(reduction=reduction), FALLING, run) == states
    finer = BudgetGate(reduction=np.nextafter(reduction, 1e9))
    assert run_choice(finer, FALLING, run) == "AABB" + "C" * (EPOCHS - 4)
    for budget, syncs in ((ledger.wire_bytes, 3), (ledger.wire_bytes - 1, 2)):
        choice = BudgetGate(budget=f"{budget}B")
        assert run_choice(choice, FALLING, run).count("A") == syncs


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("local_epochs", [0, 3])
def test_a_budget_that_does_not_fill_the_store_is_refused_with_the_least_that_does(
    views, local_epochs
):
    run = facts(views=views, local_epochs=local_epochs)
    with pytest.raises(InputError) as raised:
        BudgetGate(budget="0.1kB").make_for(run)
    least = wire_costs(
        dataclasses.replace(COSTS, views=views, local_epochs=local_epochs)
    ).least
    fills = "epoch of B that fills" if views == 1 else "2 epochs of B that fill"
    said = f"--budget 0.1kB does not pay for the {fills} the store once, which send"
    assert said in str(raised.value)
    assert f"give at least --budget {least}," in str(raised.value)
    BudgetGate(budget=str(least)).make_for(run)
    with pytest.raises(InputError, match=f"give at least --budget {least},"):
        BudgetGate(budget=str(least - 1)).make_for(run)
    with pytest.raises(InputError) as raised:
        BudgetGate(reduction=1e9).make_for(run)
    most = float(re.search(r"give at most --reduction ([\d.]+)", str(raised.value))[1])
    assert most == 480 / views
    BudgetGate(reduction=most).make_for(run)
    with pytest.raises(InputError, match="give at most"):
        BudgetGate(reduction=np.nextafter(most, 1e9)).make_for(run)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (BudgetGate(), "--gate budget needs what may cross"),
        (BudgetGate(5.0, "1MB"), "--budget 1MB and --reduction 5 both say"),
        (BudgetGate(budget="all"), "--budget must be like 150MB or 1.5GiB, got 'all'"),
        (BudgetGate(0.5), "--reduction must be 1 or more, got 0.5"),
        (BudgetGate(budget="0MB"), "--budget must be like 150MB or 1.5GiB, got '0MB'"),
    ],
)
def test_flags_that_contradict_or_say_nothing_are_refused(choice, words):
    assert words in choice.fault()
    with pytest.raises(InputError, match=re.escape(words)):
        choice.make_for(facts())


def test_bytes_that_are_the_same_are_one_setting():
    one, other = (BudgetGate(budget=text) for text in ("0.15 GB", "150mb"))
    assert one.canonical() == other.canonical() == BudgetGate(budget="150MB")
    assert one.canonical().label() == "budget 150MB" and one.kind() == "budget"
    tuned = BudgetGate(200.0, min_fall=0.1, patience=5)
    assert tuned.label() == "budget /200, min fall 0.1, stall epochs 5"
    assert tuned.kind() == "budget, min fall 0.1, stall epochs 5"


@given(st.integers(1, 10**20))
def test_counts_of_bytes_are_written_and_read_exactly(count):
    assert bytes_from(bytes_text(count)) == count


def test_without_its_run_it_cannot_be_made():
    with pytest.raises(ValueError, match="make it by make_for"):
        BudgetGate(200.0).make(10)


def test_the_reduction_asked_for_is_reached_to_the_last_digit():
    for reduction in (3.7, 7.5, 33.333):
        states = run_choice(BudgetGate(reduction=reduction), FALLING, facts(epochs=16))
        reached = Ledger.of(COSTS, states)
        assert Fraction(reached.communication_reduction) >= Fraction(reduction)
