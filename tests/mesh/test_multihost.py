"""Processes of one run meet or say why not, end together, and share to the bit."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from jsplit.errors import RunError
from jsplit.runtime import multihost
from tests.runs import ROOT

SECONDS = 200  # for a process that only starts JAX, on a machine that may stall

MEMBER = """
import sys, time
import numpy as np
from jax.experimental import multihost_utils
from jsplit.errors import InputError, RunError
from jsplit.runtime import multihost
address, number, count, timeout, what = sys.argv[1:]
say = lambda line: print(line, file=sys.stderr, flush=True)
try:
    with multihost.joined(address, int(number), int(count), int(timeout), say):
        multihost.check_devices(int(count))
        print("joined", flush=True)
        if what == "fail":
            raise RunError("a failure of its own")
        while what == "work":
            multihost.any_of(False)
        with multihost.together():
            if what == "refuse":
                raise InputError("a refusal")
except (RunError, InputError) as error:
    say(error)
    sys.exit(2 if isinstance(error, InputError) else 1)
"""


@contextlib.contextmanager
def members(*whats, numbers=None, counts=None, timeout=100, script=MEMBER):
    """Processes of one run; they are numbered in order, unless told otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        processes = []
        for place, what in enumerate(whats):
            number = place if numbers is None else numbers[place]
            count = len(whats) if counts is None else counts[place]
            words = (address, str(number), str(count), str(timeout), what)
            process = subprocess.Popen(
                [sys.executable, "-c", script, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def ended(processes):
    """Exit code and standard error of each."""
    said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    codes = [process.returncode for process in processes]
    return list(zip(codes, said, strict=True))


def test_all_that_come_meet_and_end_together():
    with members("end", "end", "end") as processes:
        assert [code for code, _ in ended(processes)] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(0, 2), (1, 2)])
def test_where_one_does_not_come_the_others_say_so_in_one_line(numbers):
    with members("end", "end", numbers=numbers, counts=(3, 3), timeout=10) as processes:
        for code, said in ended(processes):
            assert code == 2 and said.count("\n") == 1
            assert "after 10 s not all of 3 processes had met there" in said


def test_those_that_were_told_of_other_numbers_are_refused_together():
    with members("end", "end", counts=(2, 3)) as processes:
        for code, said in ended(processes):
            assert code == 2
            assert "told of 3 processes, and process 0 of 2; give all the" in said


def test_a_port_that_is_taken_is_refused_by_name():
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = (address, "0", "2", "100", "end")
        done = subprocess.run(
            [sys.executable, "-c", MEMBER, *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"--coordinator {address}: port" in done.stderr
    assert "cannot be opened here" in done.stderr


def test_what_one_refuses_all_refuse_with_its_reason():
    with members("end", "refuse", "end") as processes:
        for place, (code, said) in enumerate(ended(processes)):
            reason = "a refusal" if place == 1 else "process 1: a refusal"
            assert (code, said.splitlines()[-1]) == (2, reason)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_alone_gives_its_reason_and_the_other_ends(failing):
    whats = ["fail" if place == failing else "work" for place in range(2)]
    with members(*whats) as processes:
        both = ended(processes)
    assert both[failing][0] == 1
    assert both[failing][1].splitlines()[-1] == "a failure of its own"
    check_ended_for_another(*both[1 - failing])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_other_ends(killed):
    with members("work", "work") as processes:
        for process in processes:
            assert "joined\n" in iter(process.stdout.readline, "")
        processes[killed].kill()
        check_ended_for_another(*ended(processes)[1 - killed])


def check_ended_for_another(code, said):
    """By the failure of what it computed, or by JAX, which may be quicker."""
    if code != -signal.SIGABRT:
        assert code == 1 and "another process of this run is gone" in said


@pytest.mark.parametrize("gloo", [False, True])
def test_a_failure_of_jax_is_said_with_what_to_do(monkeypatch, gloo):
    import jax

    registered = []
    monkeypatch.setattr(multihost, "_start", lambda *_: None)
    monkeypatch.setattr(multihost.atexit, "register", lambda *a: registered.append(a))
    error = ValueError("Gloo: closed by peer")
    if not gloo:
        error = jax.errors.JaxRuntimeError("Connection closed by peer")
    with (
        pytest.raises(RunError, match="closed by peer.*; if another .* --resume"),
        multihost.joined(multihost.AUTO, None, None, 1, print),
    ):
        raise error
    assert registered == [(multihost._end, 1)]


BITS = """
import sys
import jax, ml_dtypes, numpy as np
from jsplit.runtime import multihost
address, number, count, _, _ = sys.argv[1:]
with multihost.joined(address, int(number), int(count), 100, print):
    theirs = np.arange(256, dtype=np.uint8)
    tree = {
        "zero": np.float32(-0.0),
        "nan": np.array([[0x7FC00001, 0xFFA0BEEF]], np.uint32).view(np.float32),
        "float8": theirs.view(ml_dtypes.float8_e4m3fn),
        "bfloat16": jax.numpy.array([-0.0, 1.5], "bfloat16"),
        "bool": np.array([True, False]),
        "none": np.zeros((2, 0), np.int32),
    }
    own = tree if number == "0" else jax.tree.map(np.ones_like, tree)
    got = multihost.from_leader(own)
    for name, leaf in tree.items():
        leaf = np.asarray(leaf)
        assert (got[name].dtype, got[name].shape) == (leaf.dtype, leaf.shape), name
        assert got[name].tobytes() == leaf.tobytes(), name
"""


def test_what_process_0_has_comes_to_the_bit_with_the_sign_of_zero_and_of_nan():
    with members("", "", script=BITS) as processes:
        for code, said in ended(processes):
            assert code == 0, said
