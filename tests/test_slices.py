"""`benchmarks.slices`: runs side by side, for so long, and on a machine with little."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from benchmarks import slices
from jsplit.errors import InputError
from jsplit.experiment import workdir
from tests.runs import ROOT, compile_once, lines_of, within

FILE = """\
[settings]
model = "cnn"
dataset = "{dataset}"
image_size = 8
train_examples = 200
test_examples = 100
epochs = {epochs}
chunk = 1
gate = "freeze"

[[grid]]
sync_epochs = {syncs}
seed = {seeds}
"""
WITHOUT = """\
import sys

for name in (
    "constriction", "cryptography", "grpc", "matplotlib", "platformdirs", "requests",
    "safetensors", "tensorboardX", "tensorflow_datasets", "torch", "tyro", "zstandard",
):
    sys.modules[name] = None
"""


@pytest.fixture
def file(tmp_path):
    """Writes a sweep file, and says where."""

    def file(syncs, seeds, epochs=3, dataset="fashion_mnist_10k"):
        path = tmp_path / "tiny.toml"
        text = FILE.format(syncs=syncs, seeds=seeds, epochs=epochs, dataset=dataset)
        path.write_text(text)
        return path

    return file


@pytest.fixture
def command(tmp_path_factory):
    """The command with these words, where packages beyond the least are missing."""
    bare = tmp_path_factory.mktemp("bare")
    (bare / "sitecustomize.py").write_text(WITHOUT)
    with compile_once(tmp_path_factory.mktemp("cache")) as cache:
        env = os.environ | {
            "PYTHONPATH": str(bare),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

        def command(*words):
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarks.slices", *map(str, words)],
                cwd=ROOT, env=env, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

        yield command


@pytest.fixture
def others(monkeypatch, tmp_path):
    """Other processes in place of runs; says which runs were started."""

    def others(*commands):
        started, left = [], list(commands)

        def start(run, folder, processes):
            (tmp_path / "log").touch()
            process = subprocess.Popen(left.pop(0), stdin=subprocess.PIPE)
            started.append((run.planned.config.seed, process))
            return slices.Child(run, process, tmp_path / "log", 0)

        monkeypatch.setattr(slices, "start", start)
        return started

    return others


SLEEPS = ["sleep", "100"]
STAYS = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)"
REFUSES, IS_DONE = ["sh", "-c", "exit 2"], ["true"]


def test_all_runs_of_the_lowest_seed_come_first(file, tmp_path):
    runs = slices.in_order([file([1, 2], [0, 1])], tmp_path)
    order = [
        (run.planned.config.gate.sync_epochs, run.planned.config.seed) for run in runs
    ]
    assert order == [(1, 0), (2, 0), (1, 1), (2, 1)]


def test_what_runs_is_stopped_when_the_time_is_up(file, tmp_path, others, capsys):
    started = others(SLEEPS, SLEEPS)
    runs = tmp_path / "runs"
    assert slices.make_all([file([1], [0, 1, 2])], runs, 2, 0.5) == slices.TIME_UP
    assert [seed for seed, _ in started] == [0, 1]
    assert all(process.returncode == -signal.SIGTERM for _, process in started)
    said = capsys.readouterr().out
    assert "0 of 3 runs finished" in said
    assert "stopped: tiny sync_epochs=1,seed=0 0/3" in said


def test_what_does_not_end_when_it_is_told_is_killed(
    file, tmp_path, others, monkeypatch
):
    monkeypatch.setattr(slices, "PATIENCE", 0.5)
    started = others([sys.executable, "-c", STAYS], SLEEPS)
    slices.make_all([file([1], [0, 1])], tmp_path / "runs", 2, 2)
    ended = [process.returncode for _, process in started]
    assert ended == [-signal.SIGKILL, -signal.SIGTERM]


def test_nothing_begins_where_there_is_no_time(file, tmp_path, others):
    started = others()
    code = slices.make_all([file([1], [0])], tmp_path / "runs", 1, 0)
    assert code == slices.TIME_UP and not started


def test_a_run_that_is_refused_does_not_keep_others_from_being_made(
    file, tmp_path, others, capsys
):
    started = others(REFUSES, IS_DONE, REFUSES, IS_DONE)
    path = file([1], [0, 1, 2, 3])
    assert slices.make_all([path], tmp_path / "runs", 1, 60) == slices.BROKE
    assert len(started) == 4
    failed = "failed: tiny sync_epochs=1,seed=0, tiny sync_epochs=1,seed=2; see"
    assert failed in capsys.readouterr().out


def test_what_nobody_can_use_ends_it(file, tmp_path, others):
    started = others(IS_DONE, REFUSES, REFUSES)
    with pytest.raises(InputError, match="it ended with 2"):
        slices.make_all([file([1], list(range(9)))], tmp_path / "runs", 1, 60)
    assert len(started) == 3


def test_a_signal_that_ended_a_run_is_said(file, tmp_path, others, capsys):
    others(["sh", "-c", "kill -9 $$"])
    slices.make_all([file([1], [0])], tmp_path / "runs", 1, 60)
    assert "seed=0: ended by SIGKILL; if memory ran out" in capsys.readouterr().out


def test_what_was_said_before_is_not_said_again(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: of an earlier sitting\n")
    process = subprocess.Popen(REFUSES)
    process.wait()
    child = slices.Child(None, process, log, log.stat().st_size)
    assert slices.said_last(child) == "it ended with 2"
    log.write_text(log.read_text() + "one\nerror: of this one\n")
    assert slices.said_last(child) == "of this one"


def test_two_files_of_one_name_are_refused(file, tmp_path):
    path = file([1], [0])
    with pytest.raises(InputError, match="another file is called tiny, too"):
        slices.in_order([path, path], tmp_path)


@pytest.mark.parametrize("word", ["2.5", "0", "soon"])
def test_seconds_are_a_whole_number(word, capsys):
    with pytest.raises(SystemExit, match="2"):
        slices.main([word, "any.toml", "--folder", "runs"])
    assert (
        f"must be a whole number of at least 1, got {word}" in capsys.readouterr().err
    )


def test_what_cannot_be_used_is_one_line(file, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").touch()
    for folder, said in (("runs", "--folder .*runs/tiny: "), ("", "--folder is empty")):
        words = [
            "9",
            str(file([1], [0])),
            "--folder",
            folder and str(tmp_path / folder),
        ]
        with pytest.raises(SystemExit, match="2"):
            slices.main(words)
        error = capsys.readouterr().err
        assert re.match(f"error: {said}", error) and error.count("\n") == 1


def test_processes_share_the_memory_and_what_the_user_set_stays(
    file, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, env, **how: seen.append(env)
    )
    (tmp_path / "tiny").mkdir()
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    (run,) = slices.in_order([file([1], [0])], tmp_path)
    slices.start(run, tmp_path, 5)
    assert seen[0]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.1700"
    assert seen[0]["JAX_COMPILATION_CACHE_DIR"] == "mine"


@pytest.mark.slow
def test_a_machine_with_little_more_than_the_library_is_enough(file, tmp_path, command):
    words = (600, file([1], [0, 1]), "--folder", tmp_path / "runs")
    with command(*words) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "2 of 2 runs finished" in out
    for seed in (0, 1):
        path = tmp_path / "runs" / "tiny" / f"sync_epochs=1,seed={seed}"
        summary = json.loads((path / "summary.json").read_text())
        assert f"seed={seed}: test {summary['test_accuracy']:.2%}" in out
    with command(*words) as process:
        assert process.communicate(timeout=60)[0].startswith("0 runs to make")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_run_outlives_the_command_and_the_same_command_goes_on(
    number, file, tmp_path, command
):
    words = (600, file([1], [0], epochs=40), "--folder", tmp_path / "runs")
    path = tmp_path / "runs" / "tiny" / "sync_epochs=1,seed=0"
    with command(*words) as process:
        within(120, lambda: len(lines_of(path)) > 3)
        process.send_signal(number)
        process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
    within(120, lambda: is_free(path))
    kept = lines_of(path)
    assert 3 < len(kept) < 40
    with command(*words) as process:
        assert "1 of 1 run finished" in process.communicate(timeout=300)[0]
    assert [line["epoch"] for line in lines_of(path)] == list(range(1, 41))
    assert lines_of(path)[:3] == kept[:3]


def is_free(path):
    try:
        with workdir.lock(path):
            return True
    except InputError:
        return False


@pytest.mark.slow
def test_data_that_is_missing_ends_it_in_one_line(file, tmp_path, command):
    path = file([1], [0, 1, 2, 3], dataset="missing.npz")
    words = ("--folder", tmp_path / "runs", "--processes", "1")
    with command(600, path, *words) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == slices.REFUSED
    assert err.startswith("error: ") and err.count("\n") == 1 and "missing.npz" in err
    assert len(list((tmp_path / "runs" / "tiny").glob("*.log"))) == 2
