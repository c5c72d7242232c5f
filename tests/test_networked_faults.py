"""Whatever breaks, the run ends to the bit as if nothing had happened."""

import contextlib
import dataclasses
import random
import threading
import time

import pytest

from jsplit.core.gates import FreezeGate
from jsplit.errors import RunError
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net import membership
from jsplit.net.account import Account
from jsplit.net.channel import Lost, local_line
from jsplit.net.client_session import Peer
from jsplit.net.config import ServeConfig
from jsplit.net.run import Run
from jsplit.net.summary import summarize
from jsplit.wire.messages import EXAMINE, Tensor, read
from tests.networked import TINY, clients_of, result_of, run_locally
from tests.runs import compile_once

CASES = ((1, "parallel"), (2, "parallel"), (2, "sequential"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_once(tmp_path_factory.getbasetemp()) as folder:
        yield folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Each case's undisturbed run, made once."""
    made = {}

    def get(clients, topology):
        if (clients, topology) not in made:
            config = dataclasses.replace(TINY, clients=clients, topology=topology)
            path = tmp_path_factory.mktemp("undisturbed")
            run, _ = run_locally(config, path)
            made[clients, topology] = (config, run, result_of(path, run))
        return made[clients, topology]

    return get


class Killed(BaseException):
    """In place of `kill -9`: nothing of the party's code runs any more."""


class Fragile:
    """A line that breaks, or whose party dies, at one of its messages."""

    def __init__(self, line, lasts, error):
        self.peer = line.peer
        self._line, self._left, self._error = line, lasts, error

    def _count(self):
        self._left -= 1
        if self._left < 0:
            self._line.close()
            raise self._error

    def send(self, data):
        self._count()
        self._line.send(data)

    def receive(self, timeout=None):
        data = self._line.receive(timeout)
        self._count()
        return data

    def close(self, reason=None):
        self._line.close(reason)


def as_it_is(number, line):
    return line


def connector(run, number, lives, error, through=as_it_is):
    """Lines that last for so many messages each; then one that lasts.

    `through` makes of a client's line the one that it uses.
    """
    left = list(lives)

    @contextlib.contextmanager
    def connect():
        with local_line(run.door.admit, number) as line:
            line = through(number, line)
            yield Fragile(line, left.pop(0), error) if left else line

    return connect


def with_clients(run, config, path, lives, error, through):
    """Starts the clients; one that dies is made anew, from its folder."""

    def live(number):
        connect = connector(run, number, lives.get(number, ()), error, through)
        while True:
            client = clients_of(config, path)[number]
            try:
                return client.run(connect, 300.0)
            except Killed:
                continue

    threads = [
        threading.Thread(target=live, args=(number,), daemon=True)
        for number in range(config.clients)
    ]
    for thread in threads:
        thread.start()
    return threads


def disturbed(config, path, lives, error, through=as_it_is):
    folder = RunFolder(path / "server")
    folder.path.mkdir(parents=True, exist_ok=True)
    serve = ServeConfig(linger=10, wait=300)
    run = Run(config, serve, folder, print, lambda: False)
    threads = with_clients(run, config, path, lives, error, through)
    assert run.carry_out(lambda epochs: (JsonlWriter(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return run


@pytest.mark.parametrize("error", (Lost("cut"), Killed()), ids=("cut", "killed"))
@pytest.mark.parametrize(("clients", "topology"), CASES)
@pytest.mark.parametrize("seed", range(2))
def test_clients_that_vanish_at_random_moments_change_nothing(
    seed, clients, topology, error, reference, tmp_path
):
    config, run, expected = reference(clients, topology)
    draw = random.Random(f"{seed} {clients} {topology} {error!r}")
    lives = {
        number: [draw.randrange(1, 24) for _ in range(3)] for number in range(clients)
    }
    ended = disturbed(config, tmp_path, lives, error)
    assert result_of(tmp_path, run) == expected
    reconciles(config, ended)
    assert ended.account.repeated["repeated", "up"] > 0


@pytest.mark.parametrize("at", (1, 2, 3, 4, 5, 12, 13, 14))
def test_a_line_cut_at_each_message_of_an_epoch_changes_nothing(
    at, reference, tmp_path
):
    config, run, expected = reference(1, "parallel")
    ended = disturbed(config, tmp_path, {0: [at]}, Lost("cut"))
    assert result_of(tmp_path, run) == expected
    reconciles(config, ended)


@pytest.mark.parametrize("at", ("hello", "labels", "epoch 1", "epoch 3"))
@pytest.mark.parametrize(("clients", "topology"), CASES)
def test_a_server_that_dies_and_comes_back_changes_nothing(
    at, clients, topology, reference, tmp_path, monkeypatch
):
    config, run_like, expected = reference(clients, topology)
    crossed, add = [], Account.add

    def counting(account, message, length, *rest, **named):
        crossed.append(length)
        add(account, message, length, *rest, **named)

    monkeypatch.setattr(Account, "add", counting)
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    serve = ServeConfig(linger=10, wait=300)
    first = Run(config, serve, folder, print, lambda: False)
    door, lines = [first.door], []
    made = clients_of(config, tmp_path)

    @contextlib.contextmanager
    def connect(number):
        if door[0] is None:
            raise Lost("nobody listens")
        with local_line(door[0].admit, number) as line:
            lines.append(line)
            yield line

    threads = [
        threading.Thread(
            target=client.run, args=(lambda n=number: connect(n), 300.0), daemon=True
        )
        for number, client in enumerate(made)
    ]
    for thread in threads:
        thread.start()

    class Dying(JsonlWriter):
        """Its process is killed after the record and before the checkpoint."""

        def write(self, record):
            super().write(record)
            if f"epoch {record['epoch']}" == at:
                raise Killed

    with monkeypatch.context() as patch:
        save, saves = membership.save, iter(("hello", "labels"))

        def die(*given):
            if next(saves) == at:
                raise Killed
            save(*given)

        patch.setattr(membership, "save", die)
        with pytest.raises(Killed):
            first.carry_out(lambda epochs: (Dying(folder.metrics),))
    door[0] = None
    for line in lines:
        line.close()
    time.sleep(0.3)
    second = Run(config, serve, folder, print, lambda: False)
    door[0] = second.door
    assert second.carry_out(lambda epochs: (JsonlWriter(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert result_of(tmp_path, run_like) == expected
    reconciles(config, second)
    # Not a byte of the first process's is forgotten, of what it had not saved neither.
    assert second.account.total == sum(crossed)


def test_a_client_killed_after_the_end_knows_of_it_without_a_server(tmp_path):
    run_locally(TINY, tmp_path)
    (again,) = clients_of(TINY, tmp_path)

    @contextlib.contextmanager
    def nobody():
        raise Lost("nobody listens")
        yield

    done = again.run(nobody, patience=0.0)
    assert (done.epochs, done.examples) == (6, 100)
    (other,) = clients_of(dataclasses.replace(TINY, epochs=99), tmp_path)
    with pytest.raises(RunError, match="could not be used"):
        other.run(nobody, patience=0.0)


def test_what_comes_while_an_epoch_is_called_off_is_counted_once(
    reference, tmp_path, monkeypatch
):
    config, run_like, expected = reference(2, "parallel")
    called_off, abandon = threading.Event(), Account.abandon

    def abandoning(account):
        abandon(account)
        if not called_off.is_set():
            called_off.set()
            time.sleep(0.5)  # The batch comes before the epoch begins again.

    class Late:
        """A line whose second batch comes just when the epoch has been called off."""

        def __init__(self, line):
            self.peer, self.receive, self.close = line.peer, line.receive, line.close
            self._line, self._batches = line, 0

        def send(self, data):
            if isinstance(read(data), Tensor):
                self._batches += 1
                if self._batches == 2:
                    assert called_off.wait(60)
            self._line.send(data)

    monkeypatch.setattr(Account, "abandon", abandoning)
    ended = disturbed(
        config,
        tmp_path,
        {0: [6]},
        Killed(),
        through=lambda number, line: Late(line) if number == 1 else line,
    )
    assert called_off.is_set()
    assert result_of(tmp_path, run_like) == expected
    reconciles(config, ended)


def test_nobody_waits_for_the_score_of_a_client_that_is_gone(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, clients=2)
    asked, begin = [], Peer.begin

    def beginning(peer, task):
        asked.append((peer.client, task.plan.state, task.plan.place.epoch))
        begin(peer, task)

    monkeypatch.setattr(Peer, "begin", beginning)
    wait = {"wait": 1.0, "absent": "skip", "linger": 0, "evaluate": 1}
    run, said = gone_after(config, tmp_path, {1: 26}, **wait)
    assert run.carry_out(lambda epochs: ())
    assert run.records[0]["absent"] == [] and run.records[1]["absent"] == [1]
    assert [client for client, state, _ in asked if state == EXAMINE] == [1]
    assert sum("no score" in line for line in said) == 5


def reconciles(config, run):
    """What the ledger predicts is what was counted, to the byte."""
    for kind, ways in summarize(config, run)["network"]["difference"].items():
        assert ways == {"up": 0, "down": 0}, kind


def gone_after(config, path, lives, **serving):
    """A client that never comes back after so many messages."""
    folder = RunFolder(path / "server")
    folder.path.mkdir(parents=True, exist_ok=True)
    said = []
    run = Run(config, ServeConfig(**serving), folder, said.append, lambda: False)
    clients = clients_of(config, path)

    def live(number):
        connect = connector(run, number, [lives.get(number, 10**9)], Killed())
        with contextlib.suppress(Killed, RunError, Lost):
            clients[number].run(connect, 5.0)

    for number in range(config.clients):
        threading.Thread(target=live, args=(number,), daemon=True).start()
    return run, said


def test_a_client_that_is_gone_stops_the_run_with_a_clear_error(tmp_path):
    config = dataclasses.replace(TINY, clients=2)
    run, _ = gone_after(config, tmp_path, {1: 9}, wait=1.0, absent="stop", linger=0)
    with pytest.raises(RunError, match="client 1 sent nothing for 1 s in epoch 1"):
        run.carry_out(lambda epochs: ())


def test_a_client_that_is_gone_is_skipped_where_that_is_asked_for(tmp_path):
    config = dataclasses.replace(TINY, clients=2)
    # It sends a first whole epoch: hello, labels, 5 batches and gradients, part, ...
    run, said = gone_after(config, tmp_path, {1: 22}, wait=1.0, absent="skip", linger=0)
    assert run.carry_out(lambda epochs: ())
    assert any("client 1 is gone: epoch 2" in line for line in said), said
    examples = [line["train_examples"] for line in run.records]
    assert examples[:3] == [200, 100, 100], examples
    # What it sent before is still in the store.
    assert examples[3:] == [200, 200, 200]
    assert [line["absent"] for line in run.records] == [[], [1], [1], [], [], []]
    reconciles(config, run)
    # Half of A's traffic was spared in the second epoch, half of B's in the third.
    assert run.ledger.communication_reduction == 6 * 8 / (2 + 1 + 0.5)


def test_a_client_that_stalls_and_comes_back_takes_part_again(tmp_path):
    config = dataclasses.replace(TINY, clients=2, epochs=4, gate=FreezeGate(4))
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    said, back = [], threading.Event()
    serve = ServeConfig(wait=2.0, absent="skip", linger=20)
    run = Run(config, serve, folder, said.append, lambda: False)
    clients = clients_of(config, tmp_path)
    first = clients_of(config, tmp_path)[1]
    ended = []

    def stalls():
        with contextlib.suppress(Killed):
            first.run(connector(run, 1, [22], Killed()), 60.0)
        assert back.wait(120)
        ended.append(clients[1].run(connector(run, 1, (), None), 60.0))

    def steady():
        ended.append(clients[0].run(connector(run, 0, (), None), 60.0))

    threads = [threading.Thread(target=it, daemon=True) for it in (stalls, steady)]
    for thread in threads:
        thread.start()

    class Watching(JsonlWriter):
        def write(self, record):
            super().write(record)
            if record["epoch"] == 2:
                back.set()
                deadline = time.monotonic() + 60
                while not run.peers[1].connected and time.monotonic() < deadline:
                    time.sleep(0.01)

    assert run.carry_out(lambda epochs: (Watching(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(ended) == 2
    assert [line["train_examples"] for line in run.records] == [200, 100, 200, 200]
    counted = run.account.crossed + run.account.saved
    epoch = 100 * 8 * 8 * 16 // 4
    assert counted["activations", "up"] == (4 * 2 - 1) * epoch
    reconciles(config, run)


def test_in_state_c_the_server_needs_nobody(reference, tmp_path):
    config, run_like, expected = reference(1, "parallel")
    # Hello, welcome, labels twice, two epochs of 5 x 2 + 2, plan and 5 batches of B.
    run, _ = gone_after(config, tmp_path, {0: 34}, wait=3.0, absent="skip", linger=0)
    run.carry_out(lambda epochs: ())
    assert run.ledger.states == "AABCCC"
    assert [line["train_loss"] for line in run.records] == [
        line["train_loss"] for line in run_like.records
    ]
