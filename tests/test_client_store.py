"""A client's own folder: what it holds, and what it leaves alone."""

from pathlib import Path

import numpy as np
import pytest

from jsplit.cli.join import load_client_data, make_client
from jsplit.cli.main import main
from jsplit.errors import InputError, RunError
from jsplit.experiment.config import RunConfig
from jsplit.net.channel import local_channel
from jsplit.net.client_store import DATA, ClientStateStore
from jsplit.net.config import JoinConfig
from jsplit.wire.messages import (
    INITIAL_WEIGHTS,
    Done,
    Goodbye,
    Hello,
    Welcome,
    read_message,
    write_message,
)
from tests.runs import refused


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tmp").write_text("years of work")
    with pytest.raises(InputError, match="holds thesis.tmp, which is not a client's"):
        ClientStateStore(tmp_path)
    assert (tmp_path / "thesis.tmp").read_text() == "years of work"


def test_torn_files_of_its_own_go_and_others_stay(tmp_path):
    ClientStateStore(tmp_path).bind_to_run(b"r" * 16, "examples")
    torn = [tmp_path / f"{'0' * 32}.part.tmp", tmp_path / "over.tmp"]
    for path in (*torn, tmp_path / "client.log.tmp"):
        path.write_bytes(b"?")
    store = ClientStateStore(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["client.log.tmp", "examples.sha256", "run"]
    assert store.run == b"r" * 16 and store.stored == ()


def test_the_servers_word_that_the_run_is_over_is_kept(tmp_path):
    assert ClientStateStore(tmp_path).result("epochs=6") == b""
    ClientStateStore(tmp_path).save_result("epochs=6", b"done")
    assert ClientStateStore(tmp_path).result("epochs=6") == b"done"


def test_the_end_of_a_run_is_not_that_of_one_with_other_settings(tmp_path):
    ClientStateStore(tmp_path).save_result("epochs=6", b"done")
    assert ClientStateStore(tmp_path).result("epochs=99") == b""


def test_a_folder_that_goes_away_is_named_with_a_remedy(tmp_path):
    store = ClientStateStore(tmp_path / "w")
    (tmp_path / "w").rmdir()
    with pytest.raises(RunError, match="--workdir .*w: No such file .* start this"):
        store.save({"a": np.zeros(2, np.float32)})


def test_a_folder_that_nothing_can_be_written_to_is_found_out_at_once(
    tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device; name another"):
        ClientStateStore(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_damaged_part_is_not_offered(tmp_path):
    store = ClientStateStore(tmp_path)
    store.bind_to_run(b"r" * 16, "examples")
    digest = store.save({"w": np.ones(3, np.float32)})
    assert ClientStateStore(tmp_path).stored == (digest,)
    (tmp_path / f"{digest.hex()}.part").write_bytes(b"spoilt")
    assert ClientStateStore(tmp_path).stored == ()


# What it began its run with


def examples():
    """Twelve images of 8x8, and four held-out ones, in three classes."""
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), np.uint8)
    labels = np.arange(16) % 3
    return {
        "x_train": images[:12],
        "y_train": labels[:12],
        "x_test": images[12:],
        "y_test": labels[12:],
    }


def swapped(arrays, *names):
    """The same with the first two examples of some arrays in the other order."""
    order = [1, 0, *range(2, 12)]
    return arrays | {name: arrays[name][order[: len(arrays[name])]] for name in names}


CONFIG = RunConfig(model="cnn", dataset="mine.npz", batch_size=4, epochs=1)


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """A client's folder `w`, bound to a run by a welcome, beside its `mine.npz`."""
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", **examples())
    join()
    return ClientStateStore(tmp_path / "w")


def join():
    """Takes part in a run that is over at once."""

    def serve(channel, identity):
        hello = read_message(channel.receive(30), (Hello,))
        one = hello.image[2] * ((0.5, 0.25),)
        welcome = Welcome(b"t" * 16, b"r" * 16, False, False, False, 4, 12, one)
        channel.send(write_message(welcome))
        channel.send(write_message(Done(1, 0, 0, INITIAL_WEIGHTS)))
        read_message(channel.receive(30), (Goodbye,))
        channel.close()

    held = load_client_data(CONFIG, JoinConfig(own_data=True))
    client = make_client(CONFIG, 0, held, ClientStateStore(Path("w")))
    client.run(lambda: local_channel(serve, 0), 30)


@pytest.mark.parametrize(
    "others",
    [
        swapped(examples(), "x_train", "y_train"),
        swapped(examples(), "x_test"),
        swapped(examples(), "y_test"),
    ],
    ids=["training examples", "held-out images", "held-out labels"],
)
def test_other_examples_than_the_run_began_with_are_refused_at_once(
    joined, others, capsys
):
    """Their number and their sums are the same, which is all that a server sees."""
    np.savez("mine.npz", **others)
    words = ("join", "--model", "cnn", "--dataset", "mine.npz", "--own-data")
    words += ("--batch-size", "4", "--epochs", "1", "--insecure", "--workdir", "w")
    said = refused(capsys, lambda: main(words))
    assert "--workdir w belongs to a run in which this client began with other" in said
    assert "bring those back, or name a new --workdir for a new run" in said


def test_the_same_examples_go_on_wherever_their_file_is(joined):
    np.savez("mine.npz", **examples())
    join()


def test_a_folder_of_before_fingerprints_takes_the_examples_it_is_given_first(joined):
    Path("w", DATA).unlink()
    np.savez("mine.npz", **swapped(examples(), "x_train"))
    join()
    np.savez("mine.npz", **examples())
    with pytest.raises(InputError, match="bring those back"):
        join()


def test_a_folder_that_belongs_to_no_run_takes_other_examples(tmp_path):
    """As that of a client which the server turned away for what it held."""
    store = ClientStateStore(tmp_path)
    (tmp_path / DATA).write_text("a fingerprint, before kill -9")
    store.check_data("another")
