"""Who holds which training example, and in what order an epoch takes them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from jsplit.core.topology import Layout


class Shards(NamedTuple):
    """The training set and who holds which example.

    Attributes:
        examples: `[n, ...]`, raw (images: uint8).
        labels: `Int32[n]`.
        rows: `Int32[groups, members, slots]`, each client's rows of `examples`; the
            slots beyond its count repeat an example and are never used.
        counts: `Int32[groups, members]`, examples of each client.
    """

    examples: jax.Array
    labels: jax.Array
    rows: jax.Array
    counts: jax.Array


def make_shards(
    examples: np.ndarray,
    labels: np.ndarray,
    shares: Sequence[np.ndarray],
    layout: Layout,
) -> Shards:
    """Deals a training set out.

    Args:
        examples: `[n, ...]`, raw.
        labels: `Int[n]`.
        shares: each client's examples, as indices.
        layout: made for the shares' sizes.
    """
    index = np.stack([np.resize(share, layout.slots) for share in shares])
    counts = np.asarray([len(share) for share in shares])
    places = (layout.groups, layout.members)
    return Shards(
        jnp.asarray(examples),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(index.reshape(*places, layout.slots), jnp.int32),
        jnp.asarray(counts.reshape(places), jnp.int32),
    )


def client_keys(key: Key[Array, ""], layout: Layout) -> Key[Array, "groups members"]:
    """Each client's key for the epoch whose key this is, `[groups, members]`."""
    base = jax.random.fold_in(key, 0)
    numbers = jnp.arange(layout.groups * layout.members)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(base, numbers)
    return keys.reshape(layout.groups, layout.members)


def order_of(
    key: Key[Array, ""], count: Int[Array, ""] | int, slots: int
) -> Int[Array, " slots"]:
    """The order in which a client takes its own examples in an epoch.

    Args:
        key: the client's for the epoch.
        count: of its examples.
        slots: places for them, at least `count`.

    Returns:
        `Int32[slots]`, positions in its shard; those beyond `count` come last.
    """
    # Steps fold small numbers into the client's key; this is out of their reach.
    return shuffled(jax.random.fold_in(key, 2**31 - 1), jnp.arange(slots) < count)


def step_keys(key: Key[Array, ""], number: Int[Array, ""] | int) -> Key[Array, "2"]:
    """What a client draws from in one step: for its transform, then for its part."""
    return jax.random.split(jax.random.fold_in(key, number))


def server_key(key: Key[Array, ""], number: Int[Array, ""] | int) -> Key[Array, ""]:
    """What the server draws from in one step of A or B, numbered over all groups."""
    return jax.random.fold_in(jax.random.fold_in(key, 1), number)


def epoch_order(
    keys: Key[Array, "groups members"], shards: Shards
) -> Int[Array, "groups members slots"]:
    """Every client's examples in an epoch's order, its padding last.

    Args:
        keys: each client's key for the epoch, `[groups, members]`.
        shards: who holds what.

    Returns:
        `Int32[groups, members, slots]`, indices into `shards.examples`.
    """

    def one(key: jax.Array, rows: jax.Array, count: jax.Array) -> jax.Array:
        return rows[order_of(key, count, rows.shape[0])]

    return jax.vmap(jax.vmap(one))(keys, shards.rows, shards.counts)


def held(
    counts: Int[Array, "groups members"], slots: int
) -> Bool[Array, "groups members slots"]:
    """Which slots hold an example, `Bool[groups, members, slots]`."""
    places = jax.lax.broadcasted_iota(jnp.int32, (*counts.shape, slots), counts.ndim)
    return places < counts[..., None]


def shuffled(key: Key[Array, ""], valid: Bool[Array, "*n"]) -> Int[Array, "*n"]:
    """Positions in random order, those that are not valid last."""
    draws = jax.random.uniform(key, valid.shape)
    return jnp.argsort(jnp.where(valid, draws, 2.0)).astype(jnp.int32)
