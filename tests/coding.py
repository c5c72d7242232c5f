"""What tests of codecs encode, and how: one compiled program a codec and shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jsplit.codecs import CODECS, FORMATS

SHAPE = (6, 2, 4)
FIXED = [fmt.name for fmt in FORMATS]
EIGHT_BIT = ["float8", *FIXED]
SMALLEST_NORMAL = 2.0**-126
LARGEST = np.finfo(np.float32).max

any_finite = hnp.arrays(
    np.float32,
    SHAPE,
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
one_scale = st.builds(
    lambda x, power: np.ldexp(x, power).astype(np.float32),
    hnp.arrays(np.float32, SHAPE, elements=st.floats(-1, 1, width=32)),
    st.integers(-130, 127),
)
tensors = st.one_of(any_finite, one_scale)


@functools.cache
def jitted(name, shape=SHAPE[1:]):
    codec = CODECS[name].of(shape)
    return jax.jit(codec.encode), jax.jit(codec.decode)


def encode(name, x):
    return jitted(name, np.shape(x)[1:])[0](jnp.asarray(x, jnp.float32))


def roundtrip(name, x):
    encode_, decode_ = jitted(name, np.shape(x)[1:])
    return np.array(decode_(encode_(jnp.asarray(x, jnp.float32))))


def fill(*values):
    """These values and zeros in one tensor of the shape that is compiled already."""
    return np.array([*values, *[0.0] * (48 - len(values))], np.float32).reshape(SHAPE)


def flushed(x):
    """Subnormal float32 numbers as zeros that keep their sign."""
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)


def same_bits(left, right):
    left, right = np.asarray(left), np.asarray(right)
    return (left.dtype, left.shape, left.tobytes()) == (
        right.dtype,
        right.shape,
        right.tobytes(),
    )
