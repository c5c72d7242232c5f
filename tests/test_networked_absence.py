"""A client that is gone stops the run, or the run goes on without it."""

import contextlib
import dataclasses
import threading
import time

import pytest

from jsplit.core.gates import FreezeGate
from jsplit.errors import RunError
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net.client_session import ClientSession
from jsplit.net.config import ServeConfig
from jsplit.net.server_run import ServerRun
from jsplit.testing import (
    TINY_RUN,
    make_clients,
    run_in_process,
)
from jsplit.wire.messages import EVALUATE
from tests.fault_injection import Killed, connector, gone_after, reconciles

pytestmark = pytest.mark.slow

TWO_CLIENTS = dataclasses.replace(TINY_RUN, clients=2)


@pytest.fixture(scope="module", autouse=True)
def compiled(cache, tmp_path_factory):
    """Compiles for two clients first: a client that compiles must not seem gone."""
    run_in_process(TWO_CLIENTS, tmp_path_factory.mktemp("undisturbed"))


def test_nobody_waits_for_the_score_of_a_client_that_is_gone(tmp_path, monkeypatch):
    config = TWO_CLIENTS
    asked, begin = [], ClientSession.assign

    def beginning(session, task):
        asked.append((session.client, task.plan.state, task.plan.place.epoch))
        begin(session, task)

    monkeypatch.setattr(ClientSession, "assign", beginning)
    wait = {"wait": 1.0, "absent": "skip", "linger": 0, "evaluate": 1}
    run, said = gone_after(config, tmp_path, {1: 26}, **wait)
    assert run.train(lambda epochs: ())
    assert run.records[0]["absent"] == [] and run.records[1]["absent"] == [1]
    assert [client for client, state, _ in asked if state == EVALUATE] == [1]
    assert sum("no score" in line for line in said) == 5


def test_a_client_that_is_gone_stops_the_run_with_a_clear_error(tmp_path):
    config = TWO_CLIENTS
    run, _ = gone_after(config, tmp_path, {1: 9}, wait=1.0, absent="stop", linger=0)
    with pytest.raises(RunError, match="client 1 sent nothing for 1 s in epoch 1"):
        run.train(lambda epochs: ())


def test_a_client_that_has_sent_no_batch_is_not_skipped(tmp_path):
    # Hello, welcome, labels, plan: it is gone before its first batch.
    lives = {1: 4}
    run, _ = gone_after(TWO_CLIENTS, tmp_path, lives, wait=1.0, absent="skip", linger=0)
    with pytest.raises(RunError, match="in epoch 1; --absent skip goes on without a"):
        run.train(lambda epochs: ())


def test_a_run_goes_on_without_all_but_one_and_not_without_all(tmp_path):
    lives = {0: 26, 1: 22}
    run, said = gone_after(
        TWO_CLIENTS, tmp_path, lives, wait=1.0, absent="skip", linger=0
    )
    with pytest.raises(RunError, match="epoch 2; --absent skip needs one client"):
        run.train(lambda epochs: ())
    assert any("client 1 is gone: epoch 2" in line for line in said), said


def test_nobody_is_skipped_while_clients_learn_alone(tmp_path):
    config = dataclasses.replace(TWO_CLIENTS, epochs=1, local_epochs=2)
    # Hello, welcome, labels, plan: it owes its weights.
    run, _ = gone_after(config, tmp_path, {1: 4}, wait=15.0, absent="skip", linger=0)
    with pytest.raises(RunError, match="--absent skip goes on without a client only"):
        run.train(lambda epochs: ())


def test_a_server_that_is_restarted_waits_again_for_who_was_absent(tmp_path):
    wait = {"wait": 1.0, "absent": "skip", "linger": 0}
    first = dataclasses.replace(TWO_CLIENTS, epochs=6)
    stop = threading.Event()
    run, _ = gone_after(first, tmp_path, {1: 22}, **wait)
    run._stopping = stop.is_set

    class Stopping(JsonlWriter):
        def write(self, record):
            super().write(record)
            if record["absent"]:
                stop.set()

    folder = RunFolder(tmp_path / "server")
    assert not run.train(lambda epochs: (Stopping(folder.metrics),))
    assert run.records[-1]["absent"] == [1]
    again, said = gone_after(first, tmp_path, {1: 0}, **wait)
    began = time.monotonic()
    assert again.train(lambda epochs: (JsonlWriter(folder.metrics),))
    assert time.monotonic() - began > 1
    assert any("client 1 is gone: epoch 3" in line for line in said), said


def test_a_client_that_is_gone_is_skipped_where_that_is_asked_for(tmp_path):
    config = TWO_CLIENTS
    # It sends a first whole epoch: hello, labels, 5 batches and gradients, part, ...
    run, said = gone_after(config, tmp_path, {1: 22}, wait=1.0, absent="skip", linger=0)
    assert run.train(lambda epochs: ())
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
    config = dataclasses.replace(TINY_RUN, clients=2, epochs=4, gate=FreezeGate(4))
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    said, back = [], threading.Event()
    serve = ServeConfig(wait=2.0, absent="skip", linger=20)
    run = ServerRun(config, serve, folder, said.append, lambda: False)
    clients = make_clients(config, tmp_path)
    first = make_clients(config, tmp_path)[1]
    ended = []

    def stalls():
        with contextlib.suppress(Killed):
            first.run(connector(run, 1, [22], Killed()), 60.0)
        assert back.wait(120)
        ended.append(clients[1].run(connector(run, 1, (), None), 60.0))

    def steady():
        ended.append(clients[0].run(connector(run, 0, (), None), 60.0))

    threads = [
        threading.Thread(target=target, daemon=True) for target in (stalls, steady)
    ]
    for thread in threads:
        thread.start()

    class Watching(JsonlWriter):
        def write(self, record):
            super().write(record)
            if record["epoch"] == 2:
                back.set()
                deadline = time.monotonic() + 60
                while not run.sessions[1].connected and time.monotonic() < deadline:
                    time.sleep(0.01)

    assert run.train(lambda epochs: (Watching(folder.metrics),))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(ended) == 2
    assert [line["train_examples"] for line in run.records] == [200, 100, 200, 200]
    counted = run.counter.crossed + run.counter.saved
    epoch = 100 * 8 * 8 * 16 // 4
    assert counted["activations", "up"] == (4 * 2 - 1) * epoch
    reconciles(config, run)


def test_in_state_c_the_server_needs_nobody(tmp_path):
    run_like, _ = run_in_process(TINY_RUN, tmp_path / "undisturbed")
    # Hello, welcome, labels twice, two epochs of 5 x 2 + 2, plan and 5 batches of B.
    run, _ = gone_after(TINY_RUN, tmp_path, {0: 34}, wait=3.0, absent="skip", linger=0)
    run.train(lambda epochs: ())
    assert run.ledger.states == "AABCCC"
    assert [line["train_loss"] for line in run.records] == [
        line["train_loss"] for line in run_like.records
    ]
