"""Scoring the held-out set, whose images are the last client's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.metrics import Metrics, cross_entropy, sum_up, top_1, total
from jsplit.core.simulation import TEST_BATCH
from jsplit.net.client_manager import ClientManager
from jsplit.net.client_session import ClientAbsent
from jsplit.net.state import ServerSetup, ServerState
from jsplit.net.tensors import padded
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.typing import Packet
from jsplit.wire.messages import EVALUATE

_TOTAL = jax.jit(total)


def summed(metrics: Sequence[Metrics]) -> Metrics:
    """The sums over all of them; at least one."""
    return _TOTAL(jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics))


@jax.jit
def _score(outputs: jax.Array, labels: jax.Array, mask: jax.Array) -> Metrics:
    return sum_up(cross_entropy(outputs, labels), top_1(outputs, labels), mask)


class Scorer:
    """Scores what the server and the last client, who has the current part, make.

    Args:
        setup: what to compute with.
        manager: the clients.
        counter: counts what crosses.
    """

    def __init__(
        self, setup: ServerSetup, manager: ClientManager, counter: TrafficCounter
    ):
        self._setup = setup
        self._manager = manager
        self._counter = counter
        self._sent: tuple[bytes, list[Packet]] = (b"", [])

    def score(self, state: ServerState, labels: np.ndarray) -> Metrics:
        """Sums over the held-out set.

        Activations that were sent with the same client weights before are used again.

        Args:
            state: of both parts.
            labels: of the held-out set, `Int32[m]`.

        Raises:
            ClientAbsent: if the client is away, and the run goes on without it.
            RunError: if it is away, and the run does not.
            Stopped: if the server was asked to stop.
        """
        if self._sent[0] != state.digest:
            self._sent = (state.digest, self._ask(state, len(labels)))
        scores = []
        for number, packet in enumerate(self._sent[1]):
            some = labels[number * TEST_BATCH : (number + 1) * TEST_BATCH]
            mask = np.arange(min(TEST_BATCH, len(labels))) < len(some)
            outputs = self._setup.steps.server_evaluate(
                state.server, padded(packet, len(mask))
            )
            scores.append(_score(outputs, np.resize(some, len(mask)), mask))
        return summed(scores)

    def _ask(self, state: ServerState, count: int) -> list[Packet]:
        manager = self._manager
        client = len(manager.sessions) - 1
        if client in manager.still_absent():
            raise ClientAbsent(client)
        task = manager.assign(
            client,
            state,
            EVALUATE,
            -(-count // TEST_BATCH),
            lambda number, message: manager.check_batch(
                message, min(TEST_BATCH, count - number * TEST_BATCH)
            ),
        )
        try:
            packets = [manager.next_message(client) for _ in range(task.length)]
        except ClientAbsent:
            manager.cancel_tasks()
            if manager.policy.skip:
                manager.absent |= {client}
                raise
            raise manager.absence_error(client, "the score") from None
        manager.sessions[client].clear()
        self._counter.commit()
        return packets
