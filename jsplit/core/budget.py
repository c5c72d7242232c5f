"""A budget in, a schedule out: a gate that spends what may cross where the loss asks.

A round is as many epochs of B as there are views. One is set aside from the start, so
that the store can always be filled after the last A:

    after A    A again while its loss falls and the budget pays; else a round, then C
    in C       while its loss falls, C; once it has stalled A with a round after it if
               the budget pays for both, else a round of new views if it pays for that
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.core.gate import Gate, GateState
from jsplit.core.wide import MOST, at_least, minus, wide
from jsplit.typing import LOCAL, OFFLINE, REFRESH, SYNC


class EpochCosts(NamedTuple):
    """What a run's epochs send, all in one unit: bytes, or bits.

    Attributes:
        before: what crosses before the gate's first epoch, while clients learn alone.
        first_sync: the first epoch, if it is one of A.
        first_round: the first round, if the run begins with it.
        sync: an epoch of A after one of A.
        round: a round after A.
        later_sync: an epoch of A after C.
        later_round: a round after C.
    """

    before: int
    first_sync: int
    first_round: int
    sync: int
    round: int
    later_sync: int
    later_round: int

    @property
    def least(self) -> int:
        """What the least that a run can do sends: it fills the store once."""
        return self.before + self.first_round


def wire_costs(costs: CostModel, views: int, local_epochs: int) -> EpochCosts:
    """Every byte of training that crosses, as the ledger counts it.

    Args:
        costs: of an epoch.
        views: epochs of B in a round.
        local_epochs: in which clients learn alone at first.
    """
    alone, views_sent = "L" * local_epochs, "B" * views

    def added(before: str, states: str) -> int:
        whole, part = Ledger.of(costs, before + states), Ledger.of(costs, before)
        return whole.wire_bytes - part.wire_bytes

    return EpochCosts(
        before=added("", alone),
        first_sync=added(alone, "A"),
        first_round=added(alone, views_sent),
        sync=added("A", "A"),
        round=added("A", views_sent),
        later_sync=added("ABC", "A"),
        later_round=added("ABC", views_sent),
    )


def payload_costs(costs: CostModel, views: int) -> EpochCosts:
    """Payload bits of activations and gradients, the paper's account.

    Args:
        costs: of an epoch.
        views: epochs of B in a round.
    """
    sync, sent = (Ledger.of(costs, states).paper_bits for states in ("A", "B" * views))
    return EpochCosts(0, sync, sent, sync, sent, sync, sent)


class BudgetReport(NamedTuple):
    """What the gate says of an epoch.

    Attributes:
        reason: int32, the place in `REASONS` of why the epoch has its state.
        left: `Int32[2]`, what is neither spent nor set aside, see `jsplit.core.wide`.
    """

    reason: jax.Array
    left: Int[Array, "2"]


REASONS = (
    "the clients learn alone first",
    "nothing was learned yet",
    "the client has learned alone",
    "the budget pays for no A",
    "the loss of A still falls",
    "the loss of A no longer falls",
    "the budget pays for no further A",
    "the store takes a further view",
    "the store is full",
    "the loss of C has not stalled",
    "the loss of C has stalled and the budget pays for A",
    "the loss of C has stalled and the budget pays for new views alone",
    "the loss of C has stalled and the budget pays for nothing more",
)
"""Why an epoch has its state, for people."""

(
    _ALONE,
    _BEGINNING,
    _LEARNED_ALONE,
    _NO_SYNC,
    _SYNC_FALLS,
    _SYNC_FLAT,
    _NO_FURTHER_SYNC,
    _FURTHER_VIEW,
    _FULL,
    _OFFLINE_FALLS,
    _BACK,
    _NEW_VIEWS,
    _SPENT,
) = range(len(REASONS))


class _BudgetMemory(NamedTuple):
    """Beside the gate's arguments, what it goes by.

    Attributes:
        left: what is neither spent nor set aside for the round that is due.
        sync: what an epoch of A after one of A takes of it.
        back: what one after C takes, with its round.
        refill: what a round after C takes.
        new_views: whether such a round sends anything new.
        min_fall: of a loss that counts as falling, as a share of what it is compared
            with.
        patience: epochs of C without such a fall that are a stall.
        of_sync: the loss of the last epoch of A.
        of_offline: the lowest loss of C since B that counted as falling.
        waited: epochs of C since that; the first one after B counts as falling.
        reason: why the state is what it is.
    """

    left: jax.Array
    sync: jax.Array
    back: jax.Array
    refill: jax.Array
    new_views: jax.Array
    min_fall: jax.Array
    patience: jax.Array
    of_sync: jax.Array
    of_offline: jax.Array
    waited: jax.Array
    reason: jax.Array


def budget_gate(
    budget: int,
    costs: EpochCosts,
    *,
    initial_loss: float,
    learned_alone: bool = False,
    new_views: bool = False,
    min_fall: float = 0.05,
    patience: int = 3,
) -> Gate:
    """A gate that spends epochs of A and B by the loss, and never more than a budget.

    It names one epoch of B where a round is due; `with_views` makes the round of it.
    A loss falls if it is at least `min_fall` of what it is compared with below that:
    a loss of A with that of the A before, one of C with the lowest since the last B.

    **Formal guarantees** (each a test of that name in `tests/test_budget_gate.py`):
    whatever the losses, what a run sends never exceeds the budget, after each epoch;
    its first epoch is one of A or B; no epoch of C comes before the store is full; and
    the states are a function of the losses alone.

    Args:
        budget: in the unit of the costs; what exceeds 2**60 - 2 counts as that.
        costs: of the epochs of the run.
        initial_loss: what the first loss of A is compared with, finite; for
            classification the loss of a blind guess, `log(classes)`.
        learned_alone: whether clients learned alone before. Then it begins with a
            round: they have something to send, and the server, which is new, has no
            gradients worth an epoch.
        new_views: whether a second round sends other views than the first, drawn
            anew. Otherwise none is paid for without an A before it.
        min_fall: at least 0 and less than 1.
        patience: epochs of C in a row without a fall that are a stall, at least 1.

    A loss that is not finite never counts as falling, nor towards a stall, and is never
    what later ones are compared with.

    Raises:
        ValueError: if an argument is outside what is said above, or the budget does not
            pay for one round.

    Example:
        Room for three epochs of A, each of twice the cost of one of B, and two B.

        >>> from jsplit.typing import STATES
        >>> costs = EpochCosts(0, 2, 1, 2, 1, 2, 1)
        >>> gate = budget_gate(8, costs, initial_loss=2.3, patience=2)
        >>> state, states = gate.init(), ""
        >>> for loss in (1.5, 1.0, 0.98, 0.9, 0.7, 0.69, 0.68, 0.6, 0.6, 0.5):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(loss))
        >>> states
        'AAABCCCCCC'
        >>> REASONS[gate.report(state).reason]
        'the loss of C has not stalled'
    """
    if not 0 <= min_fall < 1:
        raise ValueError(f"min_fall must be at least 0 and less than 1, got {min_fall}")
    if patience < 1:
        raise ValueError(f"patience must be at least 1 epoch, got {patience}")
    if not math.isfinite(initial_loss):
        raise ValueError(f"initial_loss must be finite, got {initial_loss}")
    if budget < costs.least:
        raise ValueError(
            f"budget must be at least {costs.least}, which fills the store once, got "
            f"{budget}"
        )
    spare = budget - costs.before - costs.first_sync - costs.round
    begins_with_sync = spare >= 0 and not learned_alone
    if not begins_with_sync:
        spare = budget - costs.least

    def init() -> GateState:
        reason = _LEARNED_ALONE if learned_alone else _NO_SYNC
        memory = _BudgetMemory(
            left=wide(min(spare, MOST - 1)),
            sync=_cost(costs.sync),
            back=_cost(costs.later_sync + costs.round),
            refill=_cost(costs.later_round),
            new_views=jnp.asarray(new_views, jnp.bool_),
            min_fall=jnp.asarray(min_fall, jnp.float32),
            patience=jnp.asarray(patience, jnp.int32),
            of_sync=jnp.asarray(initial_loss, jnp.float32),
            of_offline=jnp.asarray(jnp.inf, jnp.float32),
            waited=jnp.asarray(0, jnp.int32),
            reason=jnp.asarray(_BEGINNING if begins_with_sync else reason, jnp.int32),
        )
        state = SYNC if begins_with_sync else REFRESH
        return GateState(jnp.asarray(state, jnp.int32), memory)

    def update(gate: GateState, mean_loss: Float[Array, ""]) -> GateState:
        after = (_after_sync, _after_refresh, _after_offline)
        return jax.lax.switch(gate.state, after, gate.memory, mean_loss)

    return Gate(init, update, _report)


def _cost(count: int) -> Int[Array, "2"]:
    """A cost; one beyond all budgets is one that none pays for."""
    return wide(min(count, MOST))


def _falls(
    loss: jax.Array, compared: jax.Array, min_fall: jax.Array
) -> Bool[Array, ""]:
    """Whether a loss is finite and far enough below another, or the first of all."""
    far = loss <= compared - min_fall * jnp.abs(compared)
    return jnp.isfinite(loss) & (jnp.isinf(compared) | far)


def _chosen(options: list[tuple[jax.Array | bool, int, int]]) -> list[jax.Array]:
    """State and reason of the first option that holds; the last one must."""
    conditions = [jnp.asarray(holds) for holds, _, _ in options]
    return [
        jnp.select(conditions, [jnp.asarray(value, jnp.int32) for value in values])
        for values in list(zip(*options, strict=True))[1:]
    ]


def _after_sync(memory: _BudgetMemory, loss: jax.Array) -> GateState:
    falls = _falls(loss, memory.of_sync, memory.min_fall)
    opens = falls & at_least(memory.left, memory.sync)
    state, reason = _chosen(
        [
            (opens, SYNC, _SYNC_FALLS),
            (falls, REFRESH, _NO_FURTHER_SYNC),
            (True, REFRESH, _SYNC_FLAT),
        ]
    )
    memory = memory._replace(
        left=jnp.where(opens, minus(memory.left, memory.sync), memory.left),
        of_sync=jnp.where(jnp.isfinite(loss), loss, memory.of_sync),
        reason=reason,
    )
    return GateState(state, memory)


def _after_refresh(memory: _BudgetMemory, loss: jax.Array) -> GateState:
    del loss
    memory = memory._replace(
        of_offline=jnp.full_like(memory.of_offline, jnp.inf),
        reason=jnp.full_like(memory.reason, _FULL),
    )
    return GateState(jnp.asarray(OFFLINE, jnp.int32), memory)


def _after_offline(memory: _BudgetMemory, loss: jax.Array) -> GateState:
    falls = _falls(loss, memory.of_offline, memory.min_fall)
    counts = jnp.isfinite(loss).astype(jnp.int32)
    waited = jnp.where(falls, 0, memory.waited + counts)
    stalled = waited >= memory.patience
    back = stalled & at_least(memory.left, memory.back)
    sends = memory.new_views & at_least(memory.left, memory.refill)
    refills = stalled & ~back & sends
    state, reason = _chosen(
        [
            (~stalled, OFFLINE, _OFFLINE_FALLS),
            (back, SYNC, _BACK),
            (refills, REFRESH, _NEW_VIEWS),
            (True, OFFLINE, _SPENT),
        ]
    )
    left = jnp.where(back, minus(memory.left, memory.back), memory.left)
    memory = memory._replace(
        left=jnp.where(refills, minus(memory.left, memory.refill), left),
        of_offline=jnp.where(falls, loss, memory.of_offline),
        waited=waited,
        reason=reason,
    )
    return GateState(state, memory)


def _report(gate: GateState) -> BudgetReport:
    """Of the epoch about to run; of the state as what is put around the gate has it."""
    memory: _BudgetMemory = gate.memory
    # The gate took the store for full, and `with_views` sends another view.
    further = (memory.reason == _FULL) & (gate.state == REFRESH)
    reason = jnp.where(further, _FURTHER_VIEW, memory.reason)
    reason = jnp.where(gate.state == LOCAL, _ALONE, reason)
    return BudgetReport(reason.astype(jnp.int32), memory.left)
