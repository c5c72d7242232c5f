"""The gate: which of the states A, B and C the next epoch runs in.

A gate is a value made of two pure functions, as an optax transformation is. Its
numbers (threshold, period, ...) ride in its state, so changing one never recompiles.
What is chosen of a gate (`jsplit.core.gates`) makes it.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsplit.core.whole_number import whole_number
from jsplit.typing import OFFLINE, REFRESH, SYNC

Rule = Literal["abs", "drop"]
Reference = Literal["decision", "previous", "same-state"]


class GateState(NamedTuple):
    """What a gate carries from epoch to epoch.

    Attributes:
        state: int32 scalar, the state of the epoch about to run (0 A, 1 B, 2 C).
        memory: the gate's own numbers, a tree of small arrays.
    """

    state: jax.Array
    memory: Any


def no_report(gate: GateState) -> Any:
    """What a gate says of an epoch beyond its state: nothing."""
    return ()


class Gate(NamedTuple):
    """A gate as a value.

    Attributes:
        init: `init() -> GateState`. Every gate starts in state A, or in B: nothing is
            stored.
        update: `update(gate_state, mean_loss) -> GateState`, once after each epoch,
            with the server's mean training loss of that epoch (float32 scalar).
            Traceable; its dtypes do not change.
        report: `report(gate_state) -> tree of small arrays`, what the records say of
            the epoch about to run, such as why it has its state. Traceable.
    """

    init: Callable[[], GateState]
    update: Callable[[GateState, Float[Array, ""]], GateState]
    report: Callable[[GateState], Any] = no_report


class _LossMemory(NamedTuple):
    """Beside the gate's arguments, what it goes by.

    Attributes:
        references: `Float32[3]`, what the loss of an epoch of A, B, C is compared with.
        epoch: epochs finished.
    """

    threshold: jax.Array
    references: jax.Array
    warmup: jax.Array
    epoch: jax.Array


class _Clock(NamedTuple):
    length: jax.Array
    epoch: jax.Array


def _int(value: int) -> jax.Array:
    return jnp.asarray(value, jnp.int32)


def _float(value: float) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _closed(state: jax.Array) -> jax.Array:
    """The next state where the gate stays shut: A -> B, B -> C, C -> C."""
    return jax.lax.cond(state == SYNC, lambda: _int(REFRESH), lambda: _int(OFFLINE))


# What becomes the references after an epoch: `(ran, opens, loss, references)`.


def _of_decision(
    ran: jax.Array, opens: jax.Array, loss: jax.Array, references: jax.Array
) -> jax.Array:
    return jnp.where(opens & jnp.isfinite(loss), loss, references)


def _of_previous(
    ran: jax.Array, opens: jax.Array, loss: jax.Array, references: jax.Array
) -> jax.Array:
    return jnp.where(jnp.isfinite(loss), loss, references)


_NO_LOSS = math.inf
"""The reference where there is none; nothing is compared with it."""


def _of_same_state(
    ran: jax.Array, opens: jax.Array, loss: jax.Array, references: jax.Array
) -> jax.Array:
    first = (ran == OFFLINE) & jnp.isinf(references[OFFLINE])
    taken = (((ran == SYNC) & opens) | first) & jnp.isfinite(loss)
    later = references.at[ran].set(jnp.where(taken, loss, references[ran]))
    return later.at[OFFLINE].set(jnp.where(ran == REFRESH, _NO_LOSS, later[OFFLINE]))


_REMEMBER = {
    "decision": _of_decision,
    "previous": _of_previous,
    "same-state": _of_same_state,
}

REFERENCES = tuple(_REMEMBER)
"""What `loss_gate` may compare a loss with."""


def loss_gate(
    threshold: float,
    *,
    initial_loss: float,
    rule: Rule = "abs",
    reference: Reference = "decision",
    warmup: int = 0,
) -> Gate:
    """The paper's gate (arXiv 2107.09786): synchronise while the loss still moves.

    After each epoch `delta = |reference - mean_loss|`. If `delta >= threshold` the
    next state is A and the reference becomes this loss; otherwise A -> B, B -> C,
    C -> C. So one B follows each run of A and refreshes the store.

    Args:
        threshold: in units of the loss, finite and >= 0. With rule `abs`, 0 is
            always A, as long as losses are finite; a huge one gives A, B, C, C, ...
        initial_loss: the reference before the first epoch, finite; for classification
            the loss of a blind guess, `log(classes)`.
        rule: `abs` as above, or `drop`: `delta = reference - mean_loss`, so that only
            a falling loss opens the gate.
        reference: the loss at the last `decision` for A, as in the paper; that of the
            `previous` epoch; or that of an epoch of the `same-state`, for states that
            learn from different images (B from such as are not augmented, C from
            mixtures). Then a loss of A is compared with that of the last A after which
            A was decided; one of C with the first finite one of C since the last B; and
            B's with none. This cannot reopen the gate once the threshold exceeds the
            first loss of C, which can fall by no more than itself (only a loss that
            grew by as much would): from there on it is a freeze gate in disguise.
        warmup: the first so many epochs run in A whatever the loss.

    A loss that is not finite never opens the gate (a warm-up epoch runs in A all the
    same) and never becomes the reference, so that later losses are judged as before.

    Raises:
        ValueError: if an argument is outside what is said above.

    Example:
        >>> from jsplit.typing import STATES
        >>> gate = loss_gate(0.1, initial_loss=1.1)
        >>> state, states = gate.init(), ""
        >>> for loss in (0.8, 0.75, 0.74, 0.73, 0.4):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(loss))
        >>> states, STATES[state.state]
        ('AABCC', 'A')
    """
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"threshold must be finite and at least 0, got {threshold}")
    if not math.isfinite(initial_loss):
        raise ValueError(f"initial_loss must be finite, got {initial_loss}")
    if rule not in ("abs", "drop"):
        raise ValueError(f"rule must be 'abs' or 'drop', got {rule!r}")
    if reference not in _REMEMBER:
        raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
    warmup = whole_number("warmup", warmup, least=0)

    def init() -> GateState:
        references = jnp.full(OFFLINE + 1, initial_loss, jnp.float32)
        if reference == "same-state":
            references = references.at[jnp.array([REFRESH, OFFLINE])].set(_NO_LOSS)
        memory = _LossMemory(_float(threshold), references, _int(warmup), _int(0))
        return GateState(_int(SYNC), memory)

    def update(gate: GateState, mean_loss: Float[Array, ""]) -> GateState:
        memory: _LossMemory = gate.memory
        fall = memory.references[gate.state] - mean_loss
        delta = jnp.abs(fall) if rule == "abs" else fall
        epoch = memory.epoch + 1
        moved = jnp.isfinite(fall) & (delta >= memory.threshold)
        opens = moved | (epoch < memory.warmup)
        state = jax.lax.cond(opens, lambda: _int(SYNC), lambda: _closed(gate.state))
        later = _REMEMBER[reference](gate.state, opens, mean_loss, memory.references)
        return GateState(state, memory._replace(references=later, epoch=epoch))

    return Gate(init, update)


def periodic_gate(period: int) -> Gate:
    """The naive control: A every `period`-th epoch whatever the loss, else B, C, C.

    `period` 1 is always A, 2 is A B A B, 4 is A B C C A B C C.

    Raises:
        ValueError: if `period` is no whole number from 1.

    Example:
        >>> from jsplit.typing import STATES
        >>> gate = periodic_gate(3)
        >>> state, states = gate.init(), ""
        >>> for _ in range(5):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(0.5))
        >>> states
        'ABCAB'
    """
    period = whole_number("period", period, least=1)
    return _clocked(period, lambda clock: clock.epoch % clock.length == 0)


def freeze_gate(sync_epochs: int) -> Gate:
    """The freezing control: A for the first `sync_epochs`, one B, then C for ever.

    With 0 the client's part stays what it began as: random, pre-trained, or what the
    client learned alone.

    Raises:
        ValueError: if `sync_epochs` is no whole number from 0.

    Example:
        >>> from jsplit.typing import STATES
        >>> gate = freeze_gate(2)
        >>> state, states = gate.init(), ""
        >>> for _ in range(5):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(0.5))
        >>> states
        'AABCC'
    """
    sync_epochs = whole_number("sync_epochs", sync_epochs, least=0)
    return _clocked(sync_epochs, lambda clock: clock.epoch < clock.length)


def always_gate() -> Gate:
    """Plain split learning as a value: every epoch in A."""
    return Gate(lambda: GateState(_int(SYNC), ()), lambda gate, mean_loss: gate)


def _clocked(length: int, opens: Callable[[_Clock], jax.Array]) -> Gate:
    """A gate that looks at the epoch's number only."""

    def init() -> GateState:
        clock = _Clock(_int(length), _int(0))
        state = jnp.where(opens(clock), _int(SYNC), _int(REFRESH))
        return GateState(state, clock)

    def update(gate: GateState, mean_loss: Float[Array, ""]) -> GateState:
        del mean_loss
        clock = gate.memory._replace(epoch=gate.memory.epoch + 1)
        state = jax.lax.cond(
            opens(clock), lambda: _int(SYNC), lambda: _closed(gate.state)
        )
        return GateState(state, clock)

    return Gate(init, update)
