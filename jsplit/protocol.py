"""The paper's algorithm (arXiv 2107.09786): epochs of A, B and C under a gate.

    A: client_forward -> encode -> server_step_with_reply -> encode -> client_backward
    B: client_refresh -> encode -> server_step          (nothing comes back)
    C:                   stored packets -> server_step  (nothing is sent)

The server stores every packet that it receives; an epoch of A or B rewrites the whole
store, an epoch of C draws from it. After each epoch the gate sees the server's mean
training loss and names the next state. All of it is one `lax.scan` over epochs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jsplit.evaluate import HeldOut, evaluate
from jsplit.gate import Gate, GateState
from jsplit.shards import Shards, client_keys, epoch_order, held, shuffled
from jsplit.steps import Metrics, Party, Steps, cross_entropy, top_1, total
from jsplit.topology import Layout, average, spread
from jsplit.typing import Codec, Packet


class Transform(NamedTuple):
    """What a client does to its raw examples before its part of the network.

    Attributes:
        train: `(key, raw: [b, ...]) -> [b, ...]`, may augment.
        evaluate: `(raw) -> [b, ...]`.
    """

    train: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], jax.Array]


IDENTITY_TRANSFORM = Transform(lambda key, raw: raw, lambda raw: raw)


class Store(NamedTuple):
    """What the server received last, in order of arrival: codes, never floats.

    Attributes:
        packets: payload `[groups, members, slots, ...]`, and for every example the
            header of the packet it came in, `UInt8[groups, members, slots, h]`.
        labels: `Int32[groups, members, slots]`.
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
    """
    exchange = _make_exchange(steps, layout, transform)

    def init(client: Party, server: Party) -> TrainState:
        places = (layout.groups, layout.members, layout.slots)
        payload = jnp.zeros((*places, *smashed_shape), codec.payload_dtype)
        header = jnp.zeros((*places, codec.header_bytes), jnp.uint8)
        store = Store(Packet(payload, header), jnp.zeros(places, jnp.int32))
        return TrainState(client, server, gate.init(), store, jnp.int32(0))

    def epoch(
        state: TrainState,
        shards: Shards,
        test: HeldOut,
        key: jax.Array,
        step_size: jax.Array,
    ) -> tuple[TrainState, EpochRecord]:
        key = jax.random.fold_in(key, state.epoch)

        def sync(state: TrainState) -> tuple[TrainState, Metrics]:
            return exchange(state, shards, key, step_size, sync=True)

        def refresh(state: TrainState) -> tuple[TrainState, Metrics]:
            return exchange(state, shards, key, step_size, sync=False)

        def offline(state: TrainState) -> tuple[TrainState, Metrics]:
            server, metrics = _offline(
                steps, layout, state.server, state.store, shards.counts, key, step_size
            )
            return dataclasses.replace(state, server=server), metrics

        ran = state.gate.state
        state, train = jax.lax.switch(ran, (sync, refresh, offline), state)
        mean_loss = train.loss / train.examples.astype(jnp.float32)
        state = dataclasses.replace(
            state, gate=gate.update(state.gate, mean_loss), epoch=state.epoch + 1
        )
        predict = functools.partial(steps.predict, state.client, state.server)
        scores = evaluate(
            lambda raw, mask: predict(transform.evaluate(raw), mask),
            test,
            loss,
            correct,
        )
        return state, EpochRecord(ran, train, scores)

    def run(
        state: TrainState,
        shards: Shards,
        test: HeldOut,
        key: jax.Array,
        step_sizes: jax.Array,
        active: jax.Array,
    ) -> tuple[TrainState, EpochRecord]:
        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(epoch, state, shards, test, key, step_sizes[0])[1],
        )

        def body(
            state: TrainState, x: tuple[jax.Array, jax.Array]
        ) -> tuple[TrainState, EpochRecord]:
            step_size, active = x
            return jax.lax.cond(
                active,
                lambda state: epoch(state, shards, test, key, step_size),
                lambda state: (state, blank),
                state,
            )

        return jax.lax.scan(body, state, (step_sizes, active))

    return Program(run=jax.jit(run, donate_argnums=0), init=init)


def _make_exchange(
    steps: Steps, layout: Layout, transform: Transform
) -> Callable[..., tuple[TrainState, Metrics]]:
    """An epoch in which clients send: A if `sync`, else B."""
    members, batch = layout.members, layout.batch

    def exchange(
        state: TrainState,
        shards: Shards,
        key: jax.Array,
        step_size: jax.Array,
        *,
        sync: bool,
    ) -> tuple[TrainState, Metrics]:
        keys = client_keys(key, layout)
        order = epoch_order(keys, shards)
        labels = shards.labels[order]
        held_slots = held(shards.counts, layout.slots)

        def turn(
            carry: tuple[Party, Party, Packet], group: jax.Array
        ) -> tuple[tuple[Party, Party, Packet], Metrics]:
            client, server, stored = carry

            def step(
                carry: tuple[Party, Party, Packet], number: jax.Array
            ) -> tuple[tuple[Party, Party, Packet], Metrics]:
                clients, server, stored = carry
                at = number * batch

                def batch_of(array: jax.Array) -> jax.Array:
                    return jax.lax.dynamic_slice_in_dim(array[group], at, batch, axis=1)

                mask = None
                if layout.padded:
                    mask = batch_of(held_slots)
                draws = jax.vmap(jax.random.fold_in, (0, None))(keys[group], number)
                draws = jax.vmap(jax.random.split)(draws)
                x = jax.vmap(transform.train)(
                    draws[:, 0], shards.examples[batch_of(order)]
                )
                server_key = jax.random.fold_in(
                    jax.random.fold_in(key, 1), group * layout.steps + number
                )
                now = (batch_of(labels), mask, server_key, step_size)
                if sync:
                    packets, residuals = jax.vmap(steps.client_forward)(
                        clients, x, mask, draws[:, 1]
                    )
                    server, metrics, replies = steps.server_step_with_reply(
                        server, packets, *now
                    )
                    clients = jax.vmap(steps.client_backward, (0, 0, 0, 0, None))(
                        clients, residuals, replies, mask, step_size
                    )
                else:
                    packets = jax.vmap(steps.client_refresh, (None, 0, 0, 0))(
                        clients, x, mask, draws[:, 1]
                    )
                    server, metrics = steps.server_step(server, packets, *now)
                stored = _write(stored, packets, group, at, batch)
                return (clients, server, stored), metrics

            clients = spread(client, members) if sync else client
            (clients, server, stored), metrics = jax.lax.scan(
                step, (clients, server, stored), jnp.arange(layout.steps)
            )
            if sync:
                counts = shards.counts[group].astype(jnp.float32)
                client = average(clients, counts / counts.sum())
            return (client, server, stored), total(metrics)

        (client, server, stored), metrics = jax.lax.scan(
            turn,
            (state.client, state.server, state.store.packets),
            jnp.arange(layout.groups),
        )
        store = Store(stored, labels)
        state = dataclasses.replace(state, client=client, server=server, store=store)
        return state, total(metrics)

    return exchange


def _offline(
    steps: Steps,
    layout: Layout,
    server: Party,
    store: Store,
    counts: jax.Array,
    key: jax.Array,
    step_size: jax.Array,
) -> tuple[Party, Metrics]:
    """An epoch of C: the server alone, over all that it stored, in a new order.

    Stored examples are drawn one by one from all clients, each with the header of the
    packet it came in, so batches are mixed anew every epoch. Their augmentation and
    the client that made them are frozen.
    """
    valid = held(counts, layout.slots)
    rows = jax.tree.map(lambda leaf: leaf.reshape(valid.size, *leaf.shape[3:]), store)
    order_key, step_key = jax.random.split(jax.random.fold_in(key, 2))
    order = shuffled(order_key, valid.reshape(-1))[: layout.examples]
    wanted = layout.offline_steps * layout.offline_batch
    order = jnp.pad(order, (0, wanted - layout.examples))
    mask = (jnp.arange(wanted) < layout.examples).reshape(layout.offline_steps, -1, 1)

    def step(
        server: Party, x: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[Party, Metrics]:
        slots, mask, number = x
        packets = Packet(
            rows.packets.payload[slots][:, None], rows.packets.header[slots]
        )
        return steps.server_step(
            server,
            packets,
            rows.labels[slots][:, None],
            mask if layout.offline_padded else None,
            jax.random.fold_in(step_key, number),
            step_size,
        )

    xs = (
        order.reshape(layout.offline_steps, layout.offline_batch),
        mask,
        jnp.arange(layout.offline_steps),
    )
    server, metrics = jax.lax.scan(step, server, xs)
    return server, total(metrics)


def _write(
    stored: Packet, packets: Packet, group: jax.Array, at: jax.Array, batch: int
) -> Packet:
    """Puts one step's packets in place, every example with its packet's header."""
    header = jnp.repeat(packets.header[:, None], batch, axis=1)
    rows = Packet(packets.payload, header)

    def place(leaf: jax.Array, new: jax.Array) -> jax.Array:
        start = (group, 0, at) + (0,) * (leaf.ndim - 3)
        return jax.lax.dynamic_update_slice(leaf, new[None], start)

    return Packet(*map(place, stored, rows))
