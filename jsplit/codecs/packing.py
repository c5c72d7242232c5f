"""Codes of a few bits each, side by side in whole bytes."""

import math

import jax.numpy as jnp
from jaxtyping import Array, UInt8

_BYTE = 8


def packed_bytes(values: int, bits: int) -> int:
    """Bytes of so many codes, rounded up to the codes that fill whole bytes together.

    Example:
        8 codes of 3 bits fill 3 bytes.

        >>> packed_bytes(16, 3), packed_bytes(17, 3), packed_bytes(0, 3)
        (6, 9, 0)
    """
    runs, planes = _cut(bits)
    return planes * -(-values // runs)


def pack(codes: UInt8[Array, "n values"], bits: int) -> UInt8[Array, "n bytes"]:
    """Packs each row's codes, all below `2**bits`, into `packed_bytes` bytes.

    The codes are cut into as many runs as fill whole bytes together (8 of 3 bits fill
    3), and byte `b` of a place takes bits from all runs at that place: whole arrays are
    shifted, which a processor does many at a time.

    Example:
        >>> pack(jnp.array([[1, 2, 3, 0]], jnp.uint8), 4).tolist()  # 1 with 3, 2 with 0
        [[49, 2]]
    """
    runs, planes = _cut(bits)
    rows, values = codes.shape
    length = -(-values // runs)
    run = jnp.pad(codes, ((0, 0), (0, runs * length - values)))
    run = run.reshape(rows, runs, length)
    filled = []
    for plane in range(planes):
        byte = jnp.zeros((rows, length), jnp.uint8)
        for number in range(runs):
            shift = number * bits - plane * _BYTE
            if 0 <= shift < _BYTE:
                byte |= run[:, number] << shift
            elif -bits < shift < 0:
                byte |= run[:, number] >> -shift
        filled.append(byte)
    return jnp.concatenate(filled, axis=1)


def unpack(
    packed: UInt8[Array, "n bytes"], values: int, bits: int
) -> UInt8[Array, "n values"]:
    """The codes that `pack` was given.

    Example:
        >>> unpack(jnp.array([[49, 2]], jnp.uint8), 4, 4).tolist()
        [[1, 2, 3, 0]]
    """
    runs, planes = _cut(bits)
    rows, length = packed.shape[0], -(-values // runs)
    plane = packed.reshape(rows, planes, length)
    codes = []
    for number in range(runs):
        first, offset = divmod(number * bits, _BYTE)
        code = plane[:, first] >> offset
        if offset + bits > _BYTE:
            code |= plane[:, first + 1] << (_BYTE - offset)
        codes.append(code & (2**bits - 1))
    return jnp.concatenate(codes, axis=1)[:, :values]


def _cut(bits: int) -> tuple[int, int]:
    """Runs of codes, and planes of bytes that these fill together."""
    together = math.lcm(bits, _BYTE)
    return together // bits, together // _BYTE
