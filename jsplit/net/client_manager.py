"""The clients of a run as its training asks them: what is due, and how long to wait."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jsplit.errors import Refusal, RunError
from jsplit.net.account import Account
from jsplit.net.client_session import Absent, Checked, Parcel, Peer, Task
from jsplit.net.state import Side, State
from jsplit.net.tensors import make_reader, parcel
from jsplit.wire.messages import BEGINNING, Message, Place, Plan, Tensor

POLL = 0.5
"""Seconds after which a waiting server looks whether it was asked to stop."""


class Stopped(Exception):
    """The server was asked to stop in the middle of an epoch."""


class Patience(NamedTuple):
    """How long to wait for a client in A and B, and what then.

    Attributes:
        seconds: without any message of its own.
        skip: whether the epoch goes on without it; else the run stops.
    """

    seconds: float
    skip: bool


class Roster:
    """The clients of a run.

    Args:
        side: what the server computes with.
        peers: by client.
        account: of what crosses.
        patience: with clients.
        stopping: whether the server was asked to stop.

    Attributes:
        away: clients that did not come in time, when they were waited for last.
    """

    def __init__(
        self,
        side: Side,
        peers: Sequence[Peer],
        account: Account,
        patience: Patience,
        stopping: Callable[[], bool],
    ):
        self.away: frozenset[int] = frozenset()
        self.peers = peers
        self.patience = patience
        self._account = account
        self._stopping = stopping
        self._numbers = itertools.count()
        self._read = make_reader(side.codec, side.smashed_shape)

    def missing(self) -> frozenset[int]:
        """Clients that were away and have not come back; none is waited for."""
        return frozenset(n for n in self.away if not self.peers[n].connected)

    def ask(
        self,
        client: int,
        state: State,
        which: int,
        length: int,
        check: Callable[[int, Message], Checked],
        *,
        key: bytes = bytes(8),
        due: bool = False,
    ) -> Task:
        """Asks a client for something; what it was asked for before is void.

        Args:
            client: its number.
            state: whose client part it is to use.
            which: of the kinds of plan.
            length: messages that it then owes.
            check: of those.
            key: that its draws follow from.
            due: whether an undisturbed client lacks the part that the state has.
        """
        place = Place(state.epoch, next(self._numbers), 0)
        task = Task(
            Plan(place, which, key, state.digest),
            length,
            check,
            _parcel(state),
            due=due,
        )
        self.peers[client].begin(task)
        return task

    def batch(self, message: Message, rows: int) -> Checked:
        """A message as so many examples' activations.

        Raises:
            Refusal: if it is something else.
        """
        if not isinstance(message, Tensor):
            raise Refusal("UNEXPECTED", "a batch is due")
        packet = self._read(message, rows)
        return Checked(packet, packet.payload.nbytes)

    def take(self, client: int) -> Any:
        """The next that a client owes, as its task's check made it.

        Raises:
            Absent: if nothing came in time.
            Restarted: if the client cannot go on with its task.
            Stopped: if the server was asked to stop.
        """
        waited = 0.0
        while True:
            try:
                return self.peers[client].take(
                    min(POLL, self.patience.seconds - waited)
                )
            except Absent:
                waited += POLL
                if self._stopping():
                    raise Stopped from None
                if waited >= self.patience.seconds:
                    raise

    def call_off(self) -> None:
        """Nobody owes anything, and what came since the last epoch was for nothing."""
        # First, so that what some send meanwhile counts for nothing too.
        for peer in self.peers:
            peer.end()
        self._account.abandon()

    def gone(self, client: int, what: str) -> RunError:
        """That a run cannot go on without a client."""
        return RunError(
            f"client {client} sent nothing for {self.patience.seconds:g} s in {what}; "
            "start it again and then this server, or give it a longer --wait"
        )


def _parcel(state: State) -> Parcel | None:
    if state.client is None or state.digest == BEGINNING:
        return None
    return Parcel(*parcel(state.client, Place(0, 0, 0)))
