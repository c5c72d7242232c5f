"""Every codec, and plain ones, against NumPy and ml_dtypes, which share no code."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from jsplit import wire
from jsplit.codecs import CODECS, bf16
from tests.coding import (
    EIGHT_BIT,
    LARGEST,
    SHAPE,
    encode,
    fill,
    flushed,
    jitted,
    roundtrip,
    same_bits,
    tensors,
)
from tests.tiers import sample

EVERY = sample(
    # Of those that go by another's packets, `test_where_sent.py` says the same.
    [name for name, codec in CODECS.items() if codec.pair is None],
    *("float8", "e5m2", "e4m3", "e3m4", "bf16", "identity"),
    *("bits2", "bits3-channel", "bits4", "bits4-stochastic", "bits6-channel"),
    *("top4", "top16-random"),
)


# Every codec: a new one is one more row of CODECS.


@pytest.mark.parametrize("name", EVERY)
@given(x=tensors)
def test_a_finite_input_never_decodes_to_inf_or_nan(name, x):
    assert np.isfinite(roundtrip(name, x)).all()


@pytest.mark.parametrize("name", [*EIGHT_BIT, "bf16", "identity"])
@pytest.mark.parametrize("largest", [LARGEST, 3.3e38, 1e38])
def test_the_largest_float32_numbers_do_not_decode_to_inf(name, largest):
    decoded = roundtrip(name, fill(largest, -largest, 1.0)).reshape(-1)
    np.testing.assert_allclose(decoded[:2], [largest, -largest], rtol=1 / 8)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3, 4, 4, 2), (1, 5, 3), (0, 3, 1), (2, 0, 3)])
def test_decoding_gives_back_the_shape_in_float32(name, shape):
    codec = CODECS[name].of(shape[1:])
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    packet = jax.eval_shape(codec.encode, x)
    coded = (shape[0], *codec.payload_shape(shape[1:]))
    assert packet.payload == jax.ShapeDtypeStruct(coded, codec.payload_dtype)
    assert packet.header == jax.ShapeDtypeStruct((codec.header_bytes,), jnp.uint8)
    assert jax.eval_shape(codec.decode, packet) == x


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [SHAPE, (0, 3, 2)])
def test_the_serialized_packet_is_exactly_bits_long(name, shape):
    codec = CODECS[name]
    packet = encode(name, np.ones(shape))
    assert codec.bits(shape) == 8 * len(wire.serialize(packet))
    payload = shape[0] * codec.payload_bits(shape[1:])
    assert codec.bits(shape) - payload == 8 * packet.header.size
    assert roundtrip(name, np.ones(shape)).shape == shape


@pytest.mark.parametrize(
    "name", ["float8", "e4m3", "bf16", "identity", "bits4-stochastic", "top4-random"]
)
def test_jit_vmap_and_scan_give_the_same_bits(name):
    codec = CODECS[name].of(SHAPE[1:])
    scales = np.array([1e-5, 1.0, 300.0]).reshape(3, 1, 1, 1)
    x = np.random.default_rng(0).standard_t(2, (3, *SHAPE)) * scales
    x = jnp.asarray(x, jnp.float32)

    def both(x):
        packet = codec.encode(x)
        return packet, codec.decode(packet)

    packets = [encode(name, row) for row in x]
    alone = [(packet, jitted(name)[1](packet)) for packet in packets]
    expected = jax.tree.map(lambda *rows: np.stack(rows), *alone)
    mapped = jax.jit(jax.vmap(both))(x)
    scanned = jax.lax.scan(lambda carry, row: (carry, both(row)), 0, x)[1]
    for actual in (mapped, scanned):
        assert jax.tree.all(jax.tree.map(same_bits, actual, expected))


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_calls_itself_by_its_name_on_the_command_line(name):
    assert CODECS[name].name == name


# Plain codecs


def test_identity_is_exact_to_the_bit():
    # Quiet and signalling NaN with payloads, -0.0, subnormals, inf; then anything.
    special = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 1, 0x7FFFFF, 0x7F800000]
    bits = np.random.default_rng(0).integers(0, 2**32, SHAPE, np.uint32)
    bits.flat[: len(special)] = special
    assert same_bits(roundtrip("identity", bits.view(np.float32)).view(np.uint32), bits)


@given(x=tensors)
def test_bf16_rounds_as_ml_dtypes_and_saturates(x):
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    clipped = np.clip(flushed(x), np.float32(-largest), np.float32(largest))
    expected = clipped.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(roundtrip("bf16", x), expected)


def test_bf16_keeps_inf_and_nan():
    x = np.array([np.inf, -np.inf, np.nan, LARGEST], np.float32)
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    np.testing.assert_array_equal(
        jax.jit(bf16().encode)(jnp.asarray(x)).payload.astype(jnp.float32),
        np.array([np.inf, -np.inf, np.nan, largest], np.float32),
    )
