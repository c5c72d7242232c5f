"""A client that learns alone: by its own head, with nothing sent."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsplit import from_flax, make_simulation
from jsplit.codecs import identity
from jsplit.core import schedule
from jsplit.core.gate import always_gate, freeze_gate, loss_gate
from jsplit.core.gate_phases import after_local
from jsplit.core.topology import PARALLEL, SEQUENTIAL
from jsplit.typing import STATES
from tests.nets import OPTIMIZER, Classifier, blobs, dense_parts
from tests.test_views import states_of

HEAD = from_flax(Classifier())
SHARES = [np.arange(20), np.arange(20, 50)]


def simulation(local_epochs=2, gate=None, **changes):
    given = {"gate": gate or freeze_gate(0), "batch_size": 16, "codec": identity()}
    return make_simulation(
        *dense_parts(),
        blobs(50),
        blobs(30, seed=1),
        head=HEAD,
        local_epochs=local_epochs,
        optimizer=OPTIMIZER,
        grad_codec=identity(),
        **(given | changes),
    )


@pytest.mark.parametrize(
    ("gate", "epochs", "states"),
    [
        (freeze_gate(0), 3, "LLLBCC"),
        (freeze_gate(1), 2, "LLABCC"),
        (always_gate(), 1, "LAAA"),
        (loss_gate(0.1, initial_loss=0.5, warmup=2), 2, "LLAABC"),
        (freeze_gate(0), 0, "BCC"),
    ],
)
def test_the_gate_begins_when_the_clients_have_learned_alone(gate, epochs, states):
    assert states_of(after_local(gate, epochs), len(states)) == states


def test_gates_of_other_numbers_share_a_program_of_clients_that_learn_alone():
    update = jax.jit(after_local(freeze_gate(0), 2).update)
    now, states = after_local(freeze_gate(2), 2).init(), ""
    for _ in range(6):
        states += STATES[int(now.state)]
        now = update(now, jnp.float32(0.5))
    assert states == "LLAABC"


def test_what_a_client_learns_alone_is_the_step_worked_out_by_hand():
    made = simulation(1, batch_size=50)
    state, record, ledger = made.run(np.array([0.1, 0.0]))
    assert ledger.states == "LB"
    key = schedule.epoch_key(made.key, 0)
    plan = schedule.plan_epoch(key, made.shards, made.layout)
    rows = np.asarray(plan.rows[0, 0])
    x, labels = made.shards.examples[rows], made.shards.labels[rows]
    begun = made.state.client.variables["params"], made.state.head.variables["params"]

    def mean_loss(params):
        smashed, _ = dense_parts()[0].apply(
            {"params": params[0]}, x, mask=None, key=key, train=True
        )
        outputs, _ = HEAD.apply(
            {"params": params[1]}, smashed, mask=None, key=key, train=True
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return losses.mean()

    loss, gradients = jax.value_and_grad(mean_loss)(begun)
    expected = jax.tree.map(
        lambda value, gradient: value - 0.1 * (gradient + 5e-4 * value),
        begun,
        gradients,
    )
    found = state.client.variables["params"], state.head.variables["params"]
    chex.assert_trees_all_close(found, expected, atol=1e-6)
    np.testing.assert_allclose(record.train.loss[0] / 50, loss, rtol=1e-5)


def test_the_server_does_not_change_while_clients_learn_alone():
    made = simulation(2)
    state, _, _ = made.run(np.full(2, 0.1))
    chex.assert_trees_all_equal(state.server, made.state.server)
    chex.assert_trees_all_equal(state.store, made.state.store)


@pytest.mark.parametrize("topology", [PARALLEL, SEQUENTIAL])
def test_several_clients_share_what_they_learned_alone(topology):
    made = simulation(3, shares=SHARES, topology=topology)
    state, record, ledger = made.run(np.full(5, 0.1))
    assert ledger.states == "LLLBC"
    losses = np.asarray(record.train.loss) / np.asarray(record.train.examples)
    assert losses[2] < losses[0] and losses[3] > losses[4]
    np.testing.assert_array_equal(record.train.examples[:3], 50)


def test_side_by_side_the_parts_and_heads_are_averaged_by_their_examples():
    sizes = np.array([0.1])
    # A batch of 60 gives each client all of its own examples at once.
    together = simulation(1, shares=SHARES, batch_size=60).run(sizes)[0]
    alone = [
        simulation(1, shares=[share], batch_size=30).run(sizes)[0] for share in SHARES
    ]
    mean = jax.tree.map(
        lambda one, other: 0.4 * one + 0.6 * other,
        *((state.client, state.head) for state in alone),
    )
    chex.assert_trees_all_close((together.client, together.head), mean, atol=1e-5)


def test_nothing_crosses_while_a_single_client_learns_alone_but_the_plan():
    _, _, ledger = simulation(4).run(np.full(4, 0.1))
    assert ledger.states == "LLLL" and ledger.paper_bits == 0
    assert ledger.wire["activations"]["up"] == ledger.wire["labels"]["up"] == 0
    assert ledger.wire_bytes == 4 * (ledger.costs.plan_bytes + ledger.costs.kept_bytes)


def test_parts_and_heads_that_are_averaged_are_counted():
    _, _, ledger = simulation(2, shares=SHARES).run(np.full(2, 0.1))
    costs = ledger.costs
    message = costs.part_header_bytes + costs.part_bytes + costs.head_bytes
    assert costs.head_bytes == 2 * 4 * (8 * 3 + 3)  # with their momentum
    assert ledger.wire["client_parts"] == {"up": 4 * message, "down": 4 * message}


def test_reductions_are_against_as_many_epochs_as_the_server_trained():
    _, _, without = simulation(0).run(np.full(4, 0.1))
    _, _, ledger = simulation(3).run(np.full(7, 0.1))
    assert (without.states, ledger.states) == ("BCCC", "LLLBCCC")
    assert ledger.communication_reduction == without.communication_reduction == 8
    costs = ledger.costs
    # The head has 8 x 3 weights: forward, for its weights, and for the activations.
    assert costs.local_macs == costs.sync_macs + 3 * 8 * 3
    assert ledger.client_macs == 50 * (costs.forward_macs + 3 * costs.local_macs)
    plain = 4 * 50 * costs.sync_macs
    np.testing.assert_allclose(
        ledger.client_compute_reduction, plain / ledger.client_macs
    )


def test_local_epochs_without_a_head_are_refused():
    with pytest.raises(ValueError, match="local_epochs 2 needs a head"):
        make_simulation(
            *dense_parts(),
            blobs(50),
            blobs(30),
            gate=freeze_gate(0),
            local_epochs=2,
            optimizer=OPTIMIZER,
        )


def test_a_head_that_is_not_used_changes_nothing():
    given = {"optimizer": OPTIMIZER, "gate": freeze_gate(1), "batch_size": 16}
    data = blobs(50), blobs(30, seed=1)
    with_head = make_simulation(*dense_parts(), *data, head=HEAD, **given)
    assert with_head.state.head is None
    one, other = (
        made.run(np.full(3, 0.1))[0]
        for made in (with_head, make_simulation(*dense_parts(), *data, **given))
    )
    chex.assert_trees_all_equal(one, other)
    assert jnp.int32(3) == one.epoch
