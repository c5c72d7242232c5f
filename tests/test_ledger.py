"""The accounts against Python integers worked out by other means."""

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import DIRECTIONS, KINDS, Ledger
from jsplit.experiment.summary import plain_ledger, wire_reduction

HEADLINE = "AB" * 5 + "C" * 190

SMALL = CostModel(
    sizes=(20, 20, 20),
    batch=10,
    sequential=False,
    values=100,
    payload_bits=800,
    grad_payload_bits=800,
    header_bytes=2,
    grad_header_bytes=3,
    label_bytes=1,
    labels_header_bytes=2,
    part_bytes=1_000,
    part_header_bytes=30,
    plan_bytes=5,
    kept_bytes=29,
    forward_macs=7,
    sync_macs=20,
)

# What a gate can give: an A first, and never a C straight after an A.
runs = st.lists(st.sampled_from("ABC"), max_size=12).map(
    lambda tail: "A" + "".join(tail).replace("AC", "AB")
)


def priced(**changes):
    return dataclasses.replace(SMALL, **changes)


def plain(**changes):
    """Float32 both ways."""
    return priced(payload_bits=3200, grad_payload_bits=3200, **changes)


# The paper's account


def test_the_papers_headline_comes_out_exactly():
    ledger = Ledger.of(SMALL, HEADLINE)
    assert ledger.communication_reduction == 4 * 400 / 15
    assert f"{ledger.communication_reduction:.1f}" == "106.7"


def test_all_a_in_float32_is_the_unit():
    assert Ledger.of(plain(), "A" * 17).communication_reduction == 1
    assert Ledger.of(plain(), "A" * 17).client_compute_reduction == 1


@given(states=runs)
def test_the_paper_counts_payload_of_activations_and_gradients_alone(states):
    costs = priced(payload_bits=800, grad_payload_bits=1600)
    ledger = Ledger.of(costs, states)
    bits = sum({"A": 800 + 1600, "B": 800, "C": 0}[state] * 60 for state in states)
    assert ledger.paper_bits == bits
    payloads = ledger.wire["activations"]["up"] + ledger.wire["gradients"]["down"]
    assert 8 * payloads == bits
    reduction = Fraction(len(states) * 2 * 60 * 100 * 32, bits)
    assert ledger.communication_reduction == float(reduction)


@given(states=runs)
def test_clients_compute_forward_in_b_and_both_passes_in_a(states):
    ledger = Ledger.of(SMALL, states)
    macs = sum({"A": 20, "B": 7, "C": 0}[state] * 60 for state in states)
    assert ledger.client_macs == macs
    assert ledger.client_compute_reduction == float(
        Fraction(len(states) * 20 * 60, macs)
    )


def test_a_long_run_on_a_large_set_does_not_overflow():
    # VGG11 at cut 2 on CIFAR-10: 8x8x128 activations, 200 epochs all in A.
    values, examples, epochs = 8 * 8 * 128, 50_000, 200
    macs = 32 * 32 * 27 * 64 + 16 * 16 * 576 * 128
    costs = plain(
        sizes=(examples,),
        values=values,
        forward_macs=macs,
        sync_macs=3 * macs,
    )
    costs = dataclasses.replace(
        costs, payload_bits=32 * values, grad_payload_bits=32 * values
    )
    ledger = Ledger.of(costs, "A" * epochs)
    assert ledger.paper_bits == 5_242_880_000_000
    assert ledger.wire["activations"]["up"] == 327_680_000_000
    assert ledger.client_macs == 3 * macs * 10_000_000 == 619_315_200_000_000
    assert ledger.communication_reduction == 1


# The wire's account


@given(states=runs, sequential=st.booleans(), clients=st.integers(1, 5))
def test_the_whole_is_the_sum_of_its_kinds(states, sequential, clients):
    ledger = Ledger.of(priced(sequential=sequential, sizes=(20,) * clients), states)
    assert tuple(ledger.wire) == KINDS
    assert all(tuple(by) == DIRECTIONS for by in ledger.wire.values())
    kinds = [by[direction] for by in ledger.wire.values() for direction in by]
    assert ledger.wire_bytes == sum(kinds)
    assert ledger.states == states


@given(states=runs, sequential=st.booleans(), clients=st.integers(1, 5))
def test_the_reduction_of_every_byte_is_against_as_many_plain_epochs(
    states, sequential, clients
):
    costs = priced(sequential=sequential, sizes=(20,) * clients)
    ledger = Ledger.of(costs, "L" + states)
    plain = plain_ledger(costs, len(states))
    assert wire_reduction(ledger) == plain.wire_bytes / ledger.wire_bytes


def test_plain_split_learning_is_counted_without_the_heads_of_clients_alone():
    heads = priced(head_bytes=50, local_macs=9)
    assert plain_ledger(heads, 4).wire == plain_ledger(SMALL, 4).wire
    assert Ledger.of(heads, "LAB").wire_bytes > Ledger.of(SMALL, "LAB").wire_bytes
    assert heads.of_states("LA") == heads and heads.of_states("AC") == SMALL


@given(states=runs, sequential=st.booleans())
def test_an_epoch_of_c_adds_nothing_to_any_kind(states, sequential):
    costs = priced(sequential=sequential)
    before, after = Ledger.of(costs, states), Ledger.of(costs, states + "CCC")
    assert after.wire == before.wire
    assert (after.paper_bits, after.client_macs) == (
        before.paper_bits,
        before.client_macs,
    )


@given(runs)
def test_each_kind_follows_from_the_states(states):
    wire = Ledger.of(SMALL, states).wire
    a, b = states.count("A"), states.count("B")
    assert wire["activations"] == {"up": (a + b) * 6000, "down": 0}
    assert wire["gradients"] == {"up": 0, "down": a * 6000}
    assert wire["headers"] == {"up": (a + b) * 12, "down": a * 18}
    assert wire["control"] == {"up": 0, "down": (a + b) * 15}


@given(states=runs)
def test_labels_cross_once(states):
    assert Ledger.of(SMALL, states).wire["labels"] == {"up": 60 + 3 * 2, "down": 0}


def test_labels_cross_with_the_first_epoch_that_needs_them():
    assert Ledger.of(SMALL, "").wire["labels"]["up"] == 0
    assert Ledger.of(SMALL, "CC").wire["labels"]["up"] == 0
    assert Ledger.of(SMALL, "CCB").wire["labels"]["up"] == 66


def parts_moved(epochs, clients, sequential):
    """Parts up and down, by watching which version of the part each client holds."""
    newest, held = 0, [0] * clients
    up = down = 0
    for state, absent in epochs:
        present = [client for client in range(clients) if client not in absent]
        if state == "C":
            continue
        for client in present:
            if held[client] != newest:
                down += 1
                held[client] = newest
            if state == "A" and sequential:
                newest += 1
                held[client] = newest
                up += 1
        if state == "A" and not sequential:
            up += len(present)  # they train side by side and hand theirs in
            newest += 1
            down += len(present)  # the mean is nobody's own part
            for client in present:
                held[client] = newest
    return up, down


@given(states=runs, clients=st.integers(2, 5), sequential=st.booleans())
def test_client_parts_move_only_to_who_lacks_the_newest(states, clients, sequential):
    costs = priced(sizes=(20,) * clients, sequential=sequential)
    up, down = parts_moved([(state, ()) for state in states], clients, sequential)
    wire = Ledger.of(costs, states).wire
    assert wire["client_parts"] == {"up": 1030 * up, "down": 1030 * down}


# Epochs that go on without a client


@st.composite
def disturbed_runs(draw):
    """Sizes, and epochs as (state, absent); the first one has everybody."""
    sizes = draw(st.lists(st.integers(1, 35), min_size=2, max_size=4))
    clients = range(len(sizes))
    some = st.sets(st.sampled_from(clients), max_size=len(sizes) - 1)
    states = draw(runs)
    absent = [set(), *(draw(some) for _ in states[1:])]
    return tuple(sizes), list(zip(states, absent, strict=True))


@given(run=disturbed_runs(), sequential=st.booleans())
def test_who_is_absent_sends_nothing_and_computes_nothing(run, sequential):
    sizes, epochs = run
    costs = priced(sizes=sizes, sequential=sequential)
    ledger = Ledger(costs)
    for state, absent in epochs:
        ledger.add(state, absent)

    def over(price, states="AB"):
        return sum(
            price(size)
            for state, absent in epochs
            for client, size in enumerate(sizes)
            if state in states and client not in absent
        )

    assert ledger.states == "".join(state for state, _ in epochs)
    assert ledger.wire["labels"]["up"] == sum(sizes) + 2 * len(sizes)
    assert ledger.wire["control"] == {"up": 0, "down": over(lambda size: 5)}
    assert ledger.wire["activations"]["up"] == over(lambda size: 100 * size)
    assert ledger.wire["gradients"]["down"] == over(lambda size: 100 * size, "A")
    packets = [over(lambda size: -(-size // 10), states) for states in ("AB", "A")]
    assert ledger.wire["headers"] == {"up": 2 * packets[0], "down": 3 * packets[1]}
    up, down = parts_moved(epochs, len(sizes), sequential)
    assert ledger.wire["client_parts"] == {"up": 1030 * up, "down": 1030 * down}
    bits = over(lambda size: 800 * size) + over(lambda size: 800 * size, "A")
    macs = over(lambda size: 20 * size, "A") + over(lambda size: 7 * size, "B")
    assert (ledger.paper_bits, ledger.client_macs) == (bits, macs)
    # Against plain split learning with everybody.
    plain_bits = len(epochs) * 2 * sum(sizes) * 100 * 32
    assert ledger.communication_reduction == float(Fraction(plain_bits, bits))


@pytest.mark.parametrize("absent", [(0, 1, 2), (3,), (-1,)])
def test_an_epoch_without_anybody_or_without_a_stranger_is_refused(absent):
    ledger = Ledger.of(SMALL, "A")
    before = ledger.wire_bytes
    with pytest.raises(ValueError, match="absent must be some of 3 clients"):
        ledger.add("A", absent)
    assert (ledger.states, ledger.wire_bytes) == ("A", before)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_single_client_never_sends_its_part(sequential):
    costs = priced(sizes=(60,), sequential=sequential)
    wire = Ledger.of(costs, "AABCA").wire
    assert wire["client_parts"] == {"up": 0, "down": 0}
    # It says that it has kept its part after each of three epochs in A.
    assert wire["control"] == {"up": 3 * 29, "down": 4 * 5}


# Errors


@pytest.mark.parametrize("state", ["D", "", "AB", "a"])
def test_a_state_that_is_none_is_refused_and_nothing_is_entered(state):
    ledger = Ledger.of(SMALL, "A")
    before = ledger.wire_bytes
    with pytest.raises(ValueError, match="state must be A, B, C or L"):
        ledger.add(state)
    assert (ledger.states, ledger.wire_bytes) == ("A", before)


def test_a_run_that_has_sent_nothing_has_no_reduction():
    with pytest.raises(ValueError, match="before the first epoch"):
        _ = Ledger(SMALL).communication_reduction
    with pytest.raises(ValueError, match="before the first epoch"):
        _ = Ledger(SMALL).client_compute_reduction


def test_epochs_that_sent_nothing_have_no_reduction_and_that_is_said():
    ledger = Ledger.of(SMALL, "CC")
    with pytest.raises(ValueError, match="nothing was sent in epochs of C alone;"):
        _ = ledger.communication_reduction
    with pytest.raises(ValueError, match="clients computed nothing in epochs of C a"):
        _ = ledger.client_compute_reduction
    assert Ledger.of(SMALL, "ABCC").communication_reduction > 1


def test_clients_that_learned_alone_have_sent_nothing():
    with pytest.raises(ValueError, match="nothing was sent in epochs of L alone;"):
        _ = Ledger.of(SMALL, "LL").communication_reduction


def test_two_ledgers_share_nothing():
    first, second = Ledger(SMALL), Ledger(SMALL)
    first.add("A")
    assert second.wire_bytes == 0
