"""A run goes on: with more epochs, from the weights of another, from a state."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from jsplit.accounting.ledger import Ledger
from jsplit.cli.main import main
from jsplit.core.gate import freeze_gate
from jsplit.data.dataset import make_dataset
from jsplit.errors import InputError
from jsplit.experiment import train, weights
from jsplit.experiment.build import build
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.initial import read_named
from jsplit.experiment.trained import load_run
from jsplit.experiment.workdir import read_workdir
from tests.runs import (
    TINY,
    compile_once,
    experiment_of,
    lines_of,
    refused,
    result_of,
    run_here,
)
from tests.simulations import simulate, states_of
from tests.test_export import trained_folder

EPOCHS = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with compile_once(tmp_path_factory.getbasetemp()) as folder:
        yield folder


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """The folder of a run of AABC."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert run_here(*TINY, "--epochs", EPOCHS, "--workdir", path) == 0
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


# Simulation.run(state=...)


def test_a_simulation_goes_on_from_a_state_as_if_it_had_not_stopped():
    simulation = simulate(gate=freeze_gate(1))
    sizes = np.array([0.05, 0.04, 0.03, 0.02], np.float32)
    whole, record, account = simulation.run(sizes)
    half, first, begun = simulation.run(sizes[:2])
    state, rest, ledger = simulation.run(sizes[2:], half)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert states_of(first) + states_of(rest) == states_of(record) == "ABCC"
    assert ledger.states == "CC"
    assert Ledger.of(simulation.costs, begun.states + ledger.states) == account
    again, _, _ = simulation.run(sizes[2:], half)  # it was not consumed
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_state_of_another_simulation_is_refused_by_name():
    simulation = simulate()
    other = simulation.state.replace(epoch=np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"state.epoch must be int32 \[\], got int32"):
        simulation.run([0.1], other)
    with pytest.raises(ValueError, match="state must have the structure of this"):
        simulation.run([0.1], simulation.state.replace(client=None))


# --resume --epochs N


def test_a_finished_run_goes_on_for_more_epochs(finished, copy, capsys):
    before = lines_of(finished)
    assert run_here("--resume", "--workdir", copy, "--epochs", 6) == 0
    said = capsys.readouterr().out
    assert (
        "it goes on to 6 epochs instead of 4, at the learning rates of epochs 5 to 6 "
        "in a run of 6\n" in said
    )
    lines = lines_of(copy)
    assert lines[:EPOCHS] == before
    assert "".join(line["state"] for line in lines) == "AABCCC"
    # x 0.2 at 30, 60 and 80 %: three times by epoch 6 of 6, twice by epoch 5.
    rates = [line["learning_rate"] for line in lines[EPOCHS:]]
    np.testing.assert_allclose(rates, [0.05 * 0.2**2, 0.05 * 0.2**3], rtol=1e-6)
    record = json.loads((copy / "config.json").read_text())
    assert record["config"]["epochs"] == 6 and record["extended_from"] == [EPOCHS]
    summary = json.loads((copy / "summary.json").read_text())
    assert summary["epochs"] == 6 and summary["states"] == "AABCCC"
    assert load_run(copy).epochs == load_run(copy).description.config.epochs == 6


def test_an_extension_that_is_stopped_goes_on_as_the_extended_run(
    copy, monkeypatch, tmp_path
):
    whole = shutil.copytree(copy, tmp_path / "whole")
    assert run_here("--resume", "--workdir", whole, "--epochs", 6) == 0

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "_save", killed)
        assert run_here("--resume", "--workdir", copy, "--epochs", 6) == 130
    assert not (copy / "summary.json").exists()
    assert run_here("--resume", "--workdir", copy) == 0
    experiment = experiment_of(whole)
    assert result_of(copy, experiment) == result_of(whole, experiment)
    extended = json.loads((copy / "config.json").read_text())["extended_from"]
    assert extended == [EPOCHS]


def test_a_run_is_not_made_shorter_and_extended_with_no_other_setting(copy, capsys):
    resume = ("--resume", "--workdir", copy)
    said = refused(capsys, lambda: run_here(*resume, "--epochs", 3))
    assert f"a run cannot be shortened, and {copy} has 4 epochs; say --ep" in said
    said = refused(capsys, lambda: run_here(*resume, "--epochs", 6, "--seed", 1))
    assert "--seed is 0 there, 1 here" in said and "--epochs" not in said
    assert (copy / "summary.json").exists()


# --init


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The folder of a run of cnn on colour images of 5 classes, and its weights."""
    path = trained_folder(tmp_path_factory.mktemp("source") / "run")
    return path, read_named(str(path))


def begun(source, part="both", classes=5, cut=1, channels=3):
    """The weights that a run begins with, and those that it would begin with else."""
    config = RunConfig(
        model="cnn", cut=cut, init=None if source is None else str(source)
    )
    experiment = build(
        changed(config, init_part=part, **FAST), images(classes, channels)
    )
    state = experiment.simulation.state
    halves = state.client.variables, state.server.variables
    return weights.named(weights.merged(*halves))


FAST = {"codec": "identity", "grad_codec": "identity", "augment": False}


def images(classes, channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 8, 8, channels), dtype=np.uint8)
    labels = np.arange(20) % classes
    return make_dataset(
        "small", (pixels, labels, pixels, labels), num_classes=classes, source="test"
    )


@pytest.fixture(scope="module")
def fresh():
    return begun(None)


def block(name):
    return name.split(".")[1]


@pytest.mark.parametrize("part", ["both", "client", "server", "body"])
def test_a_run_begins_with_the_part_of_another_that_is_named(source, fresh, part):
    path, expected = source
    taken = {
        "both": lambda name: True,
        "client": lambda name: block(name) == "conv1",
        "server": lambda name: block(name) != "conv1",
        "body": lambda name: block(name) != "head",
    }[part]
    found = begun(path, part)
    assert found.keys() == expected.keys() == fresh.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(
            array, expected[name] if taken(name) else fresh[name], err_msg=name
        )


def test_a_new_head_begins_anew_for_other_classes(source):
    path, expected = source
    found = begun(path, "body", classes=3)
    assert found["params.head.Dense_1.bias"].shape == (3,)
    kernel = "params.conv3.Conv_0.kernel"
    np.testing.assert_array_equal(found[kernel], expected[kernel])
    with pytest.raises(
        InputError,
        match=r"Dense_1.* is \[.*\] there and \[.*\] here; say --init-part b",
    ):
        begun(path, "both", classes=3)


def test_another_cut_finds_each_block_on_its_side(source):
    path, expected = source
    for name, array in begun(path, cut=2).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_client_part_comes_from_a_safetensors_file(source, fresh, tmp_path):
    path, expected = source
    out = tmp_path / "out"
    assert main(["export", str(path), str(out)]) == 0
    found = begun(out / "client.safetensors", "client")
    for name, array in found.items():
        wanted = expected if block(name) == "conv1" else fresh
        np.testing.assert_array_equal(array, wanted[name])


def _spoilt(path, source, how):
    arrays = dict(source)
    name = "params.conv1.Conv_0.kernel"
    if how == "missing":
        del arrays[name]
    elif how == "shape":
        arrays[name] = arrays[name][:2]
    elif how == "dtype":
        arrays[name] = arrays[name].astype(np.float64)
    elif how == "nan":
        arrays[name] = np.full_like(arrays[name], np.nan)
    safetensors.numpy.save_file(
        {key: np.ascontiguousarray(array) for key, array in arrays.items()}, path
    )
    if how == "torn":
        path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "has no params.conv1.Conv_0.kernel, but for instance"),
        ("shape", r"is \[2, 3, 3, 16\] there and \[3, 3, 3, 16\] here; take the same"),
        ("dtype", "is float64 there and float32 here; save it as float32"),
        ("nan", "holds numbers that are not finite"),
        ("torn", "is no safetensors file of NumPy's dtypes"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(source, tmp_path, how, said):
    file = _spoilt(tmp_path / "a.safetensors", source[1], how)
    with pytest.raises(InputError, match=said) as refusal:
        begun(file)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--init", "gone"), "--init gone is no folder and no .safetensors file"),
        (("--init", "gone.safetensors"), "gone.safetensors: No such file"),
        (("--init", "."), "--init . holds nothing trained"),
        (("--init-part", "client"), "--init-part client says what --init gives"),
        (("--init", ".", "--init-part", "head"), "'head' is unknown; choose both, cl"),
    ],
)
def test_nothing_to_begin_with_is_refused_and_leaves_nothing(
    flags, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, lambda: run_here(*TINY, *flags))


def test_a_frozen_client_part_serves_with_no_epoch_of_a(finished, tmp_path, capsys):
    path = tmp_path / "run"
    flags = ("--sync-epochs", 0, "--init", finished, "--init-part", "client")
    assert run_here(*TINY, "--epochs", 3, *flags, "--workdir", path) == 0
    assert f"beginning with the weights of {finished} (client)" in (
        capsys.readouterr().out
    )
    assert "".join(line["state"] for line in lines_of(path)) == "BCC"
    mine, theirs = (
        weights.named(load_run(folder).half("client").variables)
        for folder in (path, finished)
    )
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_once_begun_a_run_goes_on_without_what_it_began_with(copy, tmp_path):
    path = tmp_path / "run"
    flags = (*TINY, "--epochs", 3, "--init", copy, "--workdir", path)
    assert run_here(*flags) == 0
    shutil.rmtree(copy)
    assert run_here("--resume", "--workdir", path, "--epochs", 4) == 0
    assert len(lines_of(path)) == 4
    assert read_workdir(path)[1].init == str(copy)
