"""What the server received last, which it learns from in state C."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jsplit.core.topology import Layout
from jsplit.runtime.sharding import MEMBERS, ROWS, Placement
from jsplit.typing import Codec, Packet

AXES = (None, MEMBERS, None, ROWS)
"""How a mesh shares the first axes of the store's arrays."""

STEPS_AXIS = 2
"""Of the store's arrays; no mesh shares it, because steps are written in turn."""


class Store(NamedTuple):
    """Packets in order of arrival: codes, never floats, a quarter of the memory.

    Attributes:
        packets: payload `[groups, members, steps, batch, ...]`, and for every example
            the header of the packet it came in,
            `UInt8[groups, members, steps, batch, h]`.
        labels: `Int32[groups, members, steps, batch]`.
    """

    packets: Packet
    labels: jax.Array


def empty(
    layout: Layout, codec: Codec, smashed_shape: tuple[int, ...], placement: Placement
) -> Store:
    """A store of the right sizes with nothing in it.

    Args:
        layout: static sizes.
        codec: of activations.
        smashed_shape: of one example's activations at the cut.
        placement: of its arrays.
    """
    places = (layout.groups, layout.members, layout.steps, layout.batch)
    device = placement.of(*AXES)
    payload = jnp.zeros((*places, *smashed_shape), codec.payload_dtype, device=device)
    header = jnp.zeros((*places, codec.header_bytes), jnp.uint8, device=device)
    return Store(Packet(payload, header), jnp.zeros(places, jnp.int32, device=device))


def write(
    store: Store,
    packets: Packet,
    labels: Int[Array, "members batch"],
    group: Int[Array, ""] | int,
    number: Int[Array, ""] | int,
) -> Store:
    """Puts a group's step in place, every example with its packet's header and label.

    Args:
        store: to write to.
        packets: payload `[members, batch, ...]`, with a header for each member.
        labels: of the same examples.
        group: whose turn it is.
        number: of the step.
    """
    header = jnp.repeat(packets.header[:, None], labels.shape[1], axis=1)

    def place(leaf: jax.Array, new: jax.Array) -> jax.Array:
        start = (group, 0, number) + (0,) * (leaf.ndim - 3)
        return jax.lax.dynamic_update_slice(leaf, new[None, :, None], start)

    return jax.tree.map(place, store, Store(Packet(packets.payload, header), labels))


def take(store: Store, slots: Int[Array, " n"]) -> Store:
    """The examples in these slots, numbered over all of them: leaves `[n, ...]`.

    The store itself is not made flat: where its batches are shared over devices, each
    one would have to get all of it first.
    """
    at = jnp.unravel_index(slots, store.labels.shape)
    return jax.tree.map(lambda leaf: leaf[at], store)
