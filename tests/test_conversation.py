"""What a client says while it waits, and what the server tells it of that."""

import threading
import time

import pytest

from jsplit.errors import Refusal
from jsplit.net import admission, client_manager, conversation
from jsplit.net.channel import ConnectionLost, local_channel_pair
from jsplit.net.client_manager import AbsencePolicy, ClientManager
from jsplit.net.client_session import ClientAbsent, ClientSession
from jsplit.net.client_traffic import ClientTraffic
from jsplit.net.conversation import Conversation
from jsplit.net.reconnect import Outage
from jsplit.net.task import Task
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.typing import REFRESH, SYNC
from jsplit.wire.messages import (
    UNNAMED,
    Done,
    Goodbye,
    Place,
    Plan,
    Tensor,
    Waiting,
    Welcome,
    read_message,
    write_message,
)
from tests.test_admission import gathering

DONE = Done(3, 0, 0, bytes(16))
WELCOME = Welcome(UNNAMED, UNNAMED, False, False, False, 4, 4, ())
FOR_ONE = Waiting(client=1, connected=False, present=2, clients=3)
SAID_FOR_ONE = "waiting for client 1, which is not connected (2 of 3 clients are there)"


class Ends:
    """A client's conversation and the server's end of its channel."""

    def __init__(self):
        self.said: list[str] = []
        self.traffic = ClientTraffic(self.said.append)
        near, self.server = local_channel_pair()
        outage = Outage(60, self.said.append)
        self.client = Conversation(near, self.traffic, outage, self.said.append)

    def tell(self, *messages):
        for message in messages:
            self.server.send(write_message(message))


@pytest.fixture
def ends(monkeypatch):
    monkeypatch.setattr(conversation, "SILENCE", 0.05)
    return Ends()


def later(seconds, what):
    timer = threading.Timer(seconds, what)
    timer.daemon = True
    timer.start()


def test_a_client_says_for_whom_the_server_waits(ends):
    ends.tell(FOR_ONE, DONE)
    assert ends.client.receive((Done,), "go on") == DONE
    assert ends.said == [SAID_FOR_ONE]
    both = len(write_message(FOR_ONE)) + len(write_message(DONE))
    assert ends.traffic.received == both


def test_a_client_that_was_started_again_says_from_when_it_counts(ends):
    ends.traffic.received = 3 * 1024
    ends.traffic.report_epoch(0, SYNC, 2 * 1024)
    (event,) = ends.said
    assert event == "epoch 1 in A: 2.0 KiB crossed, 3.0 KiB since this start"
    assert (event.fields["bytes"], event.fields["total_bytes"]) == (2048, 3072)
    again = Ends()
    again.traffic.report_epoch(1, SYNC, 0)
    assert again.said == ["epoch 2 in A: 0 B crossed, 0 B since this start"]


def test_a_silent_server_is_said_to_be_waited_for_once(ends):
    later(0.5, lambda: ends.tell(DONE))
    assert ends.client.receive((Done,), "answer batch 1 of epoch 1") == DONE
    assert ends.said == ["waiting for the server to answer batch 1 of epoch 1"]


def test_a_server_that_is_slow_each_time_is_said_to_be_at_growing_distances(ends):

    def in_150_ms(timeout):
        if timeout is not None and timeout < 0.15:
            raise TimeoutError
        return write_message(DONE)

    ends.client._channel.receive = in_150_ms
    for _ in range(4):
        assert ends.client.receive((Done,), "go on") == DONE
    assert len(ends.said) == 2, "after 50 and 100 ms, and not after 200"


def test_a_notice_is_no_message_that_is_due(ends):
    assert ends.client.arrived((Done,)) is None
    ends.tell(FOR_ONE, FOR_ONE)
    assert ends.client.arrived((Done,)) is None
    assert ends.said == [SAID_FOR_ONE] * 2
    ends.tell(Goodbye())
    with pytest.raises(Refusal, match="UNEXPECTED"):
        ends.client.arrived((Done,))


def test_who_waits_for_the_run_to_begin_says_for_whom(ends):
    later(0.2, lambda: ends.tell(FOR_ONE, WELCOME))
    assert ends.client.welcome() == WELCOME
    begin = "waiting for the server, which is there, to begin the run"
    assert ends.said == [begin, SAID_FOR_ONE]


def test_a_server_that_never_begins_is_left(ends, monkeypatch):
    monkeypatch.setattr(conversation, "GREETING", 0.2)
    with pytest.raises(ConnectionLost, match="no welcome in 0.2 s"):
        ends.client.welcome()


def test_clients_that_are_early_are_told_whom_all_wait_for(tmp_path, monkeypatch):
    from jsplit.net.channel import local_channel

    monkeypatch.setattr(admission, "NOTICE", 0.1)
    with gathering(tmp_path, 2) as (run, hello, _):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(write_message(hello))
            told = read_message(channel.receive(10), (Waiting,))
            read_message(channel.receive(10), (Waiting,))
    assert told == Waiting(client=1, connected=False, present=1, clients=2)
    assert run.counter.total >= 2 * len(write_message(told))


def plan(state):
    return Plan(Place(0, 0, 0), state, 0, bytes(8), bytes(16))


def task(state, *, read, answered=0):
    made = Task(plan(state), 3, lambda number, message: None, None)
    made.read = read
    if answered:
        made.answer = (Tensor(Place(0, 0, answered - 1), 0, 1, 1, b"", b"\0"), 0)
    return made


@pytest.mark.parametrize(
    ("owing", "waits"),
    [
        (task(SYNC, read=0), False),
        (task(SYNC, read=1), True),  # for the gradient
        (task(SYNC, read=1, answered=1), False),
        (task(SYNC, read=2, answered=1), True),
        (task(SYNC, read=3, answered=2), True),  # for the others
        (task(REFRESH, read=2), False),
        (task(REFRESH, read=3), True),
    ],
)
def test_who_owes_something_is_not_said_to_wait(owing, waits):
    assert owing.client_waits() == waits


class Heard:
    """A channel that keeps what is sent to a client."""

    remote = "here"

    def __init__(self):
        self.messages = []

    def send(self, data):
        self.messages.append(read_message(data))

    def close(self, reason=None):
        pass


def test_clients_that_wait_are_told_for_whom_at_growing_distances(monkeypatch):
    monkeypatch.setattr(client_manager, "POLL", 0.01)
    monkeypatch.setattr(client_manager, "NOTICE", 0.02)
    counter, channels = TrafficCounter(), [Heard(), Heard(), Heard()]
    sessions = [ClientSession(n, counter, print) for n in range(3)]
    for session, channel in zip(sessions[:2], channels[:2], strict=True):
        session._channel = channel
    sessions[1].assign(task(REFRESH, read=0))  # It is slow; nobody need tell it.
    channels[1].messages.clear()
    manager = ClientManager.__new__(ClientManager)
    manager.sessions, manager._stopping = sessions, lambda: False
    manager.policy, manager._notices = AbsencePolicy(0.2, False), {}
    began = time.monotonic()
    with pytest.raises(ClientAbsent):
        manager.next_message(2)
    assert time.monotonic() - began < 5
    told = channels[0].messages
    assert set(told) == {Waiting(client=2, connected=False, present=2, clients=3)}
    assert 2 <= len(told) <= 4, "at 0.02, 0.04, 0.08 and 0.16 s"
    assert channels[1].messages == []
    counter.commit()
    size = len(told) * len(write_message(told[0]))
    down = sum(n for (kind, way), n in counter.crossed.items() if kind == "handshake")
    assert down == size, "no kind that the ledger predicts"
