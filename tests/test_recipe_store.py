"""What the server is given in each epoch: whose labels, which headers, what order."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.codecs import identity
from jsplit.core.gates import FreezeGate
from jsplit.core.model_part import ModelPart, from_flax
from jsplit.core.program import make_program
from jsplit.core.simulation import make_simulation
from jsplit.core.topology import PARALLEL, SEQUENTIAL
from jsplit.experiment.build import optimizer_of
from jsplit.experiment.config import RunConfig
from jsplit.typing import STATES, Codec, Packet
from tests.nets import Classifier

SIZES = (5, 2, 4)
NUMBERS = np.arange(1, 1 + sum(SIZES), dtype=np.float32)
LABELS = 2 * np.arange(sum(SIZES), 0, -1)
"""Of number 1 to 11: 22, 20, 18, ..., 2."""


def as_it_is():
    """A client that sends its examples themselves."""

    def init(key, x):
        return {"params": {"unused": jnp.zeros(())}}

    return ModelPart(init, lambda variables, x, **_: (x, variables), masks=True)


def numbered():
    """A codec whose header is the largest number in the packet."""

    def encode(x):
        return Packet(x, x.max().astype(jnp.uint8)[None])

    return Codec("numbered", encode, lambda packet: packet.payload, jnp.float32, 1)


def noted(step, diary):
    """The same step, with all that the server is given written down."""

    def stepped(server, packets, labels, mask, *more):
        held = jnp.ones(labels.shape, bool) if mask is None else mask
        jax.debug.callback(
            lambda *seen: diary.append([np.asarray(it) for it in seen]),
            *(packets.payload, packets.header, labels, held),
            ordered=True,
        )
        return step(server, packets, labels, mask, *more)

    return stepped


def entries(payload, header, labels, held):
    """`(number, label, header)` of each example of one step, in order."""
    return [
        (int(payload[packet, row, 0]), int(labels[packet, row]), int(header[packet, 0]))
        for packet, row in np.argwhere(held)
    ]


@pytest.fixture(scope="module", params=[PARALLEL, SEQUENTIAL], ids=lambda t: t.name)
def received(request):
    """For each epoch of ABCCCC the steps, each a list of `entries`."""
    classes = int(LABELS.max()) + 1
    gate = FreezeGate(1).make(classes)
    simulation = make_simulation(
        as_it_is(),
        from_flax(Classifier(classes)),
        (NUMBERS[:, None], LABELS),
        (NUMBERS[:, None], LABELS),
        gate=gate,
        optimizer=optimizer_of(RunConfig()),
        codec=numbered(),
        grad_codec=identity(),
        shares=np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1]),
        topology=request.param,
        batch_size=6,
    )
    diary, steps = [], simulation.steps
    names = ("server_step_with_reply", "server_step", "offline_step")
    program = make_program(
        steps._replace(**{name: noted(getattr(steps, name), diary) for name in names}),
        gate,
        numbered(),
        simulation.layout,
        smashed_shape=(1,),
    )
    _, record, _ = simulation._replace(program=program).run([0.01] * 6)
    jax.effects_barrier()
    assert "".join(STATES[state] for state in record.state) == "ABCCCC"
    online = simulation.layout.groups * simulation.layout.steps
    lengths = [online] * 2 + [simulation.layout.offline_steps] * 4
    assert len(diary) == sum(lengths)
    told = iter(diary)
    return [[entries(*next(told)) for _ in range(length)] for length in lengths]


def in_order(steps):
    return [entry for step in steps for entry in step]


def test_the_server_is_told_each_examples_own_label_in_every_state(received):
    for steps in received:
        for number, label, _ in in_order(steps):
            assert label == 24 - 2 * number


def test_state_c_draws_each_stored_example_once_with_its_label_and_header(received):
    stored = sorted(in_order(received[1]))
    assert [number for number, _, _ in stored] == list(range(1, 12))
    for steps in received[2:]:
        assert sorted(in_order(steps)) == stored


def test_the_header_is_that_of_the_packet_of_one_client_in_which_it_came(received):
    edges = np.cumsum(SIZES)
    for steps in received[:2]:
        for step in steps:
            packets = {}
            for number, _, header in step:
                client = int(np.searchsorted(edges, number))
                packets.setdefault(client, []).append((number, header))
            for packet in packets.values():
                largest = max(number for number, _ in packet)
                assert {header for _, header in packet} == {largest}


def test_the_order_is_another_one_in_every_epoch(received):
    orders = [[number for number, _, _ in in_order(steps)] for steps in received]
    for one, other in combinations(orders, 2):
        assert one != other


def test_the_batches_of_state_c_are_mixed_anew(received):
    """Examples are drawn, not batches."""
    batches = {
        frozenset(frozenset(number for number, _, _ in step) for step in steps)
        for steps in received[2:]
    }
    assert len(batches) > 1
