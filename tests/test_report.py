"""`jsplit report`: figures from finished runs, and what it refuses."""

import html
import json
import math
import re
import shutil
import statistics

import pytest

from benchmarks import pareto
from jsplit.analysis.comparison import at_equal_traffic, grouped
from jsplit.analysis.results import read_results
from jsplit.cli import main as cli
from jsplit.experiment.build import canonical
from jsplit.experiment.config import RunConfig, changed, flat
from jsplit.experiment.quantities import human_bytes
from jsplit.experiment.workdir import RunFolder
from jsplit.runtime.atomic import write_json
from tests.runs import files_under

PLAIN = {"gate": "always", "codec": "identity", "grad_codec": "identity"}


def finish(path, config, accuracy, communication=1.0, computation=1.0, **changes):
    """A finished run's folder, as far as a report reads it."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    dataset = {"name": "made up", "source": "this test", "fingerprint": "f"}
    dataset |= changes.pop("data", {})
    record = {"format": "jsplit-run-1", "config": flat(config), "dataset": dataset}
    write_json(folder.config, record)
    summary = {
        "dataset": "made up",
        "dataset_source": "this test",
        "train_examples": 1000,
        "test_examples": 500,
        "image_shape": [8, 8, 1],
        "cut": "1 (conv1)",
        "seed": config.seed,
        "states": "AAB" + "C" * (config.epochs - 3),
        "test_accuracy": accuracy,
        "communication_reduction": communication,
        "client_compute_reduction": computation,
        "wire_reduction": communication / 2,
        "bytes": {"total": round(2e9 / communication)},
        "device": "a test (cpu)",
        "versions": {"jsplit": "0", "jax": "1"},
    }
    write_json(folder.summary, summary | changes)


BASE = RunConfig(model="cnn", epochs=12)
VARIED = {"views": "augmented", "mixup": 1.0}


def make_runs(path, **sent):
    """Three seeds of five settings; one of them loses too much."""
    settings = {
        "plain": (PLAIN, 0.900, 1.0, 1.0),
        "loss small": ({"gate": "loss", "threshold": 0.02}, 0.899, 20.0, 4.0),
        "loss large": ({"gate": "loss", "threshold": 0.5}, 0.896, 90.0, 9.0),
        "loss huge": ({"gate": "loss", "threshold": 5.0}, 0.894, 200.0, 50.0),
        "freeze": ({"gate": "freeze", "sync_epochs": 3}, 0.898, 50.0, 12.0),
    }
    for name, (changes, accuracy, communication, computation) in settings.items():
        for seed in range(3):
            config = changed(BASE, **changes, **sent, seed=seed)
            accurate = accuracy + 0.001 * (seed - 1)
            finish(
                path / f"{name} {seed}", config, accurate, communication, computation
            )
    return path


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


def test_rows_of_every_length_are_drawn_in_one_picture(runs, monkeypatch):
    drawn = []

    def draw(points, path, **how):
        drawn.append([point.label for point in points])

    monkeypatch.setattr(pareto.plots, "accuracy_against_bytes", draw)
    pareto.main([str(runs), "--out", str(runs / "all.png")])
    assert len(drawn[0]) == len(set(drawn[0])) > 3
    assert all(re.search(r"\d+ epochs, (1 seed|\d+ seeds)$", one) for one in drawn[0])


def report(*words):
    return cli.main(["report", *map(str, words)])


def rows_of(text, heading):
    """The cells of the first table after a heading."""
    table = text.split(heading, 1)[1].split("\n\n")[1]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()[2:]
    ]


def test_plain_split_learning_stands_first_and_the_rest_against_it(runs):
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    rows = rows_of(text, "## cnn cut after 1 (conv1), 1 client, 12 epochs")
    assert [row[0] for row in rows] == [
        "always, float32",
        "loss 0.02",
        "loss 0.5",
        "loss 5",
        "freeze 3",
    ]
    assert rows[0][:5] == ["always, float32", "3", "90.00 ± 0.10", "", "/1"]
    assert rows[1][2:7] == ["89.90 ± 0.10", "-0.10", "/20", "/10", "/4"]
    assert rows[4][7] == "A x2, B, C x9"


def test_every_byte_stands_beside_those_of_the_images(runs):
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    (said,) = [line for line in text.split("\n\n") if line.startswith("Every byte of")]
    summary = json.loads(next(runs.glob("*/summary.json")).read_text())
    images = summary["train_examples"] * math.prod(summary["image_shape"])
    assert said.endswith(f": {human_bytes(images)} raw.")
    rows = rows_of(text, said)
    assert [row[:2] for row in rows[:2]] == [
        ["always, float32", "1.9 GiB"],
        ["loss 0.02", "95.4 MiB"],
    ]
    assert float(rows[1][2]) == pytest.approx(1e8 / images, rel=0.01)


def test_the_best_is_that_which_loses_no_more_than_half_a_point(runs):
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    (title, communication, computation), paper = rows_of(text, "## Best")
    assert title == "cnn cut after 1 (conv1), 1 client, 12 epochs"
    assert communication == "/90 (loss 0.5, -0.40)"
    assert computation == "/12 (freeze 3, -0.20)"
    assert paper[0] == "the paper, CIFAR-10, 1 client" and "106.7" in paper[1]


def test_a_loss_of_exactly_half_a_point_is_allowed(runs):
    (group,) = grouped(read_results(runs, partial=False)[0])
    assert group.best("communication_reduction", 0.004).label == "loss 0.5"
    assert group.best("communication_reduction", 0.0039).label == "freeze 3"
    assert group.best("communication_reduction", 0.0).label == "always, float32"


def test_a_line_joins_what_differs_in_the_gates_number_alone(tmp_path):
    """The picture's lines: five settings of three kinds, and others of two more."""
    make_runs(tmp_path)
    make_runs(tmp_path / "others", **VARIED)
    finish(tmp_path / "one", changed(BASE, loss_rule="drop"), 0.9)
    for path in tmp_path.glob("others/plain*"):  # The same run as that without.
        shutil.rmtree(path)
    (group,) = grouped(read_results(tmp_path, partial=False)[0])
    kinds = {setting.label: setting.kind for setting in group.settings}
    assert {label: kind for label, kind in kinds.items() if "mixup" not in label} == {
        "always, float32": "always, float32",
        "loss 0.02": "loss",
        "loss 0.5": "loss",
        "loss 5": "loss",
        "loss 0.05, drop": "loss, drop",
        "freeze 3": "freeze",
    }
    varied = {kind for label, kind in kinds.items() if "mixup" in label}
    assert varied == {
        "loss, views augmented, mixup 1",
        "freeze, views augmented, mixup 1",
    }


def test_runs_begun_with_trained_weights_are_rows_apart_and_not_the_best(runs):
    init = {"init": "runs/my-$first$", "init_part": "body"}
    for seed in range(3):
        one, two = ({**init, "threshold": 0.5}, {**init, **PLAIN})
        finish(runs / f"begun {seed}", changed(BASE, **one, seed=seed), 0.95, 500.0)
        finish(runs / f"tuned {seed}", changed(BASE, **two, seed=seed), 0.951)
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    rows = rows_of(text, "## cnn cut after 1 (conv1), 1 client, 12 epochs")
    begun = "begun with my-$first$ (body)"
    assert [row[0] for row in rows] == [
        "always, float32",
        f"always, float32, {begun}",
        "loss 0.02",
        "loss 0.5",
        "loss 5",
        f"loss 0.5, {begun}",
        "freeze 3",
    ]
    assert rows[5][1:5] == ["3", "95.00 ± 0.00", "+5.00", "/500"]
    assert rows_of(text, "## Best")[0][1] == "/90 (loss 0.5, -0.40)"
    assert "and are no candidates here" in text
    # Where all begin with the same weights, they are compared.
    every, _ = read_results(runs, partial=False)
    (group,) = grouped(run for run in every if run.config.init is not None)
    assert group.best("communication_reduction", 0.005).label == f"loss 0.5, {begun}"


def test_of_equal_reductions_the_most_accurate_is_the_best(runs):
    for name, mixup, accuracy in (
        ("a", 0.5, 0.899),
        ("b", 1.0, 0.905),
        ("c", 2.0, 0.9),
    ):
        for seed in range(3):
            config = changed(BASE, gate="loss", threshold=0.5, mixup=mixup, seed=seed)
            finish(runs / f"{name} {seed}", config, accuracy, 90.0, 9.0)
    (group,) = grouped(read_results(runs, partial=False)[0])
    assert group.best("communication_reduction", 0.005).label == "loss 0.5, mixup 1"


def test_other_seeds_than_those_of_plain_split_learning_prove_nothing(runs):
    config = changed(BASE, epochs=12, gate="freeze", sync_epochs=1, seed=7)
    finish(runs / "lucky", config, 0.95, 400.0, 100.0)
    (group,) = grouped(read_results(runs, partial=False)[0])
    assert group.best("communication_reduction", 0.005).label == "loss 0.5"
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    assert "| freeze 1 | 1 | 95.00 | not the same seeds |" in text


@pytest.mark.parametrize(
    ("sent", "label"),
    [({}, ""), (VARIED, ", views augmented, mixup 1")],
    ids=["as A", "otherwise in B and C"],
)
def test_the_loss_gate_is_compared_with_controls_that_send_as_much(
    sent, label, tmp_path
):
    runs = make_runs(tmp_path, **sent)
    for seed in range(3):
        always = changed(BASE, epochs=12, gate="always", seed=seed)
        finish(runs / f"always {seed}", always, 0.899, 4.0, 1.0)
    (group,) = grouped(read_results(runs, partial=False)[0])
    assert group.baseline.label == "always, float32"
    small, large = (
        next(one for one in group.settings if one.label == f"loss {threshold}{label}")
        for threshold in (0.02, 0.5)
    )
    # Freezing goes from 0.899 at /4 to 0.898 (and the seed's noise) at /50.
    share = math.log(20 / 4) / math.log(50 / 4)
    expected = [
        0.899 + noise - (0.899 + share * (0.898 + noise - 0.899))
        for noise in (-0.001, 0.0, 0.001)
    ]
    mean, deviation = at_equal_traffic(group, small, "freeze")
    assert mean == pytest.approx(sum(expected) / 3, abs=1e-9)
    assert deviation == pytest.approx(statistics.stdev(expected), abs=1e-9)
    # No control sends as little, and one was not run at all.
    assert at_equal_traffic(group, large, "freeze") is None
    assert at_equal_traffic(group, small, "periodic") is None
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    assert f"| loss 0.02{label} | /20 | not run there | {100 * mean:+.2f} ±" in text


def test_without_plain_split_learning_nothing_is_claimed(tmp_path):
    finish(tmp_path / "one", RunConfig(model="cnn", epochs=5), 0.9, 30.0, 3.0)
    assert report(tmp_path) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "nothing in float32 to compare with" in text


def test_reductions_that_differ_by_seed_are_a_geometric_mean_and_a_range(tmp_path):
    for seed, reduction in enumerate((10.0, 40.0)):
        config = changed(BASE, epochs=5, seed=seed)
        finish(tmp_path / str(seed), config, 0.9, reduction, 3.0)
    (group,) = grouped(read_results(tmp_path, partial=False)[0])
    found = group.settings[0].reduction("communication_reduction")
    assert str(found) == "/20 (10 to 40)"


def test_the_page_is_one_file_and_names_data_device_seeds_and_versions(runs):
    assert report(runs) == 0
    page = (runs / "report" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 3
    assert all(link.startswith("data:image/png;base64,") for link in sources)
    for words in ("made up", "a test (cpu)", "seeds 0, 1, 2", "jax 1", "<table>"):
        assert words in page
    # What is wider than the window scrolls, with a shadow where it goes on.
    assert page.count('<div class="table" tabindex="0"><table>') == 3
    assert page.count("</table></div>") == page.count("<table>") == 3
    assert ".table{overflow-x:auto;background:linear-gradient" in page
    for name in ("accuracy-1.png", "bytes-1.png", "states-1.png"):
        data = (runs / "report" / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 10_000


def test_names_are_text_in_the_report_whatever_they_hold(tmp_path, capfd):
    names = (
        "<img src=q onerror=alert(1)>",
        "![p](/etc/passwd) [l](https://example.org) `c` *e* | \\ & $x^$ \udcff",
    )
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        finish(folder / "run", changed(BASE, **PLAIN), 0.9)
        path = folder / "run" / "summary.json"
        summary = json.loads(path.read_text())
        path.write_text(json.dumps(summary | {"dataset": name, "dataset_source": name}))
        assert report(folder) == 0
        page = (folder / "report" / "report.html").read_text()
        links = re.findall(r"<(?:a|img|code|em)\b[^>]{0,40}", page)
        assert len(links) == 3
        assert all(link.startswith('<img src="data:image/png') for link in links)
        shown = html.unescape(page)
        assert shown.count(name.replace("\udcff", "\\udcff")) == 2


def test_models_and_clients_are_groups_of_their_own(runs):
    config = changed(BASE, epochs=12, clients=5, **PLAIN)
    finish(runs / "five", config, 0.8)
    finish(runs / "vgg", changed(BASE, model="vgg11", **PLAIN), 0.9)
    groups = grouped(read_results(runs, partial=False)[0])
    assert [group.title for group in groups] == [
        "cnn cut after 1 (conv1), 1 client, 12 epochs",
        "cnn cut after 1 (conv1), 5 clients, parallel, 12 epochs",
        "vgg11 cut after 1 (conv1), 1 client, 12 epochs",
    ]


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
