"""Two processes compute what one device does, and end together.

Where one of them is gone, the other ends by `jax.distributed`: in one line where its
computation fails first, else by JAX's own abort.
"""

import signal
import subprocess

import pytest

from tests.mesh.runs import (
    IDENTITY,
    SECONDS,
    TINY,
    assert_same,
    outcome,
    pair,
    wait,
)
from tests.runs import files_under, lines_of, start

GONE = "if another process of this run is gone, start all of them again, with --resume"


@pytest.mark.slow
def test_two_processes_end_as_one_device_does_and_only_one_writes(
    one_device, devices, cache, tmp_path
):
    devices(1)
    path = tmp_path / "run"
    with pair(*TINY, *IDENTITY, "--workdir", path, cache=cache) as processes:
        (code, shown, said), (other, nothing, unsaid) = outcome(processes)
    assert (code, other) == (0, 0), said + unsaid
    assert "epoch 6/6  C" in shown and nothing == "" and unsaid == ""
    assert "over 2 devices of 2 processes" in shown
    assert_same(path, one_device(*IDENTITY), parameters=2e-5)
    # One of each, as of one process.
    assert [line["epoch"] for line in lines_of(path)] == [1, 2, 3, 4, 5, 6]
    assert len(list((path / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_signal_to_either_process_stops_both_and_both_go_on(
    one_device, devices, cache, tmp_path
):
    devices(2)
    path = tmp_path / "run"
    with pair(*TINY, *IDENTITY, "--workdir", path, cache=cache) as processes:
        wait(processes, lambda: len(lines_of(path)) >= 1)
        processes[1].send_signal(signal.SIGTERM)
        ended = outcome(processes)
    # The one that was signalled says by what; the other one stops with it.
    assert [code for code, _, _ in ended] == [130, 143], ended
    done = len(lines_of(path))
    assert f"saved after epoch {done}" in ended[0][1] and done < 6
    with pair("--resume", "--workdir", path, cache=cache) as processes:
        ended = outcome(processes)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert f"resuming {path} after epoch {done}" in ended[0][1]
    assert_same(path, one_device(*IDENTITY), parameters=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_both_can_go_on(
    killed, one_device, devices, cache, tmp_path
):
    devices(1)
    path = tmp_path / "run"
    with pair(*TINY, *IDENTITY, "--workdir", path, cache=cache) as processes:
        wait(processes, lambda: list(path.glob("checkpoints/epoch-*[0-9]")))
        processes[killed].kill()
        code, _, said = outcome(processes)[1 - killed]
    # JAX's runtime is in process 0; its abort may come first, even without words.
    assert code == -signal.SIGABRT or (code == 1 and GONE in said)
    with pair("--resume", "--workdir", path, cache=cache) as processes:
        ended = outcome(processes)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "resuming" in ended[0][1]
    assert_same(path, one_device(*IDENTITY), parameters=2e-5)


@pytest.mark.slow
def test_when_nobody_reads_what_process_0_prints_both_end(devices, cache, tmp_path):
    devices(1)
    with pair(*TINY, "--workdir", tmp_path / "run", cache=cache) as processes:
        processes[0].stdout.close()
        (code, _, said), (other, _, unsaid) = outcome(processes)
    assert code == 1 and other in (1, -signal.SIGABRT)
    assert said.count("\n") == 1 and "writing failed ([Errno 32]" in said
    assert other != 1 or GONE in unsaid


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "gpu"])
def test_a_device_that_does_not_start_is_refused_as_on_one_process(
    name, cache, tmp_path
):
    flags = (*TINY, "--device", name, "--workdir", tmp_path / "run")
    how = {"env": {"JAX_PLATFORMS": "cuda"}, "stderr": subprocess.PIPE}
    with start(*flags, cache=cache, **how) as process:
        alone = process.communicate(timeout=SECONDS)[1]
    assert alone.startswith(f"error: --device {name}: JAX cannot start on")
    with pair(*flags, cache=cache, env=how["env"]) as processes:
        for code, _, said in outcome(processes):
            assert (code, said) == (2, alone)
    assert files_under(tmp_path) == []


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_both_in_one_line(devices, cache, tmp_path):
    devices(1)
    flags = (*TINY, "--learning-rate", 1e30, "--workdir", tmp_path / "run")
    with pair(*flags, cache=cache) as processes:
        for code, _, said in outcome(processes):
            assert code == 1
            assert said.count("\n") == 1 and "lower --learning-rate" in said


@pytest.mark.parametrize(
    "second, problem",
    [
        (
            ("--seed", "1"),
            "started otherwise than process 0 (--seed is 0 there, 1 here)",
        ),
        ((), "w holds files that are not a jsplit run"),
    ],
)
def test_what_one_process_refuses_all_do_with_its_reason(
    second, problem, devices, cache, tmp_path
):
    devices(1)
    if not second:
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "notes.txt").write_text("mine")
    before = files_under(tmp_path)
    flags = (*TINY, "--workdir", tmp_path / "w")
    with pair(*flags, cache=cache, second=second) as processes:
        for code, _, said in outcome(processes):
            assert code == 2
            assert said.count("\n") == 1 and problem in said
    assert files_under(tmp_path) == before


def test_a_cluster_that_jax_does_not_detect_is_refused(cache, tmp_path):
    flags = (*TINY, "--coordinator", "auto", "--workdir", tmp_path / "w")
    with start(*flags, cache=cache, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert said.count("\n") == 1 and "jax detects no cluster here" in said
    assert files_under(tmp_path) == []


def test_a_named_coordinator_is_not_called_an_undetected_cluster(cache, tmp_path):
    flags = ("--coordinator", "127.0.0.1:1", "--process-id", 0, "--num-processes", 1)
    how = {"env": {"JAX_LOCAL_DEVICE_IDS": "none"}, "stderr": subprocess.PIPE}
    with start(*TINY, *flags, "--workdir", tmp_path / "w", cache=cache, **how) as one:
        _, said = one.communicate(timeout=SECONDS)
    assert one.returncode == 2 and said.count("\n") == 1
    assert "127.0.0.1:1: JAX cannot start here (invalid literal" in said
    assert files_under(tmp_path) == []
