"""The training set, and which client holds which example of it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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

    Example:
        >>> from jsplit.core.topology import PARALLEL, make_layout
        >>> layout = make_layout([3, 2], PARALLEL, batch_size=4)
        >>> shares = [np.array([0, 2, 4]), np.array([1, 3])]
        >>> shards = make_shards(np.eye(5), np.array([0, 1, 0, 1, 2]), shares, layout)
        >>> shards.rows.tolist(), shards.counts.tolist()
        ([[[0, 2, 4, 0], [1, 3, 1, 3]]], [[3, 2]])
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
