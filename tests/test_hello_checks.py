"""A hello that the run cannot accept is refused by name, and harms nobody."""

import dataclasses
import threading

import pytest

from jsplit.errors import Refusal
from jsplit.experiment.config import agreement
from jsplit.experiment.workdir import RunFolder
from jsplit.net.channel import local_channel
from jsplit.net.config import ServeConfig
from jsplit.net.hello_checks import check_consistency
from jsplit.net.server_run import ServerRun
from jsplit.testing import (
    TINY_RUN,
    hello_of,
    make_clients,
    result_of,
    run_in_process,
)
from jsplit.wire.messages import (
    UNNAMED,
    VERSION,
    Goodbye,
    write_message,
)

pytestmark = pytest.mark.usefixtures("cache")

CONFIG = dataclasses.replace(TINY_RUN, epochs=3, codec="e4m3", grad_codec="e4m3")


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed")
    run, _ = run_in_process(CONFIG, path)
    return run, result_of(path, run)


@pytest.fixture
def serving(tmp_path, undisturbed):
    """A run that waits for its client; afterwards an honest one must end as usual."""
    folder = RunFolder(tmp_path / "server")
    folder.path.mkdir()
    said = []
    run = ServerRun(
        CONFIG,
        ServeConfig(greeting=0.5, linger=10, memory_limit=1),
        folder,
        said.append,
        lambda: False,
    )
    failed = []

    def train():
        try:
            from jsplit.experiment.writers import JsonlWriter

            run.train(lambda epochs: (JsonlWriter(folder.metrics),))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    yield run
    (client,) = make_clients(CONFIG, tmp_path)
    client.run(lambda: local_channel(run.admission.handle_connection, 0), 30)
    thread.join(60)
    assert not failed and not thread.is_alive()
    assert result_of(tmp_path, undisturbed[0]) == undisturbed[1]


def spoilt(**changes):
    return write_message(hello_of(CONFIG, **changes))


REFUSED_HELLOS = {
    "VERSION": spoilt(version=VERSION + 1),
    "IDENTITY: client 1 is not one": spoilt(client=1),
    r"SETTINGS: not the same .*: epochs \(the server has [1-9]\d*\);": spoilt(
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
    "MALFORMED: a Hello": write_message(hello_of(CONFIG))[:-1],
    "UNEXPECTED": write_message(Goodbye()),
}


@pytest.mark.parametrize(("name", "data"), REFUSED_HELLOS.items())
def test_a_wrong_hello_is_refused_by_name(name, data, serving):
    with local_channel(serving.admission.handle_connection, 0) as channel:
        channel.send(data)
        with pytest.raises(Refusal, match=name):
            channel.receive(10)


CATS, SWAPPED = b"c" * 16, b"s" * 16


@pytest.mark.parametrize(
    ("fixed", "name"), [(False, "^UNLIKE: "), (True, "^SHAPE: ")], ids=["before", "in"]
)
def test_classes_that_another_client_calls_otherwise_are_refused(fixed, name):
    known = {
        0: hello_of(CONFIG),  # Its data has no names.
        1: hello_of(CONFIG, client=1, class_names=CATS),
    }
    hello = hello_of(CONFIG, client=2, class_names=SWAPPED)
    with pytest.raises(Refusal, match=name + ".* otherwise than client 1's"):
        check_consistency(hello, known, membership_fixed=fixed)


def test_a_client_that_comes_back_with_other_class_names_has_other_data():
    known = {0: hello_of(CONFIG, class_names=CATS)}
    hello = hello_of(CONFIG, class_names=SWAPPED)
    with pytest.raises(Refusal, match="^OTHER_DATA: .*class names, that this client"):
        check_consistency(hello, known, membership_fixed=True)


@pytest.mark.parametrize("names", [UNNAMED, CATS])
def test_classes_called_alike_or_not_called_anything_go_together(names):
    known = {
        0: hello_of(CONFIG, class_names=names),
        1: hello_of(CONFIG, client=1, class_names=CATS),
    }
    for hello in (
        hello_of(CONFIG, client=2, class_names=UNNAMED),
        hello_of(CONFIG, client=2, class_names=CATS),
        hello_of(CONFIG, client=1, class_names=UNNAMED),  # It lost them since.
    ):
        check_consistency(hello, known, membership_fixed=True)


def test_who_would_send_larger_messages_than_allowed_is_told_at_once(tmp_path):
    config = dataclasses.replace(CONFIG, image_size=None, batch_size=1000)
    folder = RunFolder(tmp_path)
    run = ServerRun(config, ServeConfig(message_limit=2), folder, print, lambda: False)
    hello = hello_of(config, image=(28, 28, 1), examples=2000)
    with local_channel(run.admission.handle_connection, 0) as channel:
        channel.send(write_message(hello))
        with pytest.raises(
            Refusal, match=r"TOO_LARGE: .* 3.0 MiB, .*--message-limit 2"
        ):
            channel.receive(10)
    assert not run.admission.hellos


@pytest.mark.parametrize("held_out", [0, 500])
def test_only_a_held_out_set_that_is_there_counts_as_messages(held_out, tmp_path):
    config = dataclasses.replace(CONFIG, image_size=None, batch_size=100)
    folder = RunFolder(tmp_path)
    run = ServerRun(config, ServeConfig(message_limit=1), folder, print, lambda: False)
    sums = ((100 * 2000 * 28 * 28, 100**2 * 2000 * 28 * 28),)
    hello = hello_of(
        config, image=(28, 28, 1), examples=2000, held_out=held_out, sums=sums
    )
    with local_channel(run.admission.handle_connection, 0) as channel:
        channel.send(write_message(hello))
        # 500 of 3,136 bytes are 1.5 MiB; one that is let in waits for its welcome.
        with pytest.raises(Refusal if held_out else TimeoutError):
            channel.receive(10 if held_out else 2)
        assert (0 in run.admission.hellos) == (not held_out)


def test_a_certificate_of_another_client_is_refused(serving):
    with local_channel(serving.admission.handle_connection, 3) as channel:
        channel.send(write_message(hello_of(CONFIG)))
        with pytest.raises(Refusal, match="IDENTITY: the certificate is client 3"):
            channel.receive(10)


def test_who_says_nothing_is_shown_out(serving):
    with local_channel(serving.admission.handle_connection, 0) as channel:
        with pytest.raises(Refusal, match=r"IDLE: no hello in 0.5 s .*--greeting"):
            channel.receive(10)


@pytest.mark.parametrize("image", ((9, 9, 1), (8, 9, 1), (1024, 1024, 64)))
def test_images_of_another_size_than_the_settings_are_refused(image, serving):
    spoilt = dataclasses.replace(
        hello_of(CONFIG), image=image, sums=tuple((0, 0) for _ in range(image[2]))
    )
    with local_channel(serving.admission.handle_connection, 0) as channel:
        channel.send(write_message(spoilt))
        with pytest.raises(Refusal, match="SHAPE: images of"):
            channel.receive(10)
