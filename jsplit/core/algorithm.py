"""The paper's algorithm (arXiv 2107.09786): epochs of A, B and C under a gate.

    A: client_forward -> encode -> server_step_with_reply -> encode -> client_backward
    B: client_refresh -> encode -> server_step          (nothing comes back)
    C:                   stored packets -> offline_step (nothing is sent)

The server stores every packet that it receives; an epoch of A or B rewrites the whole
store, an epoch of C draws from it. After each epoch the gate sees the server's mean
training loss and names the next state. All of it is one `lax.scan` over epochs.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jsplit.core import schedule, store
from jsplit.core.gate import Gate
from jsplit.core.metrics import HeldOut, Metrics, added, no_metrics, total
from jsplit.core.schedule import EpochPlan, OfflineBatches, Shards
from jsplit.core.state import EpochRecord, SideState, TrainState
from jsplit.core.steps import Steps
from jsplit.core.store import Store
from jsplit.core.topology import Layout, average, each, spread
from jsplit.core.transform import Transform
from jsplit.runtime.sharding import BATCH, MEMBERS, ONE_DEVICE, ROWS, Placement
from jsplit.typing import OFFLINE, REFRESH, SYNC, Packet


class Method(NamedTuple):
    """What stays the same over a training.

    Attributes:
        steps: of the client/server pair.
        gate: decides the states.
        layout: static sizes.
        transform: of raw examples.
        score: of both parts on the held-out set: `(client, server, test) -> Metrics`.
        placement: of everything over the devices.
    """

    steps: Steps
    gate: Gate
    layout: Layout
    transform: Transform
    score: Callable[[SideState, SideState, HeldOut], Metrics]
    placement: Placement


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
    one = functools.partial(epoch, method, data, test, key)
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
    learned = _Learned(state.client, state.server, state.store, no_metrics())
    for name, turns, turn in (
        (SYNC, layout.groups, _exchange(method, plan, data, step_size, reply=True)),
        (REFRESH, layout.groups, _exchange(method, plan, data, step_size, reply=False)),
        (OFFLINE, 1, _offline(method, plan, step_size)),
    ):
        # A loop for each state, of no turns where it is another's epoch. A switch
        # would be plainer, but XLA copies the whole store where its branches meet.
        due = jnp.where(active & (state.gate.state == name), turns, 0)
        learned = jax.lax.fori_loop(0, due, turn, learned)
    client, server, stored, metrics = learned
    gate, scores = jax.lax.cond(
        active,
        lambda: (
            method.gate.update(state.gate, metrics.mean_loss),
            method.score(client, server, test),
        ),
        lambda: (state.gate, no_metrics()),
    )
    record = EpochRecord(state.gate.state, metrics, scores)
    number = state.epoch + active.astype(jnp.int32)
    client, server, gate, number = constrain((client, server, gate, number))
    stored = constrain(stored, *store.AXES)
    return TrainState(client, server, gate, stored, number), constrain(record)


class _Learned(NamedTuple):
    """What the turns of an epoch hand on."""

    client: SideState
    server: SideState
    store: Store
    metrics: Metrics


def _exchange(
    method: Method, plan: EpochPlan, data: Shards, step_size: jax.Array, *, reply: bool
) -> Callable[[jax.Array, _Learned], _Learned]:
    """A group's turn in an epoch of A, where the server replies, or of B."""
    steps, layout, constrain = method.steps, method.layout, method.placement.constrain
    members, side = layout.members, (MEMBERS,) if reply else ()
    prepare = each(method.transform.training(sync=reply), members)

    def turn(group: jax.Array, learned: _Learned) -> _Learned:
        def step(
            carry: tuple[SideState, SideState, Store], number: jax.Array
        ) -> tuple[tuple[SideState, SideState, Store], Metrics]:
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
            stored = store.write(stored, packets, now.labels, group, number)
            stored = constrain(stored, *store.AXES)
            return (constrain(clients, *side), constrain(server), stored), metrics

        client, server, stored, before = learned
        clients = constrain(spread(client, members), *side) if reply else client
        (clients, server, stored), metrics = jax.lax.scan(
            step, (clients, server, stored), jnp.arange(layout.steps)
        )
        if reply:
            counts = data.counts[group].astype(jnp.float32)
            client = constrain(average(clients, counts / counts.sum()))
        return _Learned(client, server, stored, added(before, total(metrics)))

    return turn


def _offline(
    method: Method, plan: EpochPlan, step_size: jax.Array
) -> Callable[[jax.Array, _Learned], _Learned]:
    """An epoch of C: nothing is sent."""

    def turn(_: jax.Array, learned: _Learned) -> _Learned:
        # What is padding follows from the clients' sizes, whatever the order.
        filled, padded = plan.clients.mask, method.layout.offline_padded
        batches = schedule.plan_offline(plan.key, filled, method.layout, padded=padded)
        given = learned.store, batches, learned.server, step_size, method.placement
        server, metrics = learn_from_store(method.steps, *given)
        return learned._replace(server=server, metrics=added(learned.metrics, metrics))

    return turn


def learn_from_store(
    steps: Steps,
    stored: Store,
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
        rows = placement.constrain(store.take(stored, now.slots), BATCH)
        packets = Packet(rows.packets.payload[:, None], rows.packets.header)
        given = rows.labels[:, None], now.mask, now.keys, step_size
        server, metrics = steps.offline_step(server, packets, *given)
        return placement.constrain(server), metrics

    server, metrics = jax.lax.scan(step, server, batches)
    return server, total(metrics)
