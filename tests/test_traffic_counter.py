"""What the server counts, and what of it outlives the server."""

import pytest

from jsplit.net.traffic_counter import KINDS, TrafficCounter, open_totals
from jsplit.wire.messages import MESSAGES, Goodbye, Place, PredictionHello, Tensor

BATCH = Tensor(Place(0, 0, 0), 0, 1, 1, b"", b"\0payload")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "traffic"


def count_some(counter):
    """An epoch of 100 bytes up, 70 down, that stands."""
    counter.add(BATCH, 100, 7, up=True)
    counter.add(BATCH, 70, 7, up=False)
    counter.commit()


def test_what_was_counted_and_not_saved_was_for_nothing(path):
    killed = TrafficCounter(open_totals(path))
    count_some(killed)
    record = killed.record()
    killed.add(BATCH, 30, 7, up=True)
    killed.add(Goodbye(), 5, up=True, repeated=True)
    counter = TrafficCounter(open_totals(path))
    counter.restore(record)
    assert counter.repeated == {("repeated", "up"): 35}
    assert sum(counter.crossed.values()) == 170
    assert counter.total == 205


def test_bytes_before_the_first_record_are_known_too(path):
    TrafficCounter(open_totals(path)).add(Goodbye(), 9, up=True)
    counter = TrafficCounter(open_totals(path))
    assert counter.repeated == {("repeated", "up"): 9}
    assert counter.total == 9


def test_a_restart_counts_nothing_twice(path):
    record = None
    for _ in range(3):
        counter = TrafficCounter(open_totals(path))
        if record is not None:
            counter.restore(record)
        count_some(counter)
        record = counter.record()
    assert counter.total == 3 * 170
    assert not counter.repeated


def test_totals_that_a_power_cut_took_follow_from_the_record(path):
    saved = TrafficCounter(open_totals(path))
    count_some(saved)
    path.unlink()
    counter = TrafficCounter(open_totals(path))
    counter.restore(saved.record())
    assert counter.total == 170
    assert not counter.repeated
    # From here on nothing is lost again.
    counter.add(Goodbye(), 5, up=True)
    again = TrafficCounter(open_totals(path))
    again.restore(saved.record())
    assert again.repeated == {("repeated", "up"): 5}


def test_an_account_of_its_own_begins_with_nothing():
    assert TrafficCounter().total == TrafficCounter().total == 0
    assert not TrafficCounter().repeated


def test_every_message_counts_as_something():
    # A prediction is no part of a run.
    assert {Tensor, *KINDS} == set(MESSAGES.values()) - {PredictionHello}
