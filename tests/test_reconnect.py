"""How a client waits for a server, and what it says meanwhile."""

import time

import pytest

from jsplit.errors import Refusal, RunError
from jsplit.net import reconnect
from jsplit.net.channel import ConnectionLost
from jsplit.net.reconnect import Outage, until_done


class Clock:
    """Time that passes where somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now, self.slept = 0.0, []
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_attempts_come_at_growing_distances_up_to_a_bound(clock):
    outage = Outage(600, lambda line: None, clock)
    for _ in range(12):
        outage.wait()
    pauses = [0.2 * 2**n for n in range(5)] + [5.0] * 7
    for slept, pause in zip(clock.slept, pauses, strict=True):
        assert pause / 2 <= slept <= pause
    assert len(set(clock.slept[5:])) > 1, "clients would come back in step"


def test_an_outage_is_said_once_and_then_at_growing_distances(clock):
    said = []
    outage = Outage(4000, lambda line: said.append((clock.now, line)), clock)
    for _ in range(1000):
        outage.failed("refused")
        clock.now += 3
    moments = [moment for moment, _ in said]
    assert moments == [0, 12, 21, 42, 81, 162, 321, 642, 1242, 1842, 2442]
    assert said[0][1] == "no connection to the server (refused); trying again"
    assert said[1][1] == (
        "still no connection to the server after 12 s (refused); giving up after 4000 s"
    )


def test_another_reason_is_said_at_once_and_only_once(clock):
    said = []
    outage = Outage(600, said.append, clock)
    for reason in ("reset", "refused", "reset", "refused", "IN_USE: it is", "reset"):
        outage.failed(reason)
    assert len(said) == 3
    assert "(refused)" in said[1] and "(IN_USE: it is)" in said[2]


def test_that_the_server_is_back_is_said_with_how_long_it_was_away(clock):
    said = []
    outage = Outage(600, said.append, clock)
    outage.heard()
    outage.heard()
    assert said == []
    clock.now = 1000
    outage.failed("reset")
    outage.wait()
    clock.now = 1042
    outage.heard()
    outage.heard()
    assert said[1:] == ["the server is there, after 42 s without it"]
    outage.wait()
    assert clock.slept[-1] <= reconnect.FIRST_PAUSE, "it begins anew"


def test_patience_counts_from_when_the_server_was_heard_last(clock):
    outage = Outage(60, lambda line: None, clock)
    clock.now = 59
    outage.failed("refused")
    outage.heard()
    clock.now = 3600
    outage.failed("reset")  # Heard all the time until now.
    clock.now = 3659
    outage.failed("refused")
    clock.now = 3661
    with pytest.raises(RunError, match="for 60 s .refused.; .* longer --patience"):
        outage.failed("refused")


def test_a_refusal_for_good_ends_the_attempts_and_others_do_not(clock):
    reasons = iter([ConnectionLost("reset"), Refusal("IN_USE", "x"), None])

    def attempt(outage):
        if (reason := next(reasons)) is not None:
            raise reason
        return "done"

    said = []
    given = {"otherwise": lambda reason: None, "patience": 60, "notify": said.append}
    assert until_done(attempt, **given) == "done"
    assert len(said) == 2 and len(clock.slept) == 2
    reasons = iter([Refusal("SETTINGS", "differ")])
    with pytest.raises(Refusal, match="SETTINGS"):
        until_done(attempt, **given)
