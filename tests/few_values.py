"""Values of which few are sent, and codecs that send them, compiled once."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jsplit.codecs import CODECS, packed

SHAPE = (5, 3, 14)
VALUES = 3 * 14
NAMES = ["top4", "top16", "top4-random", "top16-random"]
LARGEST = ["top4", "top16"]
COUNT = {"top4": 11, "top16": 3, "top4-random": 11, "top16-random": 3}

# Few different values: there are ties in every example.
tied = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([0, 1, -1, 2, 1e-40, 8]))
values = hnp.arrays(np.float32, SHAPE, elements=st.floats(-8, 8, width=32))
scaled = st.builds(
    lambda x, power: np.ldexp(x, power).astype(np.float32),
    st.one_of(values, tied),
    st.integers(-130, 110),
)


class Same(nn.Module):
    """What comes goes."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("one", nn.initializers.ones, ())


@functools.cache
def jitted(name):
    codec = CODECS[name].of(SHAPE[1:])
    return tuple(map(jax.jit, (codec.encode, codec.decode, codec.places)))


@functools.cache
def eight_bits(count):
    """What is said of values alone, without their places."""
    codec = packed(8).of((count,))
    return jax.jit(codec.encode), jax.jit(codec.decode)


def sent_of(name, x):
    """Packet, what it decodes to, and the places, as rows of an example each."""
    encode, decode, places = jitted(name)
    packet = encode(jnp.asarray(x, jnp.float32))
    decoded = np.array(decode(packet)).reshape(len(x), VALUES)
    return packet, decoded, np.array(places(packet))
