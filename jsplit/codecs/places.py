"""Which of an example's values were chosen, in few bits.

Elias and Fano's code for numbers in ascending order, in a fixed number of bits: each
place without its lowest bits is a step count in unary, and the lowest bits follow as
they are. A quarter of all values takes 1 bit a value, as a bitmap does; a sixteenth
takes 0.375, where the least for sets of that size is 0.337 and a bitmap takes 1.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from jsplit.codecs.packing import pack, packed_bytes, unpack


def places_bytes(values: int, count: int) -> int:
    """Bytes that name so many places among so many values.

    Example:
        >>> places_bytes(8192, 512), places_bytes(8192, 2048), places_bytes(0, 0)
        (384, 1024, 0)
    """
    low = _low_bits(values, count)
    return packed_bytes(count * low + _unary_bits(values, count, low), 1)


def pack_places(
    places: Int[Array, "n count"], values: int
) -> UInt8[Array, "n places_bytes"]:
    """Packs places, all different and in ascending order, of so many values.

    Bits are packed as `pack` packs codes of one bit: first the lowest bits of each
    place, then as many zeros and ones as `values` and `count` say, in which the `j`-th
    one stands `j` behind where the rest of the `j`-th place says.

    Example:
        Of 8 values the first, the second and the last.

        >>> pack_places(jnp.array([[0, 1, 7]]), 8).tolist()
        [[22, 3]]
        >>> unpack_places(pack_places(jnp.array([[0, 1, 7]]), 8), 8, 3).tolist()
        [[0, 1, 7]]
    """
    rows, count = places.shape
    low = _low_bits(values, count)
    lowest = (places[:, :, None] >> jnp.arange(low)[None, None]) & 1
    length = _unary_bits(values, count, low)
    ones = (places >> low) + jnp.arange(count)[None]
    at = jnp.arange(rows)[:, None], ones
    unary = jnp.zeros((rows, length), jnp.uint8).at[at].set(1, unique_indices=True)
    lowest = lowest.reshape(rows, count * low).astype(jnp.uint8)
    return pack(jnp.concatenate([lowest, unary], axis=1), 1)


def unpack_places(
    packed: UInt8[Array, "n places_bytes"], values: int, count: int
) -> Int[Array, "n count"]:
    """The places that `pack_places` was given; of other bytes, some below `values`."""
    low = _low_bits(values, count)
    bits = unpack(packed, count * low + _unary_bits(values, count, low), 1)
    lowest = bits[:, : count * low].reshape(len(packed), count, low).astype(jnp.int32)
    lowest = jnp.sum(lowest << jnp.arange(low)[None, None], axis=2, dtype=jnp.int32)
    steps = places_of(bits[:, count * low :] == 1, count) - jnp.arange(count)[None]
    return jnp.clip((steps << low) | lowest, 0, max(values - 1, 0))


def places_of(chosen: Bool[Array, "n values"], count: int) -> Int[Array, "n count"]:
    """Where each row has its first so many True, ascending; the rest are `values`.

    Example:
        >>> places_of(jnp.array([[0, 1, 1], [0, 0, 1]]) == 1, 2).tolist()
        [[1, 2], [2, 3]]
    """
    if chosen.size == 0:
        return jnp.zeros((len(chosen), count), jnp.int32)
    so_far = jnp.cumsum(chosen, axis=1, dtype=jnp.int32)
    numbers = jnp.arange(1, count + 1)
    return jax.vmap(lambda row: jnp.searchsorted(row, numbers))(so_far)


def at_places(
    x: Float[Array, "n ..."], places: Int[Array, "n count"]
) -> Float[Array, "n count"]:
    """The values in these places of each example, in row-major order.

    Example:
        >>> at_places(jnp.array([[5.0, 6.0, 7.0]]), jnp.array([[0, 2]])).tolist()
        [[5.0, 7.0]]
    """
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    return jnp.take_along_axis(rows, places, axis=1)


def in_places(
    kept: Float[Array, "n count"], places: Int[Array, "n count"], shape: tuple[int, ...]
) -> Float[Array, "n ..."]:
    """The other way round: these values in these places, zeros elsewhere.

    Args:
        kept: the values.
        places: of each.
        shape: of one example.

    Example:
        >>> in_places(jnp.array([[5.0, 7.0]]), jnp.array([[0, 2]]), (3,)).tolist()
        [[5.0, 0.0, 7.0]]
    """
    rows = len(kept)
    at = jnp.arange(rows)[:, None], places
    zeros = jnp.zeros((rows, math.prod(shape)), kept.dtype)
    return zeros.at[at].set(kept).reshape(rows, *shape)


def _low_bits(values: int, count: int) -> int:
    """How many bits of each place are written as they are: the fewest bits in all."""
    every = range(values.bit_length() + 1)
    return min(every, key=lambda low: count * low + _unary_bits(values, count, low))


def _unary_bits(values: int, count: int, low: int) -> int:
    return count + (max(values - 1, 0) >> low) if count else 0
