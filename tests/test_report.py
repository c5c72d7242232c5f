"""`jsplit report`: figures from finished runs."""

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
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.quantities import human_bytes
from tests.finished_runs import BASE, PLAIN, VARIED, finish, make_runs, report


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path)


def test_rows_of_every_length_are_drawn_in_one_picture(runs, monkeypatch):
    skewed = {"clients": 5, "partition": "dirichlet:0.3", **PLAIN}
    for topology in ("parallel", "proportional"):
        config = changed(BASE, topology=topology, **skewed)
        finish(runs / topology, config, 0.8)
    drawn = []

    def draw(points, path, **how):
        drawn.append([point.label for point in points])

    monkeypatch.setattr(pareto.plots, "accuracy_against_bytes", draw)
    pareto.main([str(runs), "--out", str(runs / "all.png")])
    assert len(drawn[0]) == len(set(drawn[0])) > 5
    assert all(re.search(r"\d+ epochs, (1 seed|\d+ seeds)$", one) for one in drawn[0])


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
    ((title, communication, computation),) = rows_of(text, "## Best")
    assert title == "cnn cut after 1 (conv1), 1 client, 12 epochs"
    assert communication == "/90 (loss 0.5, -0.40)"
    assert computation == "/12 (freeze 3, -0.20)"
    assert "Note:" not in text


def with_summaries(runs, **changes):
    """The runs, of which the summaries say otherwise."""
    for path in runs.glob("*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("clients", "dataset", "said"),
    [
        (1, "cifar10", ["the paper, CIFAR-10, 1 client"]),
        (1, "mine", []),
        # The paper has no figure of three.
        (3, "cifar10", []),
    ],
)
def test_the_papers_figures_stand_beside_runs_on_its_data_where_it_has_some(
    tmp_path, clients, dataset, said
):
    make_runs(tmp_path, clients=clients)
    with_summaries(tmp_path, dataset=dataset)
    assert report(tmp_path) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    _, *paper = rows_of(text, "## Best")
    assert [row[0] for row in paper] == said
    assert all("106.7" in row[1] for row in paper)


@pytest.mark.parametrize(
    ("seeds", "images", "said"),
    [
        (3, 200, ()),
        (
            3,
            24,
            ("Note: with 24 test images one of them is 4.17 points, so that a",),
        ),
        (
            1,
            200,
            ("Note: one seed alone stands behind the best (loss 0.5, freeze 3)",),
        ),
        (1, 24, ("Note: with 24 test images one", ". Also, one seed alone stands")),
    ],
)
def test_it_is_said_where_half_a_point_is_less_than_an_image_or_of_one_seed(
    runs, seeds, images, said
):
    for seed in range(seeds, 3):
        for path in runs.glob(f"* {seed}"):
            shutil.rmtree(path)
    with_summaries(runs, test_examples=images)
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    notes = [part for part in text.split("\n\n") if part.startswith("Note:")]
    assert len(notes) == bool(said) and all(words in notes[0] for words in said)


def test_a_best_of_one_seed_is_told_beside_one_of_that_name_with_more(tmp_path):
    settings = PLAIN, {"gate": "freeze", "sync_epochs": 3}
    for clients, seeds in ((1, 1), (5, 3)):
        for number, changes in enumerate(settings):
            for seed in range(seeds):
                config = changed(BASE, clients=clients, **changes, seed=seed)
                path = tmp_path / f"{clients} {number} {seed}"
                finish(path, config, 0.9, 1 + number, 1 + number)
    assert report(tmp_path) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Note: one seed alone stands behind the best (freeze 3)" in text


def test_states_are_of_the_seed_that_stands_above_them_or_say_of_which(tmp_path):
    finish(tmp_path / "plain", changed(BASE, **PLAIN, seed=1), 0.9, states="A" * 12)
    loss = {"threshold": 0.5}
    for seed in range(2):
        states = "AB"[seed] * 12
        config = changed(BASE, **loss, seed=seed)
        finish(tmp_path / f"{seed}", config, 0.9, 2, 2, states=states)
    finish(tmp_path / "other", changed(BASE, threshold=1.0, seed=7), 0.9, 3, 3)
    assert report(tmp_path) == 0
    rows = (tmp_path / "report" / "report.md").read_text().splitlines()
    (head,) = (row for row in rows if row.startswith("| gate | seeds |"))
    cells = {
        row.split(" | ")[0][2:]: row.split(" | ")[-1] for row in rows if "/" in row
    }
    assert head.endswith("| states, seed 1 |")
    assert cells["loss 0.5"] == "B x12 |"
    assert cells["loss 1"] == "A x2, B, C x9 (seed 7) |"


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


def test_the_plainest_is_the_baseline_whatever_folders_are_called(tmp_path):
    make_runs(tmp_path / "b")
    others = {
        "mixup": {"mixup": 1.0, "replay_always": True},
        "bottleneck": {"bottleneck": 4},
        "alone": {"local_epochs": 2},
        "filters": {"first_filters": "dct"},
    }
    for seed in range(3):
        for name, changes in others.items():
            config = changed(BASE, **PLAIN, **changes, seed=seed)
            finish(tmp_path / "a" / f"{name} {seed}", config, 0.95)
    (group,) = grouped(read_results(tmp_path, partial=False)[0])
    assert group.baseline.label == "always, float32"
    assert group.best("communication_reduction", 0.005).label == "loss 0.5"


def test_points_are_against_plain_split_learning_with_the_same_first_filters(runs):
    for seed in range(3):
        for name, sent in (("always", PLAIN), ("freeze", {"gate": "freeze"})):
            config = changed(BASE, **sent, first_filters="dct", seed=seed)
            reduction = 1.0 if name == "always" else 500.0
            finish(runs / f"dct {name} {seed}", config, 0.910, reduction)
        more = {"first_filters": "dct", "mixup": 1.0, "replay_always": True}
        finish(runs / f"a {seed}", changed(BASE, **PLAIN, **more, seed=seed), 0.912)
    (group,) = grouped(read_results(runs, partial=False)[0])
    plain = {one.label: group.plain_for(one).label for one in group.settings}
    assert plain.pop("freeze 5, dct filters") == "always, float32, dct filters"
    assert plain.pop("always, float32, dct filters") == "always, float32, dct filters"
    mixed = "always, float32, dct filters, mixup 1 always"
    assert plain.pop(mixed) == "always, float32, dct filters"
    assert set(plain.values()) == {"always, float32"}
    # The filters gain a point, and sending less nothing.
    assert report(runs) == 0
    text = (runs / "report" / "report.md").read_text()
    assert "| freeze 5, dct filters | 3 | 91.00 ± 0.00 | +0.00 |" in text
    alone = [run for run in group.runs if run.config.first_filters == "random"]
    alone += [run for run in group.runs if run.config.gate.name == "freeze"]
    alone += [run for run in group.runs if run.config.mixup]
    (without,) = grouped({run.path: run for run in alone}.values())
    (dct,) = (one for one in without.settings if one.label == "freeze 5, dct filters")
    assert without.plain_for(dct).label == "always, float32"


def test_the_best_keeps_half_a_point_against_the_plainest_as_well(runs):
    """Filters that do harm must not make a harmful schedule look free."""
    for seed in range(3):
        worse = {"first_filters": "dct", "seed": seed}
        finish(runs / f"dct {seed}", changed(BASE, **PLAIN, **worse), 0.84)
        frozen = changed(BASE, gate="freeze", **worse)
        finish(runs / f"frozen {seed}", frozen, 0.839, 500.0)
    (group,) = grouped(read_results(runs, partial=False)[0])
    (frozen,) = (one for one in group.settings if one.label == "freeze 5, dct filters")
    assert group.lost(frozen) == pytest.approx(0.001)
    assert group.most_lost(frozen) == pytest.approx(0.061)
    assert group.best("communication_reduction", 0.005).label == "loss 0.5"


def test_plain_split_learning_of_other_seeds_is_no_comparison_for_its_filters(runs):
    finish(runs / "dct", changed(BASE, **PLAIN, first_filters="dct"), 0.99)
    for seed in range(3):
        config = changed(BASE, gate="freeze", first_filters="dct", seed=seed)
        finish(runs / f"frozen {seed}", config, 0.899, 500.0)
    (group,) = grouped(read_results(runs, partial=False)[0])
    (frozen,) = (one for one in group.settings if one.label == "freeze 5, dct filters")
    assert group.plain_for(frozen).label == "always, float32"
    assert group.best("communication_reduction", 0.005) == frozen


def test_extended_runs_are_no_controls_of_others(tmp_path):
    rows = (("always", 0.9, 1.0), ("periodic", 0.8, 100.0), ("loss", 0.86, 10.0))
    for gate, accuracy, reduction in rows:
        coded = PLAIN if gate == "always" else {"gate": gate}
        coded |= {"codec": "identity", "grad_codec": "identity"}
        finish(tmp_path / gate, changed(BASE, **coded), accuracy, reduction)

    def difference():
        (group,) = grouped(read_results(tmp_path, partial=False)[0])
        (setting,) = (one for one in group.settings if one.config.gate.name == "loss")
        return at_equal_traffic(group, setting, "periodic")[0]

    assert difference() == pytest.approx(0.01)
    coded = {"gate": "periodic", "codec": "identity", "grad_codec": "identity"}
    finish(tmp_path / "longer", changed(BASE, **coded), 0.5, 10.0)
    record = json.loads((tmp_path / "longer" / "config.json").read_text())
    record["extended_from"] = [4]
    (tmp_path / "longer" / "config.json").write_text(json.dumps(record))
    assert difference() == pytest.approx(0.01)


def test_a_run_that_was_given_more_epochs_is_no_seed_of_those_begun_with_as_many(runs):
    """Its first epochs had other learning rates."""
    record = json.loads((runs / "plain 2" / "config.json").read_text())
    record["extended_from"] = [4, 8]
    (runs / "plain 2" / "config.json").write_text(json.dumps(record))
    (group,) = grouped(read_results(runs, partial=False)[0])
    labels = [one.label for one in group.settings]
    extended = "always, float32, extended from 4 and 8"
    assert labels[:2] == ["always, float32", extended]
    assert [one.seeds for one in group.settings[:2]] == [(0, 1), (2,)]


@pytest.mark.parametrize("damaged", [5, ["4"], [True]], ids=str)
def test_a_damaged_record_of_earlier_lengths_is_refused(runs, capsys, damaged):
    record = json.loads((runs / "plain 2" / "config.json").read_text())
    record["extended_from"] = damaged
    (runs / "plain 2" / "config.json").write_text(json.dumps(record))
    assert report(runs) == 2
    assert "plain 2/config.json: extended_from is" in capsys.readouterr().err


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
