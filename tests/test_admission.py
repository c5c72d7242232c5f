"""Who is let in when: before a run begins, beside others, and until its end."""

import contextlib
import dataclasses
import functools
import threading

import pytest

from jsplit.errors import Refusal
from jsplit.experiment.build import layout_of
from jsplit.experiment.config import agreement
from jsplit.net import server_run
from jsplit.net.admission import (
    CONNECTIONS_PER_CLIENT,
    AdmissionRules,
    SessionAdmission,
)
from jsplit.net.channel import local_channel
from jsplit.net.client_session import ClientSession
from jsplit.net.setup import needs_of
from jsplit.net.status import status_of
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.testing import (
    TINY_RUN,
    hello_of,
    waiting_server,
)
from jsplit.wire.messages import (
    Goodbye,
    Labels,
    Plan,
    Welcome,
    read_message,
    write_message,
)
from tests.runs import within

pytestmark = pytest.mark.usefixtures("cache")

CONFIG = dataclasses.replace(TINY_RUN, epochs=3, codec="e4m3", grad_codec="e4m3")


@pytest.mark.parametrize("topology", ["parallel", "sequential", "proportional"])
@pytest.mark.parametrize("others", [(90, 90), (40, 7), (1, 1)])
def test_what_a_server_foresees_is_enough_whatever_the_others_hold(topology, others):
    config = dataclasses.replace(TINY_RUN, clients=3, topology=topology)
    of_example = needs_of(
        dataclasses.replace(config, clients=1), (8, 8, 1), 10, 1, 0
    ).message
    needs = needs_of(config, (8, 8, 1), 10, 90, 0)
    layout = layout_of(config, [90, *others])
    assert needs.store >= 3 * layout.slots * of_example
    assert needs.message >= layout.batch * of_example
    # Nobody is refused for more than the largest client can send at all.
    part = needs_of(config, (8, 8, 1), 10, 1, 0).message
    assert needs.message <= max(90 * of_example, part)


def test_who_stops_a_server_need_not_wait_for_goodbyes():
    said = []
    sessions = [ClientSession(0, TrafficCounter(), said.append)]
    rules = AdmissionRules(1, "", 1, None, lambda hello: None)
    admission = SessionAdmission(
        sessions, rules, TrafficCounter(), 1.0, 1.0, said.append
    )
    admission.wait_for_goodbyes(3600, lambda: True)
    admission.wait_for_goodbyes(0, lambda: False)
    assert not said


def test_a_message_before_the_welcome_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, clients=2)
    with waiting_server(config, tmp_path) as (run, _):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(
                write_message(
                    dataclasses.replace(hello_of(CONFIG), settings=agreement(config))
                )
            )
            channel.send(write_message(Goodbye()))
            with pytest.raises(
                Refusal, match="UNEXPECTED: a message before the welcome"
            ):
                channel.receive(10)


@contextlib.contextmanager
def gathering(tmp_path, clients):
    """A run that waits for so many clients; its hello, and what it said."""
    config = dataclasses.replace(CONFIG, clients=clients)
    hello = dataclasses.replace(
        hello_of(CONFIG, examples=100),
        settings=agreement(config),
        sums=((640_000, 64_000_000),),
    )
    with waiting_server(config, tmp_path) as (run, said):
        yield run, hello, said


until = functools.partial(within, 60)


def test_a_client_that_leaves_while_the_run_begins_stays_a_member(
    tmp_path, monkeypatch
):
    """Else its images would be missing in the moments that all are told."""
    prepare, began = server_run.prepare_server, threading.Event()
    gone = threading.Event()

    def slow(*given):
        began.set()
        assert gone.wait(60)
        return prepare(*given)

    monkeypatch.setattr(server_run, "prepare_server", slow)
    with gathering(tmp_path, 2) as (run, hello, said):
        dark = dataclasses.replace(hello, client=1, sums=((0, 0),))
        with local_channel(run.admission.handle_connection, 1) as one:
            one.send(write_message(dark))
            with local_channel(run.admission.handle_connection, 0) as other:
                other.send(write_message(hello))
                assert began.wait(60)
            # The channel is left: its thread has ended, and forgotten what it will.
            gone.set()
            ((mean, _),) = read_message(one.receive(60), (Welcome,)).moments
    assert mean == pytest.approx(50 / 255, rel=1e-6)


def test_a_second_channel_of_a_client_counts_when_the_first_one_goes(tmp_path):
    with gathering(tmp_path, 2) as (run, hello, said):
        with contextlib.ExitStack() as stack:
            first = local_channel(run.admission.handle_connection, 0)
            channel = stack.enter_context(first)
            channel.send(write_message(hello))
            until(lambda: 0 in run.admission.hellos)
            second = stack.enter_context(
                local_channel(run.admission.handle_connection, 0)
            )
            second.send(write_message(hello))
            until(lambda: len(run.admission._waiting) == 2)
            channel.close()
            until(lambda: len(run.admission._waiting) == 1)
            other = stack.enter_context(
                local_channel(run.admission.handle_connection, 1)
            )
            other.send(write_message(dataclasses.replace(hello, client=1)))
            assert read_message(second.receive(60), (Welcome,))
            assert read_message(other.receive(60), (Welcome,))
    assert "client 0 is here; waiting for 1" in said


def test_one_certificate_cannot_take_the_places_of_the_others(tmp_path):
    with gathering(tmp_path, 2) as (run, hello, _), contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS_PER_CLIENT):
            channel = stack.enter_context(
                local_channel(run.admission.handle_connection, 1)
            )
            channel.send(write_message(dataclasses.replace(hello, client=1)))
            until(lambda number=number: len(run.admission._waiting) == number + 1)
        beyond = stack.enter_context(local_channel(run.admission.handle_connection, 1))
        with pytest.raises(Refusal, match="FULL: client 1 has 3 connections already"):
            beyond.receive(10)
        channel.close()
        until(lambda: len(run.admission._waiting) == CONNECTIONS_PER_CLIENT - 1)
        other = stack.enter_context(local_channel(run.admission.handle_connection, 1))
        other.send(write_message(dataclasses.replace(hello, client=1)))
        until(lambda: len(run.admission._waiting) == CONNECTIONS_PER_CLIENT)


def test_the_same_refusal_of_the_same_client_is_said_once_in_a_while(
    tmp_path, monkeypatch
):
    def refused(run):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(b"?")
            with pytest.raises(Refusal, match="MALFORMED"):
                channel.receive(10)

    with gathering(tmp_path, 2) as (run, _, said):
        for _ in range(5):
            refused(run)
        monkeypatch.setattr("jsplit.net.admission.REFUSAL_INTERVAL", 0.0)
        refused(run)
    found = [line for line in said if "MALFORMED" in line]
    assert len(found) == 2 and "4 times more" in found[1]


def test_before_the_run_begins_either_of_two_unlike_clients_may_be_the_wrong_one(
    tmp_path,
):
    with gathering(tmp_path, 2) as (run, hello, _), contextlib.ExitStack() as stack:
        first = stack.enter_context(local_channel(run.admission.handle_connection, 1))
        first.send(write_message(dataclasses.replace(hello, client=1, classes=11)))
        until(lambda: 1 in run.admission.hellos)
        channel = stack.enter_context(local_channel(run.admission.handle_connection, 0))
        channel.send(write_message(hello))
        with pytest.raises(Refusal, match="UNLIKE: .* client 1 has .* of 11"):
            channel.receive(10)
        first.close()
        until(lambda: 1 not in run.admission.hellos)
        again = stack.enter_context(local_channel(run.admission.handle_connection, 0))
        again.send(write_message(hello))
        until(lambda: 0 in run.admission.hellos)


def test_labels_that_two_channels_of_a_client_send_are_counted_once(tmp_path):
    labels = write_message(Labels(False, bytes(200)))
    with gathering(tmp_path, 1) as (run, _, _), contextlib.ExitStack() as stack:
        channels = []
        for _ in range(2):
            channel = stack.enter_context(
                local_channel(run.admission.handle_connection, 0)
            )
            channel.send(write_message(hello_of(CONFIG)))
            assert read_message(channel.receive(30), (Welcome,)).labels
            channels.append(channel)
        for channel in channels:
            channel.send(labels)
            read_message(channel.receive(30), (Plan,))
        until(lambda: run.admission.reconnections == 1)
    run.counter.commit()
    assert run.counter.crossed["labels", "up"] == len(labels)
    assert run.counter.repeated["repeated", "up"] >= len(labels)


def test_who_does_not_send_its_labels_is_told_how_long_was_waited(tmp_path):
    with waiting_server(CONFIG, tmp_path, wait=0.5) as (run, _):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(write_message(hello_of(CONFIG)))
            read_message(channel.receive(30), (Welcome,))
            with pytest.raises(Refusal, match=r"IDLE: no labels in 0.5 s .*--wait"):
                channel.receive(10)


def test_whoever_owes_labels_of_the_held_out_set_alone_is_waited_for_by_name(tmp_path):
    with waiting_server(CONFIG, tmp_path) as (run, _):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(write_message(hello_of(CONFIG, held_out=5)))
            read_message(channel.receive(30), (Welcome,))
            until(lambda: run.phase == "labels")
            channel.send(write_message(Labels(False, bytes(200))))
            until(lambda: 0 in run.admission.labels)
            assert status_of(run, 60.0).missing == (0,)
            channel.send(write_message(Labels(True, bytes(5))))
            read_message(channel.receive(30), (Plan,))
            assert status_of(run, 60.0).missing == ()


def test_who_leaves_before_its_labels_came_is_logged(tmp_path):
    with waiting_server(CONFIG, tmp_path) as (run, said):
        with local_channel(run.admission.handle_connection, 0) as channel:
            channel.send(write_message(hello_of(CONFIG)))
            read_message(channel.receive(30), (Welcome,))
        until(lambda: said[-1].startswith("client 0 is disconnected before its labels"))
        assert run.phase == "labels" and said[-1].name == "client_disconnected"
        assert said[-1].fields == {"client": 0, "owes": "labels"}
