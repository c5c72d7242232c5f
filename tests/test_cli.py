"""The command line: settings from file and flags, and what a finished run shows."""

import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from jsplit.cli import main as cli
from jsplit.cli import parsing, run
from jsplit.core.gates import FreezeGate, LossGate
from jsplit.core.option import options_of
from jsplit.experiment import checkpoint
from jsplit.experiment.config import (
    RunConfig,
    all_options,
    differences,
    flat,
    from_mapping,
)
from tests.runs import EPOCHS, ROOT, STATES, TINY, compile_once, lines_of, run_here

LINE = re.compile(
    r"epoch +\d+/\d+  [ABC]  loss \d+\.\d{4}  test \d+\.\d\d%  sent [\d.]+ [KM]?i?B "
    r"\(/\d+\.\d\d\)  ETA (-|\d:\d\d:\d\d)"
)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder, what it printed, and its summary."""
    path = tmp_path_factory.mktemp("finished") / "my run ü"
    with (
        compile_once(tmp_path_factory.getbasetemp()),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        assert run_here(*TINY, "--workdir", path) == 0
    assert err.getvalue() == ""
    summary = json.loads((path / "summary.json").read_text())
    return SimpleNamespace(path=path, out=out.getvalue(), summary=summary)


@pytest.fixture
def asked(monkeypatch):
    """The settings that flags come to, without a run."""

    def settings(*flags: object) -> RunConfig:
        return run.parse([str(flag) for flag in flags], "run.py").settings

    return settings


# What a finished run leaves


def test_the_summary_says_what_was_run_and_what_came_out(finished):
    summary = finished.summary
    assert summary["dataset"] == "fashion_mnist_10k"
    assert (summary["model"], summary["cut"]) == ("cnn", "1 (conv1)")
    assert (summary["clients"], summary["epochs"], summary["seed"]) == (1, EPOCHS, 0)
    assert summary["precision"] == "float32"
    assert summary["states"] == STATES
    assert 0.1 < summary["test_accuracy"] <= summary["best_test_accuracy"] <= 1
    # 3 epochs of activations and 2 of gradients in 8 bits, for 2 of each in 32.
    assert summary["communication_reduction"] == EPOCHS * 2 * 4 / 5
    # 2 epochs forward and backward, 1 forward, for 16: (2 * 3 + 1) / (16 * 3).
    assert 1 < summary["client_compute_reduction"] < EPOCHS
    assert summary["seconds"] > 0
    assert "cpu" in summary["device"]
    assert summary["versions"]["jax"] == jax.__version__
    assert set(summary["versions"]) >= {"jsplit", "python", "flax", "optax", "numpy"}


def test_the_summary_counts_bytes_by_kind_and_direction(finished):
    sent = finished.summary["bytes"]
    # 200 examples of 4x4x16 values, a byte each, in three epochs up and two down.
    assert sent["activations"] == {"up": 3 * 200 * 256, "down": 0}
    assert sent["gradients"] == {"up": 0, "down": 2 * 200 * 256}
    ways = [value for value in sent.values() if isinstance(value, dict)]
    assert sum(way["up"] + way["down"] for way in ways) == sent["total"]
    assert {"headers", "labels", "client_parts", "control"} < set(sent)


def test_the_metrics_have_one_line_an_epoch_that_agree_with_the_summary(finished):
    records, summary = lines_of(finished.path), finished.summary
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
    assert "".join(record["state"] for record in records) == summary["states"]
    assert records[-1]["wire_bytes"] == summary["bytes"]["total"]
    for reduction in ("wire_reduction", "communication_reduction"):
        assert records[-1][reduction] == summary[reduction]
    assert records[-1]["test_accuracy"] == summary["test_accuracy"]
    best = max(record["test_accuracy"] for record in records)
    assert best == summary["best_test_accuracy"]
    assert records[-1]["seconds"] == summary["seconds"]
    assert all(record["train_loss"] > 0 for record in records)


def test_the_folder_keeps_config_checkpoints_events_and_two_pictures(finished):
    path = finished.path
    config = json.loads((path / "config.json").read_text())["config"]
    assert config["model"] == "cnn" and config["gate"] == "freeze"
    assert set(config) == set(flat(RunConfig(gate=FreezeGate())))
    assert checkpoint.latest(path / "checkpoints") == EPOCHS
    pictures = sorted(path.glob("*.png"))
    names = [picture.name for picture in pictures]
    assert names == ["accuracy_against_bytes.png", "loss_by_epoch.png"]
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
    assert not list(path.rglob("*.tmp"))
    (events,) = (path / "tensorboard").iterdir()
    assert sum(len(event.summary.value) > 0 for event in _events(events)) == EPOCHS


# What it prints


def test_piped_output_is_one_plain_line_an_epoch(finished):
    assert "\x1b" not in finished.out and "\r" not in finished.out
    lines = [line for line in finished.out.splitlines() if line.startswith("epoch")]
    assert len(lines) == EPOCHS and all(LINE.fullmatch(line) for line in lines)


def test_the_output_names_data_plan_and_folder(finished):
    said = "data: fashion_mnist_10k, 8x8x1, 10 classes, 200 train + 100 test examples"
    assert f"{said}\nsource: Fashion-MNIST, first 1,000" in finished.out
    assert len(said) <= 80
    assert "cnn cut after block 1 (conv1), 1 client, freeze gate" in finished.out
    assert "computing on cpu, " in finished.out and ", in float32\n" in finished.out
    assert f"\nfolder: {finished.path}\n" in finished.out


def test_the_first_lines_and_those_of_epochs_fit_80_columns(finished):
    lines = finished.out[: finished.out.index("states by epoch")].splitlines()[:-1]
    named = [line for line in lines if str(finished.path) in line]
    assert len(named) == 1
    assert [line for line in lines if len(line) > 80 and line not in named] == []


def test_the_last_lines_are_commands_that_go_on_with_the_folder(finished):
    *_, where, predict, report = finished.out.splitlines()
    assert where == f"all of it is in {finished.path}"
    assert predict.startswith("next: ") and report.startswith("      ")
    starts, *words = shlex.split(predict.removeprefix("next: "))
    assert words == ["predict", str(finished.path), "IMAGES"]
    assert shutil.which(starts), "a shell finds it"
    assert shlex.split(report) == [starts, "report", str(finished.path)]


def test_the_last_table_compares_with_plain_split_learning(finished):
    by_epoch = f"states by epoch: A x2, B, C x{EPOCHS - 3}"
    table = finished.out[finished.out.index(by_epoch) :]
    assert "plain split learning: every epoch in A, float32 both ways" in table
    assert re.search(r"paper's account\W+250.0 KiB\W+6.2 MiB\W+/25.60", table)
    assert f"{finished.summary['test_accuracy']:.2%}" in table
    assert re.search(r"client computation\W+0\.\d*[1-9]\d* GMAC", table)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("target", "stamps"),
    [
        ("run", [".venv/.installed"]),
        ("lint", [".venv/.installed-dev"]),
        ("docs", [".venv/.installed-docs"]),
        (".venv/.installed-bench", [".venv/.installed-dev", ".venv/.installed-bench"]),
        ("flower", [".venv-flower/.installed"]),
    ],
)
def test_make_says_that_it_installs_where_it_does_and_only_there(
    tmp_path, target, stamps
):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    def said() -> list[str]:
        words = ["make", "--dry-run", "--directory", tmp_path, target]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return re.findall(r'echo "(Installing .*)"', done.stdout)

    assert len(said()) == len(stamps)
    assert all(len(line) <= 80 and "; this takes " in line for line in said())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-flower").mkdir()
    for stamp in (".venv/bin/python", *stamps):
        (tmp_path / stamp).touch()
    assert said() == []


def test_show_cuts_prints_each_cut_and_leaves_no_folder(capsys, tmp_path):
    assert run_here(*TINY, "--show-cuts", "--workdir", tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert [name for name in ("conv1", "conv2", "conv3", "head") if name in out] == [
        "conv1",
        "conv2",
        "conv3",
    ]
    assert "4x4x16" in out and "8x8x1" in out
    assert not list(tmp_path.iterdir())


def test_help_names_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        run_here("--help")
    assert not stop.value.code
    out = capsys.readouterr().out
    for name, known in all_options().items():
        assert "--" + name.replace("_", "-") in out
        if known.choices is not None:
            # Many are folded within their box.
            assert f"{{{','.join(known.choices)}}}" in re.sub(r"[\s│]", "", out)
    for flag in ("--config", "--resume", "--show-cuts", "--no-augment"):
        assert flag in out
    assert "configs/quickstart.toml" in out and "(default:" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("certs", ["FOLDER", "New folder for the certificates. (required)"]),
        ("report", ["FOLDER", "Folder with runs below it. (required)"]),
        ("sweep", ["FILE", "TOML file of settings and grids. (required)"]),
        ("privacy", ["FOLDER", "(required)", "--device {auto,cpu,gpu,tpu}"]),
        ("serve", ["--absent {stop,skip}", "--insecure ", "(repeatable)"]),
        ("join", ["--link STR", "--insecure ", "(repeatable)"]),
    ],
)
def test_help_says_what_must_be_named_and_what_there_is_to_choose(
    command, words, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert not stop.value.code
    out = capsys.readouterr().out
    for part in words:
        assert part in out
    assert "default: ''" not in out and "MISSING" not in out and " DIR" not in out


def test_a_flag_that_is_counted_is_not_said_to_lack_a_value(capsys):
    assert cli.main(["serve", "--insecure", "--insecure", "--epochs"]) == 2
    assert "error: --epochs needs a value; see --help\n" == capsys.readouterr().err


def test_without_a_command_jsplit_says_how_to_call_it(capsys):
    assert cli.main([]) == 0
    assert "jsplit run --help" in capsys.readouterr().out


def test_a_reader_that_has_gone_is_no_reason_to_complain(capsys, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        monkeypatch.setattr(run, "load_dataset", lambda config, notify: notify("..."))
        assert run_here(*TINY, "--show-cuts") == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", [["-m", "jsplit", "run"], ["run.py"]])
def test_every_way_to_call_it_gives_the_exit_code_to_the_shell(how):
    done = subprocess.run(
        [sys.executable, *how, "--epochs", "none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: --epochs must be a whole number, got 'none'; see --help\n"
    )


# Where its settings come from


def test_flags_override_the_config_file_and_it_the_defaults(asked, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('model = "cnn"\nepochs = 7\nthreshold = 1\naugment = false\n')
    config = asked("--config", file, "--epochs", 9, "--cut", "2")
    assert (config.model, config.gate, config.augment) == ("cnn", LossGate(1.0), False)
    assert (config.epochs, config.cut) == (9, 2)
    assert config.batch_size is RunConfig().batch_size
    assert asked("--augment", f"--config={file}").augment
    assert asked() == RunConfig()


def test_resume_takes_every_setting_from_the_folder(asked, finished):
    config = asked("--resume", "--workdir", finished.path)
    assert config == asked(*TINY, "--workdir", finished.path)
    assert asked("--resume", f"--workdir={finished.path}", "--seed", 5).seed == 5


def test_resume_with_a_config_file_compares_it_with_the_folder(
    capsys, finished, tmp_path
):
    file = tmp_path / "my.toml"
    file.write_text("epochs = 3\n")
    before = lines_of(finished.path)
    assert run_here("--config", file, "--resume", "--workdir", finished.path) == 2
    assert f"--epochs is {EPOCHS} there, 3 here" in capsys.readouterr().err
    assert lines_of(finished.path) == before


def test_a_workdir_under_the_home_folder_may_be_written_with_a_tilde(
    capsys, monkeypatch, finished
):
    monkeypatch.setenv("HOME", str(finished.path.parent))
    assert run_here(*TINY, f"--workdir=~/{finished.path.name}") == 2
    assert f"{finished.path} holds a run already" in capsys.readouterr().err


def test_a_run_without_a_workdir_gets_a_new_one_under_runs(monkeypatch, tmp_path):
    from jsplit.experiment import workdir

    monkeypatch.chdir(tmp_path)
    paths = []
    for _ in range(3):
        with workdir.open_new(RunConfig(model="cnn"), {}) as run:
            paths.append(run.path)
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == {Path("runs")}


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.toml")), ids=str)
def test_every_config_that_comes_with_jsplit_is_accepted(path):
    config = from_mapping(parsing.settings(["--config", str(path)]), str(path))
    run.check(config)
    run.check_names(config)


def test_only_what_cannot_change_the_result_may_differ_on_resume():
    start = RunConfig()
    kept = {"chunk": 5, "workdir": "w", "data_dir": "d"}
    kept |= {"device": "cpu", "compile_cache": "off", "mesh": True, "lossless": True}
    assert differences(start, dataclasses.replace(start, **kept)) == []
    for name in options_of(RunConfig):
        if name not in (*kept, "gate"):
            other = dataclasses.replace(start, **{name: "other"})
            flag, there = "--" + name.replace("_", "-"), getattr(start, name)
            assert differences(start, other) == [f"{flag} is {there} there, other here"]
    for gate, said in (
        (FreezeGate(), "--gate is loss there, freeze here"),
        (LossGate(9.0), "--threshold is 0.05 there, 9.0 here"),
        (LossGate(rule="drop"), "--loss-rule is abs there, drop here"),
    ):
        assert differences(start, RunConfig(gate=gate)) == [said]


def _events(path: Path) -> list[Event]:
    """The records of an event file: length, checksum, event, checksum."""
    data, events = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event, crc = data[12 : 12 + size], data[12 + size : 16 + size]
        assert masked_crc32c(event) == int.from_bytes(crc, "little")
        events.append(Event.FromString(event))
        data = data[16 + size :]
    return events


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_says_in_a_line_what_each_command_does(capsys, words):
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    described = [line.split(maxsplit=1) for line in lines if line.startswith("  ")]
    assert dict(described) == cli.COMMANDS
    assert all(does.endswith(".") for does in cli.COMMANDS.values())
