"""What `jsplit plan` shows and writes, and what it refuses."""

import csv
import json
import re

import pytest

from jsplit.analysis import plan_picture
from jsplit.codecs import CODECS, USUAL
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.plan import codec_sizes
from jsplit.experiment.schedules import schedules
from tests.plans import WORDS, plan_here
from tests.runs import refused


def test_the_tables_fit_100_columns_and_say_that_accuracy_is_not_predicted(capsys):
    asked = ("--budget", "400kB", "--reduction", 5, "--link", "10mbit/40ms")
    asked += ("--grad-codecs", "float8,identity")
    assert plan_here(*WORDS, "--cut", 1, *asked, "--bottlenecks", "4,8") == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if not line.startswith("source:")]
    assert max(map(len, lines)) <= 100 and not shown.err
    for words in ("conv3", "at most 390.6 KiB and at least /5", "4 channels"):
        assert words in shown.out
    assert "float8/identity" in shown.out and "/bf16" not in shown.out
    assert "accuracy is not predicted" in shown.out
    assert "200 images: 64 B each" in shown.out
    assert re.search(r"^for \d+ epochs, 1 client and batches of \d+$", shown.out, re.M)


@pytest.mark.parametrize(("budget", "said"), [("1GB", True), ("1kB", False)])
def test_that_freeze_0_trains_no_client_is_said_where_it_is_offered(
    budget, said, capsys
):
    asked = ("--codecs", "float8", "--most-views", 1, "--epochs", 4)
    assert plan_here(*WORDS, *asked, "--budget", budget) == (0 if said else 1)
    out = " ".join(capsys.readouterr().out.split())
    assert ("freeze 0 trains no client: begin it with filters" in out) == said


@pytest.mark.parametrize(
    ("begun", "cut", "said"),
    [
        ('first_filters = "dct"', 1, False),
        # Of two blocks the second would stay random.
        ('first_filters = "dct"', 2, True),
        ('init = "trained.safetensors"', 2, False),
        ('init = "trained.safetensors"\ninit_part = "server"', 2, True),
    ],
)
def test_what_a_file_says_of_first_weights_is_heeded_where_freeze_0_is_offered(
    begun, cut, said, capsys, tmp_path
):
    file = tmp_path / "run.toml"
    file.write_text(f"{begun}\n")
    assert plan_here(*WORDS, "--config", file, "--cut", cut, "--epochs", 4) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "freeze 0 " in out and ("freeze 0 trains no client" in out) == said
    # It is not advised what the file has.
    assert "(--first-filters dct, with" not in out or "dct" not in begun


def test_where_nothing_keeps_the_limits_the_nearest_is_said(capsys):
    assert plan_here(*WORDS, "--cut", 1, "--budget", "20kB") == 1
    out, said = capsys.readouterr()
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "no schedule keeps the limits at this cut" in said
    assert "25.3 KiB (freeze 0, bits4)" in said and "/192.0" in said
    assert plan_here(*WORDS, "--cut", 1, "--budget", "5kB", "--bottlenecks", 4) == 1
    assert "(freeze 0, 4 channels, bits4)" in capsys.readouterr().err
    # A later cut has one, and the table of all cuts says so.
    assert "\n1    none" in out and "\n3    freeze 1" in out


def test_without_limits_every_schedule_stands_with_the_codecs_of_the_run(capsys):
    assert plan_here(*WORDS, "--codec", "bf16", "--rows", 99) == 0
    out = capsys.readouterr().out
    for schedule in schedules(12, 2, 5):
        assert f"{schedule.label} " in out
    assert "bf16/float8" in out and "float8/float8" not in out


def test_gradients_cannot_be_planned_where_nobody_says_where_values_went(capsys):
    asked = "--budget", "1MB", "--codecs", "top16,float8", "--grad-codecs", "where-sent"
    assert plan_here(*WORDS, *asked) == 2
    said = capsys.readouterr().err
    assert "--grad-codecs: where-sent sends gradients in the places" in said
    assert "float8 does not say which" in said


def test_files_hold_every_cut_and_codec_and_the_settings_of_each_schedule(
    capsys, tmp_path
):
    files = {
        name: tmp_path / f"plan.{end}"
        for name, end in (("json", "json"), ("csv", "csv"), ("picture", "png"))
    }
    words = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert plan_here(*WORDS, "--budget", "300kB", *words) == 0
    plan = json.loads(files["json"].read_text())
    assert [cut["after"] for cut in plan["cuts"]] == ["conv1", "conv2", "conv3"]
    groups = codec_sizes(USUAL, (4, 4, 16))
    assert [each["codecs"] for each in plan["cuts"][0]["codecs"]] == groups
    for one in plan["schedules"]:
        assert one["bytes"] <= plan["budget_bytes"] == 300_000
        assert changed(RunConfig(), **one["settings"]).codec in CODECS
    lines = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert len(lines) == 3 * len(groups)
    assert {line["cut"] for line in lines} == {"1", "2", "3"}
    assert files["picture"].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_file_of_a_runs_settings_is_taken_and_flags_override_it(capsys, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "vgg11"\ncut = 3\ncodec = "bf16"\nthreshold = 0.1\n')
    assert plan_here("--config", file, *WORDS, "--grad-codec", "identity") == 0
    out = capsys.readouterr().out
    assert "cut 3 (conv3)" in out and "bf16/identity" in out and "conv4" not in out


def test_what_a_file_says_of_the_network_and_of_epochs_is_planned(capsys, tmp_path):
    file, plan = tmp_path / "run.toml", tmp_path / "plan.json"
    file.write_text(
        'cut = 1\nbottleneck = 4\nlocal_epochs = 3\nprecision = "bfloat16"\n'
        'views = "plain,mirrored,cropped"\ngate = "freeze"\nsync_epochs = 2\n'
    )

    def planned(*flags):
        asked = (*WORDS, "--config", file, "--json", plan, "--codecs", "bf16", *flags)
        assert plan_here(*asked, "--budget", "1MB") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert out.count("note: --config") == 1
        assert f"{file}: nothing is taken of gate and sync_epochs; a plan tries" in out
        return json.loads(plan.read_text())

    as_said = planned()
    settings = [each["settings"] for each in as_said["schedules"]]
    assert {each.get("bottleneck") for each in settings} == {4}
    for cut in as_said["cuts"]:
        assert cut["bottleneck"] == 4 and cut["smashed_shape"][-1] == 4
        assert cut["most_synchronising"]["settings"]["bottleneck"] == 4
    assert {each.get("local_epochs") for each in settings} == {None, 3}
    assert max(each.get("views", "").count(",") + 1 for each in settings) == 3
    otherwise = planned("--bottlenecks", 2, "--precision", "float32", "--most-views", 1)
    settings = [each["settings"] for each in otherwise["schedules"]]
    assert sorted({each.get("bottleneck") or 0 for each in settings}) == [0, 2]
    assert all("," not in each.get("views", "") for each in settings)
    memory = [plan["cuts"][0]["memory_bytes"] for plan in (as_said, otherwise)]
    assert memory[0] < memory[1]


def test_a_picture_names_the_bottleneck_that_all_its_cuts_have(
    capsys, tmp_path, monkeypatch
):
    titles = []
    monkeypatch.setattr(
        plan_picture,
        "finish",
        lambda figure, panels, path: titles.append(panels[0].get_title()),
    )
    file = tmp_path / "run.toml"
    file.write_text("cut = 1\nbottleneck = 4\n")
    asked = *WORDS, "--picture", tmp_path / "plan.png"
    assert plan_here("--config", file, *asked) == plan_here(*asked, "--cut", 1) == 0
    narrow, wide = (" ".join(title.split()) for title in titles)
    assert narrow == f"{wide}, through 4 channels"


def test_cuts_at_which_a_files_bottleneck_is_none_are_left_out_by_name(
    capsys, tmp_path
):
    file, plan = tmp_path / "run.toml", tmp_path / "plan.json"
    file.write_text("cut = 3\nbottleneck = 16\n")
    assert plan_here(*WORDS, "--config", file, "--json", plan) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with a bottleneck of 16 channels alone, as --config has" in out
    assert "left out: cut 1, where no more channels cross" in out
    cuts = json.loads(plan.read_text())["cuts"]
    assert [cut["cut"] for cut in cuts] == [2, 3]


@pytest.mark.parametrize("budget", ["30kB", "100kB", "200kB", "400kB"])
def test_the_most_synchronising_of_each_cut_is_the_first_of_its_offers(
    capsys, tmp_path, budget
):
    """With bottlenecks, too, as the offers have them."""
    plan = tmp_path / "plan.json"
    asked = ("--bottlenecks", "16,4", "--budget", budget, "--json", plan)
    asked += ("--codecs", "float8,bf16", "--local-epochs", 0)
    best = {}
    for cut in (2, 3):
        plan_here(*WORDS, "--cut", cut, *asked)
        out = capsys.readouterr().out
        found = json.loads(plan.read_text())
        firsts = {each["cut"]: each["most_synchronising"] for each in found["cuts"]}
        assert best in ({}, firsts)
        best = firsts
        assert best[cut] == next(iter(found["schedules"]), None)
        channels = best[cut] and best[cut]["settings"].get("bottleneck")
        if channels:
            label = f"{best[cut]['schedule']}, {channels} channels"
            assert re.search(rf"^{cut} +{label} ", out, re.M)


def test_no_local_epochs_are_no_schedules_in_which_clients_learn_alone(
    capsys, tmp_path
):
    file = tmp_path / "run.toml"
    file.write_text("local_epochs = 0\n")
    for asked in ((), ("--local-epochs", 0), ("--config", file)):
        assert plan_here(*WORDS, *asked, "--rows", 99) == 0
        assert ("alone 5" in capsys.readouterr().out) == (not asked)


def test_batches_are_as_large_as_a_run_has_them(capsys):
    fewer = "--train-examples", 90
    for asked, batch in (((), 90), (("--batch-size", 32), 32)):
        assert plan_here(*WORDS, *fewer, *asked) == 0
        said = f"for 12 epochs, 1 client and batches of {batch}\n"
        assert said in capsys.readouterr().out


def test_a_files_budget_limits_the_plan_and_is_not_called_left_out(capsys, tmp_path):
    file, plan = tmp_path / "run.toml", tmp_path / "plan.json"
    file.write_text('gate = "budget"\nbudget = "100kB"\n')
    assert plan_here(*WORDS, "--config", file, "--json", plan) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "nothing is taken of gate; a plan tries" in out
    found = [each["bytes"] for each in json.loads(plan.read_text())["schedules"]]
    assert found and max(found) <= 100_000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--budget", "12 parsecs"), "--budget must be like 150MB"),
        (("--budget", "0"), "--budget must be like 150MB"),
        (("--reduction", "0"), "--reduction must be at least 1"),
        (("--link", "fast"), "--link must be like 10mbit/40ms"),
        (("--codecs", "float8,gzip"), "--codecs 'gzip' is unknown"),
        (("--grad-codecs", ""), "--grad-codecs '' is unknown"),
        (("--grad-codecs", "bf16"), "--grad-codecs bf16 has no effect without limits"),
        (("--bottlenecks", "4,wide"), "--bottlenecks must list channels"),
        (("--bottlenecks", "99"), "--bottleneck 99"),
        (("--most-views", "0"), "--most-views must be at least 1"),
        (("--local-epochs", "-1"), "--local-epochs must be at least 0"),
        (("--cut", "9"), "--cut 9 is outside cnn"),
        (("--batch-size", "201"), "--batch-size 201 is more than there is: 200 t"),
        (("--picture", "plan.pdf"), "ends in .png"),
        (("--json", "missing/plan.json"), "--json missing/plan.json"),
        (("--csv", "."), "--csv ."),
        (("--csv", "c" * 300), f"--csv {'c' * 300}: File name too long"),
        (("--privacy", "p" * 300), f"--privacy {'p' * 300}: File name too long"),
        (
            ("--gate", "loss"),
            "unknown option '--gate'; --gate is an option of jsplit run\n",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(
    words, told, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, lambda: plan_here(*WORDS, *words))


LARGE = ("--train-examples", "2000", "--batch-size", "1000")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--link", "1mbit/20ms"), None),
        # An example is 256 bytes in float8; a message of a score has 500 of them.
        (("--link", "4kbit/20ms"), (1030, "a codec of fewer bits")),
        (("--link", "8kbit/20ms", *LARGE), (1030, "a smaller --batch-size")),
        (("--link", "10kbit/20ms", "--clients", "2"), (410, "a codec of fewer bits")),
    ],
)
def test_a_link_on_which_a_message_takes_too_long_for_a_ping_is_said(
    capsys, words, said
):
    assert plan_here(*WORDS, "--cut", 1, *words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("--ping-timeout" in out) == (said is not None)
    if said is not None:
        enough, smaller = said
        assert f"jsplit join --ping-timeout {enough}, and the server a --wait" in out
        assert f"of no less, or take {smaller}" in out


def test_the_help_names_the_codecs_that_are_compared_by_default(capsys):
    with pytest.raises(SystemExit):
        plan_here("--help")
    shown = capsys.readouterr().out.replace("\u2502", " ")
    assert f"None: {', '.join(USUAL)}, and that of" in " ".join(shown.split())


def test_the_codecs_of_the_run_itself_are_among_those_that_keep_a_budget(
    capsys, tmp_path
):
    file, plan = tmp_path / "run.toml", tmp_path / "plan.json"
    file.write_text('codec = "bits2-channel"\ngrad_codec = "top16"\n')
    # What freeze 0 sends in two bits a value, where four are twice as many.
    words = ("--config", file, "--cut", 1, "--budget", "14kB", "--json", plan)
    assert plan_here(*WORDS, *words) == 0
    found = [each["settings"] for each in json.loads(plan.read_text())["schedules"]]
    assert found and {each["codec"] for each in found} == {"bits2-channel"}
    assert plan_here(*WORDS, *words[:4], "--budget", "35kB", "--json", plan) == 0
    found = [each["settings"] for each in json.loads(plan.read_text())["schedules"]]
    assert {each["grad_codec"] for each in found if "grad_codec" in each} == {"top16"}
