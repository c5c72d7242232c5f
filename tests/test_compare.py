"""`jsplit run --compare`: plain split learning beside the run, also after a stop."""

import json

import pytest

from jsplit.analysis.comparison import grouped
from jsplit.analysis.results import read_results
from jsplit.cli import training
from jsplit.core.gates import AlwaysGate
from jsplit.core.option import options_of
from jsplit.errors import InputError
from jsplit.experiment.compare_folder import plain_folder
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.plain import check_not_plain, plain_of
from tests.runs import (
    EPOCHS,
    STATES,
    TINY,
    experiment_of,
    lines_of,
    refused,
    result_of,
    run_here,
)

FLAGS = (*TINY, "--compare")


@pytest.fixture(scope="module")
def compared(cache, tmp_path_factory):
    """A run that was compared without a disturbance."""
    path = tmp_path_factory.mktemp("compared") / "run"
    assert run_here(*FLAGS, "--workdir", path) == 0
    return path


def summary_of(path):
    return json.loads((path / "summary.json").read_text())


def test_both_runs_have_folders_that_a_report_reads(compared):
    runs, unfinished = read_results(compared, partial=False)
    assert unfinished == []
    assert [run.path for run in runs] == [plain_folder(compared).path, compared]
    (group,) = grouped(runs)
    assert group.baseline.runs[0].path == plain_folder(compared).path
    assert (compared / "compare" / "accuracy_against_bytes.png").stat().st_size > 10_000


def test_the_plain_run_sends_and_computes_what_was_counted_for_it(compared):
    gated, plain = summary_of(compared), summary_of(plain_folder(compared).path)
    assert gated["states"] == STATES and plain["states"] == "A" * EPOCHS
    counted = gated["always_a_float32"]
    assert (plain["bytes"], plain["client_macs"]) == (
        counted["bytes"],
        counted["client_macs"],
    )
    assert plain["seed"] == gated["seed"] and plain["epochs"] == gated["epochs"]


def test_the_end_shows_both_side_by_side(compared, capsys):
    assert run_here("--resume", "--compare", "--workdir", compared) == 0
    out = capsys.readouterr().out
    table = out[out.index("states by epoch: A x2, B, C x13") :]
    for path in (compared, plain_folder(compared).path):
        assert f"{summary_of(path)['test_accuracy']:.2%}" in table
    assert "points" in table and "not run" not in table
    assert f"{compared}/compare/accuracy_against_bytes.png" in table
    assert f" report {compared}\n" in table
    # Both were finished: nothing was trained again.
    assert "compiling" not in out and "epoch  1/" not in out


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["this run", "plain"])
def test_a_stop_in_either_run_goes_on_with_what_is_unfinished(
    compared, tmp_path, capsys, monkeypatch, stopped
):
    path, real = tmp_path / "run", training.train

    def stop(experiment, folder, progress, writers, stopping):
        if (folder.path == path) == (stopped == "plain"):
            return real(experiment, folder, progress, writers, stopping)
        return real(experiment, folder, progress, writers, lambda: progress.epochs > 2)

    monkeypatch.setattr(training, "train", stop)
    assert run_here(*FLAGS, "--workdir", path) == 130
    go_on = f"saved after epoch 3; go on with: run.py --resume --workdir {path}"
    assert capsys.readouterr().out.endswith(f"{go_on} --compare\n")
    done = {"this run": 3, "plain": EPOCHS}[stopped]
    assert len(lines_of(path)) == done
    assert plain_folder(path).config.exists() == (stopped == "plain")

    monkeypatch.setattr(training, "train", real)
    assert run_here("--resume", "--compare", "--workdir", path) == 0
    for folder in (lambda run: run, lambda run: plain_folder(run).path):
        experiment = experiment_of(folder(compared))
        assert result_of(folder(path), experiment) == result_of(
            folder(compared), experiment
        )


def test_what_differs_between_runs_of_one_table_is_plain():
    odd = changed(
        RunConfig(),
        model="cnn",
        seed=3,
        views="plain,mirrored",
        replay_always=True,
        mixup=1.0,
        local_epochs=2,
        bottleneck=4,
        nopeek=0.1,
        noise=0.1,
        learning_rate=0.1,
        init="runs/before",
    )
    plain = plain_of(odd)
    assert plain.gate == AlwaysGate()
    assert (plain.codec, plain.grad_codec) == ("identity", "identity")
    kept = {"model", "seed", "learning_rate", "init"}
    usual = RunConfig()
    for name in options_of(RunConfig):
        if name not in ("gate", "codec", "grad_codec"):
            expected = odd if name in kept else usual
            assert getattr(plain, name) == getattr(expected, name), name


def test_plain_split_learning_is_not_compared_with_itself(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    plain = ("--gate", "always", "--codec", "identity", "--grad-codec", "identity")
    said = refused(capsys, lambda: run_here("--compare", *plain))
    assert "this run is that already; leave --compare out" in said
    with pytest.raises(InputError):
        check_not_plain(plain_of(RunConfig()))
    check_not_plain(RunConfig())
