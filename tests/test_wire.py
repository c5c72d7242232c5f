import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jsplit import wire
from jsplit.codecs import CODECS
from jsplit.typing import Packet
from tests.tiers import sample

SHAPE = (3, 4, 2)
PAYLOADS = [np.uint8, np.float32, ml_dtypes.bfloat16]


def assert_same_packet(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


ALONE = [name for name, codec in CODECS.items() if codec.pair is None]
EVERY = sample(ALONE, "float8", "bf16", "identity", "bits3-channel")


@pytest.mark.parametrize("name", EVERY)
def test_a_packet_comes_back_as_it_was_serialized(name):
    codec = CODECS[name].of(SHAPE[1:])
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    x[0, 0] = np.nan
    x[0, 1] = np.inf
    packet = jax.jit(codec.encode)(jnp.asarray(x))
    data = wire.serialize(packet)
    coded = (SHAPE[0], *codec.payload_shape(SHAPE[1:]))
    parsed = wire.parse(data, coded, codec.payload_dtype, codec.header_bytes)
    assert_same_packet(parsed, packet)
    np.testing.assert_array_equal(codec.decode(parsed), codec.decode(packet))


@pytest.mark.parametrize("dtype", PAYLOADS)
def test_every_bit_pattern_survives_nan_payloads_among_them(dtype):
    special = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 1, 0x7FFFFF, 0x7F800000]
    words = np.random.default_rng(0).integers(0, 2**32, (20, 2), np.uint32)
    words.flat[: len(special)] = special
    payload, header = words.view(dtype), np.array([200, 7], np.uint8)
    packet = Packet(jnp.asarray(payload), jnp.asarray(header))
    parsed = wire.parse(wire.serialize(packet), payload.shape, dtype, 2)
    assert np.asarray(parsed.payload).tobytes() == words.tobytes()
    assert np.asarray(parsed.header).tobytes() == header.tobytes()


def test_the_bytes_are_the_header_then_the_rows_little_endian():
    packet = Packet(
        jnp.asarray([[1.0, -2.0], [0.5, 0.0]], jnp.float32),
        jnp.asarray([7, 200], jnp.uint8),
    )
    assert wire.serialize(packet).hex(" ", 4) == (
        "07c8 0000803f 000000c0 0000003f 00000000"
    )


@pytest.mark.parametrize("name", ALONE)
def test_an_empty_tensor_is_its_header(name):
    codec = CODECS[name].of((3, 1))
    coded = (0, *codec.payload_shape((3, 1)))
    packet = Packet(
        jnp.zeros(coded, codec.payload_dtype),
        jnp.arange(codec.header_bytes, dtype=jnp.uint8),
    )
    data = wire.serialize(packet)
    assert len(data) == codec.header_bytes
    parsed = wire.parse(data, coded, codec.payload_dtype, codec.header_bytes)
    assert_same_packet(parsed, packet)


@pytest.mark.parametrize("length", [0, 1, 97, 99, 196])
def test_a_wrong_length_is_refused(length):
    with pytest.raises(ValueError, match="98 bytes was agreed, got"):
        wire.parse(bytes(length), SHAPE, jnp.float32, 2)


@pytest.mark.parametrize(
    ("classes", "length"),
    [(1, 1), (2, 1), (10, 1), (256, 1), (257, 2), (65536, 2), (65537, 4)],
)
def test_a_label_takes_the_shortest_integer_that_holds_it(classes, length):
    assert wire.label_bytes(classes) == length
    assert classes - 1 < 256**length
