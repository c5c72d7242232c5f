"""The clients of a run as its training asks them: what is due, and how long to wait."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jsplit.errors import Refusal, RunError
from jsplit.net.client_session import ClientAbsent, ClientSession
from jsplit.net.state import ServerSetup, ServerState
from jsplit.net.task import CheckedMessage, ModelUpdate, Task
from jsplit.net.tensors import make_tensor_reader, weights_message
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.wire.messages import (
    INITIAL_WEIGHTS,
    Message,
    Place,
    Plan,
    Tensor,
    Waiting,
)

POLL = 0.5
"""Seconds after which a waiting server looks whether it was asked to stop."""

NOTICE, LONGEST_NOTICE = 5.0, 320.0
"""Seconds of waiting for one client after which the others are told; they double."""


NEEDED = (
    "start it again and then this server, or give it a longer --wait or --absent skip"
)
"""What to do about a client without which the run stops."""


class Stopped(Exception):
    """The server was asked to stop in the middle of an epoch."""


class AbsencePolicy(NamedTuple):
    """How long to wait for a client in A and B, and what then.

    Attributes:
        seconds: without any message of its own.
        skip: whether the epoch goes on without it; else the run stops.
    """

    seconds: float
    skip: bool

    def objection(self, *, left: int, sent: bool) -> str | None:
        """Why an epoch cannot go on without a client, with a remedy; None if it can.

        Example:
            >>> AbsencePolicy(300.0, True).objection(left=1, sent=True)
            >>> AbsencePolicy(300.0, True).objection(left=0, sent=True)
            '--absent skip needs one client at least; start it and then this server'

        Args:
            left: clients that are there besides.
            sent: whether the client has sent a batch since the run began.
        """
        if not self.skip:
            return NEEDED
        if not left:
            need = "needs one client at least"
        elif not sent:
            need = "goes on without a client only after it has sent a batch"
        else:
            return None
        return f"--absent skip {need}; start it and then this server"


class ClientManager:
    """The clients of a run, as its training asks them.

    Args:
        setup: what the server computes with.
        sessions: the client sessions, by number.
        counter: counts what crosses.
        policy: what to do about clients that send nothing.
        stopping: whether the server was asked to stop.

    Attributes:
        absent: clients that did not come in time, when they were waited for last.
        waiting: the client that is waited for just now, and for how many seconds
            already; None while all goes on.
    """

    def __init__(
        self,
        setup: ServerSetup,
        sessions: Sequence[ClientSession],
        counter: TrafficCounter,
        policy: AbsencePolicy,
        stopping: Callable[[], bool],
    ):
        self.absent: frozenset[int] = frozenset()
        self.waiting: tuple[int, float] | None = None
        self.sessions = sessions
        self.policy = policy
        self._counter = counter
        self._stopping = stopping
        self._numbers = itertools.count()
        self._notices: dict[tuple[int, bool], float] = {}
        self._read = make_tensor_reader(setup.codec, setup.smashed_shape)

    def still_absent(self) -> frozenset[int]:
        """The clients that were absent and have not come back yet."""
        return frozenset(n for n in self.absent if not self.sessions[n].connected)

    def assign(
        self,
        client: int,
        state: ServerState,
        which: int,
        length: int,
        check: Callable[[int, Message], CheckedMessage],
        *,
        view: int = 0,
        key: bytes = bytes(8),
        due: bool = False,
    ) -> Task:
        """Asks a client for something, in place of what it was asked for before.

        Args:
            client: its number.
            state: whose client weights it is to use.
            which: of the kinds of plan.
            length: messages that it then owes.
            check: of those.
            view: of its examples that it is to send in B.
            key: that its draws follow from.
            due: whether an undisturbed client lacks the weights that the state has.
        """
        place = Place(state.epoch, next(self._numbers), 0)
        task = Task(
            Plan(place, which, view, key, state.digest),
            length,
            check,
            _update(state),
            due=due,
        )
        self.sessions[client].assign(task)
        return task

    def check_batch(self, message: Message, rows: int) -> CheckedMessage:
        """Reads a message as the activations of so many examples.

        Raises:
            Refusal: if it is something else.
        """
        if not isinstance(message, Tensor):
            raise Refusal("UNEXPECTED", "a batch is due")
        packet = self._read(message, rows)
        return CheckedMessage(packet, packet.payload.nbytes)

    def next_message(self, client: int) -> Any:
        """Returns the next message that a client owes, as its task's check made it.

        Raises:
            ClientAbsent: if nothing came in time.
            ClientRestarted: if the client cannot go on with its task.
            Stopped: if the server was asked to stop.
        """
        waited = 0.0
        while True:
            try:
                message = self.sessions[client].next_message(
                    min(POLL, self.policy.seconds - waited)
                )
                self.waiting = None
                self._notices.pop((client, False), None)
                return message
            except ClientAbsent:
                waited += POLL
                self.waiting = (client, waited)
                if self._stopping():
                    raise Stopped from None
                if waited >= self.policy.seconds:
                    raise
                self._tell_others(client, waited)

    def _tell_others(self, client: int, waited: float) -> None:
        """Tells clients that wait in vain for whom, at growing distances."""
        connected = self.sessions[client].connected
        notice = self._notices.get((client, connected), NOTICE)
        if waited < notice:
            return
        self._notices[client, connected] = min(2 * notice, LONGEST_NOTICE)
        present = sum(session.connected for session in self.sessions)
        waiting = Waiting(client, connected, present, len(self.sessions))
        for session in self.sessions:
            session.tell(waiting)  # Not those that owe something, as this one does.

    def cancel_tasks(self) -> None:
        """Cancels all tasks; what came since the last epoch was for nothing."""
        self.waiting = None
        # First, so that what some send meanwhile counts for nothing too.
        for session in self.sessions:
            session.clear()
        self._counter.discard()

    def absence_error(
        self, client: int, what: str, objection: str = NEEDED
    ) -> RunError:
        """The error that a run cannot go on without a client, and why."""
        return RunError(
            f"client {client} sent nothing for {self.policy.seconds:g} s in {what}; "
            f"{objection}"
        )


def _update(state: ServerState) -> ModelUpdate | None:
    if state.client is None or state.digest == INITIAL_WEIGHTS:
        return None
    return ModelUpdate(*weights_message(state.client, Place(0, 0, 0)))
