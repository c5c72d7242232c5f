"""`benchmarks.slices`: runs side by side, for so long, and on a machine with little."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import slices
from jsplit.errors import InputError
from jsplit.experiment import workdir
from tests.runs import ROOT, compile_once, lines_of

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
def sleepers(monkeypatch):
    """Processes that do nothing for long, in place of runs."""
    started = []

    def start(run, folder, processes):
        process = subprocess.Popen(["sleep", "100"])
        started.append((run, process))
        return slices.Child(run, process, folder / "log")

    monkeypatch.setattr(slices, "start", start)
    return started


def test_all_runs_of_the_lowest_seed_come_first(file, tmp_path):
    runs = slices.in_order([file([1, 2], [0, 1])], tmp_path)
    order = [
        (run.planned.config.gate.sync_epochs, run.planned.config.seed) for run in runs
    ]
    assert order == [(1, 0), (2, 0), (1, 1), (2, 1)]


def test_what_runs_is_stopped_when_the_time_is_up(file, tmp_path, sleepers, capsys):
    assert slices.make_all([file([1], [0, 1, 2])], tmp_path / "runs", 2, 0.5) == 0
    assert [run.planned.config.seed for run, _ in sleepers] == [0, 1]
    assert all(process.returncode == -signal.SIGTERM for _, process in sleepers)
    assert "0 of 3 runs finished" in capsys.readouterr().out


def test_nothing_begins_where_there_is_no_time(file, tmp_path, sleepers):
    assert slices.make_all([file([1], [0])], tmp_path / "runs", 1, 0) == 0
    assert not sleepers


def test_two_files_of_one_name_are_refused(file, tmp_path):
    path = file([1], [0])
    with pytest.raises(InputError, match="tiny.toml is named twice"):
        slices.in_order([path, path], tmp_path)


def test_processes_share_the_memory_and_what_the_user_set_stays(
    file, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, env, **how: seen.append(env)
    )
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    (run,) = slices.in_order([file([1], [0])], tmp_path)
    slices.start(run, tmp_path, 5)
    assert seen[0]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.17"
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
def test_runs_that_were_stopped_go_on(file, tmp_path, command):
    words = (600, file([1], [0], epochs=40), "--folder", tmp_path / "runs")
    path = tmp_path / "runs" / "tiny" / "sync_epochs=1,seed=0"
    with command(*words) as process:
        for _ in range(1200):
            if len(lines_of(path)) > 3:
                break
            time.sleep(0.1)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    kept = lines_of(path)
    assert 3 < len(kept) < 40
    with workdir.lock(path):  # Its process has ended, too.
        pass
    with command(*words) as process:
        assert "1 of 1 run finished" in process.communicate(timeout=300)[0]
    assert [line["epoch"] for line in lines_of(path)] == list(range(1, 41))
    assert lines_of(path)[:3] == kept[:3]


@pytest.mark.slow
def test_what_cannot_be_used_ends_it_at_once(file, tmp_path, command):
    path = file([1], [0, 1, 2], dataset="missing.npz")
    with command(
        600, path, "--folder", tmp_path / "runs", "--processes", "1"
    ) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "missing.npz" in err.strip().splitlines()[-1]
    assert len(list((tmp_path / "runs" / "tiny").glob("*.log"))) == 1
