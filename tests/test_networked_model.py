"""What a networked run has trained: each party's folder holds its half."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import jsplit
from jsplit.cli.main import main
from jsplit.core.gates import AlwaysGate, FreezeGate
from jsplit.errors import InputError
from jsplit.experiment import weights
from jsplit.experiment.build import load_dataset
from jsplit.testing import TINY_RUN, compile_once, run_in_process

CONFIG = dataclasses.replace(
    TINY_RUN, epochs=2, gate=FreezeGate(1), codec="identity", grad_codec="identity"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_once(tmp_path_factory.getbasetemp()) as folder:
        yield folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run with one client, whose part never leaves it, and the run."""
    path = tmp_path_factory.mktemp("alone")
    return path, *run_in_process(CONFIG, path)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(CONFIG, print)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_both_folders_together_are_the_model_that_the_server_scored(alone, dataset):
    path, run, _ = alone
    client, server = (jsplit.load_run(path / name) for name in ("client-0", "server"))
    assert client.server is None and server.client is None
    assert client.epochs == server.epochs == CONFIG.epochs
    equal(server.half("server").variables, run.state.server.variables)
    assert server.description.image_shape == client.description.image_shape == (8, 8, 1)
    assert server.description.mean == client.description.mean
    assert client.class_names == dataset.class_names and server.class_names is None
    logits = server.classify(client.smash(dataset.test_images))
    right = int(np.sum(np.argmax(logits, -1) == dataset.test_labels))
    assert right == run.records[-1]["test_correct"]


def test_each_folder_exports_its_half(alone, tmp_path, capsys):
    path, _, _ = alone
    for folder, side in (("client-0", "client"), ("server", "server")):
        assert main(["export", str(path / folder), str(tmp_path / side)]) == 0
        assert (tmp_path / side / f"{side}.jaxexport").is_file()
        assert not (tmp_path / side / "joined.jaxexport").exists()
    assert capsys.readouterr().err == ""


def test_a_half_alone_does_not_predict_and_says_where_the_other_is(
    alone, dataset, tmp_path, capsys
):
    np.savez(tmp_path / "some.npz", images=dataset.test_images[:2])
    assert main(["predict", str(alone[0] / "server"), str(tmp_path / "some.npz")]) == 2
    said = capsys.readouterr().err
    assert "holds the server's half alone; the client's is in the folder of the" in said


def test_a_client_s_damaged_file_is_refused_by_name(alone, tmp_path):
    copy = shutil.copytree(alone[0] / "client-0", tmp_path / "copy")
    whole = (copy / "client.msgpack").read_bytes()
    (copy / "client.msgpack").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="copy/client.msgpack is damaged"):
        jsplit.load_run(copy)


def test_with_several_clients_all_folders_hold_the_averaged_part(tmp_path):
    run, _ = run_in_process(dataclasses.replace(CONFIG, clients=2), tmp_path)
    server = jsplit.load_run(tmp_path / "server")
    equal(server.half("client").variables, run.state.client.part.variables)
    for number in range(2):
        client = jsplit.load_run(tmp_path / f"client-{number}")
        assert client.server is None
        equal(client.half("client").variables, server.half("client").variables)


def test_a_client_that_never_got_the_last_part_keeps_none_and_says_so(tmp_path, capsys):
    config = dataclasses.replace(
        CONFIG, clients=2, topology="sequential", gate=AlwaysGate(), epochs=1
    )
    run_in_process(config, tmp_path)
    # The second of them trained last, and nobody needed its part any more.
    assert "the part that the run ended with never came here" in capsys.readouterr().out
    with pytest.raises(InputError, match="client-0 holds no run"):
        jsplit.load_run(tmp_path / "client-0")
    found = jsplit.load_run(tmp_path / "client-1").half("client").variables
    equal(found, jsplit.load_run(tmp_path / "server").half("client").variables)
    assert weights.named(found)
