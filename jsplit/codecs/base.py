"""What a codec is."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from jsplit.typing import Packet


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
    """

    name: str
    encode: Callable[[jax.Array], Packet]
    decode: Callable[[Packet], jax.Array]
    payload_dtype: jax.typing.DTypeLike
    header_bytes: int

    def payload_bits(self, shape: Sequence[int]) -> int:
        """Bits of the values alone, what the paper counts."""
        return 8 * jax.numpy.dtype(self.payload_dtype).itemsize * math.prod(shape)

    def bits(self, shape: Sequence[int]) -> int:
        """Bits of one serialized packet that carries a tensor of this shape."""
        return self.payload_bits(shape) + 8 * self.header_bytes
