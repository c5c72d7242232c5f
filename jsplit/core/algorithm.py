"""The paper's algorithm (arXiv 2107.09786): epochs of A, B and C under a gate.

    A: client_forward -> encode -> server_step_with_reply -> encode -> client_backward
    B: client_refresh -> encode -> server_step          (nothing comes back)
    C:                   stored packets -> offline_step (nothing is sent)

The server stores every packet that it receives; an epoch of A or B rewrites the whole
store, an epoch of C draws from it. After each epoch the gate sees the server's mean
training loss and names the next state. All of it is one `lax.scan` over epochs.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jsplit.core import schedule, store
from jsplit.core.local_training import learn_alone
from jsplit.core.method import Learned, Method
from jsplit.core.metrics import HeldOut, Metrics, added, no_metrics, total
from jsplit.core.schedule import EpochPlan, OfflineBatches
from jsplit.core.shards import Shards
from jsplit.core.state import EpochRecord, SideState, TrainState
from jsplit.core.steps import Steps
from jsplit.core.store import Examples
from jsplit.core.topology import average, each, spread
from jsplit.runtime.sharding import BATCH, MEMBERS, ONE_DEVICE, ROWS, Placement
from jsplit.typing import LOCAL, OFFLINE, REFRESH, SYNC, Packet


def train(
    method: Method,
    state: TrainState,
    data: Shards,
    test: HeldOut,
    key: Key[Array, ""],
    step_sizes: Float[Array, " epochs"],
    active: Bool[Array, " epochs"],
) -> tuple[TrainState, EpochRecord]:
    """Runs an epoch for each step size; one that is not `active` changes nothing."""
    one = partial(epoch, method, data, test, key)
    return jax.lax.scan(one, state, (step_sizes, active))


def epoch(
    method: Method,
    data: Shards,
    test: HeldOut,
    key: Key[Array, ""],
    state: TrainState,
    now: tuple[Float[Array, ""], Bool[Array, ""]],
) -> tuple[TrainState, EpochRecord]:
    """One epoch, in the state that the gate named."""
    layout, constrain = method.layout, method.placement.constrain
    step_size, active = now
    plan = schedule.plan_epoch(schedule.epoch_key(key, state.epoch), data, layout)
    sides = state.client, state.head, state.server
    learned = Learned(*sides, state.store, no_metrics())
    turns_of = [
        (SYNC, layout.groups, _exchange(method, plan, data, step_size, reply=True)),
        (REFRESH, layout.groups, _exchange(method, plan, data, step_size, reply=False)),
        (OFFLINE, 1, _offline(method, plan, step_size)),
    ]
    if state.head is not None:
        alone = learn_alone(method, plan, data, step_size)
        turns_of.append((LOCAL, layout.groups, alone))
    for name, turns, turn in turns_of:
        # A loop for each state, of no turns where it is another's epoch. A switch
        # would be plainer, but XLA copies the whole store where its branches meet.
        due = jnp.where(active & (state.gate.state == name), turns, 0)
        learned = jax.lax.fori_loop(0, due, turn, learned)
    client, head, server, stored, metrics = learned
    gate, scores = jax.lax.cond(
        active,
        lambda: (
            method.gate.update(state.gate, metrics.mean_loss),
            method.score(client, server, test),
        ),
        lambda: (state.gate, no_metrics()),
    )
    reported = method.gate.report(state.gate)
    record = EpochRecord(state.gate.state, metrics, scores, reported)
    number = state.epoch + active.astype(jnp.int32)
    carried = constrain((client, server, gate, stored.refreshed, head, number))
    client, server, gate, refreshed, head, number = carried
    stored = store.Store(constrain(stored.examples, *store.AXES), refreshed)
    state = TrainState(client, server, gate, stored, number, head)
    return state, constrain(record)


def _exchange(
    method: Method, plan: EpochPlan, data: Shards, step_size: jax.Array, *, reply: bool
) -> Callable[[jax.Array, Learned], Learned]:
    """A group's turn in an epoch of A, where the server replies, or of B."""
    steps, layout, constrain = method.steps, method.layout, method.placement.constrain
    members, side = layout.members, (MEMBERS,) if reply else ()
    transform = method.transform

    def turn(group: jax.Array, learned: Learned) -> Learned:
        view = 0 if reply else store.next_view(learned.store, group)
        prepare = transform.train if reply else partial(transform.refresh, view)
        prepare = each(prepare, members)

        def step(
            carry: tuple[SideState, SideState, Examples], number: jax.Array
        ) -> tuple[tuple[SideState, SideState, Examples], Metrics]:
            clients, server, stored = carry
            now = schedule.batch_of(plan, group, number, layout)
            rows = constrain(now.rows, MEMBERS, ROWS)
            raw = constrain(data.examples[rows], MEMBERS, ROWS)
            sent = prepare(now.transform_keys, raw), now.mask, now.part_keys
            given = now.labels, now.mask, now.server_key, step_size
            if reply:
                packets, kept = each(steps.client_forward, members)(clients, *sent)
                server, metrics, replies = steps.server_step_with_reply(
                    server, packets, *given
                )
                backward = each(steps.client_backward, members, (0, 0, 0, 0, None))
                clients = backward(clients, kept, replies, now.mask, step_size)
            else:
                refresh = each(steps.client_refresh, members, (None, 0, 0, 0))
                packets = refresh(clients, *sent)
                server, metrics = steps.server_step(server, packets, *given)
            place = view, group, number
            stored = store.write(stored, packets, now.labels, now.positions, place)
            stored = constrain(stored, *store.AXES)
            return (constrain(clients, *side), constrain(server), stored), metrics

        client, head, server, stored, before = learned
        clients = constrain(spread(client, members), *side) if reply else client
        (clients, server, examples), metrics = jax.lax.scan(
            step, (clients, server, stored.examples), jnp.arange(layout.steps)
        )
        if reply:
            counts = data.counts[group].astype(jnp.float32)
            client = constrain(average(clients, counts / counts.sum()))
        stored = store.note_turn(stored._replace(examples=examples), group, reply=reply)
        return Learned(client, head, server, stored, added(before, total(metrics)))

    return turn


def _offline(
    method: Method, plan: EpochPlan, step_size: jax.Array
) -> Callable[[jax.Array, Learned], Learned]:
    """An epoch of C: nothing is sent."""
    layout, placement = method.layout, method.placement

    def turn(_: jax.Array, learned: Learned) -> Learned:
        # What is padding follows from the clients' sizes, whatever the order.
        filled, padded = plan.clients.mask, layout.offline_padded
        batches = schedule.plan_offline(plan.key, filled, layout, padded=padded)
        stored = learned.store
        batches = store.with_views(stored, plan.key, batches, layout)
        server, metrics = learn_from_store(
            method.steps, stored.examples, batches, learned.server, step_size, placement
        )
        return learned._replace(server=server, metrics=added(learned.metrics, metrics))

    return turn


def learn_from_store(
    steps: Steps,
    stored: Examples,
    batches: OfflineBatches,
    server: SideState,
    step_size: Float[Array, ""],
    placement: Placement = ONE_DEVICE,
) -> tuple[SideState, Metrics]:
    """The server's epoch of C.

    Stored examples are drawn one by one from all clients, each with the header of the
    packet it came in.
    """

    def step(server: SideState, now: OfflineBatches) -> tuple[SideState, Metrics]:
        rows = store.take(stored, now.slots, now.views)
        rows = placement.constrain(rows, BATCH)
        packets = Packet(rows.packets.payload[:, None], rows.packets.header)
        given = rows.labels[:, None], now.mask, now.keys, step_size
        server, metrics = steps.offline_step(server, packets, *given)
        return placement.constrain(server), metrics

    server, metrics = jax.lax.scan(step, server, batches)
    return server, total(metrics)
