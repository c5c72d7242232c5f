"""Numbers below the normal ones: a CPU makes them zeros, a GPU only in some kernels."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def flushed(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Subnormal numbers as zeros that keep their signs.

    What crosses must depend neither on the device nor on how its kernels are cut.

    Args:
        x: float32.

    Example:
        >>> flushed(jnp.array([1.0, 1e-40, -1e-40])).tolist()
        [1.0, 0.0, -0.0]
    """
    smallest = float(jnp.finfo(jnp.float32).tiny)
    return jnp.where(jnp.abs(x) < smallest, 0 * x, x)
