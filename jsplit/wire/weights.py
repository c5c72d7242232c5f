"""Client weights as bytes: the arrays one after another, in the order of the tree."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.errors import Refusal
from jsplit.typing import PyTree
from jsplit.wire.messages import DIGEST_BYTES


def weights_to_bytes(tree: PyTree) -> bytes:
    """All leaves in the tree's order, each row-major and little-endian."""
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def weights_from_bytes(data: bytes, like: PyTree) -> PyTree:
    """The tree that `weights_to_bytes` made bytes of.

    Args:
        data: the bytes, from a sender that may send anything.
        like: a tree of the same structure, shapes and dtypes.

    Raises:
        Refusal: SIZE if the length is another, NON_FINITE if a number is inf or NaN.
    """
    expected = sum(leaf.nbytes for leaf in jax.tree.leaves(like))
    if len(data) != expected:
        raise Refusal(
            "SIZE", f"weights of {expected} bytes were agreed, got {len(data)}"
        )
    at = 0

    def take(leaf: jax.Array) -> jax.Array:
        nonlocal at
        array = np.frombuffer(data, leaf.dtype, leaf.size, offset=at)
        at += array.nbytes
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.all(
            np.isfinite(array.astype(np.float32))
        ):
            raise Refusal("NON_FINITE", "client weights with inf or NaN in them")
        return jnp.asarray(array.reshape(leaf.shape))

    return jax.tree.map(take, like)


def digest_of(data: bytes) -> bytes:
    """The digest of the weights that have these bytes."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]
