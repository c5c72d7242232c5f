"""What a stranger, a liar or a broken client is told, and that it harms nobody."""

import contextlib
import dataclasses
import threading
import time

import pytest

from jsplit.errors import Refusal
from jsplit.experiment.config import agreement
from jsplit.experiment.workdir import RunFolder
from jsplit.net import run as server_run
from jsplit.net.account import Account
from jsplit.net.admission import EACH, Door, Terms
from jsplit.net.channel import local_line
from jsplit.net.client_session import Peer
from jsplit.net.config import ServeConfig
from jsplit.net.run import Run
from jsplit.wire import compress
from jsplit.wire.messages import (
    VERSION,
    Goodbye,
    Labels,
    Place,
    Plan,
    Tensor,
    Welcome,
    read,
    write,
)
from tests.networked import TINY, clients_of, hello_of, result_of, run_locally
from tests.runs import compile_once

CONFIG = dataclasses.replace(TINY, epochs=3, codec="e4m3", grad_codec="e4m3")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_once(tmp_path_factory.getbasetemp()) as folder:
        yield folder


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed")
    run, _ = run_locally(CONFIG, path)
    return run, result_of(path, run)


def test_who_stops_a_server_need_not_wait_for_goodbyes():
    said = []
    peers = [Peer(0, Account(), said.append)]
    terms = Terms("", 1, None, lambda hello: None)
    door = Door(peers, terms, Account(), 1.0, 1.0, said.append)
    door.wait_for_goodbyes(3600, lambda: True)
    door.wait_for_goodbyes(0, lambda: False)
    assert not said


@pytest.fixture
def serving(tmp_path, undisturbed):
    """A run that waits for its client; afterwards an honest one must end as usual."""
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    said = []
    run = Run(
        CONFIG,
        ServeConfig(greeting=0.5, linger=10, memory_limit=1),
        folder,
        said.append,
        lambda: False,
    )
    failed = []

    def carry_out():
        try:
            from jsplit.experiment.writers import JsonlWriter

            run.carry_out(lambda epochs: (JsonlWriter(folder.metrics),))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=carry_out, daemon=True)
    thread.start()
    yield run
    (client,) = clients_of(CONFIG, tmp_path)
    client.run(lambda: local_line(run.door.admit, 0), 30)
    thread.join(60)
    assert not failed and not thread.is_alive()
    assert result_of(tmp_path, undisturbed[0]) == undisturbed[1]


def spoilt(**changes):
    return write(hello_of(CONFIG, **changes))


REFUSED_HELLOS = {
    "VERSION": spoilt(version=VERSION + 1),
    "IDENTITY: client 1 is not one": spoilt(client=1),
    "SETTINGS: not the same on both sides: epochs": spoilt(
        settings=agreement(dataclasses.replace(CONFIG, epochs=4))
    ),
    r"SETTINGS: .*\(no name\)": spoilt(settings=agreement(CONFIG) + "\n\x1b[2J=1"),
    "TOO_LARGE": spoilt(examples=2**32 - 1),
    "TOO_LARGE: the activations of clients of 10000 .* 2.4 MiB": spoilt(
        examples=10_000
    ),
    "SHAPE": spoilt(image=(0, 8, 1)),
    "LABEL": spoilt(classes=0),
    "MALFORMED: sums": spoilt(sums=((2**64 - 1, 2**64 - 1),)),
    "MALFORMED: a message of unknown": b"\xff" + bytes(60),
    "MALFORMED: a Hello": write(hello_of(CONFIG))[:-1],
    "UNEXPECTED": write(Goodbye()),
}


@pytest.mark.parametrize(("name", "data"), REFUSED_HELLOS.items())
def test_a_wrong_hello_is_refused_by_name(name, data, serving):
    with local_line(serving.door.admit, 0) as line:
        line.send(data)
        with pytest.raises(Refusal, match=name):
            line.receive(10)


def test_who_would_send_larger_messages_than_allowed_is_told_at_once(tmp_path):
    config = dataclasses.replace(CONFIG, image_size=None, batch_size=1000)
    folder = RunFolder(tmp_path)
    run = Run(config, ServeConfig(message_limit=2), folder, print, lambda: False)
    hello = hello_of(config, image=(28, 28, 1), examples=2000)
    with local_line(run.door.admit, 0) as line:
        line.send(write(hello))
        with pytest.raises(
            Refusal, match=r"TOO_LARGE: .* 3.0 MiB, .*--message-limit 2"
        ):
            line.receive(10)
    assert not run.door.hellos


@pytest.mark.parametrize("held_out", [0, 500])
def test_only_a_held_out_set_that_is_there_counts_as_messages(held_out, tmp_path):
    config = dataclasses.replace(CONFIG, image_size=None, batch_size=100)
    folder = RunFolder(tmp_path)
    run = Run(config, ServeConfig(message_limit=1), folder, print, lambda: False)
    sums = ((100 * 2000 * 28 * 28, 100**2 * 2000 * 28 * 28),)
    hello = hello_of(
        config, image=(28, 28, 1), examples=2000, held_out=held_out, sums=sums
    )
    with local_line(run.door.admit, 0) as line:
        line.send(write(hello))
        # 500 of 3,136 bytes are 1.5 MiB; one that is let in waits for its welcome.
        with pytest.raises(Refusal if held_out else TimeoutError):
            line.receive(10 if held_out else 2)
        assert (0 in run.door.hellos) == (not held_out)


def test_a_certificate_of_another_client_is_refused(serving):
    with local_line(serving.door.admit, 3) as line:
        line.send(write(hello_of(CONFIG)))
        with pytest.raises(Refusal, match="IDENTITY: the certificate is client 3"):
            line.receive(10)


def test_who_says_nothing_is_shown_out(serving):
    with local_line(serving.door.admit, 0) as line:
        with pytest.raises(Refusal, match=r"IDLE: no hello in 0.5 s .*--greeting"):
            line.receive(10)


def test_a_message_before_the_welcome_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    config = dataclasses.replace(CONFIG, clients=2)
    stop = threading.Event()
    run = Run(config, ServeConfig(), folder, print, stop.is_set)
    thread = threading.Thread(target=run.carry_out, args=(lambda epochs: (),))
    thread.start()
    with local_line(run.door.admit, 0) as line:
        line.send(write(hello_of(CONFIG)._replace(settings=agreement(config))))
        line.send(write(Goodbye()))
        with pytest.raises(Refusal, match="UNEXPECTED: a message before the welcome"):
            line.receive(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


@contextlib.contextmanager
def gathering(tmp_path, clients):
    """A run that waits for so many clients; its hello, and what it said."""
    config = dataclasses.replace(CONFIG, clients=clients)
    stop, said = threading.Event(), []
    run = Run(config, ServeConfig(), RunFolder(tmp_path), said.append, stop.is_set)
    thread = threading.Thread(target=run.carry_out, args=(lambda epochs: (),))
    thread.start()
    try:
        yield (
            run,
            hello_of(CONFIG, examples=100)._replace(
                settings=agreement(config), sums=((640_000, 64_000_000),)
            ),
            said,
        )
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_leaves_while_the_run_begins_stays_a_member(
    tmp_path, monkeypatch
):
    """Else its images would be missing in the moments that all are told."""
    begin, begun = server_run.begin_serving, threading.Event()
    gone = threading.Event()

    def slow(*given):
        begun.set()
        assert gone.wait(60)
        return begin(*given)

    monkeypatch.setattr(server_run, "begin_serving", slow)
    with gathering(tmp_path, 2) as (run, hello, said):
        dark = hello._replace(client=1, sums=((0, 0),))
        with local_line(run.door.admit, 1) as one:
            one.send(write(dark))
            with local_line(run.door.admit, 0) as other:
                other.send(write(hello))
                assert begun.wait(60)
            # The line is left: its thread has ended, and forgotten what it will.
            gone.set()
            mean = read(one.receive(60), (Welcome,)).mean
    assert mean == pytest.approx((50 / 255,), rel=1e-6)


def test_a_second_line_of_a_client_counts_when_the_first_one_goes(tmp_path):
    with gathering(tmp_path, 2) as (run, hello, said):
        with contextlib.ExitStack() as stack:
            first = local_line(run.door.admit, 0)
            line = stack.enter_context(first)
            line.send(write(hello))
            until(lambda: 0 in run.door.hellos)
            second = stack.enter_context(local_line(run.door.admit, 0))
            second.send(write(hello))
            until(lambda: len(run.door._waiting) == 2)
            line.close()
            until(lambda: len(run.door._waiting) == 1)
            other = stack.enter_context(local_line(run.door.admit, 1))
            other.send(write(hello._replace(client=1)))
            assert read(second.receive(60), (Welcome,))
            assert read(other.receive(60), (Welcome,))
    assert "client 0 is here; waiting for 1" in said


def test_one_certificate_cannot_take_the_places_of_the_others(tmp_path):
    with gathering(tmp_path, 2) as (run, hello, _), contextlib.ExitStack() as stack:
        for number in range(EACH):
            line = stack.enter_context(local_line(run.door.admit, 1))
            line.send(write(hello._replace(client=1)))
            until(lambda number=number: len(run.door._waiting) == number + 1)
        beyond = stack.enter_context(local_line(run.door.admit, 1))
        with pytest.raises(Refusal, match="FULL: client 1 has 3 connections already"):
            beyond.receive(10)
        line.close()
        until(lambda: len(run.door._waiting) == EACH - 1)
        other = stack.enter_context(local_line(run.door.admit, 1))
        other.send(write(hello._replace(client=1)))
        until(lambda: len(run.door._waiting) == EACH)


def test_the_same_refusal_of_the_same_client_is_said_once_in_a_while(
    tmp_path, monkeypatch
):
    def refused(run):
        with local_line(run.door.admit, 0) as line:
            line.send(b"?")
            with pytest.raises(Refusal, match="MALFORMED"):
                line.receive(10)

    with gathering(tmp_path, 2) as (run, _, said):
        for _ in range(5):
            refused(run)
        monkeypatch.setattr("jsplit.net.admission.QUIET", 0.0)
        refused(run)
    found = [line for line in said if "MALFORMED" in line]
    assert len(found) == 2 and "4 times more" in found[1]


def test_before_the_run_begins_either_of_two_unlike_clients_may_be_the_wrong_one(
    tmp_path,
):
    with gathering(tmp_path, 2) as (run, hello, _), contextlib.ExitStack() as stack:
        first = stack.enter_context(local_line(run.door.admit, 1))
        first.send(write(hello._replace(client=1, classes=11)))
        until(lambda: 1 in run.door.hellos)
        line = stack.enter_context(local_line(run.door.admit, 0))
        line.send(write(hello))
        with pytest.raises(Refusal, match="UNLIKE: .* client 1 has .* of 11"):
            line.receive(10)
        first.close()
        until(lambda: 1 not in run.door.hellos)
        again = stack.enter_context(local_line(run.door.admit, 0))
        again.send(write(hello))
        until(lambda: 0 in run.door.hellos)


def test_labels_that_two_lines_of_a_client_send_are_counted_once(tmp_path):
    labels = write(Labels(False, bytes(200)))
    with gathering(tmp_path, 1) as (run, _, _), contextlib.ExitStack() as stack:
        lines = []
        for _ in range(2):
            line = stack.enter_context(local_line(run.door.admit, 0))
            line.send(write(hello_of(CONFIG)))
            assert read(line.receive(30), (Welcome,)).labels
            lines.append(line)
        for line in lines:
            line.send(labels)
            read(line.receive(30), (Plan,))
    run.account.settle()
    assert run.account.crossed["labels", "up"] == len(labels)
    assert run.account.repeated["repeated", "up"] >= len(labels)


def test_who_does_not_send_its_labels_is_told_how_long_was_waited(tmp_path):
    stop = threading.Event()
    run = Run(CONFIG, ServeConfig(wait=0.5), RunFolder(tmp_path), print, stop.is_set)
    thread = threading.Thread(target=run.carry_out, args=(lambda epochs: (),))
    thread.start()
    with local_line(run.door.admit, 0) as line:
        line.send(write(hello_of(CONFIG)))
        read(line.receive(30), (Welcome,))
        with pytest.raises(Refusal, match=r"IDLE: no labels in 0.5 s .*--wait"):
            line.receive(10)
    stop.set()
    thread.join(10)


@pytest.mark.parametrize("image", ((9, 9, 1), (8, 9, 1), (1024, 1024, 64)))
def test_images_of_another_size_than_the_settings_are_refused(image, serving):
    spoilt = hello_of(CONFIG)._replace(
        image=image, sums=tuple((0, 0) for _ in range(image[2]))
    )
    with local_line(serving.door.admit, 0) as line:
        line.send(write(spoilt))
        with pytest.raises(Refusal, match="SHAPE: images of"):
            line.receive(10)


def welcomed(line, hello=None):
    """Greets as an honest client does; returns the first plan."""
    line.send(write(hello or hello_of(CONFIG)))
    welcome = read(line.receive(30), (Welcome,))
    if welcome.labels:
        line.send(write(Labels(False, bytes(200))))
    return welcome, read(line.receive(30), (Plan,))


class Batch:
    """The first message of an epoch, right or wrong in one way."""

    def __init__(self, plan):
        self.right = Tensor(
            plan.place, 0, 40, 8 * 8 * 16 // 4, b"\1\0", compress(bytes(40 * 256))
        )

    def but(self, **changes):
        return write(self.right._replace(**changes))


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
        "UNEXPECTED": write(Labels(False, bytes(200))),
    }


WRONG = sorted(wrong_batches(Plan(Place(0, 0, 0), 0, bytes(8), bytes(16))))


@pytest.fixture(scope="module")
def one_server(cache, tmp_path_factory):
    """A run in its first epoch, whose client is a liar."""
    folder = RunFolder(tmp_path_factory.mktemp("liar"))
    stop = threading.Event()
    run = Run(CONFIG, ServeConfig(greeting=5), folder, print, stop.is_set)
    thread = threading.Thread(target=run.carry_out, args=(lambda epochs: (),))
    thread.start()
    yield run
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_batch_is_refused_by_name(name, one_server):
    with local_line(one_server.door.admit, 0) as line:
        _, plan = welcomed(line)
        line.send(wrong_batches(plan)[name])
        with pytest.raises(Refusal, match=name):
            line.receive(10)


def test_wrong_labels_are_refused_by_name(tmp_path):
    folder = RunFolder(tmp_path)
    stop = threading.Event()
    run = Run(CONFIG, ServeConfig(), folder, print, stop.is_set)
    thread = threading.Thread(target=run.carry_out, args=(lambda epochs: (),))
    thread.start()
    for name, labels in (
        ("LABEL: label 10 of 10", Labels(False, bytes([10]) * 200)),
        ("SIZE: 200 labels", Labels(False, bytes(199))),
        ("SIZE", Labels(True, bytes(200))),
    ):
        with local_line(run.door.admit, 0) as line:
            line.send(write(hello_of(CONFIG)))
            read(line.receive(30), (Welcome,))
            line.send(write(labels))
            with pytest.raises(Refusal, match=name):
                line.receive(10)
    stop.set()
    thread.join(10)


def test_labels_are_counted_before_they_can_be_saved(tmp_path, monkeypatch):
    add, there = Account.add, []

    def watched(account, message, *args, **kwargs):
        if isinstance(message, Labels):
            there.append(0 in run.door.labels)
        add(account, message, *args, **kwargs)

    monkeypatch.setattr(Account, "add", watched)
    stop = threading.Event()
    run = Run(CONFIG, ServeConfig(), RunFolder(tmp_path), print, stop.is_set)
    thread = threading.Thread(target=run.carry_out, args=(lambda epochs: (),))
    thread.start()
    with local_line(run.door.admit, 0) as line:
        line.send(write(hello_of(CONFIG)))
        read(line.receive(30), (Welcome,))
        line.send(write(Labels(False, bytes(200))))
        read(line.receive(30), (Welcome, Plan))
        assert 0 in run.door.labels
    stop.set()
    thread.join(10)
    assert there == [False]


def test_a_second_process_of_a_connected_client_is_told_so(one_server):
    with local_line(one_server.door.admit, 0) as line:
        welcomed(line)
        with local_line(one_server.door.admit, 0) as other:
            other.send(write(hello_of(CONFIG)))
            with pytest.raises(Refusal, match="IN_USE: client 0 is connected already"):
                other.receive(10)


def test_a_newer_connection_of_the_same_process_takes_over(one_server):
    with local_line(one_server.door.admit, 0) as line:
        welcome, _ = welcomed(line)
        with local_line(one_server.door.admit, 0) as newer:
            again, _ = welcomed(newer, hello_of(CONFIG)._replace(token=welcome.token))
            assert again.live
            with pytest.raises(Refusal, match="SUPERSEDED"):
                line.receive(10)
