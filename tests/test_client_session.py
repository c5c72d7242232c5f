"""What the server tells one client, when."""

import dataclasses

import pytest

from jsplit.errors import Refusal
from jsplit.net.channel import local_channel_pair
from jsplit.net.client_session import ClientRestarted, ClientSession
from jsplit.net.task import CheckedMessage, ModelUpdate, Task
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.testing import TINY_RUN, hello_of
from jsplit.typing import SYNC
from jsplit.wire.messages import (
    INITIAL_WEIGHTS,
    ClientWeights,
    Done,
    Place,
    Plan,
    Tensor,
    read_message,
    write_message,
)

BATCH = Tensor(Place(0, 0, 0), 0, 1, 1, b"", b"")
TOKENS = (b"a" * 16, b"b" * 16)
HELLO = hello_of(TINY_RUN)
PLAN_BEFORE = len(
    write_message(Plan(Place(0, 0, 0), SYNC, 0, bytes(8), INITIAL_WEIGHTS))
)
"""Bytes of what the fixture announced."""


@pytest.fixture
def counter():
    return TrafficCounter()


@pytest.fixture
def session(counter):
    """Of a client that sent a batch, which was taken and is not answered."""
    session = ClientSession(0, counter, print)
    near, _ = local_channel_pair()
    session.attach(near, TOKENS[0], HELLO, live=False)
    plan = Plan(Place(0, 0, 0), SYNC, 0, bytes(8), INITIAL_WEIGHTS)
    session.assign(
        Task(plan, 3, lambda number, message: CheckedMessage("taken", 0), None)
    )
    session.receive(near, BATCH, 1)
    assert session.next_message(0) == "taken"
    assert session.detach(near)
    return session


def heard(channel):
    """What waits at the client's end, by kind."""
    kinds = []
    while True:
        try:
            kinds.append(
                type(read_message(channel.receive(0.0), (ClientWeights, Plan, Tensor)))
            )
        except TimeoutError:
            return kinds


def test_an_answer_waits_for_a_client_whose_channel_broke(session):
    session.answer(BATCH, 0)
    near, far = local_channel_pair()
    hello = dataclasses.replace(HELLO, task=0, answered=0)
    session.attach(near, TOKENS[0], hello, live=True)
    assert heard(far) == [Plan, Tensor]


def test_a_part_that_a_client_was_away_for_comes_later_and_is_predicted_once(
    session, counter
):
    part = ClientWeights(Place(0, 0, 0), b"d" * 16, b"\0part")
    update = ModelUpdate(part, plain=4)
    session.send_update(update)
    counter.commit()
    assert counter.saved["client_parts", "down"] == len(write_message(part))
    before = counter.repeated["repeated", "down"]
    session.clear()
    plan = Plan(Place(1, 1, 0), SYNC, 0, bytes(8), part.digest)
    session.assign(
        Task(plan, 3, lambda number, message: CheckedMessage("taken", 0), update)
    )
    near, far = local_channel_pair()
    session.attach(near, TOKENS[0], HELLO, live=True)
    assert heard(far) == [ClientWeights, Plan]
    assert counter.repeated["repeated", "down"] == before + len(write_message(part))
    assert counter.crossed["client_parts", "down"] == 0


def test_the_end_is_counted_once_however_often_it_is_told(session, counter):
    done = Done(1, 0, 0, INITIAL_WEIGHTS)
    session.finish(done)  # It is away.
    for token in TOKENS:
        near, far = local_channel_pair()
        session.attach(near, token, HELLO, live=False)
        read_message(far.receive(0.0), (Done,))
        assert session.detach(near)
    counter.commit()
    assert counter.crossed["handshake", "down"] == len(write_message(done))
    assert counter.repeated["repeated", "down"] == len(write_message(done))


def test_an_announcement_that_a_broken_channel_swallowed_is_counted_when_it_comes(
    session, counter
):
    session.clear()
    near, _ = local_channel_pair()
    session.attach(near, TOKENS[0], HELLO, live=True)
    before = counter.repeated["repeated", "down"]
    near.close()  # Its thread has not found out yet.
    part = ClientWeights(Place(0, 0, 0), b"d" * 16, b"\0part")
    plan = Plan(Place(1, 1, 0), SYNC, 0, bytes(8), part.digest)
    check = lambda number, message: CheckedMessage("taken", 0)  # noqa: E731
    session.assign(Task(plan, 3, check, ModelUpdate(part, plain=4), due=True))
    session.detach(near)
    near, far = local_channel_pair()
    session.attach(near, TOKENS[0], HELLO, live=True)
    counter.commit()
    assert heard(far) == [ClientWeights, Plan]
    assert counter.crossed["control", "down"] == len(write_message(plan)) + PLAN_BEFORE
    assert counter.crossed["client_parts", "down"] == len(write_message(part))
    assert counter.repeated["repeated", "down"] == before


def test_no_more_is_dropped_of_older_tasks_than_those_had(session):
    near, _ = local_channel_pair()
    session.attach(near, TOKENS[0], HELLO, live=True)
    plan = Plan(Place(0, 1, 0), SYNC, 0, bytes(8), INITIAL_WEIGHTS)
    session.assign(
        Task(plan, 3, lambda number, message: CheckedMessage("taken", 0), None)
    )
    for _ in range(5):  # Of six in two tasks one has come.
        session.receive(near, BATCH, 1)
    with pytest.raises(Refusal, match="SEQUENCE: more of older tasks"):
        session.receive(near, BATCH, 1)


def test_an_answer_to_a_killed_process_is_not_told_to_the_next(session):
    near, far = local_channel_pair()
    session.attach(near, TOKENS[1], HELLO, live=False)
    session.answer(BATCH, 0)
    assert heard(far) == []
    with pytest.raises(ClientRestarted):
        session.next_message(0)
