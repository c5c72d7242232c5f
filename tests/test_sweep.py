"""`jsplit sweep`: what a file stands for, and that its runs are ordinary runs."""

import dataclasses
import json

import pytest

from jsplit.cli import main as cli
from jsplit.core.gates import FreezeGate, LossGate
from jsplit.experiment import sweep, sweep_spec
from jsplit.experiment.build import build, check_names, load_dataset, share_program
from jsplit.experiment.config import RunConfig, changed
from jsplit.models import MODELS
from tests.runs import (
    ROOT,
    experiment_of,
    files_under,
    result_of,
    run_here,
)

pytestmark = pytest.mark.usefixtures("cache")

SETTINGS = {
    "model": "cnn",
    "dataset": "fashion_mnist_10k",
    "image_size": 8,
    "train_examples": 200,
    "test_examples": 100,
    "epochs": 4,
}
FLAGS = (
    *("--model", "cnn", "--dataset", "fashion_mnist_10k", "--image-size", "8"),
    *("--train-examples", "200", "--test-examples", "100", "--epochs", "4"),
)
FILE = """\
[settings]
model = "cnn"
dataset = "fashion_mnist_10k"
image_size = 8
train_examples = 200
test_examples = 100
epochs = 4

[[grid]]
gate = "freeze"
sync_epochs = [1, 2]
seed = [0, 1]

[[grid]]
gate = "always"
codec = "identity"
grad_codec = "identity"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(FILE)
    return path


def jsplit(*words):
    return cli.main([str(word) for word in words])


# What a file stands for


def test_a_grid_stands_for_all_combinations_in_their_order():
    planned = sweep_spec.expand(
        {
            "settings": SETTINGS,
            "grid": [
                {"gate": "loss", "threshold": [0.1, 1], "seed": [0, 1]},
                {"gate": "always", "epochs": 2},
            ],
        },
        "f",
    )
    assert [run.name for run in planned] == [
        "gate=loss,threshold=0.1,seed=0",
        "gate=loss,threshold=0.1,seed=1",
        "gate=loss,threshold=1,seed=0",
        "gate=loss,threshold=1,seed=1",
        "gate=always,epochs=2",
    ]
    assert planned[2].config == RunConfig(**SETTINGS, gate=LossGate(1.0), seed=0)
    assert planned[4].config.epochs == 2


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("", "has no runs: add a [[grid]]"),
        ("[settings]\nepochs = 3\n", "has no runs: add a [[grid]]"),
        ("epochs = 3\n[[grid]]\nseed = 0\n", "unknown table or setting 'epochs'"),
        ("[[grid]]\nthresold = [0.1]\n", "grid 1: unknown setting 'thresold'"),
        ("[settings]\nmodle = 'cnn'\n[[grid]]\n", "unknown setting 'modle'"),
        ("[[grid]]\nseed = []\n", "grid 1: seed has no values"),
        ("[[grid]]\nseed = [0, 'one']\n", "seed must be a whole number, got 'one'"),
        ("[[grid]]\nepochs = [0]\n", "grid 1: --epochs must be at least 1, got 0"),
        ("[[grid]]\nworkdir = 'x'\n", "workdir cannot be set"),
        ("[[grid]]\nseed = [1, 1]\n", "two runs would be called seed=1"),
        (
            "[[grid]]\nwarmup = [0, 1]\n",
            "warmup=1 is the same run as warmup=0: they differ",
        ),
        (
            "[[grid]]\ngate = ['always', 'freeze']\nthreshold = 0.1\nwarmup = 2\n",
            "grid 1: threshold and warmup are for gate loss, and not for always or "
            "freeze; leave out what affects none of its runs",
        ),
        (
            "[settings]\nperiod = 3\n[[grid]]\n[[grid]]\ngate = 'freeze'\n",
            "settings: period is for gate periodic, and not for loss or freeze",
        ),
        (
            "[settings]\nperiod = 0\n[[grid]]\ngate = ['loss', 'periodic']\n",
            "grid 1: --period must be at least 1, got 0",
        ),
        ("[[grid]]\nmodel = 'cnn'\ncut = 1\n[[grid]]\nmodel = 'cnn'\n", "same run as"),
        ("[[grid]]\nseed = 0\n[[grid]]\ngate = 'loss'\n", "the same run as seed=0"),
        ("[grid]\nseed = 0\n", "a grid stands in double brackets, [[grid]]"),
        ("settings = 3\n[[grid]]\n", "settings must be one table"),
        ("[[grid]\n", "is not TOML"),
        ("[[grid]]\nmodel = 'alexnet'\n", "--model 'alexnet' is unknown"),
        ("[[grid]]\npartition = 'sorted'\n", "partition 'sorted' is unknown"),
        ("[[grid]]\ndataset = 'mnist'\n", "dataset 'mnist' is unknown"),
        (
            "[[grid]]\ndevice = 'cpu'\n[[grid]]\ndevice = 'auto'\nseed = 1\n",
            "a sweep computes on one device",
        ),
    ),
)
def test_a_file_that_stands_for_no_runs_is_refused_in_one_line(
    text, said, tmp_path, capsys
):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    for dry in ((), ("--dry",)):
        assert jsplit("sweep", path, "--folder", tmp_path / "runs", *dry) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert files_under(tmp_path) == ["bad.toml"]


def test_a_missing_file_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert jsplit("sweep", "none.toml") == 2
    said = capsys.readouterr().err
    assert f"none.toml: No such file or directory at {tmp_path}/none.toml; the" in said
    assert jsplit("sweep") == 2
    assert "needs a FILE" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/sweeps/*.toml")), ids=str)
def test_ready_sweeps_stand_for_runs_that_can_be_made(path):
    planned = sweep_spec.read_sweep(path)
    for run in planned:
        check_names(run.config)
    assert {run.config.seed for run in planned} >= {0, 1}


# What it does


@pytest.mark.slow
def test_runs_of_a_sweep_are_those_of_jsplit_run_to_the_bit(file, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert jsplit("sweep", file, "--folder", runs) == 0
    out = capsys.readouterr().out
    assert "5/5  " in out and "5 of 5 runs finished" in out
    name = "gate=freeze,sync_epochs=2,seed=1"
    alone = tmp_path / "alone"
    freeze = ("--gate", "freeze", "--sync-epochs", "2", "--seed", "1")
    assert run_here(*FLAGS, *freeze, "--workdir", alone) == 0
    assert result_of(runs / name, experiment_of(runs / name)) == result_of(
        alone, experiment_of(alone)
    )
    # Again: nothing is left to do, and nothing is touched.
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json*")}
    capsys.readouterr()
    assert jsplit("sweep", file, "--folder", runs) == 0
    assert "5 of 5 runs finished already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("*.json*")}


@pytest.mark.slow
def test_a_sweep_that_was_stopped_goes_on_where_it_was(file, tmp_path, capsys):
    planned = sweep_spec.read_sweep(file)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert sweep.sweep(planned, whole, lambda: False, print).done == 5
    asked = iter([False] * 6 + [True] * 99)  # In the second run.
    outcome = sweep.sweep(planned, broken, lambda: next(asked), print)
    assert outcome.stopped and outcome.done == 1
    assert not sweep.is_done(broken / planned[1].name)
    assert sweep.sweep(planned, broken, lambda: False, print) == (5, {}, False)
    for run in planned:
        assert result_of(broken / run.name, experiment_of(broken / run.name)) == (
            result_of(whole / run.name, experiment_of(whole / run.name))
        )


def test_dry_says_what_is_to_do_and_makes_nothing(file, tmp_path, capsys):
    assert jsplit("sweep", file, "--folder", tmp_path / "runs", "--dry") == 0
    assert capsys.readouterr().out.count("to do") == 5
    assert files_under(tmp_path) == ["tiny.toml"]


def test_a_cut_that_is_none_is_refused_by_file_and_run(file, tmp_path, capsys):
    file.write_text(FILE + "\n[[grid]]\ncut = 9\n")
    assert jsplit("sweep", file, "--folder", tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert f"{file}, cut=9: --cut 9 is outside cnn" in error
    assert files_under(tmp_path) == ["tiny.toml"]


@pytest.mark.slow
def test_another_run_under_the_same_name_is_refused(file, tmp_path, capsys):
    runs = tmp_path / "runs"
    planned = sweep_spec.read_sweep(file)[-1:]
    sweep.sweep(planned, runs, lambda: False, print)
    file.write_text(FILE.replace("epochs = 4", "epochs = 5"))
    assert jsplit("sweep", file, "--folder", runs) == 2
    error = capsys.readouterr().err
    assert "holds a run with other settings (--epochs is 4 there, 5 here)" in error


def test_a_kept_run_is_the_same_however_its_settings_are_said(file, tmp_path, capsys):
    runs = tmp_path / "runs"
    planned = sweep_spec.read_sweep(file)[-1:]
    sweep.sweep(planned, runs, lambda: False, print)
    config = runs / planned[0].name / "config.json"
    kept = json.loads(config.read_text())
    assert kept["config"]["cut"] is None
    kept["config"] |= {"cut": MODELS["cnn"].usual_cut, "views": "augmented"}
    config.write_text(json.dumps(kept))
    capsys.readouterr()
    assert jsplit("sweep", file, "--folder", runs, "--dry") == 0
    assert f"done   {planned[0].name}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_breaks_does_not_keep_others_from_being_made(tmp_path, capsys):
    path = tmp_path / "wild.toml"
    path.write_text(
        FILE.split("[[grid]]")[0] + "[[grid]]\nlearning_rate = [1e30, 0.05]\n"
    )
    assert jsplit("sweep", path, "--folder", tmp_path / "runs") == 1
    error = capsys.readouterr().err
    assert "1 run failed; learning_rate=1e+30: the training loss became" in error
    assert sweep.is_done(tmp_path / "runs" / "learning_rate=0.05")


# One program for runs of one shape


@pytest.fixture(scope="module")
def experiment():
    config = RunConfig(**SETTINGS)
    return build(config, load_dataset(config, print))


@pytest.mark.parametrize(
    ("changes", "shared"),
    (
        ({"seed": 7, "threshold": 0.4, "learning_rate": 0.1, "warmup": 2}, True),
        ({"epochs": 9, "period": 3, "sync_epochs": 1}, True),
        ({"codec": "e4m3"}, False),
        ({"gate": "freeze"}, False),
        ({"loss_rule": "drop"}, False),
        ({"clients": 2}, False),
        ({"momentum": 0.8}, False),
        ({"augment": False}, False),
    ),
)
def test_runs_of_one_shape_share_one_program(changes, shared, experiment):
    config = changed(experiment.config, **changes)
    other = build(config, experiment.dataset)
    made = share_program(other, experiment)
    run = experiment.simulation.program.run
    assert (made.simulation.program.run is run) == shared


def test_a_run_by_a_shared_program_ends_as_by_its_own(experiment):
    config = changed(experiment.config, seed=3, threshold=0.9)
    other = build(config, experiment.dataset)
    made = share_program(other, experiment)
    sizes = other.step_sizes
    _, first, ledger = other.simulation.run(sizes)
    _, second, again = made.simulation.run(sizes)
    assert ledger.states == again.states
    assert first.train.loss.tolist() == second.train.loss.tolist()


def test_shares_of_other_sizes_have_a_program_of_their_own(experiment):
    uneven = dataclasses.replace(
        experiment.config, clients=3, partition="dirichlet:0.3", seed=0
    )
    one = build(uneven, experiment.dataset)
    for seed in range(1, 9):
        config = dataclasses.replace(uneven, seed=seed)
        other = build(config, experiment.dataset)
        same = other.simulation.layout == one.simulation.layout
        shares = share_program(other, one).simulation.program.run
        assert (shares is one.simulation.program.run) == same
        if not same:
            return
    raise AssertionError("no seed made shares of other sizes")


@pytest.mark.slow
def test_a_summary_is_that_of_its_own_run(file, tmp_path):
    sweep.sweep(sweep_spec.read_sweep(file), tmp_path, lambda: False, print)
    for run in sweep_spec.read_sweep(file):
        summary = json.loads((tmp_path / run.name / "summary.json").read_text())
        assert summary["seed"] == run.config.seed
        if isinstance(run.config.gate, FreezeGate):
            length = run.config.gate.sync_epochs
            assert summary["states"] == ("A" * length + "B" + "CCC")[:4]
