"""A budget in, a schedule out: a gate that spends what may cross where the loss asks.

A round is as many epochs of B as there are views. One is set aside from the start, so
that the store can always be filled after the last A:

    after A    A again while its loss falls and the budget pays; else a round, then C
    in C       while its loss falls, C; once it has stalled A with a round after it if
               the budget pays for both, else a round of new views if it pays for that

Where each epoch has a loss that it should not exceed, such as that of a plain run, the
gate spends in the same order, and asks for more while the loss exceeds it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jsplit.core.epoch_costs import EpochCosts
from jsplit.core.gate import Gate, GateState
from jsplit.core.wide import MOST, at_least, minus, wide
from jsplit.typing import LOCAL, OFFLINE, REFRESH, SYNC


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
    "the loss lags behind the plain run's",
    "the loss keeps up with the plain run's",
    "the loss lags behind the plain run's and the budget pays for no further A",
    "the loss lags behind the plain run's and the budget pays for new views alone",
    "the loss lags behind the plain run's and the budget pays for nothing more",
    "the client's filters are known beforehand",
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
    _LAGS,
    _KEEPS_UP,
    _LAGS_NO_SYNC,
    _LAGS_NEW_VIEWS,
    _LAGS_SPENT,
    _KNOWN_FILTERS,
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
        allowed: `Float32[n]`, the loss of each epoch above which it lags; of none where
            falls of the loss decide.
        epoch: of the gate's, from 0.
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
    allowed: jax.Array
    epoch: jax.Array


def budget_gate(
    budget: int | None,
    costs: EpochCosts,
    *,
    initial_loss: float,
    learned_alone: bool = False,
    known_filters: bool = False,
    new_views: bool = False,
    min_fall: float = 0.05,
    patience: int = 3,
    allowed_losses: Sequence[float] = (),
) -> Gate:
    """A gate that spends epochs of A and B by the loss, and never more than a budget.

    It names one epoch of B where a round is due; `with_views` makes the round of it.
    A loss falls if it is at least `min_fall` of what it is compared with below that:
    a loss of A with that of the A before, one of C with the lowest since the last B.

    **Formal guarantees** (each a test of that name in `tests/test_budget_gate.py`):
    whatever the losses, what a run sends never exceeds the budget, after each epoch;
    its first epoch is one of A or B; no epoch of C comes before the store is full; and
    the states are a function of the losses alone. With `allowed_losses` the gate pays
    for more, beyond its first epoch and the round after each A, only after an epoch
    that lags; and after each of A or C that lags it does, if the budget pays for it.

    Args:
        budget: in the unit of the costs; what exceeds 2**60 - 2 counts as that, and so
            does None, for no limit.
        costs: of the epochs of the run.
        initial_loss: what the first loss of A is compared with, finite; for
            classification the loss of a blind guess, `log(classes)`.
        learned_alone: whether clients learned alone before. Then it begins with a
            round: they have something to send, and the server, which is new, has no
            gradients worth an epoch.
        known_filters: whether the client's part is nothing but filters that are known
            beforehand, such as `jsplit.dct_filters`. Then it begins likewise.
        new_views: whether a second round sends other views than the first, drawn
            anew. Otherwise none is paid for without an A before it.
        min_fall: at least 0 and less than 1.
        patience: epochs of C in a row without a fall that are a stall, at least 1.
        allowed_losses: of each epoch, from the gate's first one, none of them NaN; an
            epoch with a higher loss lags. The last holds for all later epochs. Empty
            where falls of the loss decide; else `min_fall` and `patience` have no
            effect.

    A loss that is not finite never counts as falling, nor towards a stall, never lags,
    and is never what later ones are compared with.

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

        By a plain run whose losses it should not exceed:

        >>> gate = budget_gate(8, costs, initial_loss=2.3, allowed_losses=[1.6, 1.2, 1])
        >>> state, states = gate.init(), ""
        >>> for loss in (1.7, 1.2, 1.1, 0.9, 1.1, 0.9):
        ...     states += STATES[state.state]
        ...     state = gate.update(state, jnp.float32(loss))
        >>> states, REASONS[gate.report(state).reason]
        ('AABCCA', "the loss keeps up with the plain run's")
    """
    if not 0 <= min_fall < 1:
        raise ValueError(f"min_fall must be at least 0 and less than 1, got {min_fall}")
    if patience < 1:
        raise ValueError(f"patience must be at least 1 epoch, got {patience}")
    if not math.isfinite(initial_loss):
        raise ValueError(f"initial_loss must be finite, got {initial_loss}")
    if any(map(math.isnan, allowed_losses)):
        raise ValueError(f"allowed_losses must be numbers, got {list(allowed_losses)}")
    if budget is None:
        budget = costs.least + MOST
    if budget < costs.least:
        raise ValueError(
            f"budget must be at least {costs.least}, which fills the store once, got "
            f"{budget}"
        )
    spare = budget - costs.before - costs.first_sync - costs.round
    begins_with_sync = spare >= 0 and not (learned_alone or known_filters)
    if not begins_with_sync:
        spare = budget - costs.least

    def init() -> GateState:
        reason = _KNOWN_FILTERS if known_filters else _NO_SYNC
        reason = _LEARNED_ALONE if learned_alone else reason
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
            allowed=jnp.asarray(allowed_losses, jnp.float32),
            epoch=jnp.asarray(0, jnp.int32),
        )
        state = SYNC if begins_with_sync else REFRESH
        return GateState(jnp.asarray(state, jnp.int32), memory)

    def update(gate: GateState, mean_loss: Float[Array, ""]) -> GateState:
        after = (_after_sync, _after_refresh, _after_offline)
        state, memory = jax.lax.switch(gate.state, after, gate.memory, mean_loss)
        return GateState(state, memory._replace(epoch=memory.epoch + 1))

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


def _lags(memory: _BudgetMemory, loss: jax.Array) -> Bool[Array, ""]:
    """Whether the loss of this epoch is finite and above what is allowed."""
    last = memory.allowed.size - 1
    allowed = memory.allowed[jnp.minimum(memory.epoch, last)]
    return jnp.isfinite(loss) & (loss > allowed)


# Which of two rules decides is told by a shape and not by `budget_gate`: a program is
# shared by gates that differ in their numbers, and made anew for another shape.


def _after_sync(memory: _BudgetMemory, loss: jax.Array) -> GateState:
    if memory.allowed.size:
        wants = _lags(memory, loss)
        again, unpaid, enough = _LAGS, _LAGS_NO_SYNC, _KEEPS_UP
    else:
        wants = _falls(loss, memory.of_sync, memory.min_fall)
        again, unpaid, enough = _SYNC_FALLS, _NO_FURTHER_SYNC, _SYNC_FLAT
    opens = wants & at_least(memory.left, memory.sync)
    state, reason = _chosen(
        [(opens, SYNC, again), (wants, REFRESH, unpaid), (True, REFRESH, enough)]
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
    if memory.allowed.size:
        wants = _lags(memory, loss)
        enough, again, views, spent = _KEEPS_UP, _LAGS, _LAGS_NEW_VIEWS, _LAGS_SPENT
    else:
        wants = waited >= memory.patience
        enough, again, views, spent = _OFFLINE_FALLS, _BACK, _NEW_VIEWS, _SPENT
    back = wants & at_least(memory.left, memory.back)
    sends = memory.new_views & at_least(memory.left, memory.refill)
    refills = wants & ~back & sends
    state, reason = _chosen(
        [
            (~wants, OFFLINE, enough),
            (back, SYNC, again),
            (refills, REFRESH, views),
            (True, OFFLINE, spent),
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
