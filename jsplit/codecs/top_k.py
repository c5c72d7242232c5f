"""The largest values of each example, in 8 bits each, and their places.

By chance, some of the others in their stead: randomised top-k (Zheng et al. 2023,
"Reducing Communication for Split Learning by Randomized Top-k Sparsification", IJCAI),
so that values which are never among the largest are learned from, too.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jsplit.codecs.binary import chance_of, flushed
from jsplit.codecs.packed import packed
from jsplit.codecs.places import (
    at_places,
    in_places,
    pack_places,
    places_bytes,
    places_of,
    unpack_places,
)
from jsplit.typing import Codec, Packet

ALPHA = 0.1
"""How likely a place goes to a value that is not among the largest, as in the paper."""


def top_k(share: int, *, randomised: bool = False, alpha: float = ALPHA) -> Codec:
    """A codec that sends of each example only the values of largest magnitude.

    Of `values` these are `k = ceil(values / share)`, coded as by `packed(8)`, with its
    header of 3 bytes for all examples of a packet. An example's payload is
    `UInt8[k + places_bytes(values, k)]`: their codes, in the order of their places, and
    the places. `of(shape)` gives the codec for examples of a shape, which alone can
    decode; its `places` says where they are.

    **Formal guarantees** (tests of that name): exactly k values are sent, with ties
    too, of which the first places win; none that is sent is smaller than one that is
    not, but by chance; zeros come back elsewhere; a finite input never decodes to inf
    or NaN; of the places `alpha` go to others by chance, each with the same chance; the
    same tensor always gives the same packet.

    | input | result |
    |---|---|
    | all zeros | zeros |
    | magnitudes below 2**-126 | zeros |
    | empty | an empty payload |
    | inf | is among the largest; the largest value of the grid, with its sign |
    | NaN | is among the largest; NaN in all that is sent, zeros elsewhere |

    Args:
        share: one of so many values is sent, at least 2.
        randomised: each of the k places goes to a value outside the k largest with
            probability `alpha`. The chance follows from the tensor itself. Evaluation
            and prediction send the largest all the same, as in the paper.
        alpha: that probability, from 0 to 1; read if `randomised`.

    Raises:
        ValueError: if there is no such share, or `alpha` is no probability.

    Example:
        >>> codec = top_k(4).of((8,))
        >>> packet = codec.encode(jnp.array([[0.0, 3, 1, 0, -4, 0, 2, 0]]))
        >>> codec.decode(packet).round(1).tolist(), codec.places(packet).tolist()
        ([[0.0, 3.0, 0.0, 0.0, -4.0, 0.0, 0.0, 0.0]], [[1, 4]])
        >>> top_k(16).payload_bits((8, 8, 128)) / (8 * 8 * 128)  # bits a value
        0.875
    """
    if share < 2:
        raise ValueError(f"share must be at least 2, got {share}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    name = f"top{share}" + "-random" * randomised

    def bind(shape: tuple[int, ...]) -> Codec:
        values = math.prod(shape)
        count = -(-values // share)
        coder = packed(8).of((count,))
        encode = functools.partial(_encode, coder, count)

        def places(packet: Packet) -> jax.Array:
            return unpack_places(packet.payload[:, count:], values, count)

        def decode(packet: Packet) -> jax.Array:
            codes = Packet(packet.payload[:, :count], packet.header)
            return in_places(coder.decode(codes), places(packet), shape)

        return Codec(
            name=name,
            encode=functools.partial(encode, alpha if randomised else 0.0),
            decode=decode,
            payload_dtype=jnp.uint8,
            header_bytes=coder.header_bytes,
            knows=coder.knows,
            payload_shape=lambda shape: (count + places_bytes(values, count),),
            encode_in_use=functools.partial(encode, 0.0) if randomised else None,
            places=places,
        )

    return Codec.by_shape(name, bind)


def _encode(coder: Codec, count: int, alpha: float, x: jax.Array) -> Packet:
    rows = flushed(x.reshape(len(x), math.prod(x.shape[1:])))
    chosen = largest(jnp.abs(rows), count)
    if alpha:
        chosen = _exchanged(chosen, count, alpha, chance_of(rows))
    places = places_of(chosen, count)
    codes = coder.encode(at_places(rows, places))
    payload = [codes.payload, pack_places(places, rows.shape[1])]
    return Packet(jnp.concatenate(payload, axis=1), codes.header)


def largest(magnitude: Float[Array, "n values"], count: int) -> Bool[Array, "n values"]:
    """Which of each row's are its `count` largest; of equal ones the first.

    Bisects the bits of the smallest, which for numbers that are not negative grow with
    them: 31 passes over the values are much faster than a sort. NaN is above
    infinity.

    Args:
        magnitude: none negative, none subnormal.
        count: at most as many as a row has.

    Example:
        >>> largest(jnp.array([[2.0, 1.0, 2.0, 2.0]]), 2).tolist()
        [[True, False, True, False]]
    """
    bits = jax.lax.bitcast_convert_type(magnitude, jnp.int32)

    def many(which: jax.Array) -> jax.Array:
        return jnp.sum(which, axis=1, keepdims=True, dtype=jnp.int32)

    def with_bit(number: jax.Array, least: jax.Array) -> jax.Array:
        higher = least | (1 << (30 - number))
        return jnp.where(many(bits >= higher) >= count, higher, least)

    none = jnp.zeros((len(bits), 1), jnp.int32)
    least = jax.lax.fori_loop(0, 31, with_bit, none)
    above, equal = bits > least, bits == least
    first = jnp.cumsum(equal, axis=1, dtype=jnp.int32) <= count - many(above)
    return above | (equal & first)


def _exchanged(
    chosen: Bool[Array, "n values"],
    count: int,
    alpha: float,
    chance: Float[Array, "n values"],
) -> Bool[Array, "n values"]:
    """Gives each place of the chosen to one outside, with probability `alpha`.

    Where there are not enough outside, the first of the chosen stay.
    """
    outside = jnp.where(chosen, 0.0, 1 + chance)
    return largest(jnp.where(chosen & (chance >= alpha), 2.0, outside), count)
