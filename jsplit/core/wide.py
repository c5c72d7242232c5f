"""Whole numbers up to 2**60 in a program that has none of 64 bits: two int32 each.

Bytes of a run exceed 2**31, and float32 would round them.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

_BASE = 2**30
MOST = _BASE**2 - 1
"""The largest number."""


def wide(number: int) -> Int[Array, "2"]:
    """The number as two digits of 30 bits, the higher one first.

    Raises:
        ValueError: if it is negative, or larger than `MOST`.

    Example:
        >>> wide(3 * 2**30 + 7).tolist()
        [3, 7]
    """
    if not 0 <= number <= MOST:
        raise ValueError(f"number must be from 0 to {MOST}, got {number}")
    return jnp.asarray(divmod(number, _BASE), jnp.int32)


def whole(number: Int[Array, "2"] | np.ndarray) -> int:
    """The number that `wide` took.

    Example:
        >>> whole(wide(5 * 10**12))
        5000000000000
    """
    high, low = np.asarray(number).tolist()
    return int(high) * _BASE + int(low)


def at_least(number: Int[Array, "2"], other: Int[Array, "2"]) -> Bool[Array, ""]:
    """Whether the first number is no smaller than the other.

    Example:
        >>> bool(at_least(wide(2**40), wide(2**40 + 1)))
        False
    """
    same = number[0] == other[0]
    return (number[0] > other[0]) | (same & (number[1] >= other[1]))


def minus(number: Int[Array, "2"], other: Int[Array, "2"]) -> Int[Array, "2"]:
    """The difference; the other must be no larger.

    Example:
        >>> whole(minus(wide(2**40), wide(1)))
        1099511627775
    """
    high, low = number - other
    borrowed = (low < 0).astype(jnp.int32)
    return jnp.stack([high - borrowed, low + borrowed * _BASE])
