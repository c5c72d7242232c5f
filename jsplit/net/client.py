"""The client of a run: it keeps its images and its part, and does as planned.

The server says what an epoch is; the client computes with the same steps as the
simulation. It remembers where it was in an epoch, so that a broken connection costs
nothing but the time; what must survive the process itself is in its store.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import jax.numpy as jnp
import numpy as np

from jsplit.core.state import ClientParts, SideState
from jsplit.data import Moments
from jsplit.errors import Refusal, RunError
from jsplit.net import reconnect
from jsplit.net.batches import Batches, BatchSizes, ClientData
from jsplit.net.channel import Channel
from jsplit.net.client_alone import learn_alone
from jsplit.net.client_state import ClientSetup, EpochProgress
from jsplit.net.client_store import ClientStateStore
from jsplit.net.client_traffic import ClientTraffic
from jsplit.net.conversation import Conversation
from jsplit.net.server_checks import check_done, check_plan, check_welcome
from jsplit.net.tensors import (
    make_tensor_reader,
    read_weights,
    tensor_message,
    weights_message,
)
from jsplit.typing import LOCAL, SYNC, Packet
from jsplit.wire import label_bytes
from jsplit.wire.messages import (
    EVALUATE,
    INITIAL_WEIGHTS,
    UNNAMED,
    VERSION,
    ClientWeights,
    Done,
    Goodbye,
    Hello,
    Labels,
    Message,
    Place,
    Plan,
    Tensor,
    WeightsKept,
    Welcome,
    read_message,
    write_message,
)


class Client:
    """A client of a run, over as many connections as it takes.

    Args:
        number: of this client, from 0.
        alone: whether it is the only client, whose part never leaves it.
        data: what it holds.
        settings: what must be the same on both sides.
        sums: of its images, for the moments of all clients' images.
        make_setup: `(moments) -> ClientSetup`, once the server has told those.
        store: what survives the process.
        notify: takes a line of text for people.
        keep_model: `(moments, part)`, given the part that the run ended with.

    Raises:
        InputError: if the store is of a run that it began with other data.
    """

    def __init__(
        self,
        number: int,
        alone: bool,
        data: ClientData,
        settings: str,
        sums: tuple[tuple[int, int], ...],
        make_setup: Callable[[Moments], ClientSetup],
        store: ClientStateStore,
        notify: Callable[[str], None],
        keep_model: Callable[[Moments, SideState], None] = lambda *given: None,
    ):
        self.traffic = ClientTraffic(notify)
        self.parts: ClientParts | None = None
        self._number = number
        self._alone = alone
        self._data = data
        self._settings = settings
        self._sums = sums
        self._make_setup = make_setup
        self._store = store
        self._notify = notify
        self._keep_model = keep_model
        self._fingerprint = data.fingerprint
        store.check_data(self._fingerprint)
        self._token = UNNAMED
        self._work: EpochProgress | None = None
        self._told: tuple[BatchSizes, Moments] | None = None
        others = "" if alone else " or with other clients"
        self._due = f"ask for more: it is at work alone{others}"

    def run(
        self, connect: Callable[[], AbstractContextManager[Channel]], patience: float
    ) -> Done:
        """Takes part until the server says that the run is over.

        If it said so to a process before this one, the store has that, and no server
        needs to be there any more.

        Args:
            connect: opens a channel to the server, or raises `ConnectionLost`.
            patience: seconds without any answer after which to give up.

        Raises:
            Refusal: if the server refuses this client for good.
            RunError: if the server cannot be reached for so long, or asks for what
                this client cannot give.
        """

        def attempt(outage: reconnect.Outage) -> Done:
            with connect() as channel:
                told = self.traffic, outage, self._notify
                return self._converse(Conversation(channel, *told))

        return reconnect.until_done(
            attempt,
            otherwise=self._known_result,
            patience=patience,
            notify=self._notify,
        )

    def _known_result(self, reason: str) -> Done | None:
        """The run's result, if the server told it to a process before this one."""
        result = self._store.result(self._settings)
        if not result:
            return None
        self._notify(
            f"no connection to the server ({reason}), which told a process before this "
            "one that the run was over; for another run with the same settings name a "
            "new --workdir"
        )
        return read_message(result, (Done,))

    def _converse(self, server: Conversation) -> Done:
        server.send(self._hello())
        welcome = server.welcome()
        self._enter(welcome)
        data = self._data
        for wanted, held_out, labels in (
            (welcome.labels, False, data.labels),
            (welcome.held_out_labels, True, data.test_labels),
        ):
            if wanted:
                item = np.dtype(f"<u{label_bytes(data.classes)}")
                server.send(Labels(held_out, labels.astype(item).tobytes()))
        message: Message | None = None
        while True:
            message = message or server.receive((ClientWeights, Plan, Done), self._due)
            if isinstance(message, Done):
                check_done(message, len(self._setup.step_sizes))
                self._keep(message)
                self._store.save_result(self._settings, write_message(message))
                self.traffic.report_idle(message.epochs)
                server.send(Goodbye())
                return message
            if isinstance(message, ClientWeights):
                if self._alone:
                    raise Refusal(
                        "UNEXPECTED", "client weights for a client that is alone"
                    )
                self._take_weights(message)
                message = None
            else:
                assert isinstance(message, Plan)
                message = self._follow(server, message)

    def _hello(self) -> Hello:
        data, work = self._data, self._work
        return Hello(
            version=VERSION,
            client=self._number,
            token=self._token,
            run=self._store.run,
            task=0 if work is None else work.plan.place.task,
            answered=0 if work is None else work.done,
            examples=len(data.labels),
            held_out=len(data.test_labels),
            classes=data.classes,
            class_names=data.class_names_digest,
            image=data.images.shape[1:],
            sums=self._sums,
            stored=self._store.stored,
            settings=self._settings,
        )

    def _enter(self, welcome: Welcome) -> None:
        if self._store.run not in (UNNAMED, welcome.run):
            raise Refusal(
                "OTHER_RUN",
                "this --workdir belongs to another run than the server's; give a new "
                "one, or the one that this client trained in",
            )
        check_welcome(welcome, self._data)
        self._store.bind_to_run(welcome.run, self._fingerprint)
        self._token = welcome.token
        if not welcome.live:
            self._work = None
        sizes = BatchSizes(welcome.batch, welcome.slots)
        moments = _moments(welcome)
        if self._told != (sizes, moments):
            self._told = (sizes, moments)
            setup = self._setup = self._make_setup(moments)
            self._batches = Batches(
                self._data,
                setup.transform,
                sizes,
                proportional=setup.proportional,
            )
            self._read_reply = make_tensor_reader(setup.grad_codec, setup.smashed_shape)

    def _keep(self, done: Done) -> None:
        """Keeps the part that the run ended with, if it came here."""
        assert self._told is not None
        if done.weights == INITIAL_WEIGHTS:
            part = self._setup.beginning
        elif done.weights in self._store.stored:
            part = self._store.load(done.weights, self._setup.beginning)
        else:
            self._notify(
                "the part that the run ended with never came here; the server's folder "
                "holds it"
            )
            return
        self._keep_model(self._told[1], part.part)

    def _take_weights(self, message: ClientWeights) -> None:
        weights, _ = read_weights(message, self._setup.beginning)
        self._store.save(weights)
        self.parts = weights

    def _follow(self, server: Conversation, plan: Plan) -> Message | None:
        """Does what a plan says; returns a message that came instead of what was due.

        Another plan comes in the middle of one if the server had to begin the epoch
        again, because of another client.
        """
        check_plan(plan, len(self._setup.step_sizes))
        before = self.traffic.total
        work = {SYNC: self._train_epoch, LOCAL: self._learn_alone}
        other = work.get(plan.state, self._send_batches)(server, plan)
        if other is None and plan.state != EVALUATE:
            crossed = self.traffic.total - before
            self.traffic.report_epoch(plan.place.epoch, plan.state, crossed)
        return other

    def _weights(self, plan: Plan) -> ClientParts:
        if plan.weights == INITIAL_WEIGHTS:
            return self._setup.beginning
        weights: ClientParts = self._store.load(plan.weights, self._setup.beginning)
        self._store.mark_used(plan.weights)
        return weights

    def _train_epoch(self, server: Conversation, plan: Plan) -> Message | None:
        setup, batches, work = self._setup, self._batches, self._work
        if work is None or work.plan.place[:2] != plan.place[:2]:
            if plan.place.number > batches.count:
                return None  # It was finished before this process began.
            work = self._work = EpochProgress(plan, self._weights(plan))
        schedule = batches.plan(plan.key)
        step_size = jnp.float32(setup.step_sizes[plan.place.epoch])
        first = plan.place.number
        while work.done < batches.count:
            number = work.done
            if work.waiting is None:
                packet, residual = setup.steps.client_forward(
                    work.parts.part, *batches.training(schedule, number)
                )
                place = plan.place._replace(number=number)
                rows = batches.rows(number)
                message, _ = tensor_message(setup.codec, packet, place, rows)
                work.waiting = (message, residual)
                server.send(message)
            elif number == first:  # The server never had it.
                server.send(work.waiting[0])
            elif number != first - 1:
                raise RunError(
                    f"the server goes on with batch {first} of epoch "
                    f"{plan.place.epoch + 1}, and this client with {number}"
                )
            first = -1
            reply = server.receive(
                (Tensor, Plan, ClientWeights, Done),
                f"answer batch {number + 1} of epoch {plan.place.epoch + 1}",
            )
            if not isinstance(reply, Tensor):
                return reply
            sent, residual = work.waiting
            gradient = self._gradient(reply, sent, residual.sent)
            part = setup.steps.client_backward(
                work.parts.part,
                residual,
                gradient,
                batches.mask(number),
                step_size,
            )
            work.parts = work.parts._replace(part=part)
            work.waiting, work.done = None, number + 1
        if work.finished is None:
            place = plan.place._replace(number=batches.count)
            work.finished = self._finish(work, place)
        if first <= batches.count:
            server.send(work.finished)
        return None

    def _learn_alone(self, server: Conversation, plan: Plan) -> Message | None:
        """An epoch by the client's own head: only the end of it is told."""
        work, batches = self._work, self._batches
        if work is None or work.plan.place[:2] != plan.place[:2]:
            if plan.place.number > 0:
                return None  # It was finished before this process began.
            work = self._work = EpochProgress(plan, self._weights(plan))
        if work.finished is None:
            step_size = self._setup.step_sizes[plan.place.epoch]
            given = self._setup.steps, batches, plan.key, step_size
            work.parts = learn_alone(work.parts, *given)
            work.finished = self._finish(work, plan.place._replace(number=0))
        if plan.place.number == 0:
            server.send(work.finished)
        return None

    def _send_batches(self, server: Conversation, plan: Plan) -> Message | None:
        """State B, or the held-out set: nothing comes back to wait for."""
        setup, batches = self._setup, self._batches
        side, examine = self._weights(plan).part, plan.state == EVALUATE
        if examine:
            count = batches.held_out_count
        else:
            count, schedule = batches.count, batches.plan(plan.key)
        for number in range(plan.place.number, count):
            if examine:
                x, mask = batches.held_out(number)
                packet = setup.steps.client_evaluate(side, x, mask)
                rows = int(mask.sum())
            else:
                packet = setup.steps.client_refresh(
                    side, *batches.training(schedule, number, plan.view)
                )
                rows = batches.rows(number)
            place = plan.place._replace(number=number)
            server.send(tensor_message(setup.codec, packet, place, rows)[0])
            if other := server.arrived((Plan, ClientWeights, Done)):
                return other
        return None

    def _gradient(self, reply: Tensor, sent: Tensor, packet: Packet | None) -> Packet:
        if reply.place != sent.place:
            raise Refusal(
                "SEQUENCE", f"a gradient of {reply.place}, not of {sent.place}"
            )
        return self._batches.padded(self._read_reply(reply, sent.rows, packet))

    def _finish(self, work: EpochProgress, place: Place) -> Message:
        """Stores the weights; returns the message that ends an epoch of A."""
        self.parts = work.parts
        digest = self._store.save(work.parts)
        if self._alone:
            return WeightsKept(place, digest)
        return weights_message(work.parts, place)[0]


def _moments(welcome: Welcome) -> Moments:
    mean, deviation = zip(*welcome.moments, strict=True)
    return mean, deviation
