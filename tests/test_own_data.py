"""Files of one's own: `jsplit join --own-data` takes all; tiny images are said."""

import dataclasses
import hashlib

import numpy as np
import pytest

from jsplit.cli import run
from jsplit.cli.join import load_client_data
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import load_dataset
from jsplit.experiment.config import RunConfig
from jsplit.net.batches import ClientData
from jsplit.net.config import JoinConfig
from jsplit.wire.messages import UNNAMED
from tests.runs import run_here


@pytest.fixture
def common(tmp_path):
    """The settings of a run whose common set is cut, with a client's own file."""
    labels = np.arange(60) % 3
    images = np.zeros((60, 8, 8), np.uint8)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return RunConfig(
        dataset=str(path), clients=2, train_examples=12, test_examples=6, batch_size=2
    )


def test_limits_of_a_common_set_do_not_cut_a_clients_own_file(common, capsys):
    held = load_client_data(common, JoinConfig(client=1, own_data=True))
    assert (len(held.labels), len(held.test_labels)) == (60, 60)
    out = capsys.readouterr().out
    assert out == (
        f"note: --own-data takes all of {common.dataset}; --train-examples 12 and "
        "--test-examples 6 are for a common set and not heeded\n"
    )


def test_a_share_of_a_common_set_is_cut_as_asked(common, capsys):
    held = load_client_data(common, JoinConfig(client=1))
    assert (len(held.labels), len(held.test_labels)) == (6, 6)
    assert capsys.readouterr().out == ""


def test_a_client_with_fewer_classes_says_all_of_the_run_by_their_names(
    common, tmp_path
):
    few, names = tmp_path / "few.npz", ["ant", "bee", "cat"]
    images, labels = np.zeros((60, 8, 8), np.uint8), np.arange(60) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(few, **arrays, class_names=names)
    theirs = load_client_data(common, JoinConfig(client=0, own_data=True))
    here = dataclasses.replace(common, dataset=str(few))
    held = load_client_data(here, JoinConfig(client=1, own_data=True))
    assert held.classes == theirs.classes == 3
    assert held.class_names == ("ant", "bee", "cat")


def test_images_too_small_for_the_networks_are_said_unless_they_are_padded(
    common, tmp_path
):
    said = []
    load_dataset(common, said.append)
    images, labels = np.zeros((4, 2, 2), np.uint8), np.arange(4) % 2
    path = tmp_path / "tiny.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    tiny = RunConfig(dataset=str(path))
    load_dataset(dataclasses.replace(tiny, image_size=8), said.append)
    assert said == []
    load_dataset(tiny, said.append)
    assert said == [
        "note: images of tiny are 2x2; of fewer than 4 pixels an edge the networks "
        "here see next to nothing"
    ]


def test_a_run_goes_on_wherever_its_file_is_if_the_data_are_the_same(
    common, tmp_path, capsys, monkeypatch
):
    """Begun beside `mine.npz`, gone on with from another folder."""
    common = dataclasses.replace(
        common, dataset="mine.npz", workdir=str(tmp_path / "r")
    )
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset(common, print)
    with workdir.open_new(common, workdir.described(dataset)):
        pass
    kept = (tmp_path / "r/config.json").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "mine.npz").rename(elsewhere / "moved.npz")
    images, labels = np.ones((60, 8, 8), np.uint8), np.arange(60) % 3
    np.savez("other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)

    def build(config, _):
        raise InputError(f"accepted {config.dataset}")

    monkeypatch.setattr(run, "build", build)

    def go_on(*flags):
        code = run_here("--resume", "--workdir", tmp_path / "r", *flags)
        return code, *capsys.readouterr()

    code, _, said = go_on()
    assert code == 2 and said.count("\n") == 1
    assert "mine.npz, which is not there" in said and "by --dataset FILE" in said
    code, _, said = go_on("--dataset", "other.npz")
    assert code == 2 and said.count("\n") == 1 and "started on other data" in said
    np.savez(
        "named.npz",
        **np.load(elsewhere / "moved.npz"),
        class_names=["ant", "bee", "cat", "dog"],
    )
    code, _, said = go_on("--dataset", "named.npz")
    assert code == 2 and said.count("\n") == 1
    assert "on data of 3 classes, and there are 4 now (file named.npz" in said
    code, _, said = go_on("--dataset", "fashion_mnist_10k")
    assert code == 2 and "--dataset is mine.npz there, fashion_mnist_10k here" in said
    _, _, said = go_on("--dataset", elsewhere / "moved.npz")
    assert said == f"error: accepted {elsewhere}/moved.npz\n"
    assert (tmp_path / "r/config.json").read_bytes() == kept


def test_names_of_classes_are_the_same_in_one_order_however_letters_are_composed():
    def digest(*names):
        empty = np.zeros((0, 8, 8, 1), np.uint8)
        labels = np.zeros(0, np.int32)
        held = ClientData(empty, labels, empty, labels, 2, names or None)
        return held.class_names_digest

    known = digest("chat", "\u00e9l\u00e9phant")
    assert digest("chat", "e\u0301le\u0301phant") == known  # As macOS has folders.
    assert digest() == UNNAMED
    others = {digest("\u00e9l\u00e9phant", "chat"), digest("chat", "elephant")}
    assert len(others | {known, UNNAMED}) == 4
    # As docs/wire.md says it.
    text = b'["chat", "\\u00e9l\\u00e9phant"]'
    assert known == hashlib.sha256(text).digest()[:16]
