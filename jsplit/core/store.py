"""What the server received last, which it learns from in state C."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jsplit.core import schedule
from jsplit.core.schedule import OfflineBatches
from jsplit.core.topology import Layout
from jsplit.runtime.sharding import MEMBERS, ROWS, Placement
from jsplit.typing import Codec, Packet

AXES = (None, None, MEMBERS, None, ROWS)
"""How a mesh shares the first axes of what a client sends, as `Examples` has it."""

STEPS_AXIS = 3
"""Of the same arrays; no mesh shares it, because steps are written in turn."""


class Examples(NamedTuple):
    """Examples as they crossed.

    Attributes:
        packets: payload `[views, groups, members, steps, batch, ...]`, and for every
            example the header of the packet it came in,
            `UInt8[views, groups, members, steps, batch, h]`.
        labels: `Int32[views, groups, members, steps, batch]`.
        positions: of each in its client's shard, likewise.
    """

    packets: Packet
    labels: jax.Array
    positions: jax.Array


class Store(NamedTuple):
    """Views in order of arrival: codes, never floats, a quarter of the memory.

    An epoch of A or B sends each example once: a view of it. One of A takes the place
    of the first view; each epoch of B since takes the next, round and round.

    Attributes:
        examples: that came.
        refreshed: `Int32[groups, members]`, epochs of B since each client changed.
    """

    examples: Examples
    refreshed: jax.Array


def empty(
    layout: Layout,
    codec: Codec,
    smashed_shape: tuple[int, ...],
    placement: Placement,
    views: int = 1,
) -> Store:
    """A store of the right sizes with nothing in it.

    Args:
        layout: static sizes.
        codec: of activations, for examples of any shape or of this one.
        smashed_shape: of one example's activations at the cut.
        placement: of its arrays.
        views: of each example that it can hold.

    Example:
        8-bit codes, a quarter of float32.

        >>> from jsplit.codecs import float8
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> from jsplit.runtime.sharding import ONE_DEVICE
        >>> layout = make_layout([3, 2], PARALLEL, batch_size=4)
        >>> payload = empty(layout, float8(), (6,), ONE_DEVICE).examples.packets.payload
        >>> payload.shape, payload.nbytes
        ((1, 1, 2, 2, 2, 6), 48)
    """
    places = (views, layout.groups, layout.members, layout.steps, layout.batch)
    device = placement.of(*AXES)

    def numbers() -> jax.Array:
        return jnp.zeros(places, jnp.int32, device=device)

    codec = codec.of(smashed_shape)
    coded = codec.payload_shape(smashed_shape)
    payload = jnp.zeros((*places, *coded), codec.payload_dtype, device=device)
    header = jnp.zeros((*places, codec.header_bytes), jnp.uint8, device=device)
    refreshed = jnp.zeros((layout.groups, layout.members), jnp.int32)
    return Store(
        Examples(Packet(payload, header), numbers(), numbers()),
        placement.put(refreshed),
    )


def next_view(store: Store, group: Int[Array, ""] | int) -> Int[Array, ""]:
    """The view whose place a group's epoch of B takes, from 0.

    All of its members have sent as many.
    """
    return store.refreshed[group, 0] % len(store.examples.labels)


def note_turn(store: Store, group: Int[Array, ""] | int, *, reply: bool) -> Store:
    """Notes that a group had its turn in an epoch of A if `reply`, else of B.

    Example:
        >>> refreshed = jnp.array([[1, 1], [4, 4]])
        >>> store = Store(None, refreshed)
        >>> note_turn(store, 0, reply=False).refreshed.tolist()
        [[2, 2], [4, 4]]
        >>> note_turn(store, 1, reply=True).refreshed.tolist()
        [[1, 1], [0, 0]]
    """
    turns = 0 if reply else store.refreshed[group] + 1
    return store._replace(refreshed=store.refreshed.at[group].set(turns))


def write(
    examples: Examples,
    packets: Packet,
    labels: Int[Array, "members batch"],
    positions: Int[Array, "members batch"],
    place: tuple[Int[Array, ""] | int, Int[Array, ""] | int, Int[Array, ""] | int],
) -> Examples:
    """Puts a group's step in place, every example with its packet's header and label.

    Args:
        examples: to write to.
        packets: payload `[members, batch, ...]`, with a header for each member.
        labels: of the same examples.
        positions: theirs in their clients' shards.
        place: numbers of the view, the group and the step.

    Example:
        >>> places = (1, 1, 1, 2, 3)  # a view, group and member, two steps of three
        >>> header = jnp.zeros((*places, 0), jnp.uint8)
        >>> packets = Packet(jnp.zeros(places), header)
        >>> nothing = jnp.zeros(places, jnp.int32)
        >>> packet = Packet(jnp.array([[0.1, 0.2, 0.3]]), header[0, 0, :, 0, 0])
        >>> labels, positions = jnp.array([[7, 8, 9]]), jnp.array([[2, 0, 1]])
        >>> given = Examples(packets, nothing, nothing), packet, labels, positions
        >>> write(*given, place=(0, 0, 1)).labels.tolist()
        [[[[[0, 0, 0], [7, 8, 9]]]]]
    """
    view, group, number = place
    header = jnp.repeat(packets.header[:, None], labels.shape[1], axis=1)
    came = Examples(Packet(packets.payload, header), labels, positions)

    def put(leaf: jax.Array, new: jax.Array) -> jax.Array:
        start = (view, group, 0, number) + (0,) * (leaf.ndim - 4)
        # Of one dtype, also where plain numbers are int64 (`jax_enable_x64`).
        start = tuple(jnp.asarray(index, jnp.int32) for index in start)
        return jax.lax.dynamic_update_slice(leaf, new[None, None, :, None], start)

    return jax.tree.map(put, examples, came)


def take(
    examples: Examples, slots: Int[Array, " n"], views: Int[Array, " n"] | None = None
) -> Examples:
    """The examples in these slots, numbered over all of a view: leaves `[n, ...]`.

    The arrays themselves are not made flat: where their batches are shared over
    devices, each one would have to get all of them first.

    Args:
        examples: to take from.
        slots: to take, of the views in question.
        views: in which to look; None: the first.

    Example:
        >>> labels = jnp.arange(10, 16).reshape(1, 1, 1, 2, 3)
        >>> packets = Packet(-labels, jnp.zeros((1, 1, 1, 2, 3, 0), jnp.uint8))
        >>> taken = take(Examples(packets, labels, labels), jnp.array([5, 0, 3]))
        >>> taken.labels.tolist(), taken.packets.payload.tolist()
        ([15, 10, 13], [-15, -10, -13])
    """
    at = jnp.unravel_index(slots, examples.labels.shape[1:])
    first = 0 if views is None else views
    return jax.tree.map(lambda leaf: leaf[(first, *at)], examples)


def with_views(
    store: Store, key: Key[Array, ""], batches: OfflineBatches, layout: Layout
) -> OfflineBatches:
    """The plan of an epoch of C with a view of each example drawn.

    The same where the store holds one view. A client's views are those of its epochs of
    B since it changed; what came in A where there is none.

    Args:
        store: to learn from.
        key: of the epoch.
        batches: whose slots are those of the first view.
        layout: static sizes.
    """
    most = len(store.examples.labels)
    if most == 1:
        return batches
    available = jnp.clip(store.refreshed, 1, most)
    views = schedule.draw_views(key, batches.slots, available, layout)
    slots = same_example(store.examples, batches.slots, views)
    return batches._replace(slots=slots, views=views)


def same_example(
    examples: Examples, slots: Int[Array, "*n"], views: Int[Array, "*n"]
) -> Int[Array, "*n"]:
    """Where these views have the examples that the first view has in these slots.

    Example:
        Two views of one client's three examples, which came in another order.

        >>> positions = jnp.array([[2, 0, 1], [0, 1, 2]]).reshape(2, 1, 1, 1, 3)
        >>> examples = Examples(None, positions, positions)
        >>> same_example(examples, jnp.array([0, 0, 1]), jnp.array([0, 1, 1])).tolist()
        [0, 2, 0]
    """
    shape = examples.positions.shape
    # Each client's positions are a permutation of its slots.
    positions = examples.positions.reshape(shape[0], shape[1] * shape[2], -1)
    client, slot = jnp.divmod(slots, positions.shape[-1])
    slot_of = jnp.argsort(positions, axis=-1)
    return (
        client * positions.shape[-1]
        + slot_of[views, client, positions[0, client, slot]]
    )
