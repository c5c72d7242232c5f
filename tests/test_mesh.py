"""A mesh of devices, and several processes, compute what one device does.

Virtual CPU devices are set before JAX starts, so every mesh here is in a process of
its own. The tolerances: sums in another order change float32 parameters by some 1e-6
in these runs. 8-bit codes make more of it, in any run: on one device, a change of 1e-7
in the first weights tips a code or two, and those the largest value of a pool or the
sign before a ReLU. After eight steps it had changed the client's momentum, of up to
0.6, by 0.03 to 0.4; a mesh of 8, by 0.1. A search of the format on one shard would
hide in that, so 8 bits are compared where sums are exact, and after one step.
"""

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jsplit.errors import InputError
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.train import resume
from jsplit.experiment.workdir import read_workdir
from jsplit.runtime import multihost
from jsplit.runtime.sharding import make_placement
from tests.runs import (
    ROOT,
    compile_once,
    files_under,
    lines_of,
    run_here,
    start,
)

TINY = (
    *("--model", "cnn", "--dataset", "fashion_mnist_10k", "--image-size", "8"),
    *("--train-examples", "200", "--test-examples", "100", "--batch-size", "64"),
    *("--gate", "freeze", "--sync-epochs", "2", "--epochs", "6"),
)
"""Batches of 64, the last one padded; the second save holds a store, for C."""

STATES = "AABCCC"
IDENTITY = ("--codec", "identity", "--grad-codec", "identity")
SECONDS = 400  # for a process that compiles on a busy machine


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with compile_once(tmp_path_factory.getbasetemp()) as folder:
        yield folder


@pytest.fixture(scope="module")
def one_device(cache, tmp_path_factory):
    """Runs on one device, by their flags; each is made once."""
    made = {}

    def run(*flags):
        if flags not in made:
            path = tmp_path_factory.mktemp("one") / "run"
            assert run_here(*TINY, *flags, "--workdir", path) == 0
            made[flags] = path
        return made[flags]

    return run


@pytest.fixture
def devices(monkeypatch):
    """Sets how many devices the processes that a test starts have."""

    def have(count):
        flags = f"--xla_force_host_platform_device_count={count}"
        monkeypatch.setenv("XLA_FLAGS", flags)

    return have


def on_mesh(*flags, cache):
    with start(*flags, cache=cache, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said


@contextlib.contextmanager
def pair(*flags, cache, second=(), **how):
    """Two processes on loopback; `second` are flags of process 1 alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    flags = [*flags, "--coordinator", address, "--num-processes", 2]
    how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                start(*flags, *more, "--process-id", index, cache=cache, **how)
            )
            for index, more in enumerate([(), second])
        ]


def outcome(processes):
    """Exit code and output of each, when all have ended."""
    said = [process.communicate(timeout=SECONDS) for process in processes]
    return [
        (process.returncode, *texts)
        for process, texts in zip(processes, said, strict=True)
    ]


def arrays_of(path):
    """What a run ended with, read on one device."""
    folder, config, _ = read_workdir(path)
    config = dataclasses.replace(config, mesh=False)
    state = resume(build(config, load_dataset(config, print)), folder).state
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in leaves}


def assert_same(path, expected, *, parameters):
    """States and counts are equal, parameters within the tolerance, losses near."""
    lines, others = lines_of(path), lines_of(expected)
    assert "".join(line["state"] for line in lines) == STATES
    for line, other in zip(lines, others, strict=True):
        for name in ("epoch", "state", "paper_bytes", "wire_bytes", "learning_rate"):
            assert line[name] == other[name]
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        # One of the 100 test examples may lie on the border.
        for name in ("train_accuracy", "test_accuracy"):
            assert line[name] == pytest.approx(other[name], abs=0.011)
    arrays, wanted = arrays_of(path), arrays_of(expected)
    assert arrays.keys() == wanted.keys()
    for name in arrays:
        if ".store" not in name:
            np.testing.assert_allclose(
                arrays[name], wanted[name], atol=parameters, err_msg=name
            )


CASES = {
    "one client": (),
    "four clients": ("--clients", "4", "--partition", "uneven:1"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mesh_of_8_ends_as_one_device_does(
    case, one_device, devices, cache, tmp_path
):
    flags = (*CASES[case], *IDENTITY)
    devices(8)
    on_mesh(*TINY, *flags, "--mesh", "--workdir", tmp_path / "run", cache=cache)
    assert_same(tmp_path / "run", one_device(*flags), parameters=2e-5)


@pytest.mark.parametrize("clients", [1, 4])
def test_in_8_bits_a_mesh_of_8_ends_with_the_bits_of_one_device_where_sums_are_exact(
    clients, devices
):
    devices(8)
    done = subprocess.run(
        [sys.executable, "-m", "tests.exact", str(clients)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    one, mesh = json.loads(done.stdout)
    assert mesh == one


def places(codes):
    """Where 8-bit floats lie in the order of their values; both zeros at 0."""
    codes = codes.astype(int)
    return np.where(codes < 128, codes, 128 - codes)


def test_one_step_of_a_network_in_8_bits_on_a_mesh_of_8_changes_few_codes_by_one(
    one_device, devices, cache, tmp_path
):
    """As a change of 1e-7 in the first weights does: two codes, parameters by 7e-5."""
    flags = ("--train-examples", "64", "--epochs", "1")
    devices(8)
    on_mesh(*TINY, *flags, "--mesh", "--workdir", tmp_path / "run", cache=cache)
    arrays, wanted = arrays_of(tmp_path / "run"), arrays_of(one_device(*flags))
    header, payload = ".store.packets.header", ".store.packets.payload"
    np.testing.assert_array_equal(arrays[header], wanted[header])
    apart = np.abs(places(arrays[payload]) - places(wanted[payload]))
    assert apart.max() <= 1 and apart.sum() <= 8  # Of 16384.
    for name in arrays:
        if ".variables" in name:
            np.testing.assert_allclose(
                arrays[name], wanted[name], atol=2e-4, err_msg=name
            )


def cut_back(path, to):
    """A copy of a run as it was when it was killed after epoch 5, in state C."""
    shutil.copytree(path, to)
    (to / "summary.json").unlink()
    [last] = (to / "checkpoints").glob("epoch-000006*")
    shutil.rmtree(last)
    return to


READ = """
import sys, zlib
from pathlib import Path
import jax, numpy as np
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.workdir import read_workdir
from jsplit.experiment.train import resume
folder, config, _ = read_workdir(Path(sys.argv[1]))
assert jax.device_count() == 4 and config.mesh
state = resume(build(config, load_dataset(config, print)), folder).state
assert len(state.store.packets.payload.sharding.device_set) == 4
for leaf in jax.tree.leaves(state):
    print("crc", zlib.crc32(np.asarray(leaf).tobytes()))
"""


def test_a_checkpoint_of_8_devices_goes_on_on_1_and_on_4_and_back(
    one_device, devices, cache, tmp_path
):
    devices(8)
    whole = tmp_path / "whole"
    on_mesh(*TINY, *IDENTITY, "--mesh", "--workdir", whole, cache=cache)
    killed = cut_back(whole, tmp_path / "killed")

    on_one = Path(shutil.copytree(killed, tmp_path / "on one"))
    assert run_here("--resume", "--no-mesh", "--workdir", on_one) == 0
    assert_same(on_one, one_device(*IDENTITY), parameters=2e-5)

    devices(4)
    saved = [str(zlib.crc32(leaf.tobytes())) for leaf in arrays_of(killed).values()]
    done = subprocess.run(
        [sys.executable, "-c", READ, str(killed)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"crc (\d+)", done.stdout) == saved, "restored bits"
    on_mesh("--resume", "--workdir", killed, cache=cache)
    assert_same(killed, one_device(*IDENTITY), parameters=2e-5)

    back = cut_back(one_device(*IDENTITY), tmp_path / "back")
    on_mesh("--resume", "--mesh", "--workdir", back, cache=cache)
    assert_same(back, one_device(*IDENTITY), parameters=2e-5)


COMPILE = """
import json, sys
import jax, numpy as np
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.config import RunConfig
config = RunConfig(**json.loads(sys.argv[1]))
simulation = build(config, load_dataset(config, lambda line: None)).simulation
print("whole", simulation.state.store.packets.payload.nbytes)
for shard in simulation.state.store.packets.payload.addressable_shards:
    print("part", shard.data.nbytes)
program = simulation.program.run.lower(
    simulation.state, simulation.shards, simulation.test, simulation.key,
    np.ones(1, np.float32), np.ones(1, bool),
).compile()
print(program.as_text())
"""


@pytest.mark.parametrize("clients", [1, 4])
def test_no_device_ever_gets_the_whole_store(clients, devices):
    devices(8)
    config = {
        **{"model": "cnn", "dataset": "fashion_mnist_10k", "image_size": 8},
        **{"train_examples": 1000, "test_examples": 100, "batch_size": 64},
        **{"clients": clients, "mesh": True},
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    [whole] = map(int, re.findall(r"^whole (\d+)$", done.stdout, re.M))
    assert re.findall(r"^part (\d+)$", done.stdout, re.M) == [str(whole // 8)] * 8
    moved = re.findall(
        r"= (\w+)\[([\d,]*)\]\S* "
        r"(all-gather|all-to-all|all-reduce|collective-permute)\(",
        done.stdout,
    )
    sizes = {
        (kind, dtype, shape): np.prod([int(n) for n in shape.split(",") if n])
        * {"u8": 1, "pred": 1}.get(dtype, 4)
        for dtype, shape, kind in moved
    }
    assert any(kind == "all-reduce" for kind, _, _ in sizes), "gradients"
    # One server batch of codes is what a step of C moves; the store holds 16.
    for what, size in sizes.items():
        if what[1] == "u8":
            assert size <= whole / 15, what
        if what[0] == "all-gather":
            assert size <= whole / 15, what


def test_two_processes_end_as_one_device_does_and_only_one_writes(
    one_device, devices, cache, tmp_path
):
    devices(1)
    path = tmp_path / "run"
    with pair(*TINY, *IDENTITY, "--workdir", path, cache=cache) as processes:
        (code, shown, said), (other, nothing, unsaid) = outcome(processes)
    assert (code, other) == (0, 0), said + unsaid
    assert "epoch 6/6  C" in shown and nothing == "" and unsaid == ""
    assert "over 2 devices of 2 process(es)" in shown
    assert_same(path, one_device(*IDENTITY), parameters=2e-5)
    # One of each, as of one process.
    assert [line["epoch"] for line in lines_of(path)] == [1, 2, 3, 4, 5, 6]
    assert len(list((path / "tensorboard").iterdir())) == 1


def test_a_signal_to_either_process_stops_both_and_both_go_on(
    one_device, devices, cache, tmp_path
):
    devices(2)
    path = tmp_path / "run"
    with pair(*TINY, *IDENTITY, "--workdir", path, cache=cache) as processes:
        _wait(processes, lambda: len(lines_of(path)) >= 1)
        processes[1].send_signal(signal.SIGTERM)
        ended = outcome(processes)
    assert [code for code, _, _ in ended] == [130, 130], ended
    done = len(lines_of(path))
    assert f"saved after epoch {done}" in ended[0][1] and done < 6
    with pair("--resume", "--workdir", path, cache=cache) as processes:
        ended = outcome(processes)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert f"resuming {path} after epoch {done}" in ended[0][1]
    assert_same(path, one_device(*IDENTITY), parameters=2e-5)


GONE = (
    "error: another process of this run is gone; start all of them again, with "
    "--resume and the run's --workdir to go on from its last checkpoint\n"
)


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_says_so_and_both_can_go_on(
    killed, one_device, devices, cache, tmp_path
):
    devices(1)
    path = tmp_path / "run"
    with pair(*TINY, *IDENTITY, "--workdir", path, cache=cache) as processes:
        _wait(processes, lambda: list(path.glob("checkpoints/epoch-*[0-9]")))
        processes[killed].kill()
        code, _, said = outcome(processes)[1 - killed]
    if killed == 1:
        assert (code, said) == (1, GONE)
    else:  # JAX's runtime died with it; its abort may come first, even without words.
        assert code != 0
        assert code == -signal.SIGABRT or GONE in said or "another task died" in said
    with pair("--resume", "--workdir", path, cache=cache) as processes:
        ended = outcome(processes)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "resuming" in ended[0][1]
    assert_same(path, one_device(*IDENTITY), parameters=2e-5)


def test_when_nobody_reads_what_process_0_prints_both_end(devices, cache, tmp_path):
    devices(1)
    with pair(*TINY, "--workdir", tmp_path / "run", cache=cache) as processes:
        processes[0].stdout.close()
        (code, _, said), (other, _, unsaid) = outcome(processes)
    assert (code, other) == (1, 1)
    assert said.count("\n") == 1 and "writing failed ([Errno 32]" in said
    assert unsaid == GONE


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
        (("--seed", "1"), "started otherwise than process 0 (--seed 1, not 0)"),
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


@pytest.mark.parametrize(
    "members, batch, count, problem",
    [
        (3, 8, 8, "8 devices cannot share 3 clients"),
        (12, 8, 8, "8 devices cannot share 12 clients"),
        (1, 100, 8, "take a batch size that is a multiple of 8"),
        (2, 50, 8, "take a batch size that is a multiple of 8"),
    ],
)
def test_what_cannot_be_shared_equally_is_refused(members, batch, count, problem):
    with pytest.raises(InputError, match=problem):
        make_placement(members, batch, [None] * count)


def meeting(*processes, seconds=2):
    """Has processes meet, as `(id, count)`; what each one was refused with, or None."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    said = [None] * len(processes)

    def come(place, number, count):
        try:
            for line in multihost._meet(address, number, count, seconds):
                line.close()
        except InputError as error:
            said[place] = str(error)

    threads = [
        threading.Thread(target=come, args=(place, *process))
        for place, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return said


def test_processes_that_all_come_meet():
    assert meeting((1, 3), (0, 3), (2, 3), seconds=20) == [None] * 3
    assert meeting((0, 1)) == [None]


def test_a_process_that_does_not_come_is_named_to_all():
    said = meeting((0, 4), (2, 4))
    assert said[0] == said[1]
    assert "after 2 s process 1, 3 of 0 to 3 had not come" in said[0]


def test_processes_of_other_numbers_are_refused_together():
    said = meeting((0, 2), (1, 3), seconds=20)
    assert (
        said[0] == said[1] and "was told of 3 processes and process 0 of 2" in said[0]
    )
    said = meeting((0, 3), (1, 3), (1, 3), seconds=20)
    assert said[0] == said[1] == said[2] and "two processes came as" in said[0]


def test_something_else_at_the_address_is_refused_by_name():
    def answer(server):
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"{address}: what answers there is not"):
            multihost._meet(address, 1, 2, 10)
        thread.join()
        with pytest.raises(InputError, match="cannot be opened here"):
            multihost._meet(address, 0, 2, 10)


def test_strangers_at_the_door_are_shown_out_and_do_not_count(monkeypatch):
    monkeypatch.setattr(multihost, "_GREETING", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    met = []

    def lead():
        met.extend(multihost._meet(f"127.0.0.1:{port}", 0, 2, SECONDS))

    thread = threading.Thread(target=lead)
    thread.start()
    deadline = time.monotonic() + SECONDS
    for words in (b"", b"GET / HTTP/1.1\r\n", b"\xff\xfe\n", b"x" * 2000):
        with multihost._connected("", ("127.0.0.1", port), deadline) as knock:
            knock.sendall(words)
            with contextlib.suppress(ConnectionResetError):
                assert knock.recv(1) == b""  # An end, where it would wait for ever.
    met.extend(multihost._meet(f"127.0.0.1:{port}", 1, 2, SECONDS))
    thread.join(SECONDS)
    assert len(met) == 2
    for line in met:
        line.close()


def test_a_stranger_who_dribbles_is_given_no_more_time_than_one_who_is_silent():
    ours, theirs = socket.socketpair()
    done = threading.Event()

    def dribble():
        while not done.wait(0.05):
            theirs.sendall(b"j")

    with ours, theirs:
        thread = threading.Thread(target=dribble)
        thread.start()
        begun = time.monotonic()
        assert multihost._greeting(ours, begun + 0.5) is None
        done.set()
        thread.join()
        assert time.monotonic() - begun < 10  # Dribbled to the limit: 25 s.


def _wait(processes, until):
    end = time.monotonic() + SECONDS
    while not until():
        assert all(process.poll() is None for process in processes), "ended early"
        assert time.monotonic() < end
        time.sleep(0.05)
