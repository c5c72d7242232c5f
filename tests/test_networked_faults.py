"""Whatever breaks, the run ends to the bit as if nothing had happened."""

import contextlib
import dataclasses
import random
import threading
import time

import pytest

from jsplit.errors import RunError
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net import membership
from jsplit.net.channel import ConnectionLost, local_channel
from jsplit.net.config import ServeConfig
from jsplit.net.server_run import ServerRun
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.testing import (
    TINY_RUN,
    make_clients,
    result_of,
    run_in_process,
)
from jsplit.wire.messages import Tensor, read_message
from tests.fault_injection import Killed, as_it_is, connector, reconciles

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]

CASES = ((1, "parallel"), (2, "parallel"), (2, "sequential"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Each case's undisturbed run, made once."""
    made = {}

    def get(clients, topology):
        if (clients, topology) not in made:
            config = dataclasses.replace(TINY_RUN, clients=clients, topology=topology)
            path = tmp_path_factory.mktemp("undisturbed")
            run, _ = run_in_process(config, path)
            made[clients, topology] = (config, run, result_of(path, run))
        return made[clients, topology]

    return get


def with_clients(run, config, path, lives, error, through):
    """Starts the clients; one that dies is made anew, from its folder."""

    def live(number):
        connect = connector(run, number, lives.get(number, ()), error, through)
        while True:
            client = make_clients(config, path)[number]
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
    run = ServerRun(config, serve, folder, print, lambda: False)
    threads = with_clients(run, config, path, lives, error, through)
    assert run.train(lambda epochs: (JsonlWriter(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return run


@pytest.mark.parametrize(
    "error", (ConnectionLost("cut"), Killed()), ids=("cut", "killed")
)
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
    assert ended.counter.repeated["repeated", "up"] > 0


@pytest.mark.parametrize("at", (1, 2, 3, 4, 5, 12, 13, 14))
def test_a_connection_cut_at_each_message_of_an_epoch_changes_nothing(
    at, reference, tmp_path
):
    config, run, expected = reference(1, "parallel")
    ended = disturbed(config, tmp_path, {0: [at]}, ConnectionLost("cut"))
    assert result_of(tmp_path, run) == expected
    reconciles(config, ended)


@pytest.mark.parametrize("at", ("hello", "labels", "epoch 1", "epoch 3"))
@pytest.mark.parametrize(("clients", "topology"), CASES)
def test_a_server_that_dies_and_comes_back_changes_nothing(
    at, clients, topology, reference, tmp_path, monkeypatch
):
    config, run_like, expected = reference(clients, topology)
    crossed, add = [], TrafficCounter.add

    def counting(counter, message, length, *rest, **named):
        crossed.append(length)
        add(counter, message, length, *rest, **named)

    monkeypatch.setattr(TrafficCounter, "add", counting)
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    serve = ServeConfig(linger=10, wait=300)
    first = ServerRun(config, serve, folder, print, lambda: False)
    admission, channels = [first.admission], []
    made = make_clients(config, tmp_path)

    @contextlib.contextmanager
    def connect(number):
        if admission[0] is None:
            raise ConnectionLost("nobody listens")
        with local_channel(admission[0].handle_connection, number) as channel:
            channels.append(channel)
            yield channel

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
        save, saves = membership.save_members, iter(("hello", "labels"))

        def die(*given):
            if next(saves) == at:
                raise Killed
            save(*given)

        patch.setattr(membership, "save_members", die)
        with pytest.raises(Killed):
            first.train(lambda epochs: (Dying(folder.metrics),))
    admission[0] = None
    for channel in channels:
        channel.close()
    time.sleep(0.3)
    second = ServerRun(config, serve, folder, print, lambda: False)
    admission[0] = second.admission
    assert second.train(lambda epochs: (JsonlWriter(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert result_of(tmp_path, run_like) == expected
    reconciles(config, second)
    # Not a byte of the first process's is forgotten, of what it had not saved neither.
    assert second.counter.total == sum(crossed)


def test_a_client_killed_after_the_end_knows_of_it_without_a_server(tmp_path):
    run_in_process(TINY_RUN, tmp_path)
    (again,) = make_clients(TINY_RUN, tmp_path)

    @contextlib.contextmanager
    def nobody():
        raise ConnectionLost("nobody listens")
        yield

    done = again.run(nobody, patience=0.0)
    assert (done.epochs, done.examples) == (6, 100)
    (other,) = make_clients(dataclasses.replace(TINY_RUN, epochs=99), tmp_path)
    with pytest.raises(RunError, match="could not be used"):
        other.run(nobody, patience=0.0)


def test_what_comes_while_an_epoch_is_called_off_is_counted_once(
    reference, tmp_path, monkeypatch
):
    config, run_like, expected = reference(2, "parallel")
    called_off, abandon = threading.Event(), TrafficCounter.discard

    def abandoning(counter):
        abandon(counter)
        if not called_off.is_set():
            called_off.set()
            time.sleep(0.5)  # The batch comes before the epoch begins again.

    class Late:
        """A channel whose second batch comes just when the epoch is cancelled."""

        def __init__(self, channel):
            self.remote, self.receive, self.close = (
                channel.remote,
                channel.receive,
                channel.close,
            )
            self._channel, self._batches = channel, 0

        def send(self, data):
            if isinstance(read_message(data), Tensor):
                self._batches += 1
                if self._batches == 2:
                    assert called_off.wait(60)
            self._channel.send(data)

    monkeypatch.setattr(TrafficCounter, "discard", abandoning)
    ended = disturbed(
        config,
        tmp_path,
        {0: [6]},
        Killed(),
        through=lambda number, channel: Late(channel) if number == 1 else channel,
    )
    assert called_off.is_set()
    assert result_of(tmp_path, run_like) == expected
    reconciles(config, ended)
