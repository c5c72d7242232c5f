"""What the server counts, and what of it outlives the server."""

import pytest

from jsplit.net.account import Account, lasting_totals
from jsplit.wire.messages import Goodbye, Place, Tensor

BATCH = Tensor(Place(0, 0, 0), 0, 1, 1, b"", b"\0payload")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "traffic"


def count_some(account):
    """An epoch of 100 bytes up, 70 down, that stands."""
    account.add(BATCH, 100, 7, up=True)
    account.add(BATCH, 70, 7, up=False)
    account.settle()


def test_what_was_counted_and_not_saved_was_for_nothing(path):
    killed = Account(lasting_totals(path))
    count_some(killed)
    record = killed.record()
    killed.add(BATCH, 30, 7, up=True)
    killed.add(Goodbye(), 5, up=True, repeated=True)
    account = Account(lasting_totals(path))
    account.go_on_from(record)
    assert account.repeated == {("repeated", "up"): 35}
    assert sum(account.crossed.values()) == 170
    assert account.total == 205


def test_bytes_before_the_first_record_are_known_too(path):
    Account(lasting_totals(path)).add(Goodbye(), 9, up=True)
    account = Account(lasting_totals(path))
    assert account.repeated == {("repeated", "up"): 9}
    assert account.total == 9


def test_a_restart_counts_nothing_twice(path):
    record = None
    for _ in range(3):
        account = Account(lasting_totals(path))
        if record is not None:
            account.go_on_from(record)
        count_some(account)
        record = account.record()
    assert account.total == 3 * 170
    assert not account.repeated


def test_totals_that_a_power_cut_took_follow_from_the_record(path):
    saved = Account(lasting_totals(path))
    count_some(saved)
    path.unlink()
    account = Account(lasting_totals(path))
    account.go_on_from(saved.record())
    assert account.total == 170
    assert not account.repeated
    # From here on nothing is lost again.
    account.add(Goodbye(), 5, up=True)
    again = Account(lasting_totals(path))
    again.go_on_from(saved.record())
    assert again.repeated == {("repeated", "up"): 5}


def test_an_account_of_its_own_begins_with_nothing():
    assert Account().total == Account().total == 0
    assert not Account().repeated
