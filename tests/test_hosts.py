"""Processes of one run end together, and hear from process 0 to the bit."""

import contextlib
import os
import socket
import subprocess
import sys

import jax
import pytest

from jsplit.errors import RunError
from jsplit.runtime import multihost
from tests.runs import ROOT

SECONDS = 200  # for a process that only imports JAX, on a machine that may stall
GONE = "another process of this run is gone; start all of them again"

MEMBER = """
import sys, time
import jax
from jsplit.runtime import multihost
address, number, count, what = sys.argv[1:]
multihost._start = lambda *_: None
multihost._SHUTDOWN = 5
say = lambda line: print(line, file=sys.stderr)
with multihost.joined(address, int(number), int(count), 100, say):
    print("joined", flush=True)
    if what == "wait":
        time.sleep(1000)
    if what == "fail":
        sys.exit("a failure of its own")
    if what == "lose":
        multihost._NOTICE = 20
        raise jax.errors.JaxRuntimeError("Connection closed by peer")
"""


@contextlib.contextmanager
def members(*whats, script=MEMBER):
    """Processes of one run that only meet; when all have joined."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        processes = []
        for number, what in enumerate(whats):
            words = (address, str(number), str(len(whats)), what)
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


@pytest.mark.parametrize("killed", [0, 2])
def test_when_one_of_three_is_killed_the_others_end_each_in_one_line(killed):
    with members("wait", "wait", "wait") as processes:
        for process in processes:
            assert process.stdout.readline() == "joined\n"
        processes[killed].kill()
        for place, (code, said) in enumerate(ended(processes)):
            if place != killed:
                assert code == 1
                assert said.startswith(GONE) and said.count("\n") == 1


@pytest.mark.parametrize("failing", [0, 2])
def test_when_one_of_three_fails_alone_the_others_end_and_it_gives_its_reason(failing):
    whats = ["fail" if place == failing else "wait" for place in range(3)]
    with members(*whats) as processes:
        for place, (code, said) in enumerate(ended(processes)):
            assert code == 1 and said.count("\n") == 1
            assert said.startswith("a failure of" if place == failing else GONE)


def test_when_all_fail_or_all_end_nobody_is_called_gone():
    with members("fail", "fail", "fail") as processes:
        assert ended(processes) == [(1, "a failure of its own\n")] * 3
    with members("end", "end", "end") as processes:
        assert ended(processes) == [(0, "")] * 3


def test_what_jax_says_of_a_lost_process_is_not_what_is_said():
    with members("wait", "lose") as processes:
        assert processes[0].stdout.readline() == "joined\n"
        processes[0].kill()
        code, said = ended(processes)[1]
    assert code == 1 and said.startswith(GONE) and said.count("\n") == 1


def test_a_failure_of_jax_is_said_with_what_to_do_where_nobody_watches(monkeypatch):
    monkeypatch.setattr(multihost, "_start", lambda *_: None)
    with (
        pytest.raises(RunError, match="closed by peer.*; if another .* --resume"),
        multihost.joined(multihost.AUTO, None, None, 1, print),
    ):
        raise jax.errors.JaxRuntimeError("Connection closed by peer")


BITS = """
import sys
import jax, ml_dtypes, numpy as np
from jsplit.runtime import multihost
address, number, count, _ = sys.argv[1:]
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
