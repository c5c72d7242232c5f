"""A whole training on one machine, put together from its values."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.codecs import float8
from jsplit.core.argument_checks import (
    check_arguments,
    check_optimizer,
    check_shares,
    check_test_examples,
)
from jsplit.core.checks import check_finite, check_labels, native
from jsplit.core.client_steps import Observe
from jsplit.core.defences import NO_DEFENCE, Defence
from jsplit.core.gate import Gate
from jsplit.core.gate_phases import in_phases
from jsplit.core.init import (
    init_both,
    init_head,
    keys_of,
    make_cost_model,
    plain_costs,
)
from jsplit.core.metrics import (
    CorrectFunction,
    HeldOut,
    LossFunction,
    cross_entropy,
    make_held_out,
    top_1,
)
from jsplit.core.model_part import ModelPart
from jsplit.core.output_checks import check_outputs
from jsplit.core.program import Program, make_program
from jsplit.core.replay import AS_RECEIVED, Replay
from jsplit.core.shards import Shards, make_shards
from jsplit.core.state import EpochRecord, TrainState
from jsplit.core.steps import Steps, ignore, make_steps
from jsplit.core.topology import PARALLEL, Layout, Topology, make_layout
from jsplit.core.transform import IDENTITY_TRANSFORM, Transform
from jsplit.core.value_checks import check_codec, check_gate, check_states
from jsplit.core.whole_number import whole_number
from jsplit.runtime import multihost
from jsplit.runtime.sharding import BATCH, ONE_DEVICE, Placement, make_placement
from jsplit.typing import STATES, Codec

TEST_BATCH = 500
"""Examples of one evaluation step.

The codec's search runs once a batch, so another size could move a score in its last
digits; it is fixed so that scores compare.
"""


class Simulation(NamedTuple):
    """A training, ready to run.

    Attributes:
        steps: the jit-compiled steps.
        program: the scan over epochs.
        state: before the first epoch. `run` copies it; `program.run` consumes what it
            is given, so give that a copy.
        shards: the training set, dealt out.
        test: the held-out set.
        key: that every epoch's randomness follows from.
        layout: static sizes of an epoch.
        costs: for the ledger.
        codec: of activations, for the shape at the cut.
        grad_codec: of gradients, likewise.
        placement: of all these arrays over the devices.
    """

    steps: Steps
    program: Program
    state: TrainState
    shards: Shards
    test: HeldOut
    key: jax.Array
    layout: Layout
    costs: CostModel
    codec: Codec
    grad_codec: Codec
    placement: Placement

    def run(
        self,
        step_sizes: Sequence[float] | np.ndarray,
        state: TrainState | None = None,
    ) -> tuple[TrainState, EpochRecord, Ledger]:
        """Trains one epoch for each step size, in one compiled scan.

        From a state that another call returned it goes on as if all had been one call,
        bit for bit.

        Args:
            step_sizes: what each epoch's optimizer updates are multiplied by: all 1
                for an optimizer that has its own learning rate. A schedule in it counts
                the updates of its own side, of which a client has none in B and C.
            state: to begin with, which is kept: one that a call returned, or
                `self.state` with other weights. None: `self.state`.

        Returns:
            The final state, the records stacked along a first axis, and the ledger;
            both of these epochs alone. `Ledger.of(costs, first.states + rest.states)`
            is the ledger of two calls: labels, which cross once, are in both of theirs.

        Raises:
            ValueError: if the state is none of this simulation's, or the step sizes
                are not `[epochs]`.
            RunError: if the gate gave a state that there is not, or C with no epoch of
                B since A, or a loss is not finite, naming the first such epoch.

        Example:
            >>> import flax.linen as nn, jsplit
            >>> data = np.eye(4, dtype=np.float32), np.arange(4)
            >>> simulation = make_simulation(
            ...     jsplit.from_flax(nn.Dense(2)),
            ...     jsplit.from_flax(nn.Dense(4)),
            ...     data,
            ...     data,
            ...     gate=jsplit.freeze_gate(2),
            ...     optimizer=optax.sgd(0.1),
            ...     codec=jsplit.identity(),
            ... )
            >>> state, _, first = simulation.run(np.ones(2))
            >>> state, _, rest = simulation.run(np.ones(2), state)
            >>> first.states, rest.states, int(state.epoch)
            ('AA', 'BC', 4)
            >>> both = jsplit.Ledger.of(simulation.costs, first.states + rest.states)
            >>> first.wire_bytes + rest.wire_bytes - both.wire_bytes  # labels
            6
        """
        begun = self.state if state is None else state
        _check_state(begun, self.state)
        sizes = _sizes_of(step_sizes)
        # The program consumes the state that it is given; this one is kept.
        state, record = self.program.run(
            jax.tree.map(jnp.copy, begun),
            self.shards,
            self.test,
            self.key,
            sizes,
            jnp.ones(sizes.shape, bool),
        )
        check_states(
            record.state,
            alone=self.state.head is not None,
            refreshed=bool(np.all(begun.store.refreshed)),
        )
        check_finite(record)
        states = "".join(STATES[state] for state in np.asarray(record.state))
        return state, record, Ledger.of(self.costs, states)


def make_simulation(
    client: ModelPart,
    server: ModelPart,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    gate: Gate | Callable[[CostModel], Gate],
    head: ModelPart | None = None,
    local_epochs: int = 0,
    plain_client: ModelPart | None = None,
    optimizer: optax.GradientTransformation,
    codec: Codec | None = None,
    grad_codec: Codec | None = None,
    shares: Sequence[np.ndarray] | None = None,
    topology: Topology = PARALLEL,
    batch_size: int = 128,
    transform: Transform = IDENTITY_TRANSFORM,
    refresh_statistics: str = "running",
    defence: Defence = NO_DEFENCE,
    replay: Replay = AS_RECEIVED,
    received_replay: Replay = AS_RECEIVED,
    loss: LossFunction = cross_entropy,
    correct: CorrectFunction = top_1,
    seed: int = 0,
    observe: Observe = ignore,
    devices: Sequence[jax.Device] | None = None,
) -> Simulation:
    """Puts a training together; nothing is compiled for training yet.

    Args:
        client: maps transformed examples `[b, ...]` to the activations at the cut,
            one float32 array `[b, ...]`.
        server: maps those to outputs, for `loss`.
        train: examples `[n, ...]` of any dtype that `transform` takes, labels `Int[n]`.
        test: likewise.
        gate: decides the states, or what makes it of the costs of an epoch. Where the
            transform has several views, it has as many epochs of B where it would have
            one.
        head: by which each client learns alone at first: maps the activations at the
            cut to outputs, for `loss`.
        local_epochs: so many epochs of that come before the first of the gate.
        plain_client: the client part of plain split learning, where `client` has more
            than that to save traffic: what reductions are against. None: `client`.
        optimizer: of both sides, each with its own state; see `make_steps`.
        codec: for activations; None: searched float8.
        grad_codec: for gradients, such as `where_sent()`; None: searched float8.
        shares: each client's examples, as indices into `train`; None: one client.
        topology: how the clients share an epoch.
        batch_size: examples of one server step.
        transform: of raw examples.
        refresh_statistics: see `make_steps`.
        defence: see `make_steps`.
        replay: see `make_steps`.
        received_replay: see `make_steps`.
        loss: of each example.
        correct: of each example.
        seed: of weights, order, augmentation and dropout, from 0 to 2**32 - 1.
        observe: see `make_steps`.
        devices: to share the work over, at least two; those of all processes, where
            there are several. None: the default device does it all.

    Raises:
        InputError: if the devices cannot share the clients or the batch equally, or
            the activations at the cut are none that the replay can be of.
        ValueError: if an argument is of another kind than is said here, there are
            local epochs and no head, the gate, a codec or the optimizer does not do
            what it says, the lengths do not match, examples are no numbers or the test
            ones of another shape, labels are not integers `[n]` from 0 or, under
            cross-entropy, the server or the head has no output for one, the loss or
            `correct` gives not one value an example, the client's output is not one
            float32 array, shares name an example twice or a missing one, or a part
            with batch statistics takes no mask and the shares need padding.

    Example:
        >>> import flax.linen as nn, jsplit
        >>> encoder = nn.Sequential([nn.Dense(32), nn.relu])  # stays with the client
        >>> classifier = nn.Dense(3)  # stays with the server
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 3, 1200)
        >>> x = (rng.normal(size=(1200, 8)) + 2 * np.eye(3, 8)[y]).astype(np.float32)
        >>> simulation = jsplit.make_simulation(
        ...     jsplit.from_flax(encoder),
        ...     jsplit.from_flax(classifier),
        ...     train=(x[:1000], y[:1000]),
        ...     test=(x[1000:], y[1000:]),
        ...     gate=jsplit.loss_gate(0.05, initial_loss=np.log(3)),
        ...     optimizer=optax.sgd(0.1, momentum=0.9),
        ...     batch_size=100,
        ... )
        >>> state, record, ledger = simulation.run(step_sizes=np.ones(2))
        >>> ledger.states, ledger.communication_reduction
        ('AA', 4.0)
        >>> float(record.test.correct[-1] / record.test.examples[-1]) > 0.75
        True
    """
    check_arguments(locals())  # nothing else has a name yet
    local_epochs = whole_number("local_epochs", local_epochs, least=0)
    train = native("train", train[0]), np.asarray(train[1])
    test = native("test", test[0]), np.asarray(test[1])
    for name, (examples, of) in (("train", train), ("test", test)):
        check_labels(name, of, len(examples))
    if shares is None:
        shares = [np.arange(len(train[0]))]
    check_shares(shares, len(train[0]))
    if not callable(gate):
        check_gate(gate)
    if local_epochs and head is None:
        raise ValueError(f"local_epochs {local_epochs} needs a head to learn by")
    sizes = [len(share) for share in shares]
    layout = make_layout(sizes, topology, batch_size)
    placement = ONE_DEVICE
    if devices is not None:
        placement = make_placement(layout.members, layout.batch, devices)
    keys = keys_of(seed)
    x = transform.evaluate(jnp.asarray(train[0][:1]))
    check_test_examples(transform, x, test[0])
    begun = init_both(client, server, optimizer, keys, x, layout)
    for side in (begun.client, begun.server):
        check_optimizer(optimizer, side)
    shape = begun.smashed.shape[1:]
    codec = check_codec("codec", float8() if codec is None else codec, shape)
    grad_codec = check_codec(
        "grad_codec", float8() if grad_codec is None else grad_codec, shape, codec
    )
    labels = {"train": train[1], "test": test[1]}
    scores = begun.smashed, labels, loss, correct
    check_outputs("server", server, begun.server, *scores)
    begun_head = None
    if head is not None and local_epochs:
        begun_head = init_head(head, optimizer, keys, begun.smashed, layout)
        check_outputs("head", head, begun_head, *scores)
    for moved in (replay, received_replay):
        moved.check(shape)
    steps = make_steps(
        client,
        server,
        head=head if local_epochs else None,
        client_optimizer=optimizer,
        server_optimizer=optimizer,
        codec=codec,
        grad_codec=grad_codec,
        loss=loss,
        correct=correct,
        refresh_statistics=refresh_statistics,
        defence=defence,
        replay=replay,
        received_replay=received_replay,
        observe=observe,
    )
    costs = make_cost_model(
        client,
        begun.client,
        x,
        begun.smashed,
        head=None if head is None or begun_head is None else (head, begun_head),
        plain=None if plain_client is None else plain_costs(plain_client, optimizer, x),
        sizes=sizes,
        layout=layout,
        codec=codec,
        grad_codec=grad_codec,
        classes=int(np.max(train[1])) + 1,
    )
    if callable(gate):
        known = dataclasses.replace(
            costs, views=transform.view_count, local_epochs=local_epochs
        )
        gate = gate(known)
        check_gate(gate)
    program = make_program(
        steps,
        in_phases(gate, transform.view_count, local_epochs),
        codec,
        layout,
        smashed_shape=shape,
        transform=transform,
        loss=loss,
        correct=correct,
        placement=placement,
    )
    return Simulation(
        steps=steps,
        program=program,
        state=program.init(
            *multihost.from_leader((begun.client, begun.server, begun_head))
        ),
        shards=placement.put(make_shards(*train, shares, layout)),
        test=placement.put(
            make_held_out(*test, TEST_BATCH, placement.devices), None, BATCH
        ),
        key=placement.put(keys.run),
        layout=layout,
        costs=costs,
        codec=codec,
        grad_codec=grad_codec,
        placement=placement,
    )


def _check_state(state: TrainState, own: TrainState) -> None:
    structure: Any = jax.tree.structure(state)  # it has no type of its own
    if structure != jax.tree.structure(own):
        raise ValueError(
            "state must have the structure of this simulation's own (the same parts, "
            f"optimizer, gate and codec), got {structure}"
        )
    leaves = zip(*map(jax.tree_util.tree_leaves_with_path, (state, own)), strict=True)
    for (path, leaf), (_, expected) in leaves:
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"state{jax.tree_util.keystr(path)} must be {expected.dtype} "
                f"{list(expected.shape)}, got {leaf.dtype} {list(leaf.shape)}"
            )


def _sizes_of(step_sizes: Any) -> Float[Array, " epochs"]:
    sizes = np.asarray(step_sizes)
    kinds = jnp.integer, jnp.floating
    if sizes.ndim != 1 or not any(jnp.issubdtype(sizes.dtype, kind) for kind in kinds):
        raise ValueError(
            "step_sizes must be a number for each epoch, [epochs], such as "
            f"np.ones(20), got {sizes.dtype} {list(sizes.shape)}"
        )
    return jnp.asarray(sizes, jnp.float32)
