"""A run stops while its clients learn alone or between its views, and goes on.

Or where values were chosen by chance, and answered in their places.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.core.gates import FreezeGate
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.config import RunConfig
from jsplit.experiment.progress import Progress
from jsplit.experiment.train import resume, train
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter

pytestmark = pytest.mark.usefixtures("cache")

CONFIG = RunConfig(
    model="cnn",
    dataset="fashion_mnist_10k",
    image_size=8,
    train_examples=200,
    test_examples=100,
    gate=FreezeGate(0),
    local_epochs=2,
    views="plain,augmented",
    replay_shift=1,
    mixup=1.0,
    epochs=5,
)


FEW_VALUES = dataclasses.replace(
    CONFIG,
    gate=FreezeGate(2),
    local_epochs=0,
    views="plain",
    codec="top16-random",
    grad_codec="where-sent",
)


@pytest.fixture(
    scope="module",
    params=[
        (CONFIG, "LLBBCCC"),
        pytest.param((FEW_VALUES, "AABCC"), marks=pytest.mark.slow),
    ],
    ids=["alone", "few values"],
)
def run(request):
    """A run to be, and its states."""
    config, states = request.param
    return build(config, load_dataset(config, print)), states


def copied(progress):
    """The same; training consumes the state that it is given, and it may be shared."""
    progress.state = jax.tree.map(jnp.copy, progress.state)
    return progress


def bits_of(progress):
    leaves = jax.tree.leaves(progress.state)
    return [(leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def test_a_run_that_stops_after_every_epoch_ends_bit_for_bit_the_same(run, tmp_path):
    experiment, states = run
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    for folder in (whole, parts):
        folder.path.mkdir()
    undisturbed = copied(Progress(experiment))
    assert train(experiment, whole, undisturbed, [])
    assert undisturbed.ledger.states == states
    progress, done = copied(Progress(experiment)), False
    for epochs in range(1, len(states) + 1):
        writer, stopping = JsonlWriter(parts.metrics), iter([False, True]).__next__
        done = train(experiment, parts, progress, [writer], stopping)
        writer.close()
        assert progress.epochs == epochs and done == (epochs == len(states))
        progress = copied(resume(experiment, parts))
    assert done and progress.ledger == undisturbed.ledger
    assert bits_of(progress) == bits_of(undisturbed)
