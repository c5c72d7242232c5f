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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jsplit.core.gate import Gate, GateState
from jsplit.core.metrics import HeldOut, evaluate
from jsplit.core.schedule import (
    Shards,
    client_keys,
    epoch_order,
    held,
    server_key,
    shuffled,
    step_keys,
)
from jsplit.core.steps import Metrics, Party, Steps, cross_entropy, top_1, total
from jsplit.core.topology import Layout, average, each, spread
from jsplit.runtime.sharding import BATCH, MEMBERS, ONE_DEVICE, ROWS, Placement
from jsplit.typing import OFFLINE, REFRESH, SYNC, Codec, Packet


class Transform(NamedTuple):
    """What a client does to its raw examples before its part of the network.

    Attributes:
        train: `(key, raw: [b, ...]) -> [b, ...]`, of state A; may augment.
        evaluate: `(raw) -> [b, ...]`.
        refresh: likewise, of state B, whose result the server sees in every epoch of C.
            None: `train`.
    """

    train: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], jax.Array]
    refresh: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def training(self, *, sync: bool) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """What a training batch goes through in A if `sync`, else in B."""
        return self.train if sync else self.refresh or self.train


IDENTITY_TRANSFORM = Transform(lambda key, raw: raw, lambda raw: raw)


STEPS_AXIS = 2
"""Of the store's arrays; no mesh shares it, because steps are written in turn."""


class Store(NamedTuple):
    """What the server received last, in order of arrival: codes, never floats.

    Attributes:
        packets: payload `[groups, members, steps, batch, ...]`, and for every example
            the header of the packet it came in,
            `UInt8[groups, members, steps, batch, h]`.
        labels: `Int32[groups, members, steps, batch]`.
    """

    packets: Packet
    labels: jax.Array


@struct.dataclass
class TrainState:
    """Everything that training carries from epoch to epoch.

    Attributes:
        client: the client part, one for all clients between epochs.
        server: the server part.
        gate: its state names the state of the next epoch.
        store: for state C.
        epoch: int32, epochs finished.
    """

    client: Party
    server: Party
    gate: GateState
    store: Store
    epoch: jax.Array

    def parts(self) -> tuple[dict[str, Any], Any]:
        """The small part, saved every time, and the store, saved when C needs it."""
        small = {name: value for name, value in vars(self).items() if name != "store"}
        return small, self.store


class EpochRecord(NamedTuple):
    """What an epoch reports: sums over examples, losses in float32.

    Attributes:
        state: int32, the state it ran in.
        train: over the training examples, as the server saw them.
        test: over the test examples, after the epoch.
    """

    state: jax.Array
    train: Metrics
    test: Metrics


class Program(NamedTuple):
    """A compiled training program and how to start it.

    Attributes:
        run: `(TrainState, Shards, HeldOut, key, step_sizes: [e], active: Bool[e]) ->
            (TrainState, EpochRecord of [e])`, jit-compiled; the first argument is
            donated. Epochs that are not active are skipped, so that the last chunk of
            a run needs no program of its own; their records are meaningless.
        init: `(client: Party, server: Party) -> TrainState` with an empty store.
    """

    run: Callable[..., tuple[TrainState, EpochRecord]]
    init: Callable[[Party, Party], TrainState]


def make_program(
    steps: Steps,
    gate: Gate,
    codec: Codec,
    layout: Layout,
    *,
    smashed_shape: tuple[int, ...],
    transform: Transform = IDENTITY_TRANSFORM,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = cross_entropy,
    correct: Callable[[jax.Array, jax.Array], jax.Array] = top_1,
    placement: Placement = ONE_DEVICE,
) -> Program:
    """Makes the scan over epochs for one pair of parts, codec, gate and layout.

    Args:
        steps: of the client/server pair.
        gate: decides the states. Its numbers are traced: another threshold, period or
            seed, and other step sizes, compile nothing anew.
        codec: the activation codec of `steps`, which says how the store looks.
        layout: static sizes.
        smashed_shape: of one example's activations at the cut.
        transform: of raw examples.
        loss: of each test example, as for `make_steps`.
        correct: of each test example, as for `make_steps`.
        placement: of everything over the devices. It changes results by no more than
            the order of sums.
    """
    stored = (None, MEMBERS, None, ROWS)

    def init(client: Party, server: Party) -> TrainState:
        places = (layout.groups, layout.members, layout.steps, layout.batch)
        device = placement.of(*stored)
        payload = jnp.zeros(
            (*places, *smashed_shape), codec.payload_dtype, device=device
        )
        header = jnp.zeros((*places, codec.header_bytes), jnp.uint8, device=device)
        labels = jnp.zeros(places, jnp.int32, device=device)
        return TrainState(
            *placement.put((client, server, gate.init())),
            store=Store(Packet(payload, header), labels),
            epoch=placement.put(jnp.int32(0)),
        )

    def lay(state: TrainState) -> TrainState:
        store = placement.lay(state.store, *stored)
        others = (state.client, state.server, state.gate, state.epoch)
        client, server, gate, epoch = placement.lay(others)
        return TrainState(client, server, gate, store, epoch)

    def evaluated(client: Party, server: Party, test: HeldOut) -> Metrics:
        predict = functools.partial(steps.predict, client, server)
        return evaluate(
            lambda raw, mask: predict(transform.evaluate(raw), mask),
            test,
            loss,
            correct,
        )

    def epoch(
        state: TrainState,
        shards: Shards,
        test: HeldOut,
        key: jax.Array,
        step_size: jax.Array,
        active: jax.Array,
    ) -> tuple[TrainState, EpochRecord]:
        setting = _set_out(
            jax.random.fold_in(key, state.epoch), shards, step_size, layout
        )
        ran = state.gate.state
        sync, refresh, offline = (
            active & (ran == it) for it in (SYNC, REFRESH, OFFLINE)
        )
        # A loop for each state, of no turns where it is another's epoch. A switch
        # would be plainer, but XLA copies the whole store where its branches meet.
        carry = _Carry(state.client, state.server, state.store.packets, _nothing())
        for wanted, is_sync in ((sync, True), (refresh, False)):
            turn = _exchange(steps, layout, transform, placement, setting, sync=is_sync)
            carry = jax.lax.fori_loop(
                0, jnp.where(wanted, layout.groups, 0), turn, carry
            )
        labels = setting.labels.reshape(state.store.labels.shape)
        labels = jnp.where(sync | refresh, labels, state.store.labels)
        labels = placement.lay(labels, *stored)

        def alone(_: jax.Array, carry: _Carry) -> _Carry:
            server, metrics = offline_epoch(
                steps,
                layout,
                Store(carry.packets, labels),
                setting.held,
                carry.server,
                setting.key,
                step_size,
                padded=layout.offline_padded,
                placement=placement,
            )
            return carry._replace(server=server, metrics=_sum(carry.metrics, metrics))

        client, server, packets, train = jax.lax.fori_loop(
            0, jnp.where(offline, 1, 0), alone, carry
        )
        mean_loss = train.loss / train.examples.astype(jnp.float32)
        after, scores = jax.lax.cond(
            active,
            lambda: (
                gate.update(state.gate, mean_loss),
                evaluated(client, server, test),
            ),
            lambda: (state.gate, _nothing()),
        )
        number = state.epoch + active.astype(jnp.int32)
        state = TrainState(client, server, after, Store(packets, labels), number)
        return lay(state), placement.lay(EpochRecord(ran, train, scores))

    def run(
        state: TrainState,
        shards: Shards,
        test: HeldOut,
        key: jax.Array,
        step_sizes: jax.Array,
        active: jax.Array,
    ) -> tuple[TrainState, EpochRecord]:
        return jax.lax.scan(
            lambda state, x: epoch(state, shards, test, key, *x),
            state,
            (step_sizes, active),
        )

    return Program(run=jax.jit(run, donate_argnums=0), init=init)


class _Setting(NamedTuple):
    """What all steps of one epoch share.

    Attributes:
        key: of the epoch.
        keys: of each client, `[groups, members]`.
        order: into the shards' examples, `Int32[groups, members, slots]`.
        labels: in that order, likewise.
        held: which slots hold an example, `Bool[groups, members, slots]`.
        shards: the examples.
        step_size: of the optimizer.
    """

    key: jax.Array
    keys: jax.Array
    order: jax.Array
    labels: jax.Array
    held: jax.Array
    shards: Shards
    step_size: jax.Array


class _Carry(NamedTuple):
    """What the steps of an epoch hand on."""

    client: Party
    server: Party
    packets: Packet
    metrics: Metrics


def _nothing() -> Metrics:
    return Metrics(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def _set_out(
    key: jax.Array, shards: Shards, step_size: jax.Array, layout: Layout
) -> _Setting:
    keys = client_keys(key, layout)
    order = epoch_order(keys, shards)
    return _Setting(
        key,
        keys,
        order,
        labels=shards.labels[order],
        held=held(shards.counts, layout.slots),
        shards=shards,
        step_size=step_size,
    )


def _exchange(
    steps: Steps,
    layout: Layout,
    transform: Transform,
    placement: Placement,
    setting: _Setting,
    *,
    sync: bool,
) -> Callable[[jax.Array, _Carry], _Carry]:
    """A group's turn in an epoch in which clients send: A if `sync`, else B."""
    members, batch = layout.members, layout.batch
    shards, step_size = setting.shards, setting.step_size
    side = (MEMBERS,) if sync else ()

    def turn(group: jax.Array, carry: _Carry) -> _Carry:
        def step(
            carry: tuple[Party, Party, Packet], number: jax.Array
        ) -> tuple[tuple[Party, Party, Packet], Metrics]:
            clients, server, stored = carry
            at = number * batch

            def batch_of(array: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(array[group], at, batch, axis=1)

            mask = None
            if layout.padded:
                mask = batch_of(setting.held)
            draws = jax.vmap(step_keys, (0, None))(setting.keys[group], number)
            rows = placement.lay(batch_of(setting.order), MEMBERS, ROWS)
            raw = placement.lay(shards.examples[rows], MEMBERS, ROWS)
            x = each(transform.training(sync=sync), members)(draws[:, 0], raw)
            key = server_key(setting.key, group * layout.steps + number)
            now = (batch_of(setting.labels), mask, key, step_size)
            if sync:
                packets, residuals = each(steps.client_forward, members)(
                    clients, x, mask, draws[:, 1]
                )
                server, metrics, replies = steps.server_step_with_reply(
                    server, packets, *now
                )
                clients = each(steps.client_backward, members, (0, 0, 0, 0, None))(
                    clients, residuals, replies, mask, step_size
                )
            else:
                packets = each(steps.client_refresh, members, (None, 0, 0, 0))(
                    clients, x, mask, draws[:, 1]
                )
                server, metrics = steps.server_step(server, packets, *now)
            stored = _write(stored, packets, group, number, batch)
            stored = placement.lay(stored, None, MEMBERS, None, ROWS)
            clients = placement.lay(clients, *side)
            return (clients, placement.lay(server), stored), metrics

        client, server, stored, before = carry
        clients = placement.lay(spread(client, members), *side) if sync else client
        (clients, server, stored), metrics = jax.lax.scan(
            step, (clients, server, stored), jnp.arange(layout.steps)
        )
        if sync:
            counts = shards.counts[group].astype(jnp.float32)
            client = placement.lay(average(clients, counts / counts.sum()))
        return _Carry(client, server, stored, _sum(before, total(metrics)))

    return turn


def offline_epoch(
    steps: Steps,
    layout: Layout,
    store: Store,
    stored: jax.Array,
    server: Party,
    key: jax.Array,
    step_size: jax.Array,
    *,
    padded: bool,
    placement: Placement = ONE_DEVICE,
) -> tuple[Party, Metrics]:
    """An epoch of C: the server alone, over all that it stored, in a new order.

    Stored examples are drawn one by one from all clients, each with the header of the
    packet it came in, so batches are mixed anew every epoch. What the client made of
    them is frozen.

    Args:
        steps: of the client/server pair.
        layout: static sizes.
        store: what to draw from.
        stored: which of its slots hold an example, `Bool[groups, members, slots]`.
        server: the server part.
        key: of the epoch.
        step_size: of the optimizer.
        padded: whether fewer slots than `layout.offline_steps` full batches may hold
            one.
        placement: of the store.
    """
    labels = store.labels
    order_key, step_key = jax.random.split(jax.random.fold_in(key, 2))
    order = shuffled(order_key, stored.reshape(-1))[: layout.examples]
    wanted = layout.offline_steps * layout.offline_batch
    order = jnp.pad(order, (0, wanted - layout.examples))
    mask = jnp.arange(wanted) < jnp.sum(stored, dtype=jnp.int32)

    def step(
        server: Party, x: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[Party, Metrics]:
        slots, mask, number = x
        # Not of a store made flat: where its batches are shared over devices, each
        # one would have to get all of it first.
        at = jnp.unravel_index(slots, labels.shape)
        rows = jax.tree.map(lambda leaf: leaf[at], store)
        rows = placement.lay(rows, BATCH)
        server, metrics = steps.offline_step(
            server,
            Packet(rows.packets.payload[:, None], rows.packets.header),
            rows.labels[:, None],
            mask if padded else None,
            jax.random.fold_in(step_key, number),
            step_size,
        )
        return placement.lay(server), metrics

    xs = (
        order.reshape(layout.offline_steps, layout.offline_batch),
        mask.reshape(layout.offline_steps, -1, 1),
        jnp.arange(layout.offline_steps),
    )
    server, metrics = jax.lax.scan(step, server, xs)
    return server, total(metrics)


def _sum(one: Metrics, other: Metrics) -> Metrics:
    return Metrics(*map(jnp.add, one, other))


def _write(
    stored: Packet, packets: Packet, group: jax.Array, number: jax.Array, batch: int
) -> Packet:
    """Puts one step's packets in place, every example with its packet's header."""
    header = jnp.repeat(packets.header[:, None], batch, axis=1)
    rows = Packet(packets.payload, header)

    def place(leaf: jax.Array, new: jax.Array) -> jax.Array:
        start = (group, 0, number) + (0,) * (leaf.ndim - 3)
        return jax.lax.dynamic_update_slice(leaf, new[None, :, None], start)

    return Packet(*map(place, stored, rows))
