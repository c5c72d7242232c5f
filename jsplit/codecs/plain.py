"""Codecs without a search: float32 as it is, and bfloat16."""

import jax
import jax.numpy as jnp

from jsplit.codecs.binary import flushed
from jsplit.typing import Codec, Packet


def _no_header() -> jax.Array:
    return jnp.zeros((0,), jnp.uint8)


def identity() -> Codec:
    """Sends float32 as it is, bit for bit: the plain baseline as a value.

    Example:
        >>> codec = identity()
        >>> codec.decode(codec.encode(jnp.array([1.0, 0.25, -2.5]))).tolist()
        [1.0, 0.25, -2.5]
        >>> codec.bits((3,))
        96
    """
    return Codec(
        name="identity",
        encode=lambda x: Packet(x, _no_header()),
        decode=lambda packet: packet.payload,
        payload_dtype=jnp.float32,
        header_bytes=0,
    )


def bf16() -> Codec:
    """Sends bfloat16, rounded to nearest even.

    Finite values beyond the largest bfloat16 saturate to it (a bare cast would round
    them to inf); inf and NaN stay what they are. Magnitudes below 2**-126 become zeros
    that keep their signs.

    Example:
        >>> codec = bf16()
        >>> codec.decode(codec.encode(jnp.array([1.0, 0.3, 3.4e38]))).tolist()
        [1.0, 0.30078125, 3.3895313892515355e+38]
        >>> codec.bits((3,))
        48
    """
    largest = float(jnp.finfo(jnp.bfloat16).max)

    def encode(x: jax.Array) -> Packet:
        x = flushed(x)
        clipped = jnp.where(jnp.isfinite(x), jnp.clip(x, -largest, largest), x)
        # Where one program codes and decodes, XLA may leave out a cast to bfloat16 and
        # back, and did on a GPU; this it may not.
        rounded = jax.lax.reduce_precision(clipped, exponent_bits=8, mantissa_bits=7)
        return Packet(rounded.astype(jnp.bfloat16), _no_header())

    return Codec(
        name="bf16",
        encode=encode,
        decode=lambda packet: packet.payload.astype(jnp.float32),
        payload_dtype=jnp.bfloat16,
        header_bytes=0,
    )
