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

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.errors import Refusal, RunError
from jsplit.protocol import Transform
from jsplit.shards import order_of, step_keys
from jsplit.steps import Party, Residual, Steps
from jsplit.transport.line import Line, Lost
from jsplit.transport.shelf import Shelf
from jsplit.transport.tensors import make_reader, on_host, parcel, tensor, unpack
from jsplit.typing import STATES, SYNC, Codec, Packet
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
from jsplit.writers import human_bytes

RETRIED = frozenset({"IN_USE", "FULL", "SUPERSEDED", "IDLE"})
"""Refusals after which it makes sense to come again."""

SILENCE = 2.0
"""Seconds without a welcome after which a client says what it waits for."""

GREETING = 3600.0
"""Seconds in which the server must welcome; it waits for all clients before."""

MOST_SLOTS = 2**24
"""Places in an epoch that a client believes a server to have."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the next try to connect; it doubles, and a part of it is drawn."""


class Data(NamedTuple):
    """What a client holds.

    Attributes:
        images: uint8 `[n, h, w, c]`.
        labels: `Int32[n]`.
        test_images: uint8 `[m, h, w, c]`.
        test_labels: `Int32[m]`.
        classes: that labels come from.
    """

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int


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


@dataclasses.dataclass
class Traffic:
    """Bytes that this client has sent and received, all messages."""

    sent: int = 0
    received: int = 0

    @property
    def total(self) -> int:
        """Both ways."""
        return self.sent + self.received


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
        self.traffic = Traffic()
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
        self._epochs: int | None = None  # that this process knows to be over
        self._whole = 0  # bytes of an epoch in A
        self._work: Work | None = None
        self._side: Side | None = None
        self._moments: Moments | None = None
        self._order = jax.jit(order_of, static_argnums=2)
        self._keys = jax.jit(step_keys)

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
            if ending := self._shelf.ending:  # Told so before this process began.
                done = read(ending, (Done,))
                assert isinstance(done, Done)
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
                self._shelf.end(write(message))
                self._tell_idle(message.epochs)
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
        self._batch, self._slots = welcome.batch, welcome.slots
        moments = (welcome.mean, welcome.deviation)
        if moments != self._moments:
            self._moments = moments
            self._side = self._make_side(moments)
            side, data = self._side, self._data
            self._images = jnp.asarray(data.images)
            self._read_reply = make_reader(side.grad_codec, side.smashed_shape)
            self._train = jax.jit(
                lambda images, rows, key: side.transform.train(key, images[rows])
            )
            self._evaluate = jax.jit(side.transform.evaluate)

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
        assert self._side is not None
        epochs = len(self._side.step_sizes)
        if plan.place.epoch >= epochs + (plan.state == EXAMINE):
            raise Refusal(
                "MALFORMED", f"epoch {plan.place.epoch + 1} of a run of {epochs}"
            )

    def _check_done(self, done: Done) -> None:
        """Refuses an end that is not the run's; MALFORMED."""
        assert self._side is not None
        epochs = len(self._side.step_sizes)
        if done.epochs != epochs or done.correct > done.examples:
            raise Refusal("MALFORMED", f"{done} of a run of {epochs} epochs")

    def _take_part(self, message: Part) -> None:
        assert self._side is not None
        part, _ = unpack(message, self._side.beginning)
        self._shelf.put(part)
        self.party = part

    def _follow(self, line: Line, plan: Plan) -> Message | None:
        """Does what a plan says; returns a message that came instead of what was due.

        Another plan comes in the middle of one if the server had to begin the epoch
        again, because of another client.
        """
        self._check_plan(plan)
        before, epoch = self.traffic.total, plan.place.epoch
        if plan.state == SYNC:
            other = self._train_epoch(line, plan)
            self._whole = max(self._whole, self.traffic.total - before)
        else:
            other = self._send_batches(line, plan)
        if other is None and plan.state != EXAMINE:
            self._tell_idle(epoch)
            self._epochs = epoch + 1
            self._notify(
                f"epoch {epoch + 1} in {STATES[plan.state]}: "
                f"{human_bytes(self.traffic.total - before)} crossed, "
                f"{human_bytes(self.traffic.total)} in all"
            )
        return other

    def _tell_idle(self, epochs: int) -> None:
        """Says what state C has spared, up to so many epochs.

        A process that comes late does not know what those before it did.
        """
        if self._epochs is None:
            self._epochs = epochs
        idle = epochs - self._epochs
        if idle > 0:
            spared = (
                f", {human_bytes(idle * self._whole)} spared" if self._whole else ""
            )
            self._notify(
                f"{idle} epoch(s) without this client: nothing crossed{spared}"
            )
        self._epochs = max(self._epochs, epochs)

    def _part(self, plan: Plan) -> Party:
        assert self._side is not None
        if plan.part == BEGINNING:
            return self._side.beginning
        part = self._shelf.get(plan.part, self._side.beginning)
        self._shelf.use(plan.part)
        return part

    def _train_epoch(self, line: Line, plan: Plan) -> Message | None:
        side = self._side
        assert side is not None
        batches = -(-len(self._data.labels) // self._batch)
        work = self._work
        if work is None or work.plan.place[:2] != plan.place[:2]:
            if plan.place.number > batches:
                return None  # It was finished before this process began.
            work = self._work = Work(plan, self._part(plan))
        key, order = self._draws(plan)
        step_size = jnp.float32(side.step_sizes[plan.place.epoch])
        first = plan.place.number
        while work.done < batches:
            number, rows = work.done, self._rows(work.done)
            mask = self._mask(rows)
            if work.waiting is None:
                packet, residual = side.steps.client_forward(
                    work.party, *self._batch_of(order, key, number)
                )
                place = plan.place._replace(number=number)
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
            gradient = self._gradient(reply, work.waiting[0], rows)
            work.party = side.steps.client_backward(
                work.party, work.waiting[1], gradient, mask, step_size
            )
            work.waiting, work.done = None, number + 1
        if work.finished is None:
            work.finished = self._finish(work, plan.place._replace(number=batches))
        if first <= batches:
            self._send(line, work.finished)
        return None

    def _send_batches(self, line: Line, plan: Plan) -> Message | None:
        """State B, or the held-out set: nothing comes back to wait for."""
        side = self._side
        assert side is not None
        party = self._part(plan)
        if plan.state == EXAMINE:
            size = min(side.test_batch, len(self._data.test_labels))
            batches = -(-len(self._data.test_labels) // size)
        else:
            batches = -(-len(self._data.labels) // self._batch)
            key, order = self._draws(plan)
        for number in range(plan.place.number, batches):
            if plan.state == EXAMINE:
                raw, mask = self._held_out(number, size)
                packet = side.steps.client_examine(party, self._evaluate(raw), mask)
                rows = int(mask.sum())
            else:
                rows = self._rows(number)
                packet = side.steps.client_refresh(
                    party, *self._batch_of(order, key, number)
                )
            place = plan.place._replace(number=number)
            self._send(line, tensor(side.codec, packet, place, rows)[0])
            try:
                return self._receive(line, (Plan, Part, Done), 0.0)
            except TimeoutError:
                continue  # As it should be.
        return None

    def _draws(self, plan: Plan) -> tuple[jax.Array, np.ndarray]:
        """The epoch's key, and the order in which it takes the examples."""
        count = len(self._data.labels)
        key = jax.random.wrap_key_data(jnp.asarray(np.frombuffer(plan.key, np.uint32)))
        return key, np.asarray(self._order(key, count, self._slots)) % count

    def _rows(self, number: int) -> int:
        return min(len(self._data.labels) - number * self._batch, self._batch)

    def _mask(self, rows: int) -> np.ndarray | None:
        if self._slots == len(self._data.labels):
            return None
        return np.arange(self._batch) < rows

    def _batch_of(
        self, order: np.ndarray, key: jax.Array, number: int
    ) -> tuple[jax.Array, np.ndarray | None, jax.Array]:
        """A batch, its mask, and the key that the part draws from."""
        rows = order[number * self._batch : (number + 1) * self._batch]
        for_transform, for_part = self._keys(key, number)
        x = self._train(self._images, rows, for_transform)
        return x, self._mask(self._rows(number)), for_part

    def _held_out(self, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        places = number * size + np.arange(size)
        mask = places < len(self._data.test_labels)
        return self._data.test_images[np.where(mask, places, 0)], mask

    def _gradient(self, reply: Tensor, sent: Tensor, rows: int) -> Packet:
        if reply.place != sent.place:
            raise Refusal(
                "SEQUENCE", f"a gradient of {reply.place}, not of {sent.place}"
            )
        packet = self._read_reply(reply, rows)
        missing = [(0, self._batch - rows)] + [(0, 0)] * (packet.payload.ndim - 1)
        return on_host(np.pad(packet.payload, missing), np.asarray(packet.header))

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
