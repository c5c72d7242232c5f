"""Codecs of few bits against NumPy, which knows only what the header's fields mean."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jsplit.codecs import CODECS, packed
from jsplit.codecs.packing import pack, packed_bytes, unpack
from jsplit.errors import InputError
from jsplit.experiment.at_cut import codecs_of
from jsplit.experiment.config import RunConfig
from jsplit.typing import Packet
from tests.tiers import sample

SHAPE = (5, 3, 4)
NAMES = [name for name in CODECS if name.startswith("bits")]
NEAREST = [name for name in NAMES if "stochastic" not in name]
SOME = sample(NEAREST, "bits2", "bits3-channel", "bits4-channel", "bits8")

values = hnp.arrays(np.float32, SHAPE, elements=st.floats(-8, 8, width=32))
scaled = st.builds(
    lambda x, power: np.ldexp(x, power).astype(np.float32),
    values,
    st.integers(-60, 60),
)


@functools.cache
def jitted(name):
    codec = CODECS[name].of(SHAPE[1:])
    return jax.jit(codec.encode), jax.jit(codec.decode)


def roundtrip(name, x):
    encode, decode = jitted(name)
    packet = encode(jnp.asarray(x, jnp.float32))
    return packet, np.array(decode(packet))


def bits_of(name):
    return int(name[4])


def grid_of(name, packet):
    """Every magnitude that the packet's codes stand for, in units of the scale."""
    signed, exponent = divmod(int(packet.header[0]), 8)
    mantissa = bits_of(name) - signed - exponent
    codes = np.arange(2 ** (bits_of(name) - signed))
    field, rest = codes >> mantissa, codes & (2**mantissa - 1)
    normal = (2.0**mantissa + rest) * 2.0 ** (field - 1.0)
    return signed, np.where(field == 0, codes, normal)


def scales_of(packet):
    header = np.asarray(packet.header)[1:].view("<u2").astype(np.uint32) << 16
    return header.view(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_one_device_and_several_send_the_same(name, monkeypatch):
    x = jax.random.normal(jax.random.key(0), SHAPE)
    codec = CODECS[name].of(SHAPE[1:])
    packets = []
    for devices in (1, 2):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        packets.append(jax.jit(lambda x: codec.encode(x))(x))
    for one, several in zip(*packets, strict=True):
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("name", SOME)
@given(x=scaled)
def test_rounding_is_to_the_nearest_value_of_the_grid(name, x):
    packet, decoded = roundtrip(name, x)
    signed, grid = grid_of(name, packet)
    scale = np.broadcast_to(scales_of(packet), SHAPE[-1])
    x = np.where(np.abs(x) < 2.0**-126, 0, x).astype(np.float64)
    assert signed == (x < 0).any()
    exact = np.abs(x) / scale
    nearest = np.abs(exact[..., None] - grid).min(-1)
    error = np.abs(np.abs(decoded / scale) - exact)
    # The product with the scale's inverse is rounded before the value is.
    np.testing.assert_allclose(error, nearest, atol=1e-5 * grid.max())
    assert (np.sign(decoded) * np.sign(x) >= 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@given(data=st.data())
def test_packed_codes_come_back_from_whole_bytes(bits, data):
    values = data.draw(st.sampled_from([0, 1, 7, 9, 16, 23]))
    codes = data.draw(hnp.arrays(np.uint8, (2, values), elements=st.integers(0, 3)))
    codes = codes << (bits - 2) | codes >> 1
    packed_codes = pack(jnp.asarray(codes), bits)
    assert packed_codes.shape == (2, packed_bytes(values, bits))
    assert packed_codes.dtype == jnp.uint8
    assert bits * values <= 8 * packed_bytes(values, bits) < bits * values + 24
    np.testing.assert_array_equal(unpack(packed_codes, values, bits), codes)


@pytest.mark.parametrize(
    ("bits", "codes", "filled"), [(2, 4, 1), (3, 8, 3), (4, 2, 1), (6, 4, 3), (8, 1, 1)]
)
def test_an_example_takes_the_bytes_that_whole_codes_fill_together(bits, codes, filled):
    for values in (1, 8, 9):
        rows = jax.ShapeDtypeStruct((2, values), jnp.float32)
        sent = jax.eval_shape(packed(bits).of((values,)).encode, rows)
        assert sent.payload.shape == (2, filled * math.ceil(values / codes))
        assert packed(bits).payload_bits((values,)) == 8 * sent.payload.shape[1]


@pytest.mark.parametrize("name", SOME)
def test_a_packet_without_negative_values_spends_no_bit_on_signs(name):
    x = np.abs(np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)
    without, decoded = roundtrip(name, x)
    signed, grid = grid_of(name, without)
    assert signed == 0 and len(grid) == 2 ** bits_of(name)
    x[0, 0, 0] *= -1
    with_sign, again = roundtrip(name, x)
    assert grid_of(name, with_sign)[0] == 1
    assert np.square(again - x).sum() > np.square(decoded - np.abs(x)).sum()


def relative_error(name, x):
    return np.square(roundtrip(name, x)[1] - x).sum() / np.square(x).sum()


def test_more_bits_are_nearer_and_a_scale_for_each_channel_is_too():
    rng = np.random.default_rng(1)
    x = np.maximum(rng.standard_normal(SHAPE) * [1, 0.1, 0.02, 3], 0).astype("f4")
    errors = [relative_error(f"bits{bits}", x) for bits in (2, 3, 4, 6, 8)]
    assert all(two < one / 2 for one, two in itertools.pairwise(errors))
    for bits in (2, 4, 8):
        assert relative_error(f"bits{bits}-channel", x) < relative_error(
            f"bits{bits}", x
        )


def test_the_search_takes_integers_for_what_is_even_and_floats_for_heavy_tails():
    even = np.linspace(0, 15, 60, dtype=np.float32).reshape(SHAPE)
    packet, _ = roundtrip("bits4", even)
    assert int(packet.header[0]) == 0
    np.testing.assert_array_equal(roundtrip("bits4", np.round(even))[1], np.round(even))
    heavy = np.exp2(np.linspace(-12, 0, 60)).astype(np.float32).reshape(SHAPE)
    packet, decoded = roundtrip("bits4", heavy)
    assert int(packet.header[0]) in (2, 3, 4)
    large = heavy > 0.25
    np.testing.assert_allclose(decoded[large], heavy[large], rtol=0.5)


def test_few_large_values_saturate_where_that_is_nearer():
    x = np.ones(SHAPE, np.float32)
    x[0, 0, 0] = 1.9
    assert relative_error("bits2", x) < 0.01


@pytest.mark.parametrize("bits", [4, 8])
def test_few_values_among_many_are_not_overlooked_by_the_search(bits):
    rng = np.random.default_rng(2)
    codec = packed(bits).of((4096,))
    x = rng.standard_normal((64, 4096)).astype(np.float32)
    x[3, 7] = 3000.0  # more than all others together
    decoded = codec.decode(jax.jit(codec.encode)(x))
    assert abs(decoded[3, 7] - 3000) < 200


@pytest.mark.parametrize("name", ["bits2", "bits4-channel", "bits8"])
def test_beside_inf_values_stay_and_it_saturates_with_its_sign(name):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    x[0, 0], x[1, 1] = np.inf, -np.inf
    packet, decoded = roundtrip(name, x)
    _, grid = grid_of(name, packet)
    largest = np.broadcast_to(grid.max() * scales_of(packet), SHAPE[-1])
    np.testing.assert_allclose(decoded[0, 0], largest, rtol=1e-6)
    np.testing.assert_allclose(decoded[1, 1], -largest, rtol=1e-6)
    assert np.isfinite(decoded).all()


def test_nan_anywhere_is_nan_throughout():
    x = np.ones(SHAPE, np.float32)
    x[1, 2, 3] = np.nan
    for name in ("bits2", "bits4-channel", "bits4-stochastic"):
        assert np.isnan(roundtrip(name, x)[1]).all()


@pytest.mark.parametrize("power", [-149, -126, -60, 125])
def test_a_constant_is_exact_at_the_ends_of_float32(power):
    x = np.full(SHAPE, np.ldexp(1.0, power), np.float32)
    expected = x if power >= -120 else np.where(x < 2.0**-126, 0, x)
    for name in ("bits2", "bits4-channel", "bits8"):
        np.testing.assert_allclose(roundtrip(name, x)[1], expected, rtol=2**-8)


def test_the_largest_float32_numbers_saturate_and_stay_finite():
    x = np.full(SHAPE, np.finfo(np.float32).max)
    for name in ("bits2", "bits4-channel", "bits8"):
        decoded = roundtrip(name, -x)[1]
        assert np.isfinite(decoded).all() and (decoded <= -(2.0**125)).all()


# Stochastic rounding


def test_stochastic_rounding_is_right_on_average():
    # Most are integers, the others all a little above one.
    x = np.tile(np.arange(16, dtype=np.float32), (64, 64))
    x[:, :200] = np.random.default_rng(3).uniform(4.2, 4.4, (64, 200))

    def mean_error(codec):
        codec = codec.of((1024,))
        decoded = jax.jit(lambda x: codec.decode(codec.encode(x)))(x)
        error = np.asarray(decoded - x, np.float64)[:, :200]
        return error.mean(), error.std() / np.sqrt(error.size)

    mean, spread = mean_error(packed(4, stochastic=True))
    assert abs(mean) < 4 * spread < 0.02
    assert mean_error(packed(4))[0] < -0.2


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("signs", [(1,), (-1, 1)])
def test_stochastic_rounding_is_right_on_average_for_the_largest_too(bits, signs):
    # Few are large: a grid of least squared error would end below them.
    rng, codec = np.random.default_rng(5), packed(bits, stochastic=True).of((4096,))
    x = np.abs(rng.standard_normal((256, 4096))).astype(np.float32)
    x[:, :400], x[:, 400:800] = 3.7, 2.9
    x *= rng.choice(signs, x.shape).astype(np.float32)
    decoded = jax.jit(lambda x: codec.decode(codec.encode(x)))(x)
    errors = np.asarray(decoded - x, np.float64) * np.sign(x)
    for size in (2.9, 3.7):
        chosen = errors[np.abs(x) == np.float32(size)]
        assert abs(chosen.mean()) < 4 * chosen.std() / np.sqrt(chosen.size) < 0.05


@given(x=scaled)
def test_stochastic_rounding_goes_to_a_value_beside(x):
    name = "bits4-stochastic"
    packet, decoded = roundtrip(name, x)
    _, grid = grid_of(name, packet)
    (scale,) = scales_of(packet)
    exact = np.abs(np.where(np.abs(x) < 2.0**-126, 0, x)).astype(np.float64) / scale
    exact = np.minimum(exact, grid.max())
    grid = np.sort(grid)
    above = grid[np.minimum(np.searchsorted(grid, exact - 1e-5), len(grid) - 1)]
    below = grid[np.maximum(np.searchsorted(grid, exact + 1e-5, "right") - 1, 0)]
    got = np.abs(decoded / scale)
    near = (np.abs(got - above) < 1e-4) | (np.abs(got - below) < 1e-4)
    assert near.all()


def test_stochastic_rounding_is_the_same_for_the_same_tensor():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    one, two = (roundtrip("bits4-stochastic", x)[0] for _ in range(2))
    np.testing.assert_array_equal(one.payload, two.payload)
    x[0, 0, 0] += 1e-3
    other = roundtrip("bits4-stochastic", x)[0]
    assert (np.asarray(other.payload) != np.asarray(one.payload)).sum() > 5


# What is refused


@pytest.mark.parametrize("bits", [0, 1, 5, 16])
def test_a_width_that_there_is_not_is_refused(bits):
    with pytest.raises(ValueError, match=rf"bits must be one of .* got {bits}"):
        packed(bits)


def test_a_scale_for_each_channel_needs_channels():
    config = RunConfig(codec="bits4-channel")
    with pytest.raises(InputError, match=r"--codec: bits4-channel .* \(512,\).* bits4"):
        codecs_of(config, (512,))


def test_decoding_without_a_shape_is_refused_with_the_remedy():
    packet = Packet(jnp.zeros((5, 6), jnp.uint8), jnp.zeros(3, jnp.uint8))
    with pytest.raises(ValueError, match=r"bits4 decodes only for a shape: take"):
        packed(4).decode(packet)


@pytest.mark.parametrize("name", ["bits2", "bits4-channel", "bits8"])
def test_headers_that_no_packet_has_are_not_known(name):
    codec = CODECS[name].of(SHAPE[1:])
    for sign in (1, -1):
        header = np.asarray(roundtrip(name, sign * np.ones(SHAPE))[0].header).tobytes()
        assert codec.knows(header)
        for first in (1, 5, 16, 255):
            assert not codec.knows(bytes([first]) + header[1:])
        for scale in (b"\x00\x00", b"\xc0\x7f", b"\x80\x7f", b"\x80\xbf"):
            assert not codec.knows(header[:-2] + scale)
    assert codec.knows(bytes([0]) + header[1:])
    assert codec.knows(bytes([2]) + header[1:]) == (bits_of(name) >= 2)
    assert codec.knows(bytes([12]) + header[1:]) == (bits_of(name) >= 5)
