"""How the two sides begin, and what follows from their shapes alone.

The simulation begins both in one program; over a network each process begins its own,
from the same seed, and knows of the other only shapes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from jsplit.accounting.cost_model import CostModel, PlainCosts
from jsplit.accounting.macs import macs
from jsplit.core.client_steps import evaluated
from jsplit.core.model_part import ModelPart
from jsplit.core.state import SideState, init_side
from jsplit.core.topology import Layout
from jsplit.core.whole_number import whole_number
from jsplit.typing import Codec, PyTree
from jsplit.wire import CODING_BYTES, label_bytes
from jsplit.wire.messages import LABELS_BYTES, PLAN_BYTES, TENSOR_BYTES, WEIGHTS_BYTES


class RunKeys(NamedTuple):
    """What all of a run's randomness follows from.

    Attributes:
        client: the client part's first weights.
        server: the server part's.
        run: every epoch's draws.
    """

    client: Key[Array, ""]
    server: Key[Array, ""]
    run: Key[Array, ""]


def keys_of(seed: int) -> RunKeys:
    """The keys that follow from a seed.

    Raises:
        ValueError: if it is none from 0 to 2**32 - 1: JAX would take another for it.
    """
    seed = whole_number("seed", seed, least=0, most=2**32 - 1)
    return RunKeys(*jax.random.split(jax.random.key(seed), 3))


def init_compiled(
    part: ModelPart,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    x: jax.Array,
) -> SideState:
    """A side's first variables and optimizer state, for an example batch `x`."""
    return jax.jit(lambda key, x: init_side(part, optimizer, key, x))(key, x)


def smashed_of(
    client: ModelPart, side: SideState, x: jax.Array | jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the activations at the cut, for a batch like `x`.

    Raises:
        ValueError: if they are not one float32 array.
    """
    smashed = jax.eval_shape(lambda side, x: evaluated(client, side, x), side, x)
    if getattr(smashed, "dtype", None) != jnp.float32:
        raise ValueError(
            f"the client must give one float32 array at the cut, got {smashed}"
        )
    return smashed


class InitialSides(NamedTuple):
    """Both sides before the first step.

    Attributes:
        client: of whichever client begins; all begin alike.
        server: of the server.
        smashed: shape and dtype of what crosses for one example, `[1, ...]`.
    """

    client: SideState
    server: SideState
    smashed: jax.ShapeDtypeStruct


def init_both(
    client: ModelPart,
    server: ModelPart,
    optimizer: optax.GradientTransformation,
    keys: RunKeys,
    x: jax.Array,
    layout: Layout,
) -> InitialSides:
    """Begins both sides of a run, for one transformed example `[1, ...]`.

    Raises:
        ValueError: if the client does not give one float32 array, or padded rows would
            enter a part's batch statistics.
    """
    client_side = init_compiled(client, optimizer, keys.client, x)
    smashed = smashed_of(client, client_side, x)
    server_side = init_compiled(
        server, optimizer, keys.server, jnp.zeros(smashed.shape, jnp.float32)
    )
    for part, side in ((client, client_side), (server, server_side)):
        _check_padding(part, side, layout)
    return InitialSides(client_side, server_side, smashed)


def init_head(
    head: ModelPart,
    optimizer: optax.GradientTransformation,
    keys: RunKeys,
    smashed: jax.ShapeDtypeStruct,
    layout: Layout,
) -> SideState:
    """The same, for the clients of a layout.

    Raises:
        ValueError: if padded rows would enter its batch statistics.
    """
    side = begin_head(head, optimizer, keys, smashed)
    _check_padding(head, side, layout)
    return side


def begin_head(
    head: ModelPart,
    optimizer: optax.GradientTransformation,
    keys: RunKeys,
    smashed: jax.ShapeDtypeStruct,
) -> SideState:
    """The head that every client begins with."""
    key = jax.random.fold_in(keys.client, 0)
    return init_compiled(head, optimizer, key, jnp.zeros(smashed.shape, jnp.float32))


def _check_padding(part: ModelPart, side: SideState, layout: Layout) -> None:
    """Refuses a part whose batch statistics padded rows would enter."""
    if part.masks or not (layout.padded or layout.offline_padded):
        return
    statistics = sorted(set(side.variables) - {"params"})
    if statistics:
        raise ValueError(
            f"a module with {', '.join(statistics)} must take the keyword `mask` where "
            f"batches are padded ({layout.examples} examples in batches of "
            f"{layout.offline_batch}); take it, or choose a batch size that divides "
            "every share"
        )


def head_bytes(codec: Codec, shape: tuple[int, ...]) -> int:
    """What a packet's message has beside the payload, of examples of this shape."""
    return TENSOR_BYTES + codec.of(shape).header_bytes + CODING_BYTES


def make_cost_model(
    client: ModelPart,
    side: SideState,
    x: jax.Array,
    smashed: jax.ShapeDtypeStruct,
    *,
    head: tuple[ModelPart, SideState] | None = None,
    plain: PlainCosts | None = None,
    sizes: Sequence[int],
    layout: Layout,
    codec: Codec,
    grad_codec: Codec,
    classes: int,
) -> CostModel:
    """What an epoch costs, as the wire format has it, without the lossless stage.

    Args:
        client: the client part.
        side: its variables and optimizer state.
        x: one transformed example, `[1, ...]`.
        smashed: what the client makes of it.
        head: by which the client learns alone, and its variables and optimizer state.
        plain: what reductions are against, where that is another client part.
        sizes: examples of each client.
        layout: made for these.
        codec: of activations.
        grad_codec: of gradients.
        classes: that labels come from.
    """
    shape = smashed.shape[1:]
    return CostModel(
        sizes=tuple(sizes),
        batch=layout.batch,
        sequential=layout.groups > 1,
        values=math.prod(shape),
        payload_bits=codec.payload_bits(shape),
        grad_payload_bits=grad_codec.payload_bits(shape),
        header_bytes=head_bytes(codec, shape),
        grad_header_bytes=head_bytes(grad_codec, shape),
        label_bytes=label_bytes(classes),
        labels_header_bytes=LABELS_BYTES,
        part_bytes=_bytes_of(side),
        part_header_bytes=WEIGHTS_BYTES + CODING_BYTES,
        plan_bytes=PLAN_BYTES,
        kept_bytes=WEIGHTS_BYTES,
        head_bytes=0 if head is None else _bytes_of(head[1]),
        plain=plain,
        dealt_over=layout.dealt_over,
        **_work(client, side, x, smashed, head),
    )


def plain_costs(
    client: ModelPart, optimizer: optax.GradientTransformation, x: jax.Array
) -> PlainCosts:
    """What a client part costs in plain split learning, for an example `[1, ...]`."""
    side = init_compiled(client, optimizer, jax.random.key(0), x)
    smashed = smashed_of(client, side, x)
    work = _work(client, side, x, smashed, None)
    return PlainCosts(math.prod(smashed.shape[1:]), work["sync_macs"], _bytes_of(side))


def _bytes_of(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _work(
    client: ModelPart,
    side: SideState,
    x: jax.Array,
    smashed: jax.ShapeDtypeStruct,
    head: tuple[ModelPart, SideState] | None,
) -> dict[str, int]:
    """A client's multiply-accumulates for one example: its parts', no codec's."""
    params, key = side.variables["params"], jax.random.key(0)

    def forward(params: PyTree) -> jax.Array:
        variables = {**side.variables, "params": params}
        return client.apply(variables, x, mask=None, key=key, train=True)[0]

    def sync(params: PyTree, gradient: jax.Array) -> PyTree:
        return jax.vjp(forward, params)[1](gradient)

    sync_macs = macs(sync, params, smashed)
    local_macs = 0
    if head is not None:
        part, own = head

        def outputs(params: PyTree, smashed: jax.Array) -> jax.Array:
            variables = {**own.variables, "params": params}
            return part.apply(variables, smashed, mask=None, key=key, train=True)[0]

        def both(params: PyTree, smashed: jax.Array) -> PyTree:
            given, pullback = jax.vjp(outputs, params, smashed)
            return pullback(given)

        local_macs = sync_macs + macs(both, own.variables["params"], smashed)
    return {
        "forward_macs": macs(forward, params),
        "sync_macs": sync_macs,
        "local_macs": local_macs,
    }
