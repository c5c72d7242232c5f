"""Scoring the held-out set, whose images are the last client's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.metrics import Metrics, sum_up, total
from jsplit.net.account import Account
from jsplit.net.client_manager import Roster
from jsplit.net.client_session import Absent
from jsplit.net.state import Side, State
from jsplit.net.tensors import padded
from jsplit.typing import Packet
from jsplit.wire.messages import EXAMINE

_TOTAL = jax.jit(total)


def summed(metrics: Sequence[Metrics]) -> Metrics:
    """The sums over all of them; at least one."""
    return _TOTAL(jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics))


class Scorer:
    """Scores what the server and the last client, who has the current part, make.

    Args:
        side: what to compute with.
        roster: the clients.
        account: of what crosses.
    """

    def __init__(self, side: Side, roster: Roster, account: Account):
        self._side = side
        self._roster = roster
        self._account = account
        self._sent: tuple[bytes, list[Packet]] = (b"", [])
        self._score = jax.jit(
            lambda outputs, labels, mask: sum_up(
                side.loss(outputs, labels), side.correct(outputs, labels), mask
            )
        )

    def score(self, state: State, labels: np.ndarray) -> Metrics:
        """Sums over the held-out set.

        Activations that were sent for the same client part before are used again.

        Args:
            state: of both parts.
            labels: of the held-out set, `Int32[m]`.

        Raises:
            Absent: if the client is away, and the run goes on without it.
            RunError: if it is away, and the run does not.
            Stopped: if the server was asked to stop.
        """
        if self._sent[0] != state.digest:
            self._sent = (state.digest, self._ask(state, len(labels)))
        batch, scores = self._side.test_batch, []
        for number, packet in enumerate(self._sent[1]):
            some = labels[number * batch : (number + 1) * batch]
            mask = np.arange(min(batch, len(labels))) < len(some)
            outputs = self._side.steps.server_examine(
                state.server, padded(packet, len(mask))
            )
            scores.append(self._score(outputs, np.resize(some, len(mask)), mask))
        return summed(scores)

    def _ask(self, state: State, count: int) -> list[Packet]:
        batch, roster = self._side.test_batch, self._roster
        client = len(roster.peers) - 1
        if client in roster.missing():
            raise Absent(client)
        task = roster.ask(
            client,
            state,
            EXAMINE,
            -(-count // batch),
            lambda number, message: roster.batch(
                message, min(batch, count - number * batch)
            ),
        )
        try:
            packets = [roster.take(client) for _ in range(task.length)]
        except Absent:
            roster.call_off()
            if roster.patience.skip:
                roster.away |= {client}
                raise
            raise roster.gone(client, "the score") from None
        roster.peers[client].end()
        self._account.settle()
        return packets
