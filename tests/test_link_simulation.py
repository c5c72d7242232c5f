"""A simulated link is as slow as it says, and changes nothing else.

That a sleep lasts no shorter than asked is all that these tests assume of time.
"""

import dataclasses
import threading
import time

import pytest

from jsplit.errors import InputError, Refusal
from jsplit.net.channel import ConnectionLost, local_channel_pair
from jsplit.net.link_simulation import LinkSpeed, SlowChannel
from jsplit.testing import TINY_RUN, compile_once, result_of, run_in_process


@pytest.mark.parametrize(
    ("text", "bits", "delay"),
    [
        ("10mbit/40ms", 10e6, 0.04),
        ("500kbit/0ms", 5e5, 0),
        ("2.5gbit/1ms", 2.5e9, 1e-3),
    ],
)
def test_a_speed_is_read(text, bits, delay):
    assert LinkSpeed.from_text(text) == pytest.approx((bits, delay))


@pytest.mark.parametrize(
    "text", ["", "10", "10mbit", "10mbit/", "0mbit/1ms", "10mb/1ms", "nanmbit/1ms"]
)
def test_what_is_no_speed_is_refused(text):
    with pytest.raises(InputError, match="--link must be like 10mbit/40ms"):
        LinkSpeed.from_text(text)


def test_each_way_costs_its_bits_and_the_delay():
    near, far = local_channel_pair()
    slow = SlowChannel(near, LinkSpeed(bits=8e5, delay=0.1))  # 100 KB a second
    began = time.monotonic()
    slow.send(bytes(10_000))
    slow.send(bytes(10_000))
    assert time.monotonic() - began >= 0.2  # It waits until the link took them in.
    assert [len(far.receive(10)), len(far.receive(10))] == [10_000, 10_000]
    assert time.monotonic() - began >= 0.3
    began = time.monotonic()
    far.send(bytes(20_000))
    assert len(slow.receive(10)) == 20_000
    assert time.monotonic() - began >= 0.3


def test_messages_keep_their_order_and_the_end_comes_after_them():
    near, far = local_channel_pair()
    slow = SlowChannel(near, LinkSpeed(bits=1e9, delay=0.02))
    for number in range(5):
        far.send(bytes([number]))
    far.close(Refusal("SETTINGS", "not the same"))
    assert [slow.receive(10) for _ in range(5)] == [bytes([n]) for n in range(5)]
    with pytest.raises(Refusal, match="SETTINGS: not the same"):
        slow.receive(10)
    with pytest.raises(Refusal, match="SETTINGS: not the same"):
        slow.send(b"too late")


def test_a_channel_that_breaks_is_lost_behind_the_link_too():
    near, far = local_channel_pair()
    slow = SlowChannel(near, LinkSpeed(bits=1e9, delay=0.0))
    far.close()
    with pytest.raises(ConnectionLost):
        slow.receive(10)


def test_what_was_sent_arrives_and_no_thread_of_the_link_stays():
    before = set(threading.enumerate())
    near, far = local_channel_pair()
    slow = SlowChannel(near, LinkSpeed(bits=8e5, delay=0.05))
    slow.send(b"last words")
    slow.finish()
    assert far.receive(0) == b"last words"
    near.close()  # As whoever made the channel does then.
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


@pytest.mark.slow
def test_a_run_over_a_slow_link_ends_bit_for_bit_as_over_a_fast_one(
    tmp_path, tmp_path_factory
):
    config = dataclasses.replace(TINY_RUN, clients=2)
    with compile_once(tmp_path_factory.getbasetemp()):
        fast, _ = run_in_process(config, tmp_path / "fast")
        run, _ = run_in_process(
            config,
            tmp_path / "slow",
            through=lambda channel: SlowChannel(
                channel, LinkSpeed.from_text("50mbit/5ms")
            ),
        )
    assert result_of(tmp_path / "slow", run) == result_of(tmp_path / "fast", fast)
