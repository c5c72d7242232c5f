"""float8 and fixed 8-bit formats against NumPy and ml_dtypes, which share no code."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.codecs import FORMATS, bf16, float8
from tests.coding import (
    EIGHT_BIT,
    FIXED,
    LARGEST,
    SHAPE,
    SMALLEST_NORMAL,
    encode,
    fill,
    flushed,
    jitted,
    roundtrip,
    same_bits,
    tensors,
)


def header(packet):
    index, scale = np.asarray(packet.header)
    return FORMATS[index], int(scale.astype(np.int8))


def oracle_codes(x, fmt, scale):
    """Clip and cast by NumPy and ml_dtypes alone."""
    largest = float(ml_dtypes.finfo(fmt.dtype).max)
    scaled = np.ldexp(flushed(x).astype(np.float64), scale)
    clipped = np.clip(scaled, -largest, largest)
    return clipped.astype(np.float32).astype(fmt.dtype).view(np.uint8)


def relative_error(x, decoded):
    """Squared error in float64, in units of the largest magnitude."""
    unit = max(float(np.abs(x).max()), SMALLEST_NORMAL)
    return np.sum(np.square((decoded.astype(np.float64) - x) / unit))


@pytest.mark.parametrize("name", EIGHT_BIT)
@given(x=tensors)
def test_encoding_rounds_to_nearest_even_exactly_as_ml_dtypes(name, x):
    packet = encode(name, x)
    fmt, scale = header(packet)
    np.testing.assert_array_equal(packet.payload, oracle_codes(x, fmt, scale))
    values = np.asarray(packet.payload).view(fmt.dtype).astype(np.float64)
    np.testing.assert_array_equal(
        roundtrip(name, x), np.ldexp(values, -scale).astype(np.float32)
    )


@pytest.mark.parametrize("fmt", FORMATS, ids=FIXED)
def test_every_code_and_every_tie_rounds_as_ml_dtypes_does(fmt):
    codes = np.arange(256, dtype=np.uint8).view(fmt.dtype).astype(np.float32)
    values = np.unique(codes[np.isfinite(codes)])
    ties = (values[1:] + values[:-1]) / 2
    near = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    points = np.concatenate([ties, *near])
    tiny = float(ml_dtypes.finfo(fmt.dtype).tiny)
    small = np.abs(points) < 4 * tiny
    assert np.sum(np.abs(values) < tiny) > 3  # subnormals are among them
    # Without the large ties' errors only the scale 2**0 is best: it is exact.
    pinned = np.concatenate([values, np.where(small, points, 0)])
    assert header(encode(fmt.name, pinned)) == (fmt, 0)
    np.testing.assert_array_equal(roundtrip(fmt.name, pinned)[: len(values)], values)
    for x in (pinned, np.concatenate([values, np.where(small, 0, points)])):
        packet = encode(fmt.name, x)
        _, scale = header(packet)
        np.testing.assert_array_equal(packet.payload, oracle_codes(x, fmt, scale))


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_what_is_beyond_the_largest_value_saturates(name):
    # Infinities take no part in the search, so they lie beyond any scale's range.
    packet = encode(name, fill(1.0, np.inf, -np.inf, 0.3))
    fmt, scale = header(packet)
    largest = np.ldexp(float(ml_dtypes.finfo(fmt.dtype).max), -scale)
    decoded = np.asarray(jitted(name)[1](packet)).reshape(-1)
    np.testing.assert_array_equal(decoded[1:3], [largest, -largest])


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_inf_decodes_to_a_finite_value_even_beside_the_largest_number(name):
    decoded = roundtrip(name, fill(np.inf, -np.inf, LARGEST)).reshape(-1)
    assert np.isfinite(decoded).all()
    assert decoded[0] > 2.9e38 and decoded[1] < -2.9e38


@given(x=tensors)
def test_the_search_is_never_worse_than_any_fixed_format(x):
    searched = relative_error(x, roundtrip("float8", x))
    for name in FIXED:
        # The search sums 48 float32 squares: 1e-5 covers their rounding.
        fixed = relative_error(x, roundtrip(name, x))
        assert searched <= fixed * (1 + 1e-5), name


def test_the_search_is_right_at_the_largest_magnitudes_of_float32():
    # Exact in e5m2 and e4m3; e3m4 would round all but one of them to zero.
    x = np.array([1.75 * 2.0**127] + 47 * [2.0**117], np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(roundtrip("float8", x), x)


@pytest.mark.parametrize("fmt", FORMATS, ids=FIXED)
@given(x=tensors)
def test_the_scale_is_the_best_of_the_documented_candidates(fmt, x):
    _, chosen = header(encode(fmt.name, x))
    x = flushed(x)
    exponent = int(np.frexp(np.abs(x).max())[1]) - 1 if x.any() else -127
    top = int(np.frexp(float(ml_dtypes.finfo(fmt.dtype).max))[1]) - 1
    errors = {}
    for offset in fmt.offsets:
        scale = min(max(top + offset - exponent, top - 127), 126)
        codes = oracle_codes(x, fmt, scale).view(fmt.dtype).astype(np.float64)
        errors[scale] = relative_error(x, np.ldexp(codes, -scale))
    assert errors[chosen] <= min(errors.values()) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("power", "spread", "winner"), [(0, 0, "e3m4"), (-10, 1, "e4m3"), (-14, 12, "e5m2")]
)
def test_the_search_takes_more_exponent_bits_for_a_wider_range(power, spread, winner):
    rng = np.random.default_rng(0)
    x = np.exp2(power - spread * rng.uniform(size=SHAPE)) * rng.uniform(1, 2, SHAPE)
    x[0, 0, 0] = 1.0  # far above the others where power is below 0
    assert header(encode("float8", x))[0].name == winner


def test_a_search_can_be_limited_to_some_formats():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    codec = float8("e5m2", "e4m3")
    assert codec.name == "float8-e5m2-e4m3"
    assert header(jax.jit(codec.encode)(jnp.asarray(x)))[0].name == "e4m3"


@pytest.mark.parametrize("name", EIGHT_BIT)
@given(x=tensors)
def test_coding_a_second_time_changes_nothing(name, x):
    once = roundtrip(name, x)
    np.testing.assert_array_equal(roundtrip(name, once), once)


@pytest.mark.parametrize("name", EIGHT_BIT)
@given(x=tensors, power=st.integers(-20, 20))
def test_a_power_of_two_moves_only_the_scale(name, x, power):
    x = np.where(np.abs(x) < 1e-20, 0, np.clip(x, -1e20, 1e20)).astype(np.float32)
    packet = encode(name, x)
    moved = encode(name, np.ldexp(x, power))
    np.testing.assert_array_equal(packet.payload, moved.payload)
    if x.any():
        assert header(moved) == (header(packet)[0], header(packet)[1] - power)


@pytest.mark.parametrize("name", EIGHT_BIT)
@pytest.mark.parametrize("power", [-126, -30, 0, 127])
def test_a_constant_power_of_two_is_exact(name, power):
    x = np.full(SHAPE, np.ldexp(1.0, power), np.float32)
    np.testing.assert_array_equal(roundtrip(name, x), x)


@pytest.mark.parametrize("name", EIGHT_BIT)
@given(value=st.floats(2.0**-126, LARGEST, width=32))
def test_a_constant_keeps_the_precision_of_the_mantissa(name, value):
    bits = 4 if name == "float8" else int(name[-1])
    decoded = roundtrip(name, np.full(SHAPE, value, np.float32))
    # Where no scale holds the number (in the top octave of float32) it saturates.
    tolerance = 2.0 ** -(bits + 1) if value < 2.0**127 else 1 / 8
    np.testing.assert_allclose(decoded, value, rtol=tolerance)


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_zeros_stay_zeros_and_keep_their_signs(name):
    x = fill(0.0, -0.0)
    assert same_bits(roundtrip(name, x), x)


@pytest.mark.parametrize("name", [*EIGHT_BIT, "bf16"])
def test_magnitudes_below_the_normal_numbers_give_zeros_that_keep_their_signs(name):
    x = fill(SMALLEST_NORMAL / 2, -SMALLEST_NORMAL / 3, 1e-44)
    assert same_bits(roundtrip(name, x), flushed(x))


def test_subnormal_numbers_are_made_zeros_and_not_left_to_the_device():
    # A CPU flushes by itself, so its results cannot tell; what is traced does.
    for codec in (float8(), bf16()):
        traced = jax.make_jaxpr(codec.encode)(jnp.zeros(SHAPE, jnp.float32))
        assert str(SMALLEST_NORMAL) in str(traced), codec.name


def test_an_accelerator_chooses_the_format_to_the_same_bits(monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).standard_t(2, SHAPE), jnp.float32)
    packet, beyond = encode("float8", x), jnp.asarray([200, 0], jnp.uint8)
    decoded = [
        jitted("float8")[1](one) for one in (packet, packet._replace(header=beyond))
    ]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    codec = float8()
    assert jax.tree.all(jax.tree.map(same_bits, codec.encode(x), packet))
    there = [codec.decode(one) for one in (packet, packet._replace(header=beyond))]
    assert jax.tree.all(jax.tree.map(same_bits, there, decoded))


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_the_smallest_normal_number_survives(name):
    x = fill(SMALLEST_NORMAL, -SMALLEST_NORMAL)
    np.testing.assert_array_equal(roundtrip(name, x), x)


@pytest.mark.parametrize("name", EIGHT_BIT)
@given(
    x=tensors,
    place=st.integers(0, 47),
    special=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_beside_nan_or_inf_values_are_coded_as_if_it_were_zero(name, x, place, special):
    with_zero, with_special = x.copy(), x.copy()
    with_zero.flat[place], with_special.flat[place] = 0, special
    expected, actual = encode(name, with_zero), encode(name, with_special)
    assert header(actual) == header(expected)
    others = np.arange(48) != place
    np.testing.assert_array_equal(
        np.asarray(actual.payload).flat[others],
        np.asarray(expected.payload).flat[others],
    )
    decoded = roundtrip(name, with_special).flat[place]
    assert np.isnan(decoded) == np.isnan(special)
    assert np.isnan(special) or np.sign(decoded) == np.sign(special)


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_nothing_but_nan_stays_nan(name):
    assert np.isnan(roundtrip(name, np.full(SHAPE, np.nan, np.float32))).all()


@pytest.mark.parametrize("names", [("e2m5",), ("e4m3", "float8")])
def test_an_unknown_format_is_refused(names):
    with pytest.raises(ValueError, match="float8 format must be one of"):
        float8(*names)


def test_the_first_header_byte_means_what_it_always_meant():
    assert [(fmt.name, fmt.dtype) for fmt in FORMATS] == [
        ("e5m2", ml_dtypes.float8_e5m2),
        ("e4m3", ml_dtypes.float8_e4m3fn),
        ("e3m4", ml_dtypes.float8_e3m4),
    ]
    packet = encode("e3m4", np.ones(SHAPE))
    fmt, scale = header(packet)
    np.testing.assert_array_equal(packet.header, [2, scale])
    np.testing.assert_array_equal(encode("e3m4", np.full(SHAPE, 256.0)).header[0], 2)
    np.testing.assert_array_equal(
        encode("e3m4", np.full(SHAPE, 256.0)).header[1], (scale - 8) % 256
    )
