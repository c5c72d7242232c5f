"""Clients that vanish, and what must then be true, for tests of networked runs."""

import contextlib
import threading

from jsplit.errors import RunError
from jsplit.experiment.workdir import RunFolder
from jsplit.net.channel import ConnectionLost, local_channel
from jsplit.net.config import ServeConfig
from jsplit.net.server_run import ServerRun
from jsplit.net.summary import summarize
from jsplit.testing import (
    make_clients,
)
from jsplit.wire.messages import Waiting

CASES = ((1, "parallel"), (2, "parallel"), (2, "sequential"))


class Killed(BaseException):
    """In place of `kill -9`: nothing of the client's code runs any more."""


class Fragile:
    """A channel that breaks, or whose client dies, at one of its messages."""

    def __init__(self, channel, lasts, error):
        self.remote = channel.remote
        self._channel, self._left, self._error = channel, lasts, error

    def _count(self):
        self._left -= 1
        if self._left < 0:
            self._channel.close()
            raise self._error

    def send(self, data):
        self._count()
        self._channel.send(data)

    def receive(self, timeout=None):
        data = self._channel.receive(timeout)
        if data[0] != Waiting.kind:  # Which comes or not, as the machine is busy.
            self._count()
        return data

    def close(self, reason=None):
        self._channel.close(reason)


def as_it_is(number, channel):
    return channel


def connector(run, number, lives, error, through=as_it_is):
    """Lines that last for so many messages each; then one that lasts.

    `through` makes of a client's channel the one that it uses.
    """
    left = list(lives)

    @contextlib.contextmanager
    def connect():
        with local_channel(run.admission.handle_connection, number) as channel:
            channel = through(number, channel)
            yield Fragile(channel, left.pop(0), error) if left else channel

    return connect


def reconciles(config, run):
    """What the ledger predicts is what was counted, to the byte."""
    for kind, ways in summarize(config, run)["network"]["difference"].items():
        assert ways == {"up": 0, "down": 0}, kind


def gone_after(config, path, lives, **serving):
    """A client that never comes back after so many messages."""
    folder = RunFolder(path / "server")
    folder.path.mkdir(parents=True, exist_ok=True)
    said = []
    run = ServerRun(config, ServeConfig(**serving), folder, said.append, lambda: False)
    clients = make_clients(config, path)

    def live(number):
        connect = connector(run, number, [lives.get(number, 10**9)], Killed())
        with contextlib.suppress(Killed, RunError, ConnectionLost):
            clients[number].run(connect, 5.0)

    for number in range(config.clients):
        threading.Thread(target=live, args=(number,), daemon=True).start()
    return run, said
