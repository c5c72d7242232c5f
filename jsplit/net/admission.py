"""Where connections come in: who is let into a run, and who is turned away by name.

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
from jsplit.net.account import Account
from jsplit.net.channel import Line, Lost
from jsplit.net.client_session import Peer
from jsplit.net.sockets import Measured, MeteredLine
from jsplit.wire import label_bytes
from jsplit.wire.messages import (
    NAME_BYTES,
    NOBODY,
    Goodbye,
    Hello,
    Labels,
    Welcome,
    read,
    write,
)

POLL = 0.2
"""Seconds after which a waiting server looks whether it was asked to stop."""

SOON = 2.0
"""Seconds at the end after which it is said who is waited for."""

EACH = 3
"""Connections that one certificate may have: the present one, one that is broken and
not yet found to be, and one that is being turned away."""

QUIET = 10.0
"""Seconds in which the same refusal of the same client is said once."""


class Terms(NamedTuple):
    """What every client must agree to.

    Attributes:
        settings: as lines `name=value`.
        examples_limit: that one client may hold.
        edge: of images in pixels; None if the settings leave it open.
        admits: raises a `Refusal` if such examples are too much for the server.
    """

    settings: str
    examples_limit: int
    edge: int | None
    admits: Callable[[Hello], None]


class Welcomed(NamedTuple):
    """What all clients are told, once all have said hello.

    Attributes:
        run: its name.
        batch: examples of one client's batch.
        slots: places for examples of a client in an epoch.
        mean: of each channel of all images.
        deviation: likewise.
    """

    run: bytes
    batch: int
    slots: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Door:
    """Lets clients in; the run learns from it what they hold.

    Args:
        peers: by client.
        terms: of the run.
        account: of what crosses.
        greeting: seconds that a connection has to say hello.
        patience: seconds that its labels may take.
        notify: takes a line for people.

    Attributes:
        hellos: what each client said first, by client.
        labels: of each client, in its own order, once they have come.
        held_out: labels of the last client's held-out set, likewise.
        changed: tells of any of these.
        measured: what the system counted of connections that ended, and the bytes of
            the messages in them.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        terms: Terms,
        account: Account,
        greeting: float,
        patience: float,
        notify: Callable[[str], None],
    ):
        self.hellos: dict[int, Hello] = {}
        self.labels: dict[int, np.ndarray] = {}
        self.held_out: np.ndarray | None = None
        self.changed = threading.Condition()
        self.measured = Measured(0, 0)
        self._lines: set[MeteredLine] = set()
        self._peers = peers
        self._terms = terms
        self._account = account
        self._greeting = greeting
        self._patience = patience
        self._notify = notify
        self._welcomed: Welcomed | None = None
        self._waiting: list[Hello] = []
        self._sealed = False
        self._left: set[int] = set()
        self._open: collections.Counter[int] = collections.Counter()
        self._said: dict[tuple[int | None, str], tuple[float, int]] = {}

    def seal(self) -> bool:
        """Fixes who takes part, if all are here; whether it is fixed.

        From then on a client that leaves stays a member, and comes back as the same.
        """
        with self.changed:
            self._sealed = self._sealed or len(self.hellos) == len(self._peers)
            return self._sealed

    def open(self, welcomed: Welcomed) -> None:
        """From now on clients are welcomed, with this."""
        with self.changed:
            self._welcomed = welcomed
            self.changed.notify_all()

    def admit(self, line: Line, identity: int | None) -> None:
        """Serves one connection until it ends.

        Args:
            line: to whoever connected.
            identity: the client that its certificate names; None where there are no
                certificates.
        """
        peer, line = None, MeteredLine(line)
        if identity is not None:
            with self.changed:
                self._open[identity] += 1
        try:
            if identity is not None and self._open[identity] > EACH:
                raise Refusal(
                    "FULL", f"client {identity} has {EACH} connections already"
                )
            peer = self._greet(line, identity)
            with self.changed:
                self._lines.add(line)
            while True:
                data = line.receive()
                message = read(data)
                if isinstance(message, Goodbye):
                    again = peer.client in self._left
                    self._account.add(message, len(data), up=True, repeated=again)
                    line.measure()
                    with self.changed:
                        self._left.add(peer.client)
                        self.changed.notify_all()
                    line.close()
                    return
                peer.read(line, message, len(data))
        except Refusal as refusal:
            whom = line.peer if peer is None else f"client {peer.client}"
            self._say_refused(whom, identity, refusal)
            line.close(refusal)
        except (Lost, TimeoutError):
            line.close()
        except Exception as error:  # A fault of ours must not end the server.
            self._notify(f"a fault in serving {line.peer}: {error!r}")
            line.close(Refusal("INTERNAL", "a fault of the server's; see its log"))
        finally:
            with self.changed:
                if identity is not None:
                    self._open[identity] -= 1
                if line in self._lines:
                    self._lines.remove(line)
                    self.measured += line.measured
            if peer is not None and peer.detach(line):
                self._notify(f"client {peer.client} is disconnected")

    def _say_refused(self, whom: str, identity: int | None, refusal: Refusal) -> None:
        now, key = time.monotonic(), (identity, refusal.name)
        with self.changed:
            last, more = self._said.get(key, (-QUIET, 0))
            quiet = now - last < QUIET
            self._said[key] = (last, more + 1) if quiet else (now, 0)
        if not quiet:
            again = f" ({more} times more since it was said last)" if more else ""
            self._notify(f"refused {whom}: {refusal}{again}")

    def measure(self) -> Measured:
        """Asks the system for the bytes of every connection so far; all of them."""
        with self.changed:
            for line in self._lines:
                line.measure()
            return sum((line.measured for line in self._lines), self.measured)

    def wait_for_goodbyes(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """Returns when every client has read the end, or after so long.

        One that is away may be on its way back, from a line that broke or from its own
        death, and would look for this server in vain. Who stops the server does not
        want to wait for that.
        """

        def missing() -> list[int]:
            return [it.client for it in self._peers if it.client not in self._left]

        began, said = time.monotonic(), False
        while (left := began + seconds - time.monotonic()) > 0 and not stopping():
            with self.changed:
                if self.changed.wait_for(lambda: not missing(), min(left, POLL)):
                    return
            if not said and time.monotonic() - began > SOON:
                said = True
                self._notify(
                    f"waiting up to {seconds:g} s for client {_some(missing())} to "
                    "read the end"
                )

    def _greet(self, line: Line, identity: int | None) -> Peer:
        data = _received(line, "hello", self._greeting, "--greeting")
        hello = read(data, (Hello,))
        assert isinstance(hello, Hello)
        peer = self._check(hello, identity)
        live = peer.knows(hello.token)
        first = self._remember(hello)
        try:
            welcomed = self._await_welcome(line)
        except BaseException:
            self._forget(hello)
            raise
        wants = Welcome(
            secrets.token_bytes(NAME_BYTES),
            welcomed.run,
            live,
            labels=hello.client not in self.labels,
            held_out=self._wants_held_out(hello),
            batch=welcomed.batch,
            slots=welcomed.slots,
            mean=welcomed.mean,
            deviation=welcomed.deviation,
        )
        answer = write(wants)
        line.send(answer)
        self._account.add(hello, len(data), up=True, repeated=not first)
        self._account.add(wants, len(answer), up=False, repeated=not first)
        for wanted, held_out, count in (
            (wants.labels, False, hello.examples),
            (wants.held_out, True, hello.held_out),
        ):
            if wanted:
                self._take_labels(line, hello, held_out=held_out, count=count)
        peer.attach(line, wants.token, hello, live=live)
        self._notify(
            f"client {peer.client} is connected from {line.peer}"
            + ("" if first else " again")
        )
        return peer

    def _check(self, hello: Hello, identity: int | None) -> Peer:
        if not hello.client < len(self._peers):
            raise Refusal(
                "IDENTITY",
                f"client {hello.client} is not one of the {len(self._peers)} of this "
                "run",
            )
        if identity is not None and identity != hello.client:
            raise Refusal(
                "IDENTITY",
                f"the certificate is client {identity}'s, not {hello.client}'s",
            )
        differing = _differences(self._terms.settings, hello.settings)
        if differing:
            raise Refusal(
                "SETTINGS",
                f"not the same on both sides: {', '.join(differing)}; give all parties "
                "the same --config and flags",
            )
        run = NOBODY if self._welcomed is None else self._welcomed.run
        if run != NOBODY and hello.run not in (NOBODY, run):
            raise Refusal("OTHER_RUN", "the client's --workdir is of another run")
        if not 1 <= hello.examples <= self._terms.examples_limit:
            raise Refusal(
                "TOO_LARGE",
                f"{hello.examples} examples; this server takes 1 to "
                f"{self._terms.examples_limit} of a client (its --examples-limit)",
            )
        if hello.held_out > self._terms.examples_limit:
            raise Refusal(
                "TOO_LARGE",
                f"{hello.held_out} held-out examples; this server takes "
                f"{self._terms.examples_limit} (its --examples-limit)",
            )
        edges = {*hello.image[:2]}
        if not (1 <= min(hello.image) and max(hello.image) <= 1024) or (
            self._terms.edge is not None and edges != {self._terms.edge}
        ):
            raise Refusal("SHAPE", f"images of {hello.image}")
        if not 1 <= hello.classes <= 65536:
            raise Refusal("LABEL", f"{hello.classes} classes")
        self._terms.admits(hello)
        pixels = hello.examples * hello.image[0] * hello.image[1]
        if any(
            not total <= squares <= 255 * total <= 255**2 * pixels
            for total, squares in hello.sums
        ):
            raise Refusal("MALFORMED", "sums that no images have")
        known = self.hellos.get(hello.client)
        before = known or next(iter(self.hellos.values()), None)
        if before is not None and (hello.image, hello.classes) != (
            before.image,
            before.classes,
        ):
            # Before the run begins either of the two may be the one that is wrong.
            raise Refusal(
                "SHAPE" if self._sealed else "UNLIKE",
                f"images {hello.image} of {hello.classes} classes, where client "
                f"{before.client} has {before.image} of {before.classes}; give one of "
                "the two the --dataset that belongs to the run",
            )
        if known is not None and _holdings(hello) != _holdings(known):
            raise Refusal("OTHER_DATA", "not the data that this client began with")
        return self._peers[hello.client]

    def _remember(self, hello: Hello) -> bool:
        """Whether this is the client's first hello in the run."""
        with self.changed:
            self._left.discard(hello.client)
            first = hello.client not in self.hellos
            self.hellos.setdefault(hello.client, hello)
            if not self._sealed:
                self._waiting.append(hello)
            missing = [n for n in range(len(self._peers)) if n not in self.hellos]
            self.changed.notify_all()
        if first:
            self._notify(
                f"client {hello.client} is here; "
                + (f"waiting for {_some(missing)}" if missing else "all are")
            )
        return first

    def _forget(self, hello: Hello) -> None:
        """A client that leaves before the run begins may come back with other data."""
        with self.changed:
            if self._sealed:
                return
            self._waiting = [it for it in self._waiting if it is not hello]
            if self.hellos.get(hello.client) is hello:
                del self.hellos[hello.client]
            for other in self._waiting:  # It may be waiting on a newer line already.
                self.hellos.setdefault(other.client, other)
        self._notify(f"client {hello.client} has left before the run began")

    def _await_welcome(self, line: Line) -> Welcomed:
        while self._welcomed is None:
            with self.changed:
                self.changed.wait_for(lambda: self._welcomed is not None, POLL)
            try:
                line.receive(0.0)
            except TimeoutError:
                continue
            raise Refusal("UNEXPECTED", "a message before the welcome")
        return self._welcomed

    def _wants_held_out(self, hello: Hello) -> bool:
        last = len(self._peers) - 1
        return hello.client == last and self.held_out is None and hello.held_out > 0

    def _take_labels(
        self, line: Line, hello: Hello, *, held_out: bool, count: int
    ) -> None:
        data = _received(line, "labels", self._patience, "--wait")
        message = read(data, (Labels,))
        assert isinstance(message, Labels)
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
            # Another line of the same client may have been asked for them too.
            known = (
                self.held_out is not None if held_out else hello.client in self.labels
            )
            # First, because they are saved together.
            self._account.add(
                message, len(data), up=True, repeated=known, evaluation=held_out
            )
            if held_out and not known:
                self.held_out = labels
            elif not known:
                self.labels[hello.client] = labels
            self.changed.notify_all()


def _received(line: Line, what: str, seconds: float, flag: str) -> bytes:
    try:
        return line.receive(seconds)
    except TimeoutError:
        raise Refusal(
            "IDLE", f"no {what} in {seconds:g} s (the server's {flag})"
        ) from None


def _some(clients: Sequence[int]) -> str:
    return ", ".join(map(str, clients[:8])) + ", ..." * (len(clients) > 8)


def _holdings(hello: Hello) -> tuple[object, ...]:
    return hello.examples, hello.held_out, hello.sums


def _differences(ours: str, theirs: str) -> list[str]:
    """Names of the settings that are not the same; values stay each side's own."""

    def table(text: str) -> dict[str, str]:
        return dict(line.partition("=")[::2] for line in text.splitlines())

    one, other = table(ours), table(theirs)
    names = [name for name in one if one[name] != other.get(name)]
    # A name of the peer's is printed only if it is plainly one.
    names += [
        name if name.isidentifier() and len(name) < 40 else "(no name)"
        for name in other
        if name not in one
    ]
    return names[:8]
