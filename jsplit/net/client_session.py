"""One client as the server knows it, connected or not.

A thread for each connection reads what the client sends, checks it and puts it in
order; the training's thread takes it from there and answers. A channel that breaks
takes nothing with it: the client says hello again and is told where to go on.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from jsplit.errors import Refusal
from jsplit.net import server_events
from jsplit.net.channel import Channel, ConnectionLost
from jsplit.net.task import ModelUpdate, Task
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.wire.messages import (
    UNNAMED,
    ClientWeights,
    Done,
    Hello,
    Message,
    Tensor,
    Waiting,
    WeightsKept,
    write_message,
)

UNPROCESSED_LIMIT = 8
"""Messages of one client that may wait for the training; then the client waits."""

STORED_WEIGHTS = 4
"""How many client weights a client keeps in its folder: those that it had last."""


class ClientAbsent(Exception):
    """A client has not sent what is due in the time that it is given."""


class ClientRestarted(Exception):
    """A client lost what it had computed of an epoch; all must begin it again."""


class ClientSession:
    """A client of the run, over all its connections.

    Args:
        client: its number.
        counter: counts what crosses.
        notify: takes a line of text for people.

    Attributes:
        heard: when its last message came, of `time.monotonic()`; None before the first.
    """

    def __init__(
        self, client: int, counter: TrafficCounter, notify: Callable[[str], None]
    ):
        self.client = client
        self.heard: float | None = None
        self._counter = counter
        self._notify = notify
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._token = UNNAMED
        self._stored: collections.deque[bytes] = collections.deque(
            maxlen=STORED_WEIGHTS
        )
        self._task: Task | None = None
        self._newest = (-1, -1)  # epoch and task of the last one
        self._room = 0  # messages that its tasks so far had, less those that came
        self._done: Done | None = None
        self._ended = False  # whether it was told so
        self._checked: collections.deque[Any] = collections.deque()
        self._restarted = False

    @property
    def connected(self) -> bool:
        """Whether there is a channel to the client."""
        return self._channel is not None

    def is_same_process(self, token: bytes) -> bool:
        """Whether the token is that of the client's present process.

        Raises:
            Refusal: IN_USE if it is not, and the present process is connected.
        """
        with self._changed:
            known = token != UNNAMED and token == self._token
            if not known and self._channel is not None:
                raise Refusal(
                    "IN_USE",
                    f"client {self.client} is connected already from "
                    f"{self._channel.remote}; stop that one, or wait until it is found "
                    "to be gone",
                )
            return known

    def attach(
        self, channel: Channel, token: bytes, hello: Hello, *, live: bool
    ) -> None:
        """Gives the client a channel, and tells it where to go on.

        Args:
            channel: on which it has been welcomed.
            token: that it was given there.
            hello: what it said there.
            live: whether it is the same process as before.
        """
        with self._changed:
            before, self._channel = self._channel, channel
            self.heard = time.monotonic()
            self._token = token
            self._stored.clear()
            self._stored.extend(hello.stored[-STORED_WEIGHTS:])
            task = self._task
            if task and not live and not task.goes_on_without_memory():
                self._restarted = True
            elif task:
                same = live and hello.task == task.plan.place.task
                self._announce(task, hello.answered if same else 0)
            elif self._done:
                self._send_done(self._done)
            self._changed.notify_all()
        if before is not None:
            before.close(Refusal("SUPERSEDED", "the client made a newer connection"))

    def detach(self, channel: Channel) -> bool:
        """Forgets a broken channel; returns whether it was the present one."""
        with self._changed:
            if self._channel is not channel:
                return False
            self._channel = None
            self._changed.notify_all()
            return True

    def drop(self) -> None:
        """Closes the channel of a client that is connected and does nothing."""
        with self._changed:
            channel = self._channel
        if channel is not None:
            channel.close(Refusal("IDLE", "nothing came in the time that is given"))
            self.detach(channel)

    def assign(self, task: Task) -> None:
        """Asks the client for something, in place of what it was asked for before."""
        with self._changed:
            self._task = task
            self._newest = task.plan.place[:2]
            self._room += task.length
            self._checked.clear()
            self._restarted = False
            self._announce(task)
            self._changed.notify_all()

    def clear(self) -> None:
        """Drops the task: the client owes nothing."""
        with self._changed:
            self._task = None
            self._checked.clear()
            self._changed.notify_all()

    def next_message(self, timeout: float) -> Any:
        """Returns the next message that the client owes, as its task's check made it.

        Raises:
            ClientAbsent: if nothing came in that many seconds.
            ClientRestarted: if the client cannot go on with its task.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._checked or self._restarted, timeout)
            if self._restarted:
                raise ClientRestarted(self.client)
            if not self._checked:
                raise ClientAbsent(self.client)
            value = self._checked.popleft()
            self._changed.notify_all()
            return value

    def answer(self, reply: Tensor, plain: int) -> None:
        """Answers the last message, unless its sender was killed since."""
        with self._changed:
            assert self._task is not None
            self._task.answer, self._task.answered = (reply, plain), False
            if not self._restarted:  # The process that came back knows of no task yet.
                self._send_answer(self._task)

    def send_update(self, update: ModelUpdate) -> None:
        """Sends weights beyond the task; a client that is away gets them later."""
        with self._changed:
            if update.message.digest not in self._stored and self._send(*update):
                self._note_stored(update.message.digest)
            else:
                self._counter.add_saved(*update)

    def tell(self, waiting: Waiting) -> None:
        """Says for whom the server waits, if the client waits for the server."""
        with self._changed:
            if self._task is None or self._task.client_waits():
                self._send(waiting, None)

    def finish(self, done: Done) -> None:
        """Tells the client that the run is over, now or when it comes back."""
        with self._changed:
            self._task, self._done = None, done
            self._send_done(done)

    def receive(self, channel: Channel, message: Message, length: int) -> None:
        """Takes in a message from the client.

        Raises:
            Refusal: if it is not the one that is due, or not as was agreed.
            ConnectionLost: if the client has made a newer channel.
        """
        self.heard = time.monotonic()
        if not isinstance(message, Tensor | ClientWeights | WeightsKept):
            raise Refusal("UNEXPECTED", f"{type(message).__name__} after the hello")
        with self._changed:
            place, task = message.place, self._task
            if place[:2] < self._newest or (place[:2] == self._newest and not task):
                # On its way when the epoch was rolled back.
                self._room -= 1
                if self._room < 0:
                    raise Refusal("SEQUENCE", "more of older tasks than those had")
                self._counter.add(message, length, up=True, repeated=True)
                return
            if task is None or place != task.plan.place._replace(number=task.read):
                due = "nothing" if task is None else task.plan.place
                raise Refusal("SEQUENCE", f"message {tuple(place)} where {due} was due")
            if task.read >= task.length:
                raise Refusal("SEQUENCE", "more than the task has")
        checked = task.check(place.number, message)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    len(self._checked) < UNPROCESSED_LIMIT
                    or self._task is not task
                    or self._channel is not channel
                )
            )
            if self._channel is not channel:
                raise ConnectionLost("superseded")
            if self._task is not task:
                self._room -= 1
                self._counter.add(message, length, up=True, repeated=True)
                return
            self._counter.add(
                message, length, checked.plain, up=True, evaluation=task.evaluation
            )
            task.read += 1
            self._room -= 1
            if isinstance(message, ClientWeights | WeightsKept):
                self._note_stored(message.digest)
            self._checked.append(checked.value)
            self._changed.notify_all()

    def _announce(self, task: Task, answered: int = 0) -> None:
        """Announces a task, or where to go on with it after so many answers."""
        if self._channel is None:
            return
        digest = task.plan.weights
        if digest not in self._stored and any(digest):
            if task.update is None:
                channel, self._channel = self._channel, None
                refusal = Refusal(
                    "NO_COMMON_POINT",
                    f"client {self.client} no longer has the weights that the "
                    "run stands at; give it the --workdir that it trained in",
                )
                whom = f"client {self.client}"
                self._notify(server_events.refused(whom, refusal, client=self.client))
                channel.close(refusal)
                return
            if self._send(*task.update, repeated=not task.due):
                self._note_stored(digest)
                task.due = False
        elif any(digest):
            if task.due:
                assert task.update is not None
                self._counter.add_saved(*task.update)
            self._note_stored(digest)
            task.due = False
        place = task.plan.place._replace(number=task.read)
        if self._send(
            dataclasses.replace(task.plan, place=place),
            None,
            repeated=task.announced,
            evaluation=task.evaluation,
        ):
            task.announced = True
        if task.answer and answered <= task.answer[0].place.number:
            self._send_answer(task)

    def _send_done(self, done: Done) -> None:
        if self._send(done, None, repeated=self._ended):
            self._ended = True

    def _send_answer(self, task: Task) -> None:
        assert task.answer is not None
        reply, plain = task.answer
        if self._send(reply, plain, repeated=task.answered):
            task.answered = True

    def _send(
        self,
        message: Message,
        plain: int | None,
        *,
        repeated: bool = False,
        evaluation: bool = False,
    ) -> bool:
        if self._channel is None:
            return False
        data = write_message(message)
        try:
            self._channel.send(data)
        except ConnectionLost:
            return False  # Its own thread finds out, and makes it absent.
        self._counter.add(
            message,
            len(data),
            plain,
            up=False,
            repeated=repeated,
            evaluation=evaluation,
        )
        return True

    def _note_stored(self, digest: bytes) -> None:
        if digest in self._stored:
            self._stored.remove(digest)
        self._stored.append(digest)
