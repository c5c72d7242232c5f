"""A run over channels is the simulation's run, and its bytes are those predicted."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jsplit.core.gates import FreezeGate
from jsplit.experiment.build import build, load_dataset
from jsplit.net.status import health_of, status_of
from jsplit.testing import TINY_RUN, run_in_process
from jsplit.wire.messages import Done, Goodbye, write_message
from tests.tiers import sample

pytestmark = pytest.mark.usefixtures("cache")


def simulated(config):
    experiment = build(config, load_dataset(config, print))
    return experiment.simulation.run(experiment.step_sizes)


ALONE = {
    "local_epochs": 2,
    "gate": FreezeGate(1),
    "views": "plain,augmented",
    "replay_shift": 1,
    "bottleneck": 4,
    "first_filters": "dct",
}
"""Cosines, clients that learn alone, then all states, two views and a bottleneck."""

ALONE_IN = {
    "parallel": ALONE,
    "sequential": ALONE,
    "proportional": ALONE | {"seed": 3},
}

FEW_BITS = {"codec": "bits3-channel", "grad_codec": "bits4-stochastic"}
FEW_VALUES = {"codec": "top16-random", "grad_codec": "where-sent"}
LARGEST_VALUES = FEW_VALUES | {"codec": "top16"}
"""Without the chance, which follows from every bit of the values: a network's and a
simulation's differ in the last ones, as the compiler puts sums together."""


@pytest.mark.parametrize(
    ("topology", "clients", "partition", "changes"),
    sample(
        [
            (topology, *case)
            for topology in ("parallel", "sequential", "proportional")
            for case in (
                (1, "iid", {}),
                (1, "iid", {"views": "augmented"}),
                (1, "iid", {"mixup": 1.0, "seed": 3}),
                (3, "uneven:1", {"views": "augmented"}),
                (3, "uneven:1", {"views": "augmented", "mixup": 1.0}),
                (1, "iid", ALONE),
                (3, "uneven:1", ALONE_IN[topology]),
                (1, "iid", FEW_BITS),
                (1, "iid", LARGEST_VALUES | {"seed": 3}),
                (3, "uneven:1", LARGEST_VALUES),
            )
            # With one client all steps are alike.
            if topology != "proportional" or case[0] > 1
        ],
        ("parallel", 3, "uneven:1", ALONE),
    ),
)
def test_a_networked_run_is_the_simulation_s(
    topology, clients, partition, changes, tmp_path
):
    config = dataclasses.replace(
        TINY_RUN,
        clients=clients,
        partition=partition,
        # A network's step and a simulation's put sums together in another order. Where
        # that turns a ReLU, weights part by 1e-3. These seeds turn none on two cores
        # with AVX2 or with AVX-512.
        **{"codec": "identity", "grad_codec": "identity", "seed": 2} | changes,
        topology=topology,
    )
    run, joined = run_in_process(config, tmp_path)
    state, record, ledger = simulated(config)
    states = "LLABBCCC" if "local_epochs" in changes else "AABCCC"
    assert run.ledger.states == ledger.states == states
    assert run.ledger.wire == ledger.wire
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5),
        run.state.server,
        state.server,
    )
    losses = [line["train_loss"] for line in run.records]
    expected = np.asarray(record.train.loss) / np.asarray(record.train.examples)
    alone = states.count("L")  # The server hears nothing of those.
    assert losses[:alone] == [None] * alone
    np.testing.assert_allclose(losses[alone:], expected[alone:], rtol=1e-5)
    np.testing.assert_allclose(
        run.records[-1]["test_accuracy"],
        record.test.correct[-1] / record.test.examples[-1],
    )
    current = joined[-1].parts.part
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5),
        current,
        state.client,
    )


@pytest.mark.parametrize(
    ("clients", "topology", "changes"),
    sample(
        [
            *itertools.product(
                (1, 3), ("parallel", "sequential"), ({}, FEW_BITS, FEW_VALUES)
            ),
            (3, "proportional", {}),
        ],
        (3, "sequential", {}),
        (3, "proportional", {}),
    ),
)
def test_what_crosses_is_what_the_ledger_predicts_to_the_byte(
    clients, topology, changes, tmp_path
):
    config = dataclasses.replace(
        TINY_RUN, clients=clients, topology=topology, **changes
    )
    run, _ = run_in_process(config, tmp_path)
    crossed, saved = run.counter.crossed, run.counter.saved
    status = status_of(run, 60.0)
    assert (status.phase, status.epoch, status.state) == ("finished", 6, "C")
    assert (status.crossed, status.saved) == (crossed, saved)
    assert sum(status.totals.values()) == run.counter.total
    assert None not in status.lags and health_of(status)[0] == 200
    for kind, ways in run.ledger.wire.items():
        for way, predicted in ways.items():
            assert crossed[kind, way] + saved[kind, way] == predicted, (kind, way)
    assert not run.counter.repeated
    # The last line has the score of its own epoch; only the end crosses after it.
    end = len(write_message(Done(6, 0, 0, bytes(16)))) + len(write_message(Goodbye()))
    assert run.records[-1]["counted_bytes"] == run.counter.total - clients * end
