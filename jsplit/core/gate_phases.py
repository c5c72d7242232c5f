"""What is put around a gate: more views in B, and a client that learns alone first.

Each makes a gate of a gate, as optax's wrappers make an optimizer of an optimizer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jsplit.core.gate import Gate, GateState
from jsplit.core.whole_number import whole_number
from jsplit.typing import LOCAL, OFFLINE, REFRESH, SYNC


class _Counted(NamedTuple):
    """A gate's memory, and the epochs of B since it last left C or A."""

    inner: Any
    sent: jax.Array


class _Waiting(NamedTuple):
    """A gate's memory, its first state, and the epochs until that is due."""

    inner: Any
    first: jax.Array
    left: jax.Array


def with_views(gate: Gate, views: int) -> Gate:
    """The same gate with so many epochs of B where it has one before C.

    Each sends another view of every example. The gate sees the loss of each of them and
    may open between them, as after any epoch; then the views begin anew.

    Raises:
        ValueError: if `views` is no whole number from 1.

    Example:
        >>> from jsplit.core.gate import freeze_gate
        >>> from jsplit.typing import STATES
        >>> gate = with_views(freeze_gate(1), views=2)
        >>> state, states = gate.init(), ""
        >>> for _ in range(5):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(0.5))
        >>> states
        'ABBCC'
    """
    views = whole_number("views", views, least=1)
    if views == 1:
        return gate

    def init() -> GateState:
        begun = gate.init()
        return GateState(begun.state, _Counted(begun.memory, jnp.int32(0)))

    def update(now: GateState, mean_loss: Float[Array, ""]) -> GateState:
        ran, (memory, sent) = now
        later = gate.update(GateState(ran, memory), mean_loss)
        sent = jnp.where(ran == REFRESH, sent + 1, jnp.where(ran == SYNC, 0, sent))
        due = (ran == REFRESH) & (later.state == OFFLINE) & (sent < views)
        state = jnp.where(due, jnp.int32(REFRESH), later.state)
        # A later B that follows no A is a round of views of its own.
        sent = jnp.where(state == OFFLINE, 0, sent)
        return GateState(state, _Counted(later.memory, sent))

    return Gate(init, update, _report_of(gate))


def view_of(states: str, epoch: int, views: int) -> int:
    """The view that an epoch of B sends; 0 for one of A.

    Args:
        states: of all epochs.
        epoch: from 0.
        views: that the store holds.

    Example:
        >>> [view_of("LABBCABB", epoch, views=2) for epoch in (1, 2, 3, 6, 7)]
        [0, 0, 1, 0, 1]
    """
    since = states[:epoch].rpartition("A")[2]
    return since.count("B") % views if states[epoch] == "B" else 0


def after_local(gate: Gate, epochs: int) -> Gate:
    """The same gate after so many epochs in which each client learns alone.

    Nothing that the gate sees comes from these; its own first epoch is the next.

    Raises:
        ValueError: if `epochs` is no whole number from 0.

    Example:
        >>> from jsplit.core.gate import freeze_gate
        >>> from jsplit.typing import STATES
        >>> gate = after_local(freeze_gate(0), epochs=2)
        >>> state, states = gate.init(), ""
        >>> for _ in range(5):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(0.5))
        >>> states
        'LLBCC'
    """
    epochs = whole_number("epochs", epochs, least=0)
    if not epochs:
        return gate

    def init() -> GateState:
        first = gate.init()
        memory = _Waiting(first.memory, first.state, jnp.int32(epochs))
        return GateState(jnp.int32(LOCAL), memory)

    def update(now: GateState, mean_loss: Float[Array, ""]) -> GateState:
        ran, (memory, first, left) = now
        alone = ran == LOCAL
        later = gate.update(GateState(ran, memory), mean_loss)
        left = jnp.where(alone, left - 1, left)
        next_one = jnp.where(left > 0, jnp.int32(LOCAL), first)
        state = jnp.where(alone, next_one, later.state)
        # Of the state, never of `gate.init` here: a program is shared by gates that
        # differ in their numbers.
        memory = jax.tree.map(
            lambda before, after: jnp.where(alone, before, after), memory, later.memory
        )
        return GateState(state, _Waiting(memory, first, left))

    return Gate(init, update, _report_of(gate))


def _report_of(gate: Gate) -> Callable[[GateState], Any]:
    """What the gate inside says, of the state that is due in fact."""
    return lambda now: gate.report(GateState(now.state, now.memory.inner))


def in_phases(gate: Gate, views: int, local_epochs: int) -> Gate:
    """The gate of a whole run: learning alone first, then the gate with its views.

    Args:
        gate: that decides.
        views: of each example, see `with_views`.
        local_epochs: see `after_local`.

    Raises:
        ValueError: if `views` is less than 1 or `local_epochs` is negative.

    Example:
        >>> from jsplit.core.gate import freeze_gate
        >>> from jsplit.typing import STATES
        >>> gate = in_phases(freeze_gate(0), views=2, local_epochs=1)
        >>> state, states = gate.init(), ""
        >>> for _ in range(4):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(0.5))
        >>> states
        'LBBC'
    """
    return after_local(with_views(gate, views), local_epochs)
