"""What a simulation counts as compressed is what a networked run sends compressed."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from jsplit.accounting.compression_tally import Tally
from jsplit.experiment import train
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


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], (3, 4)),
        (
            [{"epoch": 1}, {"compressed_bytes": {"activations": 5, "gradients": 6}}],
            (8, 10),
        ),
        (
            [{"compressed_bytes": {"activations": 5, "gradients": 6}}, {"epoch": 2}],
            None,
        ),
    ],
    ids=["new", "gone on with", "not counted in between"],
)
def test_what_some_epochs_lack_is_never_taken_for_the_count_of_all(records, expected):
    tally = Tally()
    tally.bytes = {"activations": 3, "gradients": 4}
    given = SimpleNamespace(tally=tally), SimpleNamespace(records=records)
    found = train._compressed(*given)
    assert found == (expected and dict(zip(tally.bytes, expected, strict=True)))
    assert set(tally.bytes.values()) == {0}
