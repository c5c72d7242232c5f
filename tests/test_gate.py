"""Gates against a reference written in plain Python, straight from the paper."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.core.gate import (
    REFERENCES,
    always_gate,
    freeze_gate,
    loss_gate,
    periodic_gate,
)
from jsplit.core.gate_phases import after_local, with_views

EPOCHS = 12
CLOSED = {"A": "B", "B": "C", "C": "C"}
FROM_ANY = ("decision", "previous")
VARIANTS = [(rule, ref) for rule in ("abs", "drop") for ref in FROM_ANY]
ALL_VARIANTS = [*VARIANTS, ("abs", "same-state"), ("drop", "same-state")]

# Multiples of 1/8: differences are exact, so that ties with the threshold are tried.
eighths = st.integers(-24, 24).map(lambda n: n / 8)
any_loss = st.one_of(eighths, st.sampled_from([math.nan, math.inf, -math.inf]))
loss_sequences = st.lists(any_loss, min_size=EPOCHS, max_size=EPOCHS)
any_numbers = given(
    losses=loss_sequences,
    threshold=st.integers(0, 16).map(lambda n: n / 8),
    initial_loss=eighths,
    warmup=st.integers(0, EPOCHS + 2),
)


def reference_states(losses, threshold, initial_loss, rule, reference, warmup):
    """States of the first epochs and of the one after, by the paper's table."""
    states, compared = ["A"], initial_loss
    for epoch, loss in enumerate(losses, start=1):
        moved = compared - loss
        wide = (abs(moved) if rule == "abs" else moved) >= threshold
        opens = epoch < warmup or (math.isfinite(loss) and wide)
        if math.isfinite(loss) and (opens or reference == "previous"):
            compared = loss
        states.append("A" if opens else CLOSED[states[-1]])
    return "".join(states)


def same_state_states(losses, threshold, initial_loss, rule, warmup):
    """Likewise where A is compared with A, and C with the first C since B."""
    states, of_a, of_c = ["A"], initial_loss, None
    for epoch, loss in enumerate(losses, start=1):
        ran, finite = states[-1], math.isfinite(loss)
        compared = {"A": of_a, "B": None, "C": of_c}[ran]
        opens = epoch < warmup
        if finite and compared is not None:
            moved = compared - loss
            opens |= (abs(moved) if rule == "abs" else moved) >= threshold
        if ran == "A" and opens and finite:
            of_a = loss
        elif ran == "B":
            of_c = None
        elif ran == "C" and of_c is None and finite:
            of_c = loss
        states.append("A" if opens else CLOSED[ran])
    return "".join(states)


@functools.cache
def compiled(make, **names):
    """All epochs as one jitted scan; the gate's numbers ride in the state."""
    gate = make(**names)

    def epoch(state, loss):
        state = gate.update(state, loss)
        return state, state.state

    return jax.jit(lambda state, losses: jax.lax.scan(epoch, state, losses)[1])


def states_of(gate, run, losses):
    start = gate.init()
    states = run(start, jnp.asarray(losses, jnp.float32))
    return "".join("ABC"[state] for state in [int(start.state), *np.asarray(states)])


any_loss_gate = functools.partial(loss_gate, 0.0, initial_loss=0.0)


def loss_states(losses, threshold, initial_loss, rule, reference, warmup):
    names = {"rule": rule, "reference": reference}
    gate = loss_gate(threshold, initial_loss=initial_loss, warmup=warmup, **names)
    return states_of(gate, compiled(any_loss_gate, **names), losses)


@pytest.mark.parametrize(("rule", "reference"), VARIANTS)
@any_numbers
def test_any_losses_give_the_states_of_the_papers_table(
    rule, reference, losses, threshold, initial_loss, warmup
):
    args = (losses, threshold, initial_loss, rule, reference, warmup)
    assert loss_states(*args) == reference_states(*args)


@pytest.mark.parametrize("rule", ["abs", "drop"])
@any_numbers
def test_same_state_compares_a_with_a_and_c_with_the_first_c_since_b(
    rule, losses, threshold, initial_loss, warmup
):
    numbers = (losses, threshold, initial_loss)
    states = loss_states(*numbers, rule, "same-state", warmup)
    assert states == same_state_states(*numbers, rule, warmup)


def test_same_state_takes_images_that_b_does_not_augment_for_no_progress():
    """A loses 1.0 and B, C, without augmentation, 0.5: nothing moves but that."""
    losses = [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    args = (losses, 0.25, 2.3)
    assert (
        loss_states(*args, "abs", "same-state", 0) == "AABCCCABCCCCC"
    )  # C opens at 0.25
    assert loss_states(*args, "abs", "decision", 0) == "AABABCAAABCCC"


@pytest.mark.parametrize("reference", REFERENCES)
@given(losses=st.lists(eighths, min_size=EPOCHS, max_size=EPOCHS))
def test_threshold_zero_is_always_a(reference, losses):
    args = (losses, 0.0, 0.0, "abs", reference, 0)
    assert loss_states(*args) == "A" * (EPOCHS + 1)


@given(losses=loss_sequences, huge=st.sampled_from([1e3, 1e38]))
def test_a_huge_threshold_trains_the_client_once_and_refreshes_once(losses, huge):
    for rule, reference in ALL_VARIANTS:
        states = loss_states(losses, huge, 2.3, rule, reference, 0)
        assert states == "AB" + "C" * (EPOCHS - 1)


@given(losses=st.lists(eighths, min_size=EPOCHS, max_size=EPOCHS))
def test_only_a_falling_loss_opens_the_drop_rule(losses):
    rising = sorted(losses)
    states = loss_states(rising, 0.125, min(rising), "drop", "decision", 0)
    assert states == "AB" + "C" * (EPOCHS - 1)


@given(warmup=st.integers(0, EPOCHS))
def test_the_warmup_epochs_run_in_a_whatever_the_loss(warmup):
    states = loss_states([2.0] * EPOCHS, 1.0, 2.0, "abs", "decision", warmup)
    first = max(warmup, 1)
    assert states == ("A" * first + "B" + "C" * EPOCHS)[: EPOCHS + 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("rule", "reference"), ALL_VARIANTS)
def test_a_loss_that_is_not_finite_never_opens_the_gate(rule, reference, bad):
    losses = [bad] * EPOCHS
    states = loss_states(losses, 0.0, 2.0, rule, reference, 0)
    assert states == "AB" + "C" * (EPOCHS - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(("rule", "reference"), VARIANTS)
def test_a_loss_that_is_not_finite_is_not_compared_with_later(
    rule, reference, warmup, bad
):
    losses = [bad] * 4 + [1.0] * (EPOCHS - 4)
    states = loss_states(losses, 0.5, 2.0, rule, reference, warmup)
    # Epochs 0 to 3 lose `bad`; epoch 4 loses 1.0, far from the 2.0 of before.
    assert states[4:7] == "CAB"


@given(losses=loss_sequences, period=st.integers(1, EPOCHS + 2))
def test_the_periodic_gate_opens_every_period_whatever_the_loss(losses, period):
    gate, run = periodic_gate(period), compiled(periodic_gate, period=1)
    cycle = ("AB" + "C" * period)[:period]
    assert states_of(gate, run, losses) == (cycle * (EPOCHS + 1))[: EPOCHS + 1]


@given(losses=loss_sequences, length=st.integers(0, EPOCHS + 2))
def test_the_freezing_gate_closes_once_and_for_ever(losses, length):
    gate, run = freeze_gate(length), compiled(freeze_gate, sync_epochs=1)
    expected = "A" * length + "B" + "C" * EPOCHS
    assert states_of(gate, run, losses) == expected[: EPOCHS + 1]


@given(losses=loss_sequences)
def test_the_always_gate_is_always_a(losses):
    gate = always_gate()
    assert states_of(gate, compiled(always_gate), losses) == "A" * (EPOCHS + 1)


@pytest.mark.parametrize(
    "gates",
    [
        [
            loss_gate(threshold, initial_loss=loss, warmup=warmup)
            for threshold, loss, warmup in [(0, 1, 0), (0.5, 2.3, 3), (1e9, 0.1, 7)]
        ],
        [periodic_gate(period) for period in (1, 2, 50)],
        [freeze_gate(epochs) for epochs in (1, 2, 50)],
    ],
    ids=["loss", "periodic", "freeze"],
)
def test_another_number_is_no_new_trace(gates):
    chex.clear_trace_counter()  # it takes closures of one name for one function
    update = jax.jit(chex.assert_max_traces(gates[0].update, n=1))
    for gate in gates:
        state = gate.init()
        for loss in (2.0, 1.0, math.nan):
            state = update(state, jnp.asarray(loss, jnp.float32))


@pytest.mark.parametrize(
    "gate",
    [
        *(
            loss_gate(1, initial_loss=2, rule=rule, reference=reference, warmup=1)
            for rule, reference in ALL_VARIANTS
        ),
        periodic_gate(3),
        freeze_gate(3),
        always_gate(),
    ],
    ids=[*map("-".join, ALL_VARIANTS), "periodic", "freeze", "always"],
)
def test_an_update_changes_no_dtype(gate):
    before = jax.eval_shape(gate.init)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    after = jax.eval_shape(gate.update, before, loss)
    chex.assert_trees_all_equal_structs(before, after)
    assert after == before
    assert after.state == jax.ShapeDtypeStruct((), jnp.int32)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((before, after)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loss_gate(-0.1, initial_loss=1), "threshold must be"),
        (lambda: loss_gate(math.nan, initial_loss=1), "threshold must be"),
        (lambda: loss_gate(math.inf, initial_loss=1), "threshold must be"),
        (lambda: loss_gate(1, initial_loss=math.nan), "initial_loss must be"),
        (lambda: loss_gate(1, initial_loss=math.inf), "initial_loss must be"),
        (lambda: loss_gate(1, initial_loss=1, rule="rel"), "rule must be"),
        (lambda: loss_gate(1, initial_loss=1, reference="best"), "reference must be"),
        (lambda: loss_gate(1, initial_loss=1, warmup=-1), "warmup must be"),
        (lambda: periodic_gate(0), "period must be"),
        (lambda: freeze_gate(-1), "sync_epochs must be"),
        (lambda: loss_gate(1, initial_loss=1, warmup=2.5), "warmup must be a whole"),
        (lambda: periodic_gate(2.5), "period must be a whole number, got 2.5"),
        (lambda: freeze_gate(1.5), "sync_epochs must be a whole number, got 1.5"),
        (lambda: with_views(freeze_gate(1), 1.5), "views must be a whole number"),
        (lambda: after_local(freeze_gate(1), 1.5), "epochs must be a whole number"),
    ],
)
def test_an_argument_out_of_range_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
