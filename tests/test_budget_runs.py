"""Runs under the budget gate: counted, over a network, stopped, on the command line."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jsplit.accounting.ledger import Ledger
from jsplit.core.budget import REASONS, budget_gate
from jsplit.core.epoch_costs import wire_costs
from jsplit.core.gates import BudgetGate
from jsplit.core.model_part import from_flax
from jsplit.core.transform import Transform
from jsplit.core.wide import whole
from jsplit.experiment.build import build, load_dataset, share_program
from jsplit.experiment.plan import data_of, planned_cut
from jsplit.experiment.train import needs_store, resume, train
from jsplit.experiment.workdir import RunFolder
from jsplit.experiment.writers import JsonlWriter
from jsplit.net.setup import prepare_server
from jsplit.testing import TINY_RUN, run_in_process
from jsplit.typing import OFFLINE, REFRESH, SYNC
from tests.runs import TINY, lines_of, run_here
from tests.simulations import deal, simulate

pytestmark = pytest.mark.usefixtures("cache")

STATES = "LBBCCABBCCBBC"
"""With a stall after two C: A and its views, then new views alone, then nothing."""

BEGUN = dataclasses.replace(
    TINY_RUN,
    train_examples=60,
    batch_size=20,
    local_epochs=1,
    views="plain,augmented",
    epochs=len(STATES) - 1,
)


def within_bytes(config, states=STATES, more=0):
    """The config with a budget of what these states send, and so many bytes more."""
    data = data_of(config, load_dataset(config, print))
    costs = planned_cut(config, data).costs
    budget = f"{Ledger.of(costs, states).wire_bytes + more}B"
    gate = BudgetGate(budget=budget, min_fall=0.9, patience=1)
    return dataclasses.replace(config, gate=gate)


@pytest.fixture(scope="module")
def config():
    return within_bytes(BEGUN)


@pytest.fixture(scope="module")
def experiment(config):
    return build(config, load_dataset(config, print))


def copied(progress):
    """The same; training consumes the state that it is given, and it may be shared."""
    progress.state = jax.tree.map(jnp.copy, progress.state)
    return progress


def trained(experiment, path, stopping=lambda: False):
    folder = RunFolder(path)
    folder.path.mkdir(exist_ok=True)
    progress = copied(resume(experiment, folder))
    writer = JsonlWriter(folder.metrics)
    done = train(experiment, folder, progress, [writer], stopping)
    writer.close()
    return progress, done


def told(records):
    names = ("state", "gate_reason", "budget_left")
    return [tuple(line[name] for name in names) for line in records]


def test_a_simulation_spends_its_budget_to_the_byte_and_says_why():
    def gate(costs):
        budget = Ledger.of(costs, "ABCCAB").wire_bytes
        how = {"min_fall": 0.9, "patience": 1, "initial_loss": 1.1}
        return budget_gate(budget, wire_costs(costs), **how)

    made = simulate(gate=gate)
    _, record, ledger = made.run(np.full(9, 0.01))
    assert ledger.states == "ABCCABCCC"
    sent = [Ledger.of(made.costs, states).wire_bytes for states in ("AB", "ABCCAB")]
    assert whole(record.gate.left[0]) == sent[1] - sent[0]
    assert REASONS[record.gate.reason[4]].endswith("the budget pays for A")
    assert REASONS[record.gate.reason[8]].endswith("pays for nothing more")
    assert not record.gate.left[-1].any()


def test_a_gate_knows_of_a_simulation_s_views_and_of_its_epochs_alone():
    """A budget of the least is never overdrawn, whatever comes before and how often."""
    budgets = []

    def gate(costs):
        of = wire_costs(costs)
        budgets.append(of.least)
        return budget_gate(of.least, of, initial_loss=1.1, learned_alone=True)

    made = simulate(
        gate=gate,
        shares=deal((20, 40)),
        transform=Transform(
            lambda key, rows: rows,
            lambda rows: rows,
            views=(lambda key, rows: rows, lambda key, rows: -rows),
        ),
        head=from_flax(nn.Dense(3)),
        local_epochs=2,
    )
    _, _, ledger = made.run(np.full(6, 0.01))
    assert ledger.states == "LLBBCC"
    assert [ledger.wire_bytes] == budgets


@pytest.mark.parametrize(
    ("states", "due", "needed"),
    [
        ("", REFRESH, False),
        ("L", REFRESH, False),
        ("LA", REFRESH, False),
        ("LAB", REFRESH, True),
        ("LABC", REFRESH, True),
        ("LABC", OFFLINE, True),
        ("LABC", SYNC, False),
    ],
)
def test_a_checkpoint_keeps_the_store_between_views_and_between_rounds(
    states, due, needed
):
    assert needs_store(jnp.int32(due), states) == needed


def test_the_gate_of_a_server_begins_as_that_of_the_simulation(config, experiment):
    sizes = [len(experiment.dataset.train_labels)]
    server = prepare_server(config, experiment.dataset.image_shape, 10, sizes)
    chex.assert_trees_all_equal(server.state.gate, experiment.simulation.state.gate)


@pytest.mark.slow
def test_a_run_under_a_budget_that_stops_after_every_epoch_ends_bit_for_bit_the_same(
    config, experiment, tmp_path
):
    undisturbed, _ = trained(experiment, tmp_path / "whole")
    assert undisturbed.ledger.states == STATES
    assert f"{undisturbed.ledger.wire_bytes}B" == config.gate.budget
    lines = told(undisturbed.records)
    assert lines[0][1] == "the clients learn alone first"
    assert lines[5][1] == "the loss of C has stalled and the budget pays for A"
    left = [left for _, _, left in lines]
    assert left == sorted(left, reverse=True) and left[-1] == 0 < left[0]
    done = False
    for _ in STATES:
        assert not done
        stopping = iter([False, True]).__next__
        progress, done = trained(experiment, tmp_path / "parts", stopping)
    assert done and progress.ledger == undisturbed.ledger
    assert told(progress.records) == lines
    chex.assert_trees_all_equal(progress.state, undisturbed.state)


@pytest.mark.slow
def test_runs_of_other_budgets_share_a_program(config, experiment, tmp_path):
    other = within_bytes(BEGUN, "LBBCCBB")
    shared = share_program(build(other, experiment.dataset), experiment)
    assert shared.simulation.program.run is experiment.simulation.program.run
    progress, _ = trained(shared, tmp_path / "other")
    assert progress.ledger.states == "LBBCCBBCCCCCC"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clients", "topology"), [(1, "parallel"), (2, "parallel"), (3, "sequential")]
)
def test_over_a_network_the_same_budget_is_spent_for_the_same_reasons(
    clients, topology, tmp_path
):
    config = dataclasses.replace(
        BEGUN, clients=clients, topology=topology, batch_size=10
    )
    config = within_bytes(config, more=3)
    run, _ = run_in_process(config, tmp_path)
    experiment = build(config, load_dataset(config, print))
    progress, _ = trained(experiment, tmp_path / "simulated")
    assert run.ledger.states == progress.ledger.states == STATES
    assert told(run.records) == told(progress.records)
    assert run.ledger.wire == progress.ledger.wire
    assert f"{run.ledger.wire_bytes + 3}B" == config.gate.budget
    crossed, saved = run.counter.crossed, run.counter.saved
    for kind, ways in run.ledger.wire.items():
        for way, predicted in ways.items():
            assert crossed[kind, way] + saved[kind, way] == predicted, (kind, way)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "--gate budget needs what may cross: add --budget 150MB"),
        ("--budget 1MB --reduction 9", "--budget 1MB and --reduction 9 both say"),
        ("--budget much", "--budget must be like 150MB or 1.5GiB, got 'much'"),
        ("--reduction 0.99", "--reduction must be at least 1, got 0.99"),
        ("--reduction nan", "--reduction must be a finite number, got nan"),
        ("--budget 1kB", "give at least --budget"),
        ("--reduction 9999", "give at most --reduction"),
        ("--budget 1MB --sync-epochs 3", "--sync-epochs is for --gate freeze"),
    ],
)
def test_a_budget_that_cannot_be_is_one_line_and_nothing_is_written(
    flags, words, tmp_path, capsys
):
    given = [*TINY[:-6], "--gate", "budget", "--epochs", "2", *flags.split()]
    assert run_here(*given, "--workdir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_says_what_the_gate_decided(tmp_path, capsys):
    given = [*TINY[:-6], "--gate", "budget", "--reduction", "7.9", "--epochs", "4"]
    assert run_here(*given, "--workdir", tmp_path / "run") == 0
    out = capsys.readouterr().out
    (line, *_) = [line for line in out.splitlines() if line.startswith("epoch 1/4")]
    assert line.endswith("nothing was learned yet")
    lines = lines_of(tmp_path / "run")
    assert "".join(line["state"] for line in lines) == "ABCC"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["communication_reduction"] >= 7.9
