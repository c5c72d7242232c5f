"""The server's training: the algorithm of `core`, with clients over channels.

An epoch of A or B asks each client for its batches and trains as they come; one of C
trains on what is stored and needs nobody. An epoch begins from a state that is kept
until it is over, so that it can begin again after a client lost its memory or went away
for good. All of it is a function of that state, so the result is the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.accounting.cost_model import packets_of
from jsplit.core import schedule
from jsplit.core.algorithm import learn_from_store
from jsplit.core.metrics import Metrics
from jsplit.core.state import SideState
from jsplit.core.steps import Steps
from jsplit.core.store import Store, with_views
from jsplit.core.topology import Layout, average
from jsplit.errors import Refusal
from jsplit.net import server_events
from jsplit.net.client_manager import ClientManager
from jsplit.net.client_session import ClientAbsent, ClientRestarted
from jsplit.net.scoring import summed
from jsplit.net.state import ServerSetup, ServerState
from jsplit.net.store import HostStore, ServerBatch
from jsplit.net.task import CheckedMessage, ModelUpdate, Task
from jsplit.net.tensors import (
    nothing_of,
    on_host,
    padded,
    read_weights,
    tensor_message,
    weights_message,
)
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.typing import LOCAL, OFFLINE, REFRESH, SYNC, Packet
from jsplit.wire.messages import ClientWeights, Message, Place, WeightsKept

_PLAN = jax.jit(schedule.plan_client, static_argnums=(2, 3))
_AVERAGE = jax.jit(average)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="padded")
def _offline(
    steps: Steps,
    layout: Layout,
    stored: Store,
    filled: jax.Array,
    server: SideState,
    key: jax.Array,
    step_size: jax.Array,
    *,
    padded: bool,
) -> tuple[SideState, Metrics]:
    batches = schedule.plan_offline(key, filled, layout, padded=padded)
    batches = with_views(stored, key, batches, layout)
    return learn_from_store(steps, stored.examples, batches, server, step_size)


class ServerTrainer:
    """Runs epochs with the clients of a run.

    Args:
        setup: what to compute with.
        manager: the clients.
        labels: each client's, in its own order, `Int32[size]`.
        counter: counts what crosses.
        notify: takes a line of text for people.

    Attributes:
        store: what was sent last, of all examples.
    """

    def __init__(
        self,
        setup: ServerSetup,
        manager: ClientManager,
        labels: Sequence[np.ndarray],
        counter: TrafficCounter,
        notify: Callable[[str], None],
    ):
        self.store = HostStore(
            setup.layout, setup.codec, setup.smashed_shape, setup.views
        )
        self._setup = setup
        self._manager = manager
        self._labels = labels
        self._counter = counter
        self._notify = notify
        self._update = jax.jit(setup.gate.update)
        self._alone = functools.partial(_offline, setup.steps, setup.layout)

    def report(self, state: ServerState) -> Any:
        """What the gate says of the epoch that is due."""
        return self._setup.gate.report(state.gate)

    def run_epoch(
        self, state: ServerState, step_size: float
    ) -> tuple[ServerState, Metrics | None, frozenset[int]]:
        """Runs the next epoch, in the state that the gate names.

        Returns:
            What the epoch after it begins with, the sums over this one's training
            examples (None where the clients learned alone), and the clients without
            which it went on.

        Raises:
            RunError: if a client is gone and the run may not go on without it.
            Stopped: if the server was asked to stop.
        """
        size, absent = jnp.float32(step_size), frozenset[int]()
        metrics: Metrics | None
        key = schedule.epoch_key(self._setup.key, state.epoch)
        if int(state.gate.state) == OFFLINE:
            server, metrics = self._alone(
                self.store.on_device(),
                self.store.filled(),
                state.server,
                key,
                size,
                padded=self._setup.layout.offline_padded or not self.store.full,
            )
            state = state._replace(server=server)
        else:
            state, metrics = self._with_clients(state, key, size)
            absent = self._manager.absent
        # The gate does not look at epochs of which the server heard no loss.
        mean = jnp.float32(0) if metrics is None else metrics.mean_loss
        gate = self._update(state.gate, mean)
        self._counter.commit()
        return state._replace(gate=gate, epoch=state.epoch + 1), metrics, absent

    def _with_clients(
        self, state: ServerState, key: jax.Array, step_size: jax.Array
    ) -> tuple[ServerState, Metrics | None]:
        # Nobody waits again for clients that were absent until they are back.
        absent = set(self._manager.still_absent())
        everyone = len(self._manager.sessions)
        if len(absent) == everyone:
            absent.clear()
        while True:
            try:
                result = self._attempt(state, key, step_size, frozenset(absent))
                self._manager.absent = frozenset(absent)
                ran = int(state.gate.state)
                for client in range(everyone if ran != LOCAL else 0):
                    if client not in absent:
                        self.store.note_turn(client, reply=ran == SYNC)
                return result
            except ClientRestarted as error:
                self._notify(
                    server_events.epoch_restarted(
                        f"client {error.args[0]} came back without its memory: epoch "
                        f"{state.epoch + 1} begins again",
                        client=error.args[0],
                        epoch=state.epoch + 1,
                        cause="restarted",
                    )
                )
            except ClientAbsent as error:
                client = error.args[0]
                self._manager.sessions[client].drop()
                objection = self._manager.policy.objection(
                    left=everyone - len(absent) - 1, sent=not self.store.lacks(client)
                )
                if objection is not None:
                    raise self._manager.absence_error(
                        client, f"epoch {state.epoch + 1}", objection
                    ) from None
                absent.add(client)
                self._notify(
                    server_events.epoch_restarted(
                        f"client {client} is gone: epoch {state.epoch + 1} begins "
                        "again without it",
                        client=client,
                        epoch=state.epoch + 1,
                        cause="absent",
                    )
                )
            self._manager.cancel_tasks()

    def _attempt(
        self,
        state: ServerState,
        key: jax.Array,
        step_size: jax.Array,
        absent: frozenset[int],
    ) -> tuple[ServerState, Metrics | None]:
        """One try at an epoch with clients; `state` is not touched.

        Where they learn alone no batches are sent, and there is no loss to hear of.
        """
        layout = self._setup.layout
        keys = schedule.client_keys(key, layout)
        ran = int(state.gate.state)
        sync, alone = ran == SYNC, ran == LOCAL
        metrics: list[Metrics] = []
        for group in range(layout.groups):
            members = range(group * layout.members, (group + 1) * layout.members)
            present = [client for client in members if client not in absent]
            if not present:
                continue
            tasks = self._begin(state, keys[group], present, ran)
            views = [0 if sync else self.store.next_view(client) for client in members]
            orders = {
                client: np.asarray(
                    _PLAN(
                        keys[group][client - members[0]],
                        self._setup.sizes[client],
                        layout.slots,
                        layout.dealt_over,
                    ).order
                )
                for client in present
            }
            server = state.server
            for number in range(0 if alone else layout.steps):
                collected = self._collect(members, present, orders, number)
                if collected is None:
                    continue
                packets, batch = collected
                self.store.write(group, number, views, packets, batch)
                given = (
                    server,
                    packets,
                    batch.labels,
                    batch.mask if layout.padded or absent else None,
                    schedule.server_key(key, group, number, layout),
                    step_size,
                )
                if sync:
                    server, found, replies = self._setup.steps.server_step_with_reply(
                        *given
                    )
                    self._answer(tasks, members, replies, number)
                else:
                    server, found = self._setup.steps.server_step(*given)
                metrics.append(found)
            state = state._replace(server=server)
            state = state._replace(holders=state.holders | set(present))
            if sync or alone:
                state = self._collect_weights(state, present)
            for client in present:
                self._manager.sessions[client].clear()
        return state, None if alone else summed(metrics)

    def _begin(
        self, state: ServerState, keys: jax.Array, present: Sequence[int], ran: int
    ) -> dict[int, Task]:
        layout, tasks = self._setup.layout, {}
        for client in present:
            size = self._setup.sizes[client]
            batches = packets_of(size, layout.batch, layout.dealt_over)
            batches = 0 if ran == LOCAL else batches
            member = client % layout.members
            tasks[client] = self._manager.assign(
                client,
                state,
                ran,
                batches + (ran in (SYNC, LOCAL)),
                functools.partial(self._check, client, batches),
                view=self.store.next_view(client) if ran == REFRESH else 0,
                key=_key_bytes(keys[member]),
                due=client not in state.holders,
            )
        return tasks

    def _check(
        self, client: int, batches: int, number: int, message: Message
    ) -> CheckedMessage:
        """Checks what a client sends in an epoch, in the thread of its connection."""
        if number < batches:
            rows = self._rows(client, number)
            return self._manager.check_batch(message, rows)
        if len(self._manager.sessions) == 1:
            if not isinstance(message, WeightsKept):
                raise Refusal("UNEXPECTED", "a single client keeps its weights")
            return CheckedMessage((message.digest, None), None)
        if not isinstance(message, ClientWeights):
            raise Refusal("UNEXPECTED", "client weights are due")
        weights, plain = read_weights(message, self._setup.client)
        return CheckedMessage((message.digest, weights), plain)

    def _rows(self, client: int, number: int) -> int:
        size, layout = self._setup.sizes[client], self._setup.layout
        return schedule.rows_of_batch(size, number, layout.batch, layout.dealt_over)

    def _collect(
        self,
        members: range,
        present: Sequence[int],
        orders: dict[int, np.ndarray],
        number: int,
    ) -> tuple[Packet, ServerBatch] | None:
        """A step's packets of all members, and what is known; None if all are out.

        Padded rows are zeros, as those that nobody sends.
        """
        layout, setup = self._setup.layout, self._setup
        packets, mask = [], np.zeros((len(members), layout.batch), bool)
        labels, positions = np.zeros((2, len(members), layout.batch), np.int32)
        for place, client in enumerate(members):
            rows = self._rows(client, number) if client in present else 0
            if rows:
                packet = self._manager.next_message(client)
                mask[place, :rows] = True
                at = slice(number * layout.batch, (number + 1) * layout.batch)
                own = self._labels[client]
                positions[place] = orders[client][at]
                labels[place] = own[schedule.example_at(positions[place], len(own))]
            else:
                packet = nothing_of(setup.codec, setup.smashed_shape)
            packets.append(padded(packet, layout.batch))
        if not mask.any():
            return None
        stacked = on_host(*(np.stack(leaves) for leaves in zip(*packets, strict=True)))
        return stacked, ServerBatch(labels, positions, mask)

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
                self._manager.sessions[client].answer(
                    *tensor_message(self._setup.grad_codec, reply, place, rows)
                )

    def _collect_weights(
        self, state: ServerState, present: Sequence[int]
    ) -> ServerState:
        """Takes the weights after an epoch of A, or after a client's turn in it."""
        received = [self._manager.next_message(client) for client in present]
        if received[0][1] is None or self._setup.layout.members == 1:
            digest, weights = received[0]
            return state._replace(
                digest=digest, client=weights, holders=frozenset(present)
            )
        counts = jnp.asarray(
            [self._setup.sizes[client] for client in present], jnp.float32
        )
        stacked = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(w for _, w in received)
        )
        mean = _AVERAGE(stacked, counts / counts.sum())
        made = ModelUpdate(*weights_message(mean, Place(0, 0, 0)))
        for client in present:
            self._manager.sessions[client].send_update(made)
        return state._replace(
            digest=made.message.digest, client=mean, holders=frozenset(present)
        )


def _key_bytes(key: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(key)).tobytes()
