"""Who does what when in an epoch: every key, order, row and mask, from one place.

What a run draws in an epoch follows from the run's key by these functions alone:

    epoch_key = fold_in(key, epoch)
    client's key = fold_in(fold_in(epoch_key, 0), client)      numbered over groups
        order of its examples: fold_in(client's key, 2**31 - 1)
        step's keys = split(fold_in(client's key, step))       transform, part
    server's key of a step in A or B = fold_in(fold_in(epoch_key, 1), step over groups)
    state C: split(fold_in(epoch_key, 2))                      order, steps
        views: fold_in(epoch_key, 3)

The simulation, the networked server and client, and the replay of what a server saw
take their schedule from here, so that equal results follow from structure. Those who
are given a key of a step (a part, a transform, `defences`, `replay`) draw from it as
they like.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from jsplit.core.shards import Shards
from jsplit.core.topology import Layout

Positions = TypeVar("Positions", jax.Array, np.ndarray)


def epoch_key(key: Key[Array, ""], epoch: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of an epoch, numbered from 0, of the run whose key this is."""
    return jax.random.fold_in(key, epoch)


def client_keys(key: Key[Array, ""], layout: Layout) -> Key[Array, "groups members"]:
    """Each client's key for the epoch whose key this is, `[groups, members]`.

    Example:
        They do not depend on the topology.

        >>> from jsplit.core.topology import PARALLEL, SEQUENTIAL, make_layout
        >>> key = epoch_key(jax.random.key(0), 7)
        >>> beside = client_keys(key, make_layout([3, 2], PARALLEL, 4))
        >>> in_turns = client_keys(key, make_layout([3, 2], SEQUENTIAL, 4))
        >>> beside.shape, in_turns.shape, bool((beside[0] == in_turns[:, 0]).all())
        ((1, 2), (2, 1), True)
    """
    base = jax.random.fold_in(key, 0)
    numbers = jnp.arange(layout.groups * layout.members)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(base, numbers)
    return keys.reshape(layout.groups, layout.members)


class ClientPlan(NamedTuple):
    """What one client does in an epoch of A or B.

    Attributes:
        key: the client's for the epoch.
        order: positions in its shard in the order in which it takes them,
            `Int32[slots]`; those that stand for no example are where the mask is not.
        mask: which slots hold an example, `Bool[slots]`.
    """

    key: jax.Array
    order: jax.Array
    mask: jax.Array


def plan_client(
    key: Key[Array, ""],
    count: Int[Array, ""] | int,
    slots: int,
    dealt_over: int | None = None,
) -> ClientPlan:
    """The plan of a client with so many examples.

    Args:
        key: the client's for the epoch.
        count: of its examples.
        slots: places for them, at least `count`.
        dealt_over: steps that the slots are divided into, over which the examples are
            spread, see `rows_of_batch`; None: the first slots are taken.

    Example:
        >>> plan = plan_client(jax.random.key(0), count=3, slots=5)
        >>> sorted(plan.order.tolist()), sorted(plan.order[:3].tolist())
        ([0, 1, 2, 3, 4], [0, 1, 2])
        >>> plan.mask.tolist()
        [True, True, True, False, False]
        >>> plan_client(jax.random.key(0), 3, slots=4, dealt_over=2).mask.tolist()
        [True, True, True, False]
        >>> plan_client(jax.random.key(0), 2, slots=4, dealt_over=2).mask.tolist()
        [True, False, True, False]
    """
    first = jnp.arange(slots) < count
    # Steps fold small numbers into the client's key; this is out of their reach.
    order = shuffled(jax.random.fold_in(key, 2**31 - 1), first)
    if dealt_over is None:
        return ClientPlan(key, order, first)
    number, place = jnp.divmod(jnp.arange(slots), slots // dealt_over)
    least, over = jnp.divmod(count, dealt_over)
    mask = place < jnp.where(number < over, least + 1, least)
    taken = number * least + jnp.minimum(number, over) + place
    left = count + jnp.cumsum(~mask) - 1
    return ClientPlan(key, order[jnp.where(mask, taken, left)], mask)


def rows_of_batch(
    count: int, number: int, batch: int, dealt_over: int | None = None
) -> int:
    """How many examples a client's batch of this number has; the rest is padding.

    Args:
        count: of the client's examples.
        number: of the batch, from 0.
        batch: slots of it.
        dealt_over: steps over which the examples are spread, as evenly as can be, the
            first ones with one more; None: batches are full until there are no more.

    Example:
        >>> [rows_of_batch(5, number, 2) for number in range(4)]
        [2, 2, 1, 0]
        >>> [rows_of_batch(5, number, 2, dealt_over=4) for number in range(4)]
        [2, 1, 1, 1]
    """
    if dealt_over is None:
        return min(max(count - number * batch, 0), batch)
    least, over = divmod(count, dealt_over)
    return least + (number < over)


def example_at(positions: Positions, count: int) -> Positions:
    """The examples that positions stand for; one that stands for none repeats one.

    Args:
        positions: of a plan's order.
        count: of the client's examples.
    """
    return positions % count


class ClientBatch(NamedTuple):
    """What one client does in one step of A or B.

    Attributes:
        positions: in its shard, `Int32[batch]`.
        mask: which of them stand for an example, `Bool[batch]`.
        transform_key: what its transform draws from.
        part_key: what its part of the network draws from.
    """

    positions: jax.Array
    mask: jax.Array
    transform_key: jax.Array
    part_key: jax.Array


def client_batch(
    plan: ClientPlan, number: Int[Array, ""] | int, batch: int
) -> ClientBatch:
    """A client's step of this number, from 0, of `batch` slots.

    Example:
        >>> plan = plan_client(jax.random.key(0), count=3, slots=4)
        >>> batch = client_batch(plan, number=1, batch=2)
        >>> batch.positions.tolist() == plan.order[2:].tolist()
        True
        >>> batch.mask.tolist()
        [True, False]
    """

    def slots_of(array: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(array, number * batch, batch)

    keys = jax.random.split(jax.random.fold_in(plan.key, number))
    return ClientBatch(slots_of(plan.order), slots_of(plan.mask), keys[0], keys[1])


def server_key(
    key: Key[Array, ""],
    group: Int[Array, ""] | int,
    number: Int[Array, ""] | int,
    layout: Layout,
) -> Key[Array, ""]:
    """What the server draws from in a group's step of A or B, in this epoch's key."""
    return jax.random.fold_in(jax.random.fold_in(key, 1), group * layout.steps + number)


class EpochPlan(NamedTuple):
    """What both sides do in an epoch of A or B.

    Attributes:
        key: of the epoch.
        clients: the plan of each, leaves `[groups, members, ...]`.
        rows: the examples in each client's order, `Int32[groups, members, slots]`,
            indices into those of the shards.
        labels: theirs, likewise.
    """

    key: jax.Array
    clients: ClientPlan
    rows: jax.Array
    labels: jax.Array


def plan_epoch(key: Key[Array, ""], shards: Shards, layout: Layout) -> EpochPlan:
    """The plan of the epoch whose key this is.

    Example:
        >>> from jsplit.core.shards import make_shards
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> layout = make_layout([2, 2], PARALLEL, batch_size=2)
        >>> shares = [np.array([0, 2]), np.array([1, 3])]
        >>> shards = make_shards(np.eye(4), np.array([0, 7, 0, 7]), shares, layout)
        >>> plan = plan_epoch(epoch_key(jax.random.key(0), 0), shards, layout)
        >>> jnp.sort(plan.rows).tolist(), plan.labels.tolist()
        ([[[0, 2], [1, 3]]], [[[0, 0], [7, 7]]])
    """

    def plan(key: jax.Array, count: jax.Array) -> ClientPlan:
        return plan_client(key, count, layout.slots, layout.dealt_over)

    clients = jax.vmap(jax.vmap(plan))(client_keys(key, layout), shards.counts)
    rows = jnp.take_along_axis(shards.rows, clients.order, axis=2)
    return EpochPlan(key, clients, rows, shards.labels[rows])


class Batch(NamedTuple):
    """What the members of a group and the server do in one step of A or B.

    Attributes:
        rows: indices of examples, `Int32[members, batch]`.
        positions: theirs in their clients' shards, likewise.
        labels: theirs, likewise.
        mask: which of them are there, `Bool[members, batch]`; None where no step of
            the layout has padded rows.
        transform_keys: `[members]`.
        part_keys: `[members]`.
        server_key: what the server's part draws from.
    """

    rows: jax.Array
    positions: jax.Array
    labels: jax.Array
    mask: jax.Array | None
    transform_keys: jax.Array
    part_keys: jax.Array
    server_key: jax.Array


def batch_of(
    plan: EpochPlan,
    group: Int[Array, ""] | int,
    number: Int[Array, ""] | int,
    layout: Layout,
) -> Batch:
    """A group's step of this number, from 0."""

    def slots_of(array: jax.Array) -> jax.Array:
        at = number * layout.batch
        return jax.lax.dynamic_slice_in_dim(array[group], at, layout.batch, axis=1)

    clients = jax.tree.map(lambda leaf: leaf[group], plan.clients)
    own = jax.vmap(lambda client: client_batch(client, number, layout.batch))(clients)
    return Batch(
        slots_of(plan.rows),
        own.positions,
        slots_of(plan.labels),
        own.mask if layout.padded else None,
        own.transform_key,
        own.part_key,
        server_key(plan.key, group, number, layout),
    )


class OfflineBatches(NamedTuple):
    """What the server does in an epoch of C, leaves `[steps, ...]`.

    Attributes:
        slots: of a view of the store made flat, `Int32[steps, batch]`.
        mask: which of them to learn from, `Bool[steps, batch, 1]`, each example as a
            packet of its own; None for all.
        keys: what the server's part draws from, `[steps]`.
        views: which view of each example to learn from, `Int32[steps, batch]`; None
            where the store holds one.
    """

    slots: jax.Array
    mask: jax.Array | None
    keys: jax.Array
    views: jax.Array | None = None


def plan_offline(
    key: Key[Array, ""],
    filled: Bool[Array, "groups members slots"],
    layout: Layout,
    *,
    padded: bool,
) -> OfflineBatches:
    """The plan of an epoch of C: all that is stored, one by one, in a new order.

    Args:
        key: of the epoch.
        filled: which slots of the store hold an example.
        layout: static sizes.
        padded: whether fewer slots may hold one than `layout.offline_steps` full
            batches have.

    Example:
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> layout = make_layout([3, 2], PARALLEL, batch_size=4)
        >>> filled = jnp.array([[[1, 1, 1, 0], [1, 1, 0, 0]]]) == 1
        >>> plan = plan_offline(jax.random.key(0), filled, layout, padded=True)
        >>> plan.slots.shape, sorted(plan.slots[plan.mask[..., 0]].tolist())
        ((2, 4), [0, 1, 2, 4, 5])
    """
    order_key, step_key = jax.random.split(jax.random.fold_in(key, 2))
    order = shuffled(order_key, filled.reshape(-1))[: layout.examples]
    wanted = layout.offline_steps * layout.offline_batch
    order = jnp.pad(order, (0, wanted - layout.examples))
    mask = jnp.arange(wanted) < jnp.sum(filled, dtype=jnp.int32)
    numbers = jnp.arange(layout.offline_steps)
    return OfflineBatches(
        order.reshape(layout.offline_steps, layout.offline_batch),
        mask.reshape(layout.offline_steps, -1, 1) if padded else None,
        jax.vmap(jax.random.fold_in, (None, 0))(step_key, numbers),
    )


def draw_views(
    key: Key[Array, ""],
    slots: Int[Array, "steps batch"],
    available: Int[Array, "groups members"],
    layout: Layout,
) -> Int[Array, "steps batch"]:
    """The view of each slot to learn from in the epoch of C whose key this is.

    Each of its client's views is as likely as the others.

    Args:
        key: of the epoch.
        slots: of a view made flat.
        available: views that each client has sent, at least 1.
        layout: static sizes.

    Example:
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> layout = make_layout([4, 4], PARALLEL, batch_size=8)
        >>> slots, available = jnp.arange(8)[None], jnp.array([[1, 5]])
        >>> views = draw_views(jax.random.key(0), slots, available, layout)
        >>> views[0, :4].tolist(), bool((views[0, 4:] < 5).all())
        ([0, 0, 0, 0], True)
    """
    draws = jax.random.uniform(jax.random.fold_in(key, 3), slots.shape)
    most = available.reshape(-1)[slots // layout.slots]
    # A draw close to 1 may come out as `most` itself.
    drawn = (draws * most.astype(jnp.float32)).astype(jnp.int32)
    return jnp.minimum(drawn, most - 1)


def shuffled(key: Key[Array, ""], valid: Bool[Array, "*n"]) -> Int[Array, "*n"]:
    """Positions in random order, those that are not valid last.

    Example:
        >>> order = shuffled(jax.random.key(0), jnp.array([True, False, True]))
        >>> sorted(order[:2].tolist()), int(order[2])
        ([0, 2], 1)
    """
    draws = jax.random.uniform(key, valid.shape)
    return jnp.argsort(jnp.where(valid, draws, 2.0)).astype(jnp.int32)
