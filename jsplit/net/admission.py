"""Admission: who is let into a run, and who is turned away by name.

Each connection has a thread of its own, which greets the client and then reads what it
sends. Whatever a stranger or a broken client does ends its own connection, and nobody
else notices.
"""

import collections
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jsplit.errors import Refusal
from jsplit.net import server_events
from jsplit.net.channel import Channel, ConnectionLost
from jsplit.net.client_session import ClientSession
from jsplit.net.hello_checks import AdmissionRules, check_consistency, check_hello
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.wire import label_bytes
from jsplit.wire.messages import (
    NAME_BYTES,
    UNNAMED,
    Goodbye,
    Hello,
    Labels,
    Waiting,
    Welcome,
    read_message,
    write_message,
)

POLL = 0.2
"""Seconds after which a waiting server looks whether it was asked to stop."""

NOTICE, LONGEST_NOTICE = 2.0, 320.0
"""Seconds without a welcome after which a client is told whom all wait for; these
double."""

GOODBYE_NOTICE = 2.0
"""Seconds at the end after which the server says for whom it waits."""

CONNECTIONS_PER_CLIENT = 3
"""Connections that one certificate may have: the present one, one that is broken and
not yet found to be, and one that is being turned away."""

REFUSAL_INTERVAL = 10.0
"""Seconds in which the same refusal of the same client is said once."""


class RunParameters(NamedTuple):
    """What all clients are told, once all have said hello.

    Attributes:
        run: its name.
        batch: examples of one client's batch.
        slots: places for examples of a client in an epoch.
        moments: mean and deviation of each channel of all images.
    """

    run: bytes
    batch: int
    slots: int
    moments: tuple[tuple[float, float], ...]


class SessionAdmission:
    """Admits clients; the run learns from it what they hold.

    Args:
        sessions: by client.
        rules: of the run.
        counter: counts what crosses.
        greeting: seconds that a connection has to say hello.
        patience: seconds that its labels may take.
        notify: takes a line of text for people.

    Attributes:
        hellos: what each client said first, by client.
        labels: of each client, in its own order, once they have come.
        held_out: labels of the last client's held-out set, likewise.
        changed: notifies of changes in any of these.
        refused: how often a connection was turned away, by the refusal's name.
        reconnections: how often a client came back.
    """

    def __init__(
        self,
        sessions: Sequence[ClientSession],
        rules: AdmissionRules,
        counter: TrafficCounter,
        greeting: float,
        patience: float,
        notify: Callable[[str], None],
    ):
        self.hellos: dict[int, Hello] = {}
        self.labels: dict[int, np.ndarray] = {}
        self.held_out: np.ndarray | None = None
        self.changed = threading.Condition()
        self.refused: collections.Counter[str] = collections.Counter()
        self.reconnections = 0
        self._sessions = sessions
        self._rules = rules
        self._counter = counter
        self._greeting = greeting
        self._patience = patience
        self._notify = notify
        self._parameters: RunParameters | None = None
        self._waiting: list[Hello] = []
        self._members_fixed = False
        self._left: set[int] = set()
        self._open: collections.Counter[int] = collections.Counter()
        self._refusals: dict[tuple[int | None, str], tuple[float, int]] = {}

    def fix_members(self) -> bool:
        """Fixes who takes part, if all are here; returns whether that is fixed.

        From then on a client that leaves stays a member, and comes back as the same.
        """
        with self.changed:
            complete = len(self.hellos) == len(self._sessions)
            self._members_fixed = self._members_fixed or complete
            return self._members_fixed

    def announce(self, parameters: RunParameters) -> None:
        """Begins to welcome clients, who are told these parameters."""
        with self.changed:
            self._parameters = parameters
            self.changed.notify_all()

    def handle_connection(self, channel: Channel, identity: int | None) -> None:
        """Serves one connection until it ends.

        Args:
            channel: to whoever connected.
            identity: the client that its certificate names; None where there are no
                certificates.
        """
        session = None
        if identity is not None:
            with self.changed:
                self._open[identity] += 1
        try:
            if identity is not None and self._open[identity] > CONNECTIONS_PER_CLIENT:
                raise Refusal(
                    "FULL",
                    f"client {identity} has {CONNECTIONS_PER_CLIENT} connections "
                    "already",
                )
            session = self._greet(channel, identity)
            while True:
                data = channel.receive()
                message = read_message(data)
                if isinstance(message, Goodbye):
                    self._say_goodbye(session, message, len(data))
                    channel.close()
                    return
                session.receive(channel, message, len(data))
        except Refusal as refusal:
            known = None if session is None else session.client
            self._report_refusal(channel.remote, known, identity, refusal)
            channel.close(refusal)
        except (ConnectionLost, TimeoutError):
            channel.close()
        except Exception as error:  # A fault of ours must not end the server.
            self._notify(server_events.fault(channel.remote, channel.remote, error))
            channel.close(Refusal("INTERNAL", "a fault of the server's; see its log"))
        finally:
            with self.changed:
                if identity is not None:
                    self._open[identity] -= 1
            if session is not None and session.detach(channel):
                self._notify(server_events.client_disconnected(session.client))

    def _say_goodbye(
        self, session: ClientSession, message: Goodbye, length: int
    ) -> None:
        again = session.client in self._left
        self._counter.add(message, length, up=True, repeated=again)
        with self.changed:
            self._left.add(session.client)
            self.changed.notify_all()

    def _report_refusal(
        self,
        remote: str,
        client: int | None,
        identity: int | None,
        refusal: Refusal,
    ) -> None:
        now, key = time.monotonic(), (identity, refusal.name)
        with self.changed:
            self.refused[refusal.name] += 1
            last, more = self._refusals.get(key, (-REFUSAL_INTERVAL, 0))
            recent = now - last < REFUSAL_INTERVAL
            self._refusals[key] = (last, more + 1) if recent else (now, 0)
        if not recent:
            whom = remote if client is None else f"client {client}"
            client = identity if client is None else client
            self._notify(
                server_events.refused(
                    whom, refusal, client=client, remote=remote, more=more
                )
            )

    def wait_for_goodbyes(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Returns when every client has read the end, or after so many seconds.

        A client that is away may be on its way back, after its channel broke or its
        process was killed, and would look for this server in vain. Whoever stops the
        server does not want to wait for that.
        """

        def missing() -> list[int]:
            clients = (session.client for session in self._sessions)
            return [client for client in clients if client not in self._left]

        began, said = time.monotonic(), False
        while (left := began + seconds - time.monotonic()) > 0 and not stopping():
            with self.changed:
                if self.changed.wait_for(lambda: not missing(), min(left, POLL)):
                    return
            if not said and time.monotonic() - began > GOODBYE_NOTICE:
                said = True
                self._notify(server_events.waiting_for_the_end(missing(), seconds))

    def _greet(self, channel: Channel, identity: int | None) -> ClientSession:
        """Takes a hello, and the labels if they are wanted; attaches the channel."""
        data = _received(channel, "hello", self._greeting, "--greeting")
        hello = read_message(data, (Hello,))
        session = self._check(hello, identity)
        live = session.is_same_process(hello.token)
        first = self._remember(hello)
        try:
            parameters = self._await_parameters(channel)
        except BaseException:
            self._forget(hello)
            raise
        welcome = Welcome(
            secrets.token_bytes(NAME_BYTES),
            parameters.run,
            live,
            labels=self._owes_labels(hello, held_out=False),
            held_out_labels=self._owes_labels(hello, held_out=True),
            batch=parameters.batch,
            slots=parameters.slots,
            moments=parameters.moments,
        )
        answer = write_message(welcome)
        channel.send(answer)
        self._counter.add(hello, len(data), up=True, repeated=not first)
        self._counter.add(welcome, len(answer), up=False, repeated=not first)
        for wanted, held_out, count in (
            (welcome.labels, False, hello.examples),
            (welcome.held_out_labels, True, hello.held_out),
        ):
            if wanted:
                try:
                    self._take_labels(channel, hello, held_out=held_out, count=count)
                except ConnectionLost:
                    # Another channel of the same client may have brought them.
                    if self._owes_labels(hello, held_out=held_out):
                        self._notify(server_events.left_without_labels(hello.client))
                    raise
        session.attach(channel, welcome.token, hello, live=live)
        with self.changed:
            self.reconnections += not first
        connected = server_events.client_connected
        self._notify(connected(session.client, channel.remote, again=not first))
        return session

    def _check(self, hello: Hello, identity: int | None) -> ClientSession:
        run = UNNAMED if self._parameters is None else self._parameters.run
        check_hello(hello, identity, run, self._rules)
        check_consistency(hello, self.hellos, membership_fixed=self._members_fixed)
        return self._sessions[hello.client]

    def _remember(self, hello: Hello) -> bool:
        """Returns whether this is the client's first hello in the run."""
        with self.changed:
            self._left.discard(hello.client)
            first = hello.client not in self.hellos
            self.hellos.setdefault(hello.client, hello)
            if not self._members_fixed:
                self._waiting.append(hello)
            missing = [n for n in range(len(self._sessions)) if n not in self.hellos]
            self.changed.notify_all()
        if first:
            self._notify(server_events.client_here(hello.client, missing))
        return first

    def _forget(self, hello: Hello) -> None:
        """A client that leaves before the run begins may come back with other data."""
        with self.changed:
            if self._members_fixed:
                return
            self._waiting = [other for other in self._waiting if other is not hello]
            if self.hellos.get(hello.client) is hello:
                del self.hellos[hello.client]
            # The client may be waiting on a newer channel already.
            for other in self._waiting:
                self.hellos.setdefault(other.client, other)
        self._notify(server_events.client_left(hello.client))

    def _await_parameters(self, channel: Channel) -> RunParameters:
        notice, began = NOTICE, time.monotonic()
        while self._parameters is None:
            with self.changed:
                self.changed.wait_for(lambda: self._parameters is not None, POLL)
            if time.monotonic() - began > notice:
                notice += min(notice, LONGEST_NOTICE)
                self._tell_missing(channel)
            try:
                channel.receive(0.0)
            except TimeoutError:
                continue
            raise Refusal("UNEXPECTED", "a message before the welcome")
        return self._parameters

    def _tell_missing(self, channel: Channel) -> None:
        clients = len(self._sessions)
        with self.changed:
            missing = [n for n in range(clients) if n not in self.hellos]
        if missing:
            present = clients - len(missing)
            waiting = Waiting(missing[0], False, present, clients)
            data = write_message(waiting)
            channel.send(data)
            self._counter.add(waiting, len(data), up=False)

    def has_all_labels_of(self, client: int) -> bool:
        """Whether nothing is owed by a client that has said hello."""
        hello = self.hellos[client]
        return not any(
            self._owes_labels(hello, held_out=held_out) for held_out in (False, True)
        )

    def _owes_labels(self, hello: Hello, *, held_out: bool) -> bool:
        if not held_out:
            return hello.client not in self.labels
        last = len(self._sessions) - 1
        return hello.client == last and self.held_out is None and hello.held_out > 0

    def _take_labels(
        self, channel: Channel, hello: Hello, *, held_out: bool, count: int
    ) -> None:
        data = _received(channel, "labels", self._patience, "--wait")
        message = read_message(data, (Labels,))
        item = label_bytes(hello.classes)
        if message.held_out != held_out or len(message.data) != count * item:
            raise Refusal(
                "SIZE",
                f"{count} labels of {item} bytes are due, got {len(message.data)} "
                "bytes",
            )
        labels = np.frombuffer(message.data, f"<u{item}").astype(np.int32)
        if labels.max() >= hello.classes:
            raise Refusal("LABEL", f"label {labels.max()} of {hello.classes} classes")
        with self.changed:
            # Another channel of the same client may have been asked for them too.
            known = (
                self.held_out is not None if held_out else hello.client in self.labels
            )
            # They are counted first, because they are saved together with the count.
            self._counter.add(
                message, len(data), up=True, repeated=known, evaluation=held_out
            )
            if held_out and not known:
                self.held_out = labels
            elif not known:
                self.labels[hello.client] = labels
            self.changed.notify_all()


def _received(channel: Channel, what: str, seconds: float, flag: str) -> bytes:
    try:
        return channel.receive(seconds)
    except TimeoutError:
        raise Refusal(
            "IDLE", f"no {what} in {seconds:g} s (the server's {flag})"
        ) from None
