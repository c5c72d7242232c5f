"""Whatever stops a run, it can be resumed, and ends as if nothing had happened."""

import dataclasses
import json
import os
import pty
import random
import re
import signal
import subprocess
import termios
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jsplit.cli import run, training
from jsplit.errors import RunError
from jsplit.experiment import checkpoint, train, workdir
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from tests.runs import (
    EPOCHS,
    STATES,
    TINY,
    experiment_of,
    lines_of,
    result_of,
    run_here,
    start,
)
from tests.tiers import sample


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """A finished run: its folder, its experiment and its result."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run_here(*TINY, "--workdir", path) == 0
    experiment = experiment_of(path)
    result = result_of(path, experiment)
    assert result["summary"]["states"] == STATES
    return path, experiment, result


@pytest.fixture
def same(undisturbed):
    """Asserts that a run ended bit for bit as the undisturbed one."""

    def check(path):
        _, experiment, expected = undisturbed
        result = result_of(path, experiment)
        for part in expected:
            assert result[part] == expected[part], part

    return check


@pytest.mark.slow
def test_the_same_config_and_seed_give_the_same_bits(undisturbed, same, tmp_path):
    assert run_here(*TINY, "--seed", 0, "--workdir", tmp_path / "run") == 0
    same(tmp_path / "run")


@pytest.mark.slow
def test_another_seed_gives_another_result(undisturbed, tmp_path):
    _, experiment, expected = undisturbed
    assert run_here(*TINY, "--seed", 1, "--workdir", tmp_path / "run") == 0
    result = result_of(tmp_path / "run", experiment)
    assert result["arrays"] != expected["arrays"]
    assert result["records"] != expected["records"]


@pytest.mark.parametrize("chunk", sample([1, 3], 3))
def test_a_run_killed_at_any_moment_ends_bit_for_bit_the_same(
    undisturbed, same, cache, tmp_path, chunk
):
    # At startup, in A, on the way to B and in C, where the store must come back.
    path, moment = tmp_path / "run", random.Random(chunk)
    flags = [*TINY, "--chunk", chunk]
    for epochs in [0, 2, 6] if chunk == 1 else [6]:
        with start(*flags, "--workdir", path, cache=cache) as process:
            _wait(process, lambda n=epochs: _has(path, n))
            time.sleep(0.2 * moment.random())
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()
        flags = ["--resume"]
    assert len(lines_of(path)) >= 6
    assert run_here("--resume", "--workdir", path) == 0
    same(path)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_saves_shows_the_cursor_and_says_how_to_go_on(
    undisturbed, same, cache, tmp_path
):
    path = tmp_path / "my runs" / "größer"
    terminal, its = pty.openpty()
    before = termios.tcgetattr(its)
    shown: list[str] = []
    reader = threading.Thread(target=_read, args=(terminal, shown))
    with start(
        *(*TINY, "--workdir", path),
        cache=cache,
        stdin=its,
        stdout=its,
        stderr=its,
    ) as process:
        reader.start()
        _wait(process, lambda: _has(path, 3))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    after = termios.tcgetattr(its)
    os.close(its)
    reader.join(10)
    os.close(terminal)
    text = "".join(shown)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert after == before
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(
        rf"epoch  3/{EPOCHS}  B  loss \d\.\d{{4}}  test \d+\.\d\d%  "
        r"sent [\d.]+ KiB \(/\d\.\d\d\)  ETA (-|\d:\d\d:\d\d)",
        plain,
    )
    assert "states: A x2, B" in plain and re.search(r"takes longer \(\d+ s\)", plain)
    assert "stopping when this chunk is saved" in plain
    done = len(lines_of(path))
    assert 3 <= done < EPOCHS
    said = re.sub(r"\s+", " ", plain)
    assert f"saved after epoch {done}; go on with: run.py --resume --workdir '" in said
    assert run_here("--resume", "--workdir", path) == 0
    same(path)


def test_a_finished_run_resumes_to_the_same_summary(undisturbed, same, capsys):
    path = undisturbed[0]
    before = (path / "summary.json").read_text()
    assert run_here("--resume", "--workdir", path) == 0
    assert (path / "summary.json").read_text() == before
    said = capsys.readouterr().out
    assert "compiling" not in said and "resuming" not in said
    more = f"--epochs N goes on to N epochs, N above {EPOCHS}"
    assert f"{path} has finished already; {more}\n" in said
    same(path)


def test_ctrl_c_outside_the_training_gives_130_and_says_how_to_go_on(
    undisturbed, capsys, monkeypatch
):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_draw", interrupt)
    assert run_here("--resume", "--workdir", undisturbed[0]) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "go on with: run.py --resume" in said
    monkeypatch.setattr(run, "load_dataset", interrupt)
    assert run_here("--resume", "--workdir", undisturbed[0]) == 130
    assert capsys.readouterr().err == "error: interrupted before the run began\n"


def test_a_summary_that_cannot_be_written_leaves_the_old_one(
    undisturbed, same, capsys, monkeypatch
):
    path = undisturbed[0]
    before = (path / "summary.json").read_text()
    monkeypatch.setattr(os, "replace", _full_for("summary.json", os.replace))
    assert run_here("--resume", "--workdir", path) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left" in said
    assert f"go on with: run.py --resume --workdir {path}" in said
    assert (path / "summary.json").read_text() == before
    assert not list(path.glob("*.tmp"))
    same(path)


def test_resume_with_changed_data_is_refused(undisturbed, capsys):
    path, experiment, _ = undisturbed
    other = experiment._replace(
        dataset=dataclasses.replace(experiment.dataset, fingerprint="0")
    )
    with pytest.raises(Exception, match="other data"):
        train.resume(other, RunFolder(path))
    record = json.loads((path / "config.json").read_text())
    kept = json.dumps(record)
    record["dataset"]["fingerprint"] = "0"
    (path / "config.json").write_text(json.dumps(record))
    assert run_here("--resume", "--workdir", path) == 2
    (path / "config.json").write_text(kept)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "was started on other data" in said


@pytest.mark.parametrize("what", ["checkpoint", "metrics"])
def test_a_full_disk_ends_the_run_in_one_line_and_it_can_be_resumed(
    undisturbed, same, capsys, monkeypatch, tmp_path, what
):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        if what == "checkpoint":
            saves = _full_for("epoch-000004-store-000003", ocp.Checkpointer.save)
            patch.setattr(ocp.Checkpointer, "save", saves)
        else:
            patch.setattr(JsonlWriter, "write", _full_for("4", JsonlWriter.write))
        assert run_here(*TINY, "--workdir", path) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left" in said
    assert checkpoint.latest(path / "checkpoints") == 3
    if what == "metrics":
        assert "go on with: run.py --resume" in said
        return
    assert run_here("--resume", "--workdir", path) == 0
    same(path)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_loss_that_is_not_finite_ends_the_run_at_its_last_good_epoch(
    undisturbed, capsys, monkeypatch, tmp_path, epoch
):
    path, step_sizes = tmp_path / "run", undisturbed[1].step_sizes.copy()
    step_sizes[epoch - 1] = 1e30

    def build(config, dataset):
        return undisturbed[1]._replace(config=config, step_sizes=step_sizes)

    if epoch == 1:
        code = run_here(*TINY, "--learning-rate", 1e30, "--workdir", path)
    else:
        monkeypatch.setattr(run, "build", build)
        code = run_here(*TINY, "--workdir", path)
    assert code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--learning-rate" in said
    assert f"in epoch {epoch} (state {STATES[epoch - 1]})" in said
    assert [line["epoch"] for line in lines_of(path)] == list(range(1, epoch))
    assert not (path / "summary.json").exists()
    if epoch == 1:
        assert "nothing was saved yet" in said
        assert checkpoint.latest(path / "checkpoints") is None
        return
    assert f"the checkpoint of epoch {epoch - 1}" in said
    progress = train.resume(undisturbed[1], RunFolder(path))
    assert progress.ledger.states == STATES[: epoch - 1]
    for leaf in jax.tree.leaves((progress.state.client, progress.state.server)):
        assert np.isfinite(leaf).all()


def test_a_device_that_gives_up_ends_the_run_in_one_line(
    undisturbed, capsys, monkeypatch, tmp_path
):
    def give_up(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nat length")

    simulation = undisturbed[1].simulation
    broken = simulation._replace(program=simulation.program._replace(run=give_up))
    experiment = undisturbed[1]._replace(simulation=broken)
    monkeypatch.setattr(
        run, "build", lambda config, dataset: experiment._replace(config=config)
    )
    assert run_here(*TINY, "--workdir", tmp_path / "run") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "epoch 1 failed on" in said
    assert "out of memory" in said and "--batch-size" in said


def test_records_that_end_before_the_checkpoint_are_refused(undisturbed, tmp_path):
    path, experiment, _ = undisturbed
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", path, copy], check=True)
    with open(copy / "metrics.jsonl", "r+") as file:
        file.truncate(100)
    with pytest.raises(RunError, match="before the checkpoint of epoch"):
        train.resume(experiment, RunFolder(copy))


def _full_for(word: str, real):
    """`real`, but the disk is full for what is called by this word."""

    def maybe(*args, **kwargs):
        named = [
            str(arg.get("epoch") if isinstance(arg, dict) else arg) for arg in args
        ]
        # A checkpoint is written under its name and an ending.
        if any(f"{name}.".rpartition("/")[2].startswith(f"{word}.") for name in named):
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    return maybe


def _has(path, epochs: int) -> bool:
    """Whether a run has begun and so many epochs are on record."""
    metrics = path / "metrics.jsonl"
    if not epochs:
        return (path / "config.json").exists()
    return metrics.exists() and metrics.read_bytes().count(b"\n") >= epochs


def _wait(process, until, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert process.poll() is None, "it ended before its time"
        assert time.monotonic() < end
        time.sleep(0.005)


def _read(terminal: int, into: list[str]) -> None:
    """Takes what a terminal shows until its other end is closed."""
    while True:
        try:
            into.append(os.read(terminal, 4096).decode(errors="replace"))
        except OSError:
            return


def test_a_folder_in_use_is_refused_and_left_alone(undisturbed, capsys):
    path, _, _ = undisturbed
    metrics = (path / "metrics.jsonl").read_bytes()
    with workdir.lock(path):
        assert run_here("--resume", "--workdir", path) == 2
    assert "in use by another process" in capsys.readouterr().err
    assert (path / "metrics.jsonl").read_bytes() == metrics
