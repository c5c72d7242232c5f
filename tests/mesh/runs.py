"""Runs on virtual devices, in processes of their own, and what they ended with."""

import contextlib
import dataclasses
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.train import resume
from jsplit.experiment.workdir import read_workdir
from tests.runs import lines_of, start

TINY = (
    *("--model", "cnn", "--dataset", "fashion_mnist_10k", "--image-size", "8"),
    *("--train-examples", "200", "--test-examples", "100", "--batch-size", "64"),
    *("--gate", "freeze", "--sync-epochs", "2", "--epochs", "6"),
)
"""Batches of 64, the last one padded; the second save holds a store, for C."""

STATES = "AABCCC"
IDENTITY = ("--codec", "identity", "--grad-codec", "identity")
SECONDS = 400  # for a process that compiles on a busy machine


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


def wait(processes, until):
    end = time.monotonic() + SECONDS
    while not until():
        assert all(process.poll() is None for process in processes), "ended early"
        assert time.monotonic() < end
        time.sleep(0.05)
