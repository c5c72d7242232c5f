"""Which runs `jsplit report` reads side by side, and which it refuses."""

import json
import re

import pytest

from jsplit.analysis.results import read_results
from jsplit.experiment.canonical import canonical
from jsplit.experiment.config import RunConfig, changed
from jsplit.runtime.atomic import write_json
from tests.finished_runs import BASE, PLAIN, finish, make_runs, report
from tests.runs import files_under


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


def refused(path, said, capsys, *flags):
    assert report(path, *flags) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1, error
    assert not (path / "report").exists()


def test_unfinished_runs_are_refused_or_left_out_as_asked(runs, capsys):
    (runs / "plain 1" / "summary.json").unlink()
    refused(runs, r"1 of 15 runs in .* are not finished \(plain 1\)", capsys)
    assert report(runs, "--partial") == 0
    text = (runs / "report" / "report.md").read_text()
    assert "Not finished and left out: 1 run (plain 1)." in text
    # Two of three seeds are left of plain split learning: no comparison is fair.
    assert "not the same seeds" in text


def test_each_unfinished_run_is_named_or_counted(runs, capsys):
    for name in ("freeze 0", "plain 0", "plain 1"):
        (runs / name / "summary.json").unlink()
    refused(runs, r"3 of 15 .* \(freeze 0, plain 0, plain 1\); go on", capsys)
    for path in runs.glob("loss*/summary.json"):
        path.unlink()
    named = "freeze 0, loss huge 0, loss huge 1, loss huge 2, loss large 0"
    refused(runs, rf"12 of 15 .* \({named} and 7 more\); go on", capsys)


def test_runs_on_different_data_are_refused(runs, capsys):
    other = {"data": {"fingerprint": "g"}, "train_examples": 77}
    finish(runs / "z", RunConfig(seed=9), 0.9, **other)
    refused(runs, "different data .*1000 images.* and .*77 images", capsys)


def test_runs_on_the_same_images_of_other_numbers_of_classes_are_refused(runs, capsys):
    """Of which `class_names` of a file may say more than there are images of."""
    for name, classes in (("four", 4), ("six", 6)):
        config = RunConfig(model="cnn", epochs=12, seed=9 + classes)
        finish(runs / name, config, 0.9, data={"classes": classes})
    refused(runs, "different data .*and 4 classes and .*and 6 classes", capsys)


NETWORK = {
    "counted": {
        "activations": {"up": 2048, "down": 0},
        "evaluation": {"up": 500, "down": 5},
        "handshake": {"up": 100, "down": 95},
        "repeated": {"up": 3, "down": 4},
        "total": 2755,
    },
    "saved": {
        "activations": {"up": 1024, "down": 0},
        "evaluation": {"up": 4096, "down": 0},
    },
    "absent_epochs": [0, 2],
}
OVER_A_NETWORK = {
    "dataset": None,
    "dataset_source": "held by the clients",
    "data": {"fingerprint": None},
    "bytes": {"activations": {"up": 3072, "down": 0}, "total": 3072},
    "always_a_float32": {"bytes": {"total": 30720}},
    "seconds": 1.0,
    "network": NETWORK,
}


def test_networked_runs_stand_beside_simulated_ones_of_the_same_settings(runs):
    for seed, accuracy in enumerate((0.897, 0.898, None)):
        config = changed(BASE, gate="freeze", sync_epochs=3, seed=seed)
        finish(runs / f"net {seed}", config, accuracy, 50.0, 12.0, **OVER_A_NETWORK)
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    assert "18 runs on made up" in text and "3 of the runs went over a network" in text
    # Two of them were evaluated, and one was not.
    row = "| freeze 3, networked | 3 | not evaluated | not evaluated | /50 | /25 |"
    assert row in text
    assert "| freeze 3 | 3 | 89.80 ± 0.10 | -0.20 |" in text
    # Of training 2 + 1 = 3 KiB; evaluation and handshakes are not in it.
    crossed = "3.0 KiB | 2.0 KiB | 1.0 KiB | 700 B | 7 B | 0, 2 |"
    assert f"| freeze 3, networked, seed 2 | {crossed}" in text
    assert max(len(line) for line in text.splitlines() if line[:1] == "|") <= 100


def test_a_networked_run_of_other_images_is_refused(runs, capsys):
    config = changed(BASE, gate="periodic")
    finish(runs / "net", config, 0.9, **OVER_A_NETWORK, train_examples=77)
    refused(runs, "different data .*1000 images.* and .*77 images", capsys)


def test_networked_runs_alone_that_were_not_evaluated_are_told_without_a_picture(
    tmp_path,
):
    finish(tmp_path / "net", BASE, None, 9.0, **OVER_A_NETWORK)
    assert report(tmp_path) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| loss 0.05, networked | 1 | not evaluated |" in text
    assert not (tmp_path / "report" / "accuracy-1.png").exists()


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    refused(tmp_path, "has no finished run below it; make some", capsys)
    refused(tmp_path / "none", "is no folder", capsys)


def test_a_damaged_summary_is_refused(runs, capsys):
    (runs / "plain 1" / "summary.json").write_text("{")
    again = r"delete it, and jsplit run --resume --workdir .*plain 1' makes it again"
    refused(runs, f"summary.json is damaged or of another version .*; {again}", capsys)


@pytest.mark.parametrize("lacking", ["dataset", "network", "always_a_float32"])
def test_an_older_summary_of_a_networked_run_is_refused_with_the_command_that_mends_it(
    lacking, runs, capsys
):
    finish(runs / "net", changed(BASE, gate="periodic"), 0.9, **OVER_A_NETWORK)
    summary = json.loads((runs / "net" / "summary.json").read_text())
    del summary[lacking]
    write_json(runs / "net" / "summary.json", summary)
    again = "delete it, and jsplit serve --resume --linger 0 --workdir .*/net, with"
    refused(runs, rf"of another version \(no {lacking}\); {again}", capsys)


def test_a_run_that_this_version_does_not_know_is_refused(runs, capsys):
    path = runs / "plain 1" / "config.json"
    path.write_text(path.read_text().replace('"always"', '"fancy"'))
    refused(runs, "plain 1/config.json: --gate 'fancy' is unknown; choose", capsys)


def test_the_same_run_twice_is_refused(runs, capsys):
    finish(runs / "again", changed(BASE, epochs=12, **PLAIN), 0.99)
    refused(runs, "always, float32 was run twice with the same seed, .*again", capsys)


def test_plain_split_learning_of_two_comparisons_counts_once(tmp_path):
    for name in ("one", "two"):
        config = changed(BASE, threshold={"one": 0.1, "two": 0.2}[name])
        finish(tmp_path / name, config, 0.8, communication=9.0)
        plain = changed(BASE, **PLAIN)
        finish(tmp_path / name / "compare" / "plain", plain, 0.9)
    runs, _ = read_results(tmp_path, partial=False)
    found = [str(run.path.relative_to(tmp_path)) for run in runs]
    assert found == ["one/compare/plain", "one", "two"]
    # One that was made by itself counts before them.
    finish(tmp_path / "zero", plain, 0.9)
    runs, _ = read_results(tmp_path, partial=False)
    assert [run.path.name for run in runs] == ["one", "two", "zero"]
    assert report(tmp_path) == 0


@pytest.mark.parametrize(
    "said",
    [
        {"cut": 1},
        {"batch_size": 128},
        {
            "threshold": 3.0,
            "period": 2,
            "sync_epochs": 2,
            "loss_reference": "same-state",
        },
        {"views": "augmented", "refresh_statistics": "batch", "mixup": 1.0},
        {"chunk": 3, "device": "cpu"},
        {"warmup": 1},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_says_the_same_is_the_same_run(said, runs, capsys):
    finish(runs / "again", changed(BASE, epochs=12, **PLAIN, **said), 0.99)
    refused(runs, "was run twice with the same seed", capsys)


def test_what_the_gate_reads_makes_another_run():
    others = [
        *({}, {"views": "augmented"}, {"mixup": 1.0}, {"threshold": 0.1}),
        *({"loss_reference": "previous"}, {"loss_reference": "same-state"}),
        *({"gate": "freeze"}, {"gate": "freeze", "sync_epochs": 2}),
        *({"gate": "periodic"}, {"gate": "always"}, {"gate": "always", "cut": 1}),
        {"gate": "always", "batch_size": 64},
    ]
    runs = {canonical(changed(RunConfig(), **values)) for values in others}
    assert len(runs) == len(others)


def test_another_folder_takes_the_report(runs, tmp_path):
    before = files_under(runs)
    out = tmp_path.parent / f"{tmp_path.name}-out"
    assert report(runs, "--out", out) == 0
    assert files_under(runs) == before
    assert json.loads((runs / "plain 0" / "summary.json").read_text())["seed"] == 0
    assert (out / "report.html").exists()
