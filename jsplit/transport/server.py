"""The server's training: the same algorithm as `protocol`, over lines.

An epoch of A or B asks each client for its batches and trains as they come; one of C
trains on what is stored and needs nobody. An epoch begins from a state that is kept
until it is over, so that it can be begun again: after a client lost its memory, or went
away for good. All of it is a function of that state, so the result is the same.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.errors import Refusal, RunError
from jsplit.gate import Gate, GateState
from jsplit.protocol import offline_epoch
from jsplit.shards import client_keys, order_of, server_key
from jsplit.steps import Metrics, Party, Steps, sum_up, total
from jsplit.topology import Layout, average
from jsplit.transport.account import Account
from jsplit.transport.peer import Absent, Checked, Parcel, Peer, Restarted, Task
from jsplit.transport.store import HostStore
from jsplit.transport.tensors import make_reader, on_host, parcel, tensor, unpack
from jsplit.typing import OFFLINE, SYNC, Codec, Packet
from jsplit.wire.messages import BEGINNING, EXAMINE, Kept, Message, Part, Place, Plan
from jsplit.wire.messages import Tensor as TensorMessage

POLL = 0.5
"""Seconds after which a waiting server looks whether it was asked to stop."""


_ORDER = jax.jit(order_of, static_argnums=2)
_TOTAL = jax.jit(total)
_AVERAGE = jax.jit(average)
_OFFLINE = jax.jit(offline_epoch, static_argnums=(0, 1), static_argnames="padded")


class Stopped(Exception):
    """The server was asked to stop in the middle of an epoch."""


class Side(NamedTuple):
    """What the server computes with.

    Attributes:
        steps: of the client/server pair.
        gate: decides the states.
        codec: of activations.
        grad_codec: of gradients.
        layout: static sizes.
        sizes: examples of each client.
        smashed_shape: of one example's activations.
        client: a client part, for its shapes.
        key: that every epoch's draws follow from.
        loss: of each held-out example.
        correct: likewise.
        test_batch: held-out examples that are coded together.
    """

    steps: Steps
    gate: Gate
    codec: Codec
    grad_codec: Codec
    layout: Layout
    sizes: tuple[int, ...]
    smashed_shape: tuple[int, ...]
    client: Party
    key: jax.Array
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    correct: Callable[[jax.Array, jax.Array], jax.Array]
    test_batch: int


class State(NamedTuple):
    """What an epoch begins with.

    Attributes:
        server: the server part.
        gate: its state names the state of the epoch.
        digest: of the current client part.
        client: that part; None where it never leaves its one client.
        holders: clients that have it, unless something happened to them.
        epoch: epochs finished.
    """

    server: Party
    gate: GateState
    digest: bytes
    client: Party | None
    holders: frozenset[int]
    epoch: int


class Patience(NamedTuple):
    """How long to wait for a client in A and B, and what then.

    Attributes:
        seconds: without any message of its own.
        skip: whether the epoch goes on without it; else the run stops.
    """

    seconds: float
    skip: bool


class Trainer:
    """Runs epochs with the clients of a run.

    Args:
        side: what to compute with.
        peers: by client.
        labels: each client's, in its own order, `Int32[size]`.
        account: of what crosses.
        patience: with clients.
        stopping: whether the server was asked to stop.
        notify: takes a line for people.
    """

    def __init__(
        self,
        side: Side,
        peers: Sequence[Peer],
        labels: Sequence[np.ndarray],
        account: Account,
        patience: Patience,
        stopping: Callable[[], bool],
        notify: Callable[[str], None],
    ):
        self.store = HostStore(side.layout, side.codec, side.smashed_shape)
        self._side = side
        self._peers = peers
        self._labels = labels
        self._account = account
        self._patience = patience
        self._stopping = stopping
        self._notify = notify
        self._tasks = itertools.count()
        self._away: frozenset[int] = frozenset()
        self._examined: tuple[bytes, list[Packet]] = (b"", [])
        self._read = make_reader(side.codec, side.smashed_shape)
        self._update = jax.jit(side.gate.update)
        self._alone = functools.partial(_OFFLINE, side.steps, side.layout)
        self._score = jax.jit(
            lambda outputs, labels, mask: sum_up(
                side.loss(outputs, labels), side.correct(outputs, labels), mask
            )
        )

    def epoch(
        self, state: State, step_size: float
    ) -> tuple[State, Metrics, frozenset[int]]:
        """Runs the next epoch, in the state that the gate names.

        Returns:
            What the epoch after it begins with, the sums over this one's training
            examples, and the clients without which it went on, in A or B.

        Raises:
            RunError: if a client is gone and the run may not go on without it.
            Stopped: if the server was asked to stop.
        """
        size, absent = jnp.float32(step_size), frozenset[int]()
        key = jax.random.fold_in(self._side.key, state.epoch)
        if int(state.gate.state) == OFFLINE:
            server, metrics = self._alone(
                self.store.on_device(),
                self.store.filled(),
                state.server,
                key,
                size,
                padded=self._side.layout.offline_padded or not self.store.full,
            )
            state = state._replace(server=server)
        else:
            state, metrics = self._with_clients(state, key, size)
            absent = self._away
        mean = metrics.loss / metrics.examples.astype(jnp.float32)
        gate = self._update(state.gate, mean)
        self._account.settle()
        return state._replace(gate=gate, epoch=state.epoch + 1), metrics, absent

    def examine(self, state: State, labels: np.ndarray) -> Metrics:
        """Scores the held-out set of the last client, who has the current part.

        Activations that were sent for the same client part before are used again.

        Args:
            state: of both parts.
            labels: of the held-out set, `Int32[m]`.

        Raises:
            Absent: if it is away, and the run goes on without it.
            RunError: if it is away, and the run does not.
        """
        if self._examined[0] != state.digest:
            self._examined = (state.digest, self._ask_held_out(state, len(labels)))
        batch, scores = self._side.test_batch, []
        for number, packet in enumerate(self._examined[1]):
            some = labels[number * batch : (number + 1) * batch]
            mask = np.arange(min(batch, len(labels))) < len(some)
            outputs = self._side.steps.server_examine(
                state.server, _padded(packet, len(mask))
            )
            scores.append(self._score(outputs, np.resize(some, len(mask)), mask))
        return _TOTAL(jax.tree.map(lambda *leaves: jnp.stack(leaves), *scores))

    def _ask_held_out(self, state: State, count: int) -> list[Packet]:
        batch = self._side.test_batch
        peer = self._peers[-1]
        if peer.client in self._away and not peer.connected:
            raise Absent(peer.client)
        while True:
            task = Task(
                self._plan(state, EXAMINE, bytes(8)),
                -(-count // batch),
                lambda number, message: self._check_tensor(
                    message, min(batch, count - number * batch)
                ),
                self._parcel(state),
            )
            peer.begin(task)
            try:
                packets = [self._take(peer) for _ in range(task.length)]
            except Absent:
                peer.end()
                self._account.abandon()
                if self._patience.skip:
                    self._away |= {peer.client}
                    raise
                raise RunError(self._gone(peer.client, "the score")) from None
            peer.end()
            self._account.settle()
            return packets

    def _with_clients(
        self, state: State, key: jax.Array, step_size: jax.Array
    ) -> tuple[State, Metrics]:
        # Who was away is not waited for again until it is back.
        absent = {n for n in self._away if not self._peers[n].connected}
        if len(absent) == len(self._peers):
            absent.clear()
        while True:
            try:
                result = self._attempt(state, key, step_size, frozenset(absent))
                self._away = frozenset(absent)
                return result
            except Restarted as error:
                self._notify(
                    f"client {error.args[0]} came back without its memory: epoch "
                    f"{state.epoch + 1} begins again"
                )
            except Absent as error:
                client = error.args[0]
                self._peers[client].drop()
                never = self.store.lacks(client)
                if (
                    not self._patience.skip
                    or never
                    or len(absent) + 1 == len(self._peers)
                ):
                    raise RunError(
                        self._gone(client, f"epoch {state.epoch + 1}")
                    ) from None
                absent.add(client)
                self._notify(
                    f"client {client} is gone: epoch {state.epoch + 1} begins again "
                    "without it"
                )
            # First, so that what the others send meanwhile counts for nothing too.
            for peer in self._peers:
                peer.end()
            self._account.abandon()

    def _gone(self, client: int, what: str) -> str:
        return (
            f"client {client} sent nothing for {self._patience.seconds:g} s in {what}; "
            "start it again and then this server, or give it a longer --wait"
        )

    def _attempt(
        self,
        state: State,
        key: jax.Array,
        step_size: jax.Array,
        absent: frozenset[int],
    ) -> tuple[State, Metrics]:
        """One try at an epoch of A or B; `state` is not touched."""
        layout = self._side.layout
        keys = client_keys(key, layout)
        sync = int(state.gate.state) == SYNC
        metrics: list[Metrics] = []
        for group in range(layout.groups):
            members = range(group * layout.members, (group + 1) * layout.members)
            present = [client for client in members if client not in absent]
            if not present:
                continue
            tasks = self._begin(state, keys[group], present, sync)
            orders = {
                client: np.asarray(
                    _ORDER(
                        keys[group][client - members[0]],
                        self._side.sizes[client],
                        layout.slots,
                    )
                )
                for client in present
            }
            server = state.server
            for number in range(layout.steps):
                batch = self._collect(members, present, orders, number)
                if batch is None:
                    continue
                packets, labels, mask = batch
                self.store.write(group, number, packets, labels, mask)
                given = (
                    server,
                    packets,
                    labels,
                    mask if layout.padded or absent else None,
                    server_key(key, group * layout.steps + number),
                    step_size,
                )
                if sync:
                    server, found, replies = self._side.steps.server_step_with_reply(
                        *given
                    )
                    self._answer(tasks, members, replies, number)
                else:
                    server, found = self._side.steps.server_step(*given)
                metrics.append(found)
            state = state._replace(server=server)
            state = state._replace(holders=state.holders | set(present))
            if sync:
                state = self._collect_parts(state, present)
            for client in present:
                self._peers[client].end()
        summed = _TOTAL(jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics))
        return state, summed

    def _begin(
        self, state: State, keys: jax.Array, present: Sequence[int], sync: bool
    ) -> dict[int, Task]:
        layout, tasks = self._side.layout, {}
        for client in present:
            batches = -(-self._side.sizes[client] // layout.batch)
            member = client % layout.members
            tasks[client] = Task(
                self._plan(state, int(not sync), _key_bytes(keys[member])),
                batches + sync,
                functools.partial(self._check, client, batches),
                self._parcel(state),
                due=client not in state.holders,
            )
            self._peers[client].begin(tasks[client])
        return tasks

    def _plan(self, state: State, which: int, key: bytes) -> Plan:
        place = Place(state.epoch, next(self._tasks), 0)
        return Plan(place, which, key, state.digest)

    def _parcel(self, state: State) -> Parcel | None:
        if state.client is None or state.digest == BEGINNING:
            return None
        return Parcel(*parcel(state.client, Place(0, 0, 0)))

    def _check(
        self, client: int, batches: int, number: int, message: Message
    ) -> Checked:
        """What a client sends in an epoch, in the thread of its connection."""
        if number < batches:
            rows = self._rows(client, number)
            return self._check_tensor(message, rows)
        if len(self._peers) == 1:
            if not isinstance(message, Kept):
                raise Refusal("UNEXPECTED", "a client alone keeps its part")
            return Checked((message.digest, None), None)
        if not isinstance(message, Part):
            raise Refusal("UNEXPECTED", "a client part is due")
        part, plain = unpack(message, self._side.client)
        return Checked((message.digest, part), plain)

    def _check_tensor(self, message: Message, rows: int) -> Checked:
        if not isinstance(message, TensorMessage):
            raise Refusal("UNEXPECTED", "a batch is due")
        packet = self._read(message, rows)
        return Checked(packet, packet.payload.nbytes)

    def _rows(self, client: int, number: int) -> int:
        batch = self._side.layout.batch
        return min(max(self._side.sizes[client] - number * batch, 0), batch)

    def _take(self, peer: Peer) -> Any:
        waited = 0.0
        while True:
            try:
                return peer.take(min(POLL, self._patience.seconds - waited))
            except Absent:
                waited += POLL
                if self._stopping():
                    raise Stopped from None
                if waited >= self._patience.seconds:
                    raise

    def _collect(
        self,
        members: range,
        present: Sequence[int],
        orders: dict[int, np.ndarray],
        number: int,
    ) -> tuple[Packet, np.ndarray, np.ndarray] | None:
        """A step's packets of all members, with labels and mask; None if all are out.

        Padded rows are zeros, as those that nobody sends.
        """
        layout, side = self._side.layout, self._side
        packets, mask = [], np.zeros((len(members), layout.batch), bool)
        labels = np.zeros((len(members), layout.batch), np.int32)
        for place, client in enumerate(members):
            rows = self._rows(client, number) if client in present else 0
            if rows:
                packet = self._take(self._peers[client])
                mask[place, :rows] = True
                at = slice(number * layout.batch, (number + 1) * layout.batch)
                own = self._labels[client]
                labels[place] = own[orders[client][at] % len(own)]
            else:
                packet = on_host(
                    np.zeros((0, *side.smashed_shape), side.codec.payload_dtype),
                    np.zeros(side.codec.header_bytes, np.uint8),
                )
            packets.append(_padded(packet, layout.batch))
        if not mask.any():
            return None
        stacked = on_host(*(np.stack(leaves) for leaves in zip(*packets, strict=True)))
        return stacked, labels, mask

    def _answer(
        self, tasks: dict[int, Task], members: range, replies: Packet, number: int
    ) -> None:
        payloads, headers = jax.device_get(replies)
        for client, task in tasks.items():
            rows = self._rows(client, number)
            if rows:
                at = client - members[0]
                place = task.plan.place._replace(number=number)
                reply = Packet(payloads[at], headers[at])
                self._peers[client].answer(
                    *tensor(self._side.grad_codec, reply, place, rows)
                )

    def _collect_parts(self, state: State, present: Sequence[int]) -> State:
        """The client part after an epoch of A, or after a client's turn in it."""
        handed = [self._take(self._peers[client]) for client in present]
        if handed[0][1] is None or self._side.layout.members == 1:
            digest, part = handed[0]
            return state._replace(
                digest=digest, client=part, holders=frozenset(present)
            )
        counts = jnp.asarray(
            [self._side.sizes[client] for client in present], jnp.float32
        )
        parts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p for _, p in handed))
        mean = _AVERAGE(parts, counts / counts.sum())
        made = Parcel(*parcel(mean, Place(0, 0, 0)))
        for client in present:
            self._peers[client].hand(made)
        return state._replace(
            digest=made.message.digest, client=mean, holders=frozenset(present)
        )


def _padded(packet: Packet, rows: int) -> Packet:
    payload = packet.payload
    missing = [(0, rows - len(payload))] + [(0, 0)] * (payload.ndim - 1)
    return on_host(np.pad(payload, missing), np.asarray(packet.header))


def _key_bytes(key: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(key)).tobytes()
