"""Values that all packages share: the three states, the packet, the codec."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PyTree = Any
Variables = dict[str, Any]
"""A Flax variable tree: `params` and any other collections (`batch_stats`)."""

STATES = "ABCL"
SYNC, REFRESH, OFFLINE, LOCAL = range(4)
"""State A (both sides train), B (activations up only), C (nothing is sent).

And L, before all of these: each client learns alone, by a head of its own.
"""
SENT = STATES[SYNC] + STATES[REFRESH]
"""The states in which activations are sent."""


class Packet(NamedTuple):
    """One tensor as it is sent and stored.

    Attributes:
        payload: the values, `[n, ...]`: uint8 codes for the float8 codecs, float32
            or bfloat16 for the plain ones. The first axis counts examples.
        header: what decoding needs besides the payload, `UInt8[h]`; `h` is fixed by
            the codec (2 for float8, 0 for plain codecs).

    Leading axes may be added in front of both (clients, rows of a store): a packet of
    packets, handled with `jax.vmap`.
    """

    payload: jax.Array
    header: jax.Array


class Codec(NamedTuple):
    """How a float32 tensor becomes a packet and comes back, as a value.

    **Formal guarantees** (each a test of that name in `tests/test_codecs.py`): a
    finite input never decodes to inf or NaN; `decode(encode(x))` has the shape of `x`
    and dtype float32; the serialized packet is exactly `bits(shape)` long; `encode`
    and `decode` run under `jit`, `vmap` and `scan`.

    Never differentiate through a codec: a float8 cast rounds the gradient as well.

    Attributes:
        name: as on the command line and in the run's records.
        encode: `encode(x: Float32[n, ...]) -> Packet`.
        decode: `decode(packet) -> Float32[n, ...]`.
        payload_dtype: dtype of the payload; its items are one value each.
        header_bytes: length of the header.
        knows: `knows(header: bytes) -> bool`, whether `encode` could have written it;
            asked of headers that came over a network.
    """

    name: str
    encode: Callable[[Float[Array, "n ..."]], Packet]
    decode: Callable[[Packet], Float[Array, "n ..."]]
    payload_dtype: jax.typing.DTypeLike
    header_bytes: int
    knows: Callable[[bytes], bool] = lambda header: True

    def payload_bits(self, shape: Sequence[int]) -> int:
        """Bits of the values alone, what the paper counts."""
        return 8 * jnp.dtype(self.payload_dtype).itemsize * math.prod(shape)

    def bits(self, shape: Sequence[int]) -> int:
        """Bits of one serialized packet that carries a tensor of this shape."""
        return self.payload_bits(shape) + 8 * self.header_bytes
