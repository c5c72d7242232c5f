"""A run under a loss budget: what it takes from a plain run, keeps, and refuses."""

import dataclasses
import json
import shutil

import chex
import pytest

from jsplit.analysis.comparison import grouped
from jsplit.analysis.results import FinishedRun
from jsplit.core.gates import AlwaysGate, BudgetGate
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.build import build, load_dataset, shape_of
from jsplit.experiment.config import agreement, differences
from jsplit.experiment.description import describe, write_description
from jsplit.experiment.plain_target import (
    outcome_line,
    with_curve,
    with_kept_curve,
)
from jsplit.net.setup import prepare_server
from jsplit.testing import TINY_RUN, run_in_process
from tests.runs import lines_of, run_here
from tests.test_budget_runs import trained

pytestmark = pytest.mark.usefixtures("cache")

LOSSES, ACCURACIES = (0.01, 0.01, 9.0, 9.0, 0.01, 9.0), (0.3, 0.5, 0.5, 0.6, 0.7, 0.72)
STATES = "AAABCA"
"""With these losses allowed: at most those of the third, fourth and sixth epoch."""

FLAGS = (
    *("--model", "cnn", "--dataset", "fashion_mnist_10k", "--image-size", "8"),
    *("--train-examples", "60", "--test-examples", "100", "--batch-size", "20"),
    *("--views", "augmented", "--epochs", "6", "--gate", "budget"),
)
BEGUN = dataclasses.replace(
    TINY_RUN, train_examples=60, batch_size=20, epochs=6, views="augmented"
)


def under(loss_budget, run, **more):
    return dataclasses.replace(
        BEGUN, gate=BudgetGate(loss_budget=loss_budget, against=str(run), **more)
    )


@pytest.fixture(scope="module")
def dataset(cache):
    return load_dataset(BEGUN, print)


@pytest.fixture
def plain(tmp_path, dataset):
    """Makes a folder as a finished plain run with such records leaves it."""

    def make(losses=LOSSES, scores=ACCURACIES, finished=True, **changes):
        path = tmp_path / "plain"
        how = {"gate": AlwaysGate(), "codec": "identity", "grad_codec": "identity"}
        how |= {"workdir": str(path), **changes}
        config = dataclasses.replace(BEGUN, epochs=len(losses), **how)
        described = {"fingerprint": dataset.fingerprint, "source": "here"}
        with workdir.open_new(config, described) as folder:
            write_description(path, describe(config, dataset))
        if finished:
            folder.summary.write_text(json.dumps({"train_examples": 60}))
        records = [
            {"epoch": epoch + 1, "train_loss": loss, "test_accuracy": score}
            for epoch, (loss, score) in enumerate(zip(losses, scores, strict=True))
        ]
        folder.metrics.write_text("".join(f"{json.dumps(each)}\n" for each in records))
        return path

    return make


def damage(path, name, old, new):
    text = (path / name).read_text()
    assert old in text
    (path / name).write_text(text.replace(old, new))


# What is taken and kept


def test_a_run_keeps_what_it_takes_and_needs_the_plain_run_no_more(plain, dataset):
    path = plain()
    asked = under(0.5, path)
    read = with_curve(asked, dataset.fingerprint)
    curve = read.gate.curve
    assert curve.losses == LOSSES and curve.accuracies == ACCURACIES
    assert (curve.run, curve.classes, curve.examples) == (str(path), 10, 60)
    shutil.rmtree(path)
    assert with_curve(read, None) is read
    assert with_kept_curve(asked, read) == read
    with pytest.raises(InputError, match="holds no run"):
        with_curve(asked, None)
    other = under(0.5, path.parent / "other")
    assert with_kept_curve(other, read) is other
    (line,) = differences(read, other)
    assert len(line) < 250 and line.startswith(f"--against is {str(path)[:40]}")


def test_a_plain_run_may_begin_and_be_set_otherwise_where_always_a_reads_nothing(
    plain, dataset
):
    path = plain(first_filters="dct", mixup=0.5, refresh_statistics="batch")
    assert with_curve(under(0.5, path), dataset.fingerprint).gate.curve is not None


def test_clients_of_a_network_need_not_have_the_plain_run(plain, dataset):
    asked = under(0.5, plain())
    read = with_curve(asked, None)
    assert agreement(read) == agreement(asked)
    assert agreement(read) != agreement(under(0.6, "elsewhere"))


@pytest.mark.slow
def test_the_gate_of_a_server_begins_as_that_of_the_simulation(plain, dataset):
    read = with_curve(asked := under(0.5, plain()), None)
    experiment = build(asked, dataset)
    assert experiment.config == read
    server = prepare_server(read, dataset.image_shape, 10, [60])
    chex.assert_trees_all_equal(server.state.gate, experiment.simulation.state.gate)
    others = (
        dataclasses.replace(read, seed=3),
        with_curve(under(2, read.gate.curve.run), None),
    )
    for other in others:
        assert shape_of(other) == shape_of(read)


def test_seeds_with_plain_runs_of_their_own_are_one_setting(plain, tmp_path):
    read = with_curve(under(0.5, plain()), None)
    runs = []
    for seed, run in enumerate(("one", "two")):
        gate = dataclasses.replace(
            read.gate, against=read.gate.against.replace("plain:", f"{run}:")
        )
        config = dataclasses.replace(read, seed=seed, gate=gate)
        summary = {"test_accuracy": 0.5, "communication_reduction": 2.0, "cut": "1"}
        runs.append(FinishedRun(tmp_path / run, config, "data", summary))
    assert runs[0].config.gate != runs[1].config.gate
    (group,) = grouped(runs)
    (setting,) = group.settings
    assert setting.label == "budget 0.5 points, against plain, views augmented"


@pytest.mark.parametrize(
    ("below", "words"),
    [
        (0.3, "0.30 points below runs/plain (72.00%): within --loss-budget 0.5"),
        (0.5, "0.50 points below runs/plain (72.00%): within --loss-budget 0.5"),
        (-1, "1.00 points above runs/plain (72.00%): within --loss-budget 0.5"),
        (2, "2.00 points below runs/plain (72.00%): misses --loss-budget 0.5 by 1.50"),
        (None, "nobody scored the run"),
    ],
)
def test_the_end_says_by_how_much_the_target_was_missed(below, words):
    read = BudgetGate(
        loss_budget=0.5,
        against="runs/plain: classes 10, examples 60, loss/accuracy by epoch 1.0/0.72",
    )
    accuracy = None if below is None else 0.72 - below / 100
    assert words in outcome_line({"goal": read.achieved(accuracy)})
    assert outcome_line({"goal": BudgetGate(budget="1MB").achieved(0.5)}) is None
    assert outcome_line({}) is None


# What is refused

COST = ("--budget", "1MB")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--loss-budget", "0.5"), "--loss-budget 0.5 is in points below a plain run"),
        (("--against", "RUN", *COST), "--against names the plain run of a --loss-bud"),
        (("--loss-budget", "-1", "--against", "RUN"), "must be at least 0, got -1"),
        (("--loss-budget", "nan", "--against", "RUN"), "must be a finite number, got"),
        (("--loss-budget", "inf", "--against", "RUN"), "must be a finite number, got"),
        (("--loss-budget", "1", "--against", "none"), "--against none holds no run"),
        (("--loss-budget", "1", "--against", "RUN", "--min-fall", "0.1"), "no effect"),
        (("--loss-budget", "1", "--against", "RUN", "--budget", "1kB"), "does not pay"),
    ],
)
def test_flags_that_cannot_be_are_one_line_and_nothing_is_written(
    flags, words, plain, tmp_path, capsys
):
    path = plain()
    given = [str(path) if flag == "RUN" else flag for flag in flags]
    assert run_here(*FLAGS, *given, "--workdir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"finished": False}, "is not finished; go on with it by jsplit run --resume"),
        ({"losses": LOSSES[:5], "scores": ACCURACIES[:5]}, "epochs is 5 there, 6 here"),
        ({"model": "vgg11"}, "--model is vgg11 there, cnn here"),
        ({"augment": False}, "--augment is False there, True here"),
        ({"gate": TINY_RUN.gate}, "is no plain run: it has --gate freeze"),
        ({"local_epochs": 2}, "is no plain run: it has --local-epochs 2; name one of "),
        ({"replay_always": True, "mixup": 0.5}, "it has --replay-always; name one of"),
        ({"nopeek": 0.5}, "it has --nopeek 0.5; name one of --gate always, --codec"),
        ({"noise": 0.1, "bottleneck": 4}, "has --bottleneck 4 and --noise 0.1; name"),
        ({"codec": "float8"}, "it has --codec float8; name one of --gate always, --co"),
        ({"grad_codec": "bf16"}, "it has --grad-codec bf16; name one of"),
        ({"scores": (*ACCURACIES[:5], None)}, "has no test accuracy of epoch 6"),
        ({"losses": (*LOSSES[:5], None)}, "a loss that is not finite"),
    ],
)
def test_a_run_that_is_no_such_plain_run_is_refused_by_what_differs(
    how, words, plain, dataset
):
    with pytest.raises(InputError) as raised:
        with_curve(under(0.5, plain(**how)), dataset.fingerprint)
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith("--against ")


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("config.json", '"here"', '"there", "fingerprint": "x"', "other data (there)"),
        ("config.json", "jsplit-run-1", "else", "cannot be used: "),
        ("model.json", '"classes": 10', '"classes": 3', "10 class_names of 3 classes"),
        ("summary.json", "60", "50", "has 50 training examples, and this run has 60"),
        ("summary.json", "60", "", "has records that are damaged"),
        ("metrics.jsonl", '"epoch": 2', '"epoch": 3', "not the records of 6 epochs"),
    ],
)
def test_a_plain_run_of_other_data_or_damaged_is_refused(
    name, old, new, words, plain, dataset
):
    path = plain()
    damage(path, name, old, new)
    with pytest.raises(InputError) as raised:
        build(under(0.5, path), dataset)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_plain_run_of_other_classes_is_refused(plain, dataset):
    path = plain()
    described = json.loads((path / "model.json").read_text())
    described |= {"classes": 3, "class_names": list("abc")}
    (path / "model.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="has 3 classes, and this run has 10; name"):
        build(under(0.5, path), dataset)


def test_a_curve_that_nobody_read_makes_no_gate(plain, dataset):
    with pytest.raises(ValueError, match="was not read"):
        prepare_server(under(0.5, plain()), dataset.image_shape, 10, [60])


# Whole runs


@pytest.mark.slow
def test_a_run_under_a_loss_budget_goes_on_without_the_plain_run(
    plain, tmp_path, capsys
):
    path = plain()
    wanted = (*FLAGS, "--loss-budget", 0, "--against", path, "--workdir")
    assert run_here(*wanted, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert f"points below {path} (72.00%): misses --loss-budget 0 by " in out
    lines = lines_of(tmp_path / "run")
    assert "".join(line["state"] for line in lines) == STATES
    assert lines[1]["gate_reason"] == "the loss lags behind the plain run's"
    assert "budget_left" not in lines[1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    below = 100 * (0.72 - summary["test_accuracy"])
    assert summary["goal"]["points_below"] == pytest.approx(below, abs=1e-4)
    # The same command again, and one that says the folder alone, without RUN.
    shutil.rmtree(path)
    kept = (tmp_path / "run" / "config.json").read_text()
    assert run_here(*wanted, tmp_path / "run", "--resume") == 0
    assert run_here("--resume", "--workdir", tmp_path / "run") == 0
    assert (tmp_path / "run" / "config.json").read_text() == kept
    # With more epochs the last loss holds for those.
    assert run_here("--resume", "--workdir", tmp_path / "run", "--epochs", 7) == 0
    longer = "".join(line["state"] for line in lines_of(tmp_path / "run"))
    assert longer == STATES + "B"


@pytest.mark.slow
def test_a_run_that_stops_after_every_epoch_and_one_over_a_network_end_the_same(
    plain, dataset, tmp_path
):
    config = with_curve(under(0, plain()), None)
    shutil.rmtree(tmp_path / "plain")
    experiment = build(config, dataset)
    whole, _ = trained(experiment, tmp_path / "whole")
    assert whole.ledger.states == STATES
    done = False
    while not done:
        stopping = iter([False, True]).__next__
        parts, done = trained(experiment, tmp_path / "parts", stopping)
    chex.assert_trees_all_equal(parts.state, whole.state)
    run, _ = run_in_process(config, tmp_path)
    reasons = [(line["state"], line["gate_reason"]) for line in run.records]
    assert reasons == [(line["state"], line["gate_reason"]) for line in whole.records]
    assert run.ledger.wire == whole.ledger.wire


@pytest.mark.slow
def test_loss_budgets_share_a_program(plain, dataset, tmp_path):
    from jsplit.experiment.build import share_program

    path = plain()
    experiment = build(under(0, path), dataset)
    trained(experiment, tmp_path / "one")
    other = share_program(build(under(100, path), dataset), experiment)
    assert other.simulation.program.run is experiment.simulation.program.run
    progress, _ = trained(other, tmp_path / "two")
    assert progress.ledger.states != STATES
