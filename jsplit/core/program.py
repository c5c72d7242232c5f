"""The compiled training of one client/server pair, and how to start it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core import store
from jsplit.core.algorithm import train
from jsplit.core.gate import Gate
from jsplit.core.method import Method
from jsplit.core.metrics import (
    CorrectFunction,
    HeldOut,
    LossFunction,
    Metrics,
    cross_entropy,
    evaluate,
    top_1,
)
from jsplit.core.shards import Shards
from jsplit.core.state import EpochRecord, SideState, TrainState
from jsplit.core.steps import Steps
from jsplit.core.topology import Layout
from jsplit.core.transform import IDENTITY_TRANSFORM, Transform
from jsplit.runtime.sharding import ONE_DEVICE, Placement
from jsplit.typing import Codec


class Program(NamedTuple):
    """A compiled training program and how to start it.

    Attributes:
        run: `(TrainState, Shards, HeldOut, key, step_sizes: [e], active: Bool[e]) ->
            (TrainState, EpochRecord of [e])`, jit-compiled; the first argument is
            donated. Epochs that are not active are skipped, so that the last chunk of
            a run needs no program of its own; their records are meaningless.
        init: `(client, server, head=None) -> TrainState`, of `SideState`s, with an
            empty store.
    """

    run: Callable[..., tuple[TrainState, EpochRecord]]
    init: Callable[..., TrainState]


def make_program(
    steps: Steps,
    gate: Gate,
    codec: Codec,
    layout: Layout,
    *,
    smashed_shape: tuple[int, ...],
    transform: Transform = IDENTITY_TRANSFORM,
    loss: LossFunction = cross_entropy,
    correct: CorrectFunction = top_1,
    placement: Placement = ONE_DEVICE,
) -> Program:
    """Makes the scan over epochs for one pair of parts, codec, gate and layout.

    Args:
        steps: of the client/server pair.
        gate: decides the states, every epoch of B and of learning alone among them
            (`with_views`, `after_local`). Its numbers are traced: another threshold,
            period or seed, and other step sizes, compile nothing anew.
        codec: the activation codec of `steps`, which says how the store looks.
        layout: static sizes.
        smashed_shape: of one example's activations at the cut.
        transform: of raw examples.
        loss: of each test example, as for `make_steps`.
        correct: of each test example, as for `make_steps`.
        placement: of everything over the devices. It changes results by no more than
            the order of sums.

    Example:
        Three epochs, of which the last is left out.

        >>> import jsplit, numpy as np, optax
        >>> from flax import linen as nn
        >>> client, server = map(jsplit.from_flax, (nn.Dense(2), nn.Dense(4)))
        >>> data, sgd = (np.eye(4, dtype=np.float32), np.arange(4)), optax.sgd(0.1)
        >>> gate, codec = jsplit.freeze_gate(1), jsplit.identity()
        >>> begun = jsplit.make_simulation(
        ...     client, server, data, data, gate=gate, optimizer=sgd, codec=codec
        ... )
        >>> values = begun.steps, gate, codec, begun.layout
        >>> program = make_program(*values, smashed_shape=(2,))
        >>> state = program.init(begun.state.client, begun.state.server)
        >>> given = begun.shards, begun.test, begun.key
        >>> active = jnp.array([True, True, False])
        >>> state, record = program.run(state, *given, jnp.ones(3), active)
        >>> int(state.epoch), record.state[:2].tolist()
        (2, [0, 1])
    """

    def score(client: SideState, server: SideState, test: HeldOut) -> Metrics:
        def predict(raw: jax.Array, mask: jax.Array) -> jax.Array:
            return steps.predict(client, server, transform.evaluate(raw), mask)

        return evaluate(predict, test, loss, correct)

    method = Method(steps, gate, layout, transform, score, placement)

    def run(
        state: TrainState,
        shards: Shards,
        test: HeldOut,
        key: jax.Array,
        step_sizes: jax.Array,
        active: jax.Array,
    ) -> tuple[TrainState, EpochRecord]:
        return train(method, state, shards, test, key, step_sizes, active)

    def init(
        client: SideState, server: SideState, head: SideState | None = None
    ) -> TrainState:
        shape, views = smashed_shape, transform.view_count
        return TrainState(
            *placement.put((client, server, gate.init())),
            store=store.empty(layout, codec, shape, placement, views),
            epoch=placement.put(jnp.int32(0)),
            head=placement.put(head),
        )

    return Program(run=jax.jit(run, donate_argnums=0), init=init)
