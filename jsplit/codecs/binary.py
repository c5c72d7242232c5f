"""What the codecs do with the bits of float32 numbers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def exp2(exponent: Int[Array, "*shape"] | int) -> Float[Array, "*shape"]:
    """Exactly 2**exponent for integers in [-126, 127] (jnp.exp2 may be off by one).

    Example:
        >>> exp2(jnp.array([-126, 0, 3])).tolist()
        [1.1754943508222875e-38, 1.0, 8.0]
    """
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def exponent_of(magnitude: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """floor(log2(magnitude)) of a float32, -127 for zero and subnormals.

    Example:
        >>> exponent_of(jnp.array([0.0, 0.75, 8.0])).tolist()
        [-127, -1, 3]
    """
    return (jax.lax.bitcast_convert_type(magnitude, jnp.int32) >> 23) - 127


def floor_exp2(magnitude: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The largest power of two that is not above, 0 for zero and subnormals.

    Example:
        >>> floor_exp2(jnp.array([0.0, 0.75, 8.0])).tolist()
        [0.0, 0.5, 8.0]
    """
    bits = jax.lax.bitcast_convert_type(magnitude, jnp.int32)
    return jax.lax.bitcast_convert_type(bits & (0xFF << 23), jnp.float32)


def flushed(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Subnormal numbers as zeros that keep their signs.

    A CPU makes them zeros, a GPU only in some kernels; what crosses must depend neither
    on the device nor on how its kernels are cut.

    Args:
        x: float32.

    Example:
        >>> flushed(jnp.array([1.0, 1e-40, -1e-40])).tolist()
        [1.0, 0.0, -0.0]
    """
    smallest = float(jnp.finfo(jnp.float32).tiny)
    return jnp.where(jnp.abs(x) < smallest, 0 * x, x)


def chance_of(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Numbers in [0, 1) that follow from the values alone.

    So a run that is resumed draws the same. Tensors that differ in one bit, as those of
    a network and of its simulation may, draw otherwise.

    Args:
        values: float32; their order decides which number each gets, not the numbers.

    Example:
        >>> chance = chance_of(jnp.array([1.0, 2.0]))
        >>> bool((chance == chance_of(jnp.array([2.0, 1.0]))).all())
        True
    """
    pattern = jax.lax.bitcast_convert_type(values, jnp.int32)
    key = jax.random.key(jnp.sum(pattern, dtype=jnp.int32))
    return jax.random.uniform(key, values.shape)
