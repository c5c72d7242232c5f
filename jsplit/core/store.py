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

    Example:
        8-bit codes, a quarter of float32.

        >>> from jsplit.codecs import float8
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> from jsplit.runtime.sharding import ONE_DEVICE
        >>> layout = make_layout([3, 2], PARALLEL, batch_size=4)
        >>> store = empty(layout, float8(), (6,), ONE_DEVICE)
        >>> store.packets.payload.shape, store.packets.payload.nbytes
        ((1, 2, 2, 2, 6), 48)
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

    Example:
        >>> places = (1, 1, 2, 3)  # a group, a member, two steps of three examples
        >>> header = jnp.zeros((*places, 0), jnp.uint8)
        >>> packets = Packet(jnp.zeros(places), header)
        >>> store = Store(packets, jnp.zeros(places, jnp.int32))
        >>> packets = Packet(jnp.array([[0.1, 0.2, 0.3]]), header[0, :, 0, 0])
        >>> store = write(store, packets, jnp.array([[7, 8, 9]]), group=0, number=1)
        >>> store.labels.tolist()
        [[[[0, 0, 0], [7, 8, 9]]]]
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

    Example:
        >>> labels = jnp.arange(10, 16).reshape(1, 1, 2, 3)
        >>> packets = Packet(-labels, jnp.zeros((1, 1, 2, 3, 0), jnp.uint8))
        >>> taken = take(Store(packets, labels), jnp.array([5, 0, 3]))
        >>> taken.labels.tolist(), taken.packets.payload.tolist()
        ([15, 10, 13], [-15, -10, -13])
    """
    at = jnp.unravel_index(slots, store.labels.shape)
    return jax.tree.map(lambda leaf: leaf[at], store)
