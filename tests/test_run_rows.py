"""`runs.csv` of a report: every figure and every setting of each run."""

import csv
import json
import shutil
import statistics

import pytest

from jsplit.experiment.config import changed, flat
from tests.finished_runs import BASE, PLAIN, finish, make_runs, report


def table(folder):
    """The rows of a report's `runs.csv` as dicts of text."""
    text = (folder / "report" / "runs.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = make_runs(tmp_path_factory.mktemp("runs"))
    assert report(folder) == 0
    return folder


@pytest.fixture(scope="module")
def rows(runs):
    return table(runs)


def test_each_run_has_a_row_with_its_settings_and_its_figures(rows, runs):
    assert len({row["run"] for row in rows}) == len(rows) == 15
    for row in rows:
        summary = json.loads((runs / row["run"] / "summary.json").read_text())
        kept = json.loads((runs / row["run"] / "config.json").read_text())
        assert float(row["test_accuracy"]) == summary["test_accuracy"]
        assert int(row["bytes.total"]) == summary["bytes"]["total"]
        assert row["versions.jax"] == "1" and row["image_shape"] == "[8, 8, 1]"
        said = {name: row[f"config.{name}"] for name in kept["config"]}
        assert said == {
            name: "" if value is None else str(value)
            for name, value in kept["config"].items()
        }


def test_a_setting_that_the_gate_of_a_run_does_not_have_is_empty(rows):
    by_gate = {row["config.gate"]: row for row in rows}
    assert by_gate["freeze"]["config.sync_epochs"] == "3"
    assert by_gate["freeze"]["config.threshold"] == ""
    assert by_gate["loss"]["config.sync_epochs"] == ""


def test_rows_of_one_setting_are_what_the_report_has_the_mean_of(rows, runs):
    text = (runs / "report" / "report.md").read_text()
    for setting in {row["setting"] for row in rows}:
        found = [
            100 * float(r["test_accuracy"]) for r in rows if r["setting"] == setting
        ]
        mean, deviation = statistics.fmean(found), statistics.stdev(found)
        assert f"| {setting} | 3 | {mean:.2f} ± {deviation:.2f} |" in text
    assert all(f"## {row['table']}\n" in text for row in rows)


def test_settings_come_last_also_where_runs_over_a_network_have_more(tmp_path):
    finish(tmp_path / "a", changed(BASE, **PLAIN), 0.9)
    more = {"always_a_float32": {"bytes": {"total": 2**31}}, "seconds": 1.5}
    labels = {"up": 5, "down": 0}
    network = {"counted": {"labels": labels, "total": 5}, "absent_epochs": [0]}
    network["saved"] = {"labels": {"up": 0, "down": 0}}
    sent = {"bytes": {"labels": labels, "total": 5}}
    over = {"data": {"fingerprint": None}, "network": network, **sent, **more}
    finish(tmp_path / "b", changed(BASE, **PLAIN), None, **over)
    assert report(tmp_path) == 0
    alone, networked = table(tmp_path)
    assert networked["network.counted.labels.up"] == "5"
    assert networked["network.absent_epochs"] == "[0]"
    assert alone["network.counted.labels.up"] == networked["test_accuracy"] == ""
    names = [name.partition(".")[0] for name in alone]
    assert names[-len(flat(BASE)) :].count("config") == names.count("config")


def test_two_files_of_each_run_are_all_that_a_report_needs(runs, tmp_path):
    """Those who join runs of several machines are told so."""
    for summary in runs.glob("*/summary.json"):
        copy = tmp_path / summary.parent.name
        copy.mkdir()
        for name in ("config.json", "summary.json"):
            shutil.copy(summary.parent / name, copy)
    assert report(tmp_path) == 0
    for name in ("report.md", "runs.csv"):
        ours, theirs = (side / "report" / name for side in (tmp_path, runs))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_folder_whose_name_is_no_text_has_a_row(tmp_path):
    finish(tmp_path / "name \udcff" / "one", BASE, 0.9)
    assert report(tmp_path) == 0
    (row,) = table(tmp_path)
    assert row["run"] == r"name \udcff/one"
