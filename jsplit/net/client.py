"""The client's side of a run: it keeps its images and its part, and does as planned.

The server says what an epoch is; the client computes with the same steps as the
simulation. It remembers where it was in an epoch, so that a line that broke costs
nothing but the time; what must survive its own death is on its shelf.
"""

import dataclasses
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jsplit.core.client_steps import Residual
from jsplit.core.state import Party
from jsplit.core.steps import Steps
from jsplit.core.transform import Transform
from jsplit.errors import Refusal, RunError
from jsplit.net.batches import Batches, Data, Sizes
from jsplit.net.channel import Line, Lost
from jsplit.net.client_store import Shelf
from jsplit.net.tensors import make_reader, parcel, tensor, unpack
from jsplit.net.traffic import Traffic
from jsplit.typing import SYNC, Codec, Packet
from jsplit.wire import label_bytes
from jsplit.wire.messages import (
    BEGINNING,
    EXAMINE,
    NOBODY,
    VERSION,
    Done,
    Goodbye,
    Hello,
    Kept,
    Labels,
    Message,
    Part,
    Place,
    Plan,
    Tensor,
    Welcome,
    read,
    write,
)

RETRIED = frozenset({"IN_USE", "FULL", "SUPERSEDED", "IDLE", "UNLIKE"})
"""Refusals after which it makes sense to come again."""

SILENCE = 2.0
"""Seconds without a welcome after which a client says what it waits for."""

GREETING = 3600.0
"""Seconds in which the server must welcome; it waits for all clients before."""

MOST_SLOTS = 2**24
"""Places in an epoch that a client believes a server to have."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the next try to connect; it doubles, and a part of it is drawn."""


class Side(NamedTuple):
    """What a client computes with.

    Attributes:
        steps: of the client/server pair.
        transform: of raw images.
        beginning: the part that all begin with.
        codec: of activations.
        grad_codec: of gradients.
        smashed_shape: of one example's activations.
        step_sizes: of each epoch, `Float32[epochs]`.
        test_batch: held-out examples that are coded together.
    """

    steps: Steps
    transform: Transform
    beginning: Party
    codec: Codec
    grad_codec: Codec
    smashed_shape: tuple[int, ...]
    step_sizes: np.ndarray
    test_batch: int


Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass
class Work:
    """An epoch of A in progress.

    Attributes:
        plan: that it follows.
        party: after the batches that are done.
        done: how many those are.
        waiting: the message and the residual of the batch whose gradient is due.
        finished: the message that ends the epoch, once it is made.
    """

    plan: Plan
    party: Party
    done: int = 0
    waiting: tuple[Tensor, Residual] | None = None
    finished: Message | None = None


class Client:
    """A client of a run, over as many lines as it takes.

    Args:
        number: its own, from 0.
        alone: whether it is the only one, so that its part never leaves it.
        data: what it holds.
        settings: what must be the same on both sides.
        sums: of its images, for the moments of all clients' images.
        make_side: `(moments) -> Side`, once the server has told those.
        shelf: its durable memory.
        notify: takes a line for people.
        stopping: whether it was asked to stop.
    """

    def __init__(
        self,
        number: int,
        alone: bool,
        data: Data,
        settings: str,
        sums: tuple[tuple[int, int], ...],
        make_side: Callable[[Moments], Side],
        shelf: Shelf,
        notify: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.traffic = Traffic(notify)
        self.party: Party | None = None
        self._number = number
        self._alone = alone
        self._data = data
        self._settings = settings
        self._sums = sums
        self._make_side = make_side
        self._shelf = shelf
        self._notify = notify
        self._stopping = stopping
        self._token = NOBODY
        self._work: Work | None = None
        self._told: tuple[Sizes, Moments] | None = None

    def run(
        self, connect: Callable[[], AbstractContextManager[Line]], patience: float
    ) -> Done:
        """Takes part until the server says that the run is over.

        Where it said so to a process before this one, that is known from the shelf and
        no server needs to be there any more.

        Args:
            connect: makes a line to the server; raises `Lost` if it cannot.
            patience: seconds without any answer after which to give up.

        Raises:
            Refusal: if the server refuses this client for good.
            RunError: if the server cannot be reached for so long, or asks for what
                this client cannot give.
        """
        pause, alone_since = FIRST_PAUSE, time.monotonic()
        while True:
            heard = self.traffic.received
            try:
                with connect() as line:
                    return self._converse(line)
            except Lost as error:
                reason = str(error)
            except Refusal as error:
                if error.name not in RETRIED:
                    raise
                reason = str(error)
            if self._stopping():
                raise KeyboardInterrupt
            if ending := self._shelf.ending(self._settings):
                done = read(ending, (Done,))
                assert isinstance(done, Done)
                self._notify(
                    f"no line to the server ({reason}), which said to a process before "
                    "this one that the run was over; for another run with the same "
                    "settings name a new --workdir"
                )
                return done
            if self.traffic.received > heard:
                pause, alone_since = FIRST_PAUSE, time.monotonic()
            if time.monotonic() - alone_since > patience:
                raise RunError(
                    f"the server could not be used for {patience:g} s ({reason}); "
                    "see that it runs, or give a longer --patience"
                )
            self._notify(f"no line to the server ({reason}); trying again")
            # Drawn, so that many clients do not come back in step.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _converse(self, line: Line) -> Done:
        self._send(line, self._hello())
        welcome = self._await_welcome(line)
        self._enter(welcome)
        data = self._data
        for wanted, held_out, labels in (
            (welcome.labels, False, data.labels),
            (welcome.held_out, True, data.test_labels),
        ):
            if wanted:
                item = np.dtype(f"<u{label_bytes(data.classes)}")
                self._send(line, Labels(held_out, labels.astype(item).tobytes()))
        message: Message | None = None
        while True:
            message = message or self._receive(line, (Part, Plan, Done), None)
            if isinstance(message, Done):
                self._check_done(message)
                self._shelf.end(self._settings, write(message))
                self.traffic.tell_idle(message.epochs)
                self._send(line, Goodbye())
                return message
            if isinstance(message, Part):
                if self._alone:
                    raise Refusal("UNEXPECTED", "a part for a client that is alone")
                self._take_part(message)
                message = None
            else:
                assert isinstance(message, Plan)
                message = self._follow(line, message)

    def _await_welcome(self, line: Line) -> Welcome:
        try:
            welcome = self._receive(line, (Welcome,), SILENCE)
        except TimeoutError:
            self._notify("the server is there; it begins when all clients are")
            try:
                welcome = self._receive(line, (Welcome,), GREETING)
            except TimeoutError:
                raise Lost(f"no welcome in {GREETING:g} s") from None
        assert isinstance(welcome, Welcome)
        return welcome

    def _hello(self) -> Hello:
        data, work = self._data, self._work
        return Hello(
            version=VERSION,
            client=self._number,
            token=self._token,
            run=self._shelf.run,
            task=0 if work is None else work.plan.place.task,
            answered=0 if work is None else work.done,
            examples=len(data.labels),
            held_out=len(data.test_labels),
            classes=data.classes,
            image=data.images.shape[1:],
            sums=self._sums,
            held=self._shelf.held,
            settings=self._settings,
        )

    def _enter(self, welcome: Welcome) -> None:
        if self._shelf.run not in (NOBODY, welcome.run):
            raise Refusal(
                "OTHER_RUN",
                "this --workdir belongs to another run than the server's; give a new "
                "one, or the one that this client trained in",
            )
        self._check_welcome(welcome)
        self._shelf.belong_to(welcome.run)
        self._token = welcome.token
        if not welcome.live:
            self._work = None
        sizes = Sizes(welcome.batch, welcome.slots)
        moments = (welcome.mean, welcome.deviation)
        if self._told != (sizes, moments):
            self._told = (sizes, moments)
            side = self._side = self._make_side(moments)
            self._batches = Batches(self._data, side.transform, sizes, side.test_batch)
            self._read_reply = make_reader(side.grad_codec, side.smashed_shape)

    def _check_welcome(self, welcome: Welcome) -> None:
        """Refuses sizes and moments that no run has, before anything is made of them.

        Raises:
            Refusal: MALFORMED.
        """
        batch, slots, held = welcome.batch, welcome.slots, len(self._data.labels)
        channels = self._data.images.shape[-1]
        moments = (*welcome.mean, *welcome.deviation)
        if not (
            0 < batch <= slots <= MOST_SLOTS
            and held <= slots
            and slots % batch == 0
            and len(welcome.mean) == len(welcome.deviation) == channels
            and np.isfinite(moments).all()
            and min(welcome.deviation) > 0
        ):
            raise Refusal("MALFORMED", f"a welcome that no run has: {welcome[4:]}")

    def _check_plan(self, plan: Plan) -> None:
        """Refuses an epoch that the run does not have; MALFORMED."""
        epochs = len(self._side.step_sizes)
        if plan.place.epoch >= epochs + (plan.state == EXAMINE):
            raise Refusal(
                "MALFORMED", f"epoch {plan.place.epoch + 1} of a run of {epochs}"
            )

    def _check_done(self, done: Done) -> None:
        """Refuses an end that is not the run's; MALFORMED."""
        epochs = len(self._side.step_sizes)
        if done.epochs != epochs or done.correct > done.examples:
            raise Refusal("MALFORMED", f"{done} of a run of {epochs} epochs")

    def _take_part(self, message: Part) -> None:
        part, _ = unpack(message, self._side.beginning)
        self._shelf.put(part)
        self.party = part

    def _follow(self, line: Line, plan: Plan) -> Message | None:
        """Does what a plan says; returns a message that came instead of what was due.

        Another plan comes in the middle of one if the server had to begin the epoch
        again, because of another client.
        """
        self._check_plan(plan)
        before = self.traffic.total
        work = self._train_epoch if plan.state == SYNC else self._send_batches
        other = work(line, plan)
        if other is None and plan.state != EXAMINE:
            crossed = self.traffic.total - before
            self.traffic.tell(plan.place.epoch, plan.state, crossed)
        return other

    def _part(self, plan: Plan) -> Party:
        if plan.part == BEGINNING:
            return self._side.beginning
        part = self._shelf.get(plan.part, self._side.beginning)
        self._shelf.use(plan.part)
        return part

    def _train_epoch(self, line: Line, plan: Plan) -> Message | None:
        side, batches, work = self._side, self._batches, self._work
        if work is None or work.plan.place[:2] != plan.place[:2]:
            if plan.place.number > batches.count:
                return None  # It was finished before this process began.
            work = self._work = Work(plan, self._part(plan))
        schedule = batches.plan(plan.key)
        step_size = jnp.float32(side.step_sizes[plan.place.epoch])
        first = plan.place.number
        while work.done < batches.count:
            number = work.done
            if work.waiting is None:
                packet, residual = side.steps.client_forward(
                    work.party, *batches.training(schedule, number, sync=True)
                )
                place = plan.place._replace(number=number)
                rows = batches.rows(number)
                message, _ = tensor(side.codec, packet, place, rows)
                work.waiting = (message, residual)
                self._send(line, message)
            elif number == first:  # The server never had it.
                self._send(line, work.waiting[0])
            elif number != first - 1:
                raise RunError(
                    f"the server goes on with batch {first} of epoch "
                    f"{plan.place.epoch + 1}, and this client with {number}"
                )
            first = -1
            reply = self._receive(line, (Tensor, Plan, Part, Done), None)
            if not isinstance(reply, Tensor):
                return reply
            sent, residual = work.waiting
            work.party = side.steps.client_backward(
                work.party,
                residual,
                self._gradient(reply, sent),
                batches.mask(number),
                step_size,
            )
            work.waiting, work.done = None, number + 1
        if work.finished is None:
            place = plan.place._replace(number=batches.count)
            work.finished = self._finish(work, place)
        if first <= batches.count:
            self._send(line, work.finished)
        return None

    def _send_batches(self, line: Line, plan: Plan) -> Message | None:
        """State B, or the held-out set: nothing comes back to wait for."""
        side, batches = self._side, self._batches
        party, examine = self._part(plan), plan.state == EXAMINE
        if examine:
            count = batches.held_out_count
        else:
            count, schedule = batches.count, batches.plan(plan.key)
        for number in range(plan.place.number, count):
            if examine:
                x, mask = batches.held_out(number)
                packet = side.steps.client_examine(party, x, mask)
                rows = int(mask.sum())
            else:
                packet = side.steps.client_refresh(
                    party, *batches.training(schedule, number, sync=False)
                )
                rows = batches.rows(number)
            place = plan.place._replace(number=number)
            self._send(line, tensor(side.codec, packet, place, rows)[0])
            try:
                return self._receive(line, (Plan, Part, Done), 0.0)
            except TimeoutError:
                continue  # As it should be.
        return None

    def _gradient(self, reply: Tensor, sent: Tensor) -> Packet:
        if reply.place != sent.place:
            raise Refusal(
                "SEQUENCE", f"a gradient of {reply.place}, not of {sent.place}"
            )
        return self._batches.padded(self._read_reply(reply, sent.rows))

    def _send(self, line: Line, message: Message) -> None:
        data = write(message)
        line.send(data)
        self.traffic.sent += len(data)

    def _receive(
        self, line: Line, allowed: tuple[type, ...], timeout: float | None
    ) -> Message:
        data = line.receive(timeout)
        self.traffic.received += len(data)
        return read(data, allowed)

    def _finish(self, work: Work, place: Place) -> Message:
        """The message that ends an epoch of A; what it tells of is on the shelf."""
        self.party = work.party
        digest = self._shelf.put(work.party)
        if self._alone:
            return Kept(place, digest)
        return parcel(work.party, place)[0]
