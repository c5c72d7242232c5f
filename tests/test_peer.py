"""What the server tells one client, when."""

import pytest

from jsplit.errors import Refusal
from jsplit.net.account import Account
from jsplit.net.channel import local_pair
from jsplit.net.client_session import Checked, Parcel, Peer, Restarted, Task
from jsplit.typing import SYNC
from jsplit.wire.messages import BEGINNING, Done, Part, Place, Plan, Tensor, read, write
from tests.networked import TINY, hello_of

BATCH = Tensor(Place(0, 0, 0), 0, 1, 1, b"", b"")
TOKENS = (b"a" * 16, b"b" * 16)
HELLO = hello_of(TINY)
PLAN_BEFORE = len(write(Plan(Place(0, 0, 0), SYNC, bytes(8), BEGINNING)))
"""Bytes of what the fixture announced."""


@pytest.fixture
def account():
    return Account()


@pytest.fixture
def peer(account):
    """Of a client that sent a batch, which was taken and is not answered."""
    peer = Peer(0, account, print)
    near, _ = local_pair()
    peer.attach(near, TOKENS[0], HELLO, live=False)
    plan = Plan(Place(0, 0, 0), SYNC, bytes(8), BEGINNING)
    peer.begin(Task(plan, 3, lambda number, message: Checked("taken", 0), None))
    peer.read(near, BATCH, 1)
    assert peer.take(0) == "taken"
    assert peer.detach(near)
    return peer


def heard(line):
    """What waits at the client's end, by kind."""
    kinds = []
    while True:
        try:
            kinds.append(type(read(line.receive(0.0), (Part, Plan, Tensor))))
        except TimeoutError:
            return kinds


def test_an_answer_waits_for_a_client_whose_line_broke(peer):
    peer.answer(BATCH, 0)
    near, far = local_pair()
    hello = HELLO._replace(task=0, answered=0)
    peer.attach(near, TOKENS[0], hello, live=True)
    assert heard(far) == [Plan, Tensor]


def test_a_part_that_a_client_was_away_for_comes_later_and_is_predicted_once(
    peer, account
):
    part = Part(Place(0, 0, 0), b"d" * 16, b"\0part")
    parcel = Parcel(part, plain=4)
    peer.hand(parcel)
    account.settle()
    assert account.saved["client_parts", "down"] == len(write(part))
    before = account.repeated["repeated", "down"]
    peer.end()
    plan = Plan(Place(1, 1, 0), SYNC, bytes(8), part.digest)
    peer.begin(Task(plan, 3, lambda number, message: Checked("taken", 0), parcel))
    near, far = local_pair()
    peer.attach(near, TOKENS[0], HELLO, live=True)
    assert heard(far) == [Part, Plan]
    assert account.repeated["repeated", "down"] == before + len(write(part))
    assert account.crossed["client_parts", "down"] == 0


def test_the_end_is_counted_once_however_often_it_is_told(peer, account):
    done = Done(1, 0, 0)
    peer.finish(done)  # It is away.
    for token in TOKENS:
        near, far = local_pair()
        peer.attach(near, token, HELLO, live=False)
        read(far.receive(0.0), (Done,))
        assert peer.detach(near)
    account.settle()
    assert account.crossed["handshake", "down"] == len(write(done))
    assert account.repeated["repeated", "down"] == len(write(done))


def test_an_announcement_that_a_broken_line_swallowed_is_counted_when_it_comes(
    peer, account
):
    peer.end()
    near, _ = local_pair()
    peer.attach(near, TOKENS[0], HELLO, live=True)
    before = account.repeated["repeated", "down"]
    near.close()  # Its thread has not found out yet.
    part = Part(Place(0, 0, 0), b"d" * 16, b"\0part")
    plan = Plan(Place(1, 1, 0), SYNC, bytes(8), part.digest)
    check = lambda number, message: Checked("taken", 0)  # noqa: E731
    peer.begin(Task(plan, 3, check, Parcel(part, plain=4), due=True))
    peer.detach(near)
    near, far = local_pair()
    peer.attach(near, TOKENS[0], HELLO, live=True)
    account.settle()
    assert heard(far) == [Part, Plan]
    assert account.crossed["control", "down"] == len(write(plan)) + PLAN_BEFORE
    assert account.crossed["client_parts", "down"] == len(write(part))
    assert account.repeated["repeated", "down"] == before


def test_no_more_is_dropped_of_older_tasks_than_those_had(peer):
    near, _ = local_pair()
    peer.attach(near, TOKENS[0], HELLO, live=True)
    plan = Plan(Place(0, 1, 0), SYNC, bytes(8), BEGINNING)
    peer.begin(Task(plan, 3, lambda number, message: Checked("taken", 0), None))
    for _ in range(5):  # Of six in two tasks one has come.
        peer.read(near, BATCH, 1)
    with pytest.raises(Refusal, match="SEQUENCE: more of older tasks"):
        peer.read(near, BATCH, 1)


def test_an_answer_to_a_killed_process_is_not_told_to_the_next(peer):
    near, far = local_pair()
    peer.attach(near, TOKENS[1], HELLO, live=False)
    peer.answer(BATCH, 0)
    assert heard(far) == []
    with pytest.raises(Restarted):
        peer.take(0)
