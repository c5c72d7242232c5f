"""What `make_simulation` says of codecs and gates that cannot be used."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from jsplit import Codec, Gate, GateState, Packet
from jsplit.core.state import EpochRecord
from jsplit.core.value_checks import check_gate, check_states
from jsplit.errors import RunError
from jsplit.experiment import workdir
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.progress import Progress
from jsplit.experiment.train import train
from jsplit.testing import TINY_RUN

X = np.eye(8, dtype=np.float32)
Y = np.arange(8) % 3


def made(**given):
    return jsplit.make_simulation(
        jsplit.from_flax(nn.Dense(32)),
        jsplit.from_flax(nn.Dense(3)),
        (X, Y),
        (X, Y),
        **{
            "gate": jsplit.freeze_gate(1),
            "optimizer": optax.sgd(0.1),
            "batch_size": 4,
        }
        | given,
    )


def scaled(levels, dtype):
    def encode(values):
        scale = jnp.maximum(jnp.max(jnp.abs(values)), 1e-12) / levels
        header = jax.lax.bitcast_convert_type(scale, jnp.uint8)
        return Packet(jnp.round(values / scale).astype(dtype), header)

    def decode(packet):
        scale = jax.lax.bitcast_convert_type(packet.header, jnp.float32)
        return packet.payload.astype(jnp.float32) * scale

    return Codec("own", encode, decode, dtype, 4)


def quarter():
    """The largest quarter of the values, each in the place of four."""

    def encode(values):
        kept, _ = jax.lax.top_k(values, values.shape[1] // 4)
        return Packet(kept, jnp.zeros(0, jnp.uint8))

    def decode(packet):
        return jnp.tile(packet.payload, (1, 4))

    def fewer(shape):
        return (shape[0] // 4,)

    return Codec("quarter", encode, decode, jnp.float32, 0, payload_shape=fewer)


INT8 = scaled(127, jnp.int8)
TOP = jsplit.top_k(4).of((32,))
ANSWER = jsplit.where_sent().of((32,), TOP)


def answer(**changes):
    """An answer to what `TOP` sends that is not what it says."""
    return ANSWER._replace(
        answering=lambda packet: ANSWER.answering(packet)._replace(**changes)
    )


@pytest.mark.parametrize(
    ("codec", "bits"),
    [(INT8, 8), (scaled(7, jnp.int4), 4), (quarter(), 8)],
    ids=["int8", "int4", "fewer values"],
)
def test_a_codec_of_ones_own_is_counted_by_its_real_bits(codec, bits):
    simulation = made(codec=codec)
    _, record, ledger = simulation.run(np.ones(4))
    assert ledger.states == "ABCC"
    assert ledger.paper_bits == 8 * 32 * (bits * 2 + 8)
    assert np.isfinite(record.train.loss).all()
    stored = simulation.state.store.examples.packets.payload
    assert stored.dtype == codec.payload_dtype
    assert stored.shape[-1:] == codec.payload_shape((32,))


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ("float8", r"codec must be a Codec, .* got 'float8'; take jsplit.CODECS\["),
        (INT8._replace(header_bytes=2), r"codec own .* header of uint8 \[2\], got .*4"),
        (INT8._replace(payload_dtype=jnp.uint8), r"payload of uint8 .* got int8"),
        (
            INT8._replace(payload_shape=lambda shape: (7,)),
            r"codec own must encode to a payload of int8 \[2, 7\], got int8 \[2, 32\]",
        ),
        (
            INT8._replace(decode=lambda packet: INT8.decode(packet)[:, :16]),
            r"must decode to what it encoded, float32 \[2, 32\], got float32 \[2, 16\]",
        ),
        (INT8._replace(encode=lambda values: values), r"must encode to a Packet"),
        (
            INT8._replace(encode=lambda values: values[:, :, 0]),
            r"codec own must encode float32 \[2, 32\], but IndexError: ",
        ),
        (jsplit.packed(4, per_channel=True), r"codec: bits4-channel .* no channels"),
    ],
)
def test_a_codec_that_does_not_do_what_it_says_is_refused_by_name(codec, said):
    with pytest.raises(ValueError, match=said):
        made(codec=codec)
    with pytest.raises(ValueError, match=f"^grad_{said}" if said[0] == "c" else said):
        made(grad_codec=codec)


@pytest.mark.parametrize(
    ("codec", "grad_codec", "said"),
    [
        (TOP, answer(encode=INT8.encode), r"^grad_codec where-sent .* uint8 \[2, 8\]"),
        (
            TOP,
            answer(decode=lambda packet: packet.payload.astype(jnp.float32)),
            r"^grad_codec where-sent must decode to what",
        ),
        (
            TOP._replace(places=lambda packet: packet.payload[0]),
            None,
            r"^codec top4 must say its places as int32 \[2, k\], got uint8 \[12\]",
        ),
        (
            TOP._replace(encode_in_use=INT8.encode),
            None,
            r"^codec top4 in use must encode to a payload of uint8 \[2, 12\], got int8",
        ),
    ],
)
def test_an_answer_and_what_is_sent_in_use_are_checked_too(codec, grad_codec, said):
    with pytest.raises(ValueError, match=said):
        made(codec=codec, grad_codec=grad_codec)


def start(state):
    return lambda: GateState(jnp.int32(state), ())


def always(state):
    return lambda gate, loss: GateState(jnp.int32(state), ())


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("loss", r"gate must be a Gate, such as loss_gate"),
        (Gate(start(0), always(7)), r"states 0, 1 and 2 .*, got 7 after losses of"),
        (Gate(start(2), lambda gate, loss: gate), r"must start in A or B, .* got C"),
        (Gate(start(0), always(2)), r"an epoch of B between A and C, got ACCC"),
        (Gate(lambda: 0, always(0)), r"gate.init must give a GateState, got 0"),
        (
            Gate(start(0), lambda gate, loss: GateState(gate.state, loss)),
            r"keep the structure and dtypes of its state",
        ),
        (
            Gate(start(0), lambda gate, loss: GateState(loss, ())),
            r"gate.update must give a state of int32 \[\], got float32 \[\]",
        ),
        (
            Gate(start(0), lambda gate, loss: gate.state[1]),
            r"gate must update its state, but \w+: ",
        ),
    ],
)
def test_a_gate_that_starts_or_goes_on_as_none_can_is_refused_by_name(gate, said):
    with pytest.raises(ValueError, match=said):
        made(gate=gate)


def test_every_gate_of_ours_is_taken():
    for gate in (
        jsplit.always_gate(),
        jsplit.freeze_gate(0),
        jsplit.freeze_gate(2),
        jsplit.periodic_gate(3),
        jsplit.loss_gate(0.1, initial_loss=1.0),
    ):
        check_gate(gate)


def test_a_state_that_comes_only_in_training_ends_it_with_a_line():
    def update(gate, loss):
        epoch = gate.memory + 1
        # Beyond what it is tried with.
        state = jnp.where(epoch == 12, jnp.int32(7), jnp.int32(0))
        return GateState(state, epoch)

    simulation = made(gate=Gate(lambda: GateState(jnp.int32(0), jnp.int32(0)), update))
    with pytest.raises(RunError, match=r"the gate gave state 7 for epoch 13"):
        simulation.run(np.ones(14))
    with pytest.raises(RunError, match=r"state 3 for epoch 2"):
        check_states(np.array([0, 3]), alone=False)
    check_states(np.array([3, 0, 1, 2]), alone=True)


def test_c_straight_after_a_ends_a_training_wherever_it_comes():
    def update(gate, loss):
        epoch = gate.memory + 1
        return GateState(jnp.where(epoch < 12, jnp.int32(0), jnp.int32(2)), epoch)

    said = "gate must have an epoch of B between A and C, got C without one for epoch "
    simulation = made(gate=Gate(lambda: GateState(jnp.int32(0), jnp.int32(0)), update))
    between, _, ledger = simulation.run(np.ones(12))
    assert ledger.states == "A" * 12
    with pytest.raises(RunError, match=f"^{said}1: what is stored in A is of a client"):
        simulation.run(np.ones(12), between)
    for states in ([0, 1, 0, 2], [1, 2, 0, 2], [3, 2]):
        with pytest.raises(RunError, match=f"{said}{len(states)}:"):
            check_states(np.array(states), alone=True)
    check_states(np.array([2, 2, 0, 1, 2]), alone=False, refreshed=True)


def test_a_run_ends_where_its_gate_gives_a_state_that_cannot_be(tmp_path):
    config = dataclasses.replace(TINY_RUN, workdir=str(tmp_path / "run"), chunk=2)
    experiment = build(config, load_dataset(config, print))
    simulation = experiment.simulation

    def states(*ran):
        outcome = EpochRecord(np.array(ran), None, None)
        program = simulation.program._replace(run=lambda *given: (None, outcome))
        return experiment._replace(simulation=simulation._replace(program=program))

    described = workdir.described(experiment.dataset)
    with workdir.open_new(config, described) as folder:
        progress = Progress(experiment)
        with pytest.raises(RunError, match="got C without one for epoch 2: what is s"):
            train(states(0, 2), folder, progress, [])
        progress.ledger.add("B")
        with pytest.raises(RunError, match="the gate gave state 7 for epoch 3"):
            train(states(2, 7), folder, progress, [])
    assert not folder.metrics.exists() and not folder.checkpoints.exists()


def test_step_sizes_of_another_shape_are_refused_with_both():
    wanted = r"step_sizes must be a number for each epoch, \[epochs\], .*, got "
    simulation = made()
    for sizes, got in (
        (1.0, r"float64 \[\]"),
        (20, r"int64 \[\]"),
        (np.ones((2, 3)), r"float64 \[2, 3\]"),
        (jnp.ones((4, 1)), r"float32 \[4, 1\]"),
        (["0.1"], r"<U3 \[1\]"),
        (None, r"object \[\]"),
    ):
        with pytest.raises(ValueError, match=wanted + got):
            simulation.run(sizes)
    for sizes in ([0.1], (1,), jnp.ones(1, jnp.bfloat16), np.ones(1, np.float16)):
        assert simulation.run(sizes)[2].states == "A"


def test_steps_refuse_a_codec_that_is_not_the_one_of_a_shape():
    part = jsplit.from_flax(nn.Dense(3))
    with pytest.raises(ValueError, match=r"codec bits4 differs by the shape"):
        jsplit.make_steps(
            part,
            part,
            client_optimizer=optax.sgd(0.1),
            server_optimizer=optax.sgd(0.1),
            codec=jsplit.packed(4),
            grad_codec=jsplit.float8(),
        )


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("gate", jsplit.freeze_gate, "a Gate, got freeze_gate; call what makes one"),
        ("gate", jsplit.GATES["freeze"], "a Gate, got FreezeGate; call what makes one"),
        ("head", nn.Dense(3), "a ModelPart, got an object of Dense; jsplit.from_flax"),
        (
            "plain_client",
            nn.Dense(3),
            "a ModelPart, got an object of Dense; jsplit.fro",
        ),
        ("optimizer", optax.sgd, "an optax optimizer, got sgd; call what makes one"),
        ("optimizer", None, "an optax optimizer, got None; call"),
        ("optimizer", 0.1, "an optax optimizer, got 0.1; call"),
        ("shares", {0: [1]}, r"a list of one array .* got \{0: \[1\]\}; give \[np.ara"),
        ("topology", "parallel", "a Topology, got 'parallel'; take jsplit.PARALLEL"),
        ("transform", lambda x: x, "a Transform, got <lambda>; give jsplit.Transform"),
        ("defence", 0.1, "a Defence, got 0.1; give jsplit.Defence"),
        ("replay", jsplit.mixup, "a Replay, got mixup; call what makes one"),
        ("received_replay", [jsplit.mixup(1.0)], "a Replay, got an object of list"),
        ("loss", "mse", "a function, got 'mse'; it maps"),
        ("correct", None, "a function, got None; it maps"),
        ("observe", None, "a function, got None; it takes"),
        ("devices", [], r"a list of devices, got \[\]; give jax.devices\(\)"),
    ],
)
def test_an_argument_of_another_kind_is_refused_by_name(argument, value, said):
    with pytest.raises(ValueError, match=f"^{argument} must be {said}"):
        made(**{argument: value})


def test_a_module_that_was_not_made_a_part_is_refused_by_name():
    part, data = jsplit.from_flax(nn.Dense(3)), (X, Y)
    rest = {"gate": jsplit.freeze_gate(1), "optimizer": optax.sgd(0.1)}
    with pytest.raises(ValueError, match="^client must be a ModelPart, got an object"):
        jsplit.make_simulation(nn.Dense(3), part, data, data, **rest)
    with pytest.raises(ValueError, match="^server must be a ModelPart, got an object"):
        jsplit.make_simulation(part, nn.Dense(3), data, data, **rest)
    with pytest.raises(
        ValueError, match=r"^test must be a pair .*give \(examples, lab"
    ):
        jsplit.make_simulation(part, part, data, X, **rest)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            np.arange(8),
            r"whole numbers \[n\], got int64 \[\] for client 0; give one arr",
        ),
        (
            [np.arange(4), np.arange(4.0)],
            "got float64 .4. for client 1; give one array",
        ),
        ([Y > 0, Y == 0], r"got bool \[8\] for client 0; give np.flatnonzero\(mask\)"),
    ],
)
def test_shares_that_are_no_indices_are_refused_by_their_client(shares, said):
    with pytest.raises(ValueError, match=f"^shares must hold indices, .*{said}"):
        made(shares=shares)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("seed", None, "a whole number, got None"),
        ("seed", 1.5, "a whole number, got 1.5"),
        ("seed", -1, "at least 0, got -1"),
        ("seed", 2**32, "at most 4294967295, got 4294967296"),
        ("batch_size", 2.5, "a whole number, got 2.5"),
        ("local_epochs", 1.5, "a whole number, got 1.5"),
        ("local_epochs", -1, "at least 0, got -1"),
    ],
)
def test_a_number_that_is_not_whole_or_out_of_range_is_refused(argument, value, said):
    with pytest.raises(ValueError, match=f"^{argument} must be {said}$"):
        made(**{argument: value})


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (optax.lbfgs(), "parameters alone, but TypeError: .*'value', 'grad', and"),
        (
            optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
            "parameters alone, but TypeError: .* argument: 'value'",
        ),
        (
            optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
            r"its state has a PRNG key, \[0\].rng_key; leave out",
        ),
    ],
)
def test_an_optimizer_outside_the_contract_is_refused_by_what_it_needs(optimizer, said):
    with pytest.raises(ValueError, match=f"^optimizer must .*{said}"):
        made(optimizer=optimizer)


def test_an_optimizer_that_is_no_transformation_but_acts_as_one_is_taken():
    class Own:
        """As `optax.MultiSteps` is."""

        init, update = map(staticmethod, optax.sgd(0.1))

    made(optimizer=Own())
