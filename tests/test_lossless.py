"""What a simulation counts as compressed is what a networked run sends compressed."""

import dataclasses

import jax
import pytest

from jsplit.experiment.build import build, load_dataset
from jsplit.testing import TINY_RUN, run_in_process

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.slow
def test_the_simulation_counts_what_a_networked_run_sends_within_two_percent(tmp_path):
    """Not to the byte: XLA fuses the two otherwise, and a few codes differ."""
    config = dataclasses.replace(
        TINY_RUN, clients=2, partition="uneven:1", lossless=True
    )
    experiment = build(config, load_dataset(config, print))
    experiment.simulation.run(experiment.step_sizes)
    jax.effects_barrier()
    run, _ = run_in_process(config, tmp_path)
    crossed = run.counter.crossed
    assert experiment.tally.bytes == {
        "activations": pytest.approx(crossed["activations", "up"], rel=0.02),
        "gradients": pytest.approx(crossed["gradients", "down"], rel=0.02),
    }
    assert crossed["activations", "up"] < run.ledger.wire["activations"]["up"]
