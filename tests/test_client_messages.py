"""What a welcomed client may not send: it is refused by name, or counted once."""

import dataclasses

import pytest

from jsplit.errors import Refusal
from jsplit.net.channel import local_channel
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.testing import (
    TINY_RUN,
    hello_of,
    waiting_server,
)
from jsplit.wire import compress
from jsplit.wire.messages import (
    Labels,
    Place,
    Plan,
    Tensor,
    Welcome,
    read_message,
    write_message,
)

pytestmark = pytest.mark.usefixtures("cache")

CONFIG = dataclasses.replace(TINY_RUN, epochs=3, codec="e4m3", grad_codec="e4m3")


def welcomed(channel, hello=None):
    """Greets as an honest client does; returns the first plan."""
    channel.send(write_message(hello or hello_of(CONFIG)))
    welcome = read_message(channel.receive(30), (Welcome,))
    if welcome.labels:
        channel.send(write_message(Labels(False, bytes(200))))
    return welcome, read_message(channel.receive(30), (Plan,))


class Batch:
    """The first message of an epoch, right or wrong in one way."""

    def __init__(self, plan):
        self.right = Tensor(
            plan.place, 0, 40, 8 * 8 * 16 // 4, b"\1\0", compress(bytes(40 * 256))
        )

    def but(self, **changes):
        return write_message(dataclasses.replace(self.right, **changes))


def wrong_batches(plan):
    batch, place = Batch(plan), plan.place
    nan = compress(bytes([0x7F]) + bytes(40 * 256 - 1))
    return {
        "SEQUENCE": batch.but(place=place._replace(number=1)),
        "SEQUENCE: message": batch.but(place=place._replace(epoch=2**32 - 1)),
        "SEQUENCE: .*": batch.but(place=place._replace(task=place.task + 1)),
        "DTYPE: uint8 was agreed, got float32": batch.but(dtype=1),
        "SHAPE: 40 examples": batch.but(rows=41),
        "SHAPE: .* of 257": batch.but(values=257),
        "HEADER: a header of 2": batch.but(header=b"\1"),
        "HEADER: a header that": batch.but(header=b"\7\0"),
        "SIZE": batch.but(body=compress(bytes(range(256)) * 39)),
        "MALFORMED": batch.but(body=b""),
        "MALFORMED: a payload of": batch.but(body=b"\x09abc"),
        "NON_FINITE": batch.but(body=nan),
        "UNEXPECTED": write_message(Labels(False, bytes(200))),
    }


WRONG = sorted(wrong_batches(Plan(Place(0, 0, 0), 0, 0, bytes(8), bytes(16))))


@pytest.fixture(scope="module")
def one_server(cache, tmp_path_factory):
    """A run in its first epoch, whose client is a liar."""
    path = tmp_path_factory.mktemp("liar")
    with waiting_server(CONFIG, path, greeting=5) as (run, _):
        yield run


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_batch_is_refused_by_name(name, one_server):
    with local_channel(one_server.admission.handle_connection, 0) as channel:
        _, plan = welcomed(channel)
        channel.send(wrong_batches(plan)[name])
        with pytest.raises(Refusal, match=name):
            channel.receive(10)


def test_wrong_labels_are_refused_by_name(tmp_path):
    with waiting_server(CONFIG, tmp_path) as (run, _):
        for name, labels in (
            ("LABEL: label 10 of 10", Labels(False, bytes([10]) * 200)),
            ("SIZE: 200 labels", Labels(False, bytes(199))),
            ("SIZE", Labels(True, bytes(200))),
        ):
            with local_channel(run.admission.handle_connection, 0) as channel:
                channel.send(write_message(hello_of(CONFIG)))
                read_message(channel.receive(30), (Welcome,))
                channel.send(write_message(labels))
                with pytest.raises(Refusal, match=name):
                    channel.receive(10)


def test_labels_are_counted_before_they_can_be_saved(tmp_path, monkeypatch):
    add, there = TrafficCounter.add, []

    def watched(counter, message, *args, **kwargs):
        if isinstance(message, Labels):
            there.append(0 in run.admission.labels)
        add(counter, message, *args, **kwargs)

    monkeypatch.setattr(TrafficCounter, "add", watched)
    with waiting_server(CONFIG, tmp_path) as (run, _):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(write_message(hello_of(CONFIG)))
            read_message(channel.receive(30), (Welcome,))
            channel.send(write_message(Labels(False, bytes(200))))
            read_message(channel.receive(30), (Welcome, Plan))
            assert 0 in run.admission.labels
    assert there == [False]


def test_a_second_process_of_a_connected_client_is_told_so(one_server):
    with local_channel(one_server.admission.handle_connection, 0) as channel:
        welcomed(channel)
        with local_channel(one_server.admission.handle_connection, 0) as other:
            other.send(write_message(hello_of(CONFIG)))
            with pytest.raises(Refusal, match="IN_USE: client 0 is connected already"):
                other.receive(10)


def test_a_newer_connection_of_the_same_process_takes_over(one_server):
    with local_channel(one_server.admission.handle_connection, 0) as channel:
        welcome, _ = welcomed(channel)
        with local_channel(one_server.admission.handle_connection, 0) as newer:
            again, _ = welcomed(
                newer, dataclasses.replace(hello_of(CONFIG), token=welcome.token)
            )
            assert again.live
            with pytest.raises(Refusal, match="SUPERSEDED"):
                channel.receive(10)
