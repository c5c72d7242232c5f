"""Top-k codecs against NumPy, which knows only the wire's words."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

import jsplit
from jsplit.codecs import CODECS, identity, top_k
from jsplit.codecs.places import pack_places, places_bytes, unpack_places
from tests.few_values import (
    COUNT,
    LARGEST,
    NAMES,
    SHAPE,
    VALUES,
    Same,
    eight_bits,
    jitted,
    scaled,
    sent_of,
)


def magnitudes(x):
    """Rows in float64, in the order of what is largest: NaN, inf, and then numbers."""
    rows = np.abs(np.asarray(x, np.float64).reshape(len(x), VALUES))
    rows = np.where(rows < 2.0**-126, 0, rows)
    return np.nan_to_num(rows, nan=1e301, posinf=1e300)


def largest(x, count):
    """The places of the largest, of equal ones the first, in ascending order."""
    order = np.argsort(-magnitudes(x), axis=1, kind="stable")
    return np.sort(order[:, :count], axis=1)


def bits_of(payload, total):
    """The bits of a row as `pack` of one-bit codes has them: eight runs of them."""
    runs = payload[None] >> np.arange(8)[:, None] & 1
    return runs.reshape(-1)[:total]


# The places


@pytest.mark.parametrize(
    ("number", "count"), [(0, 0), (1, 1), (42, 11), (64, 64), (300, 19), (301, 1)]
)
def test_places_come_back_from_whole_bytes(number, count):
    rng = np.random.default_rng(0)
    places = np.sort([rng.permutation(number)[:count] for _ in range(20)], axis=1)
    places = jnp.asarray(places.reshape(20, count), jnp.int32)
    coded = pack_places(places, number)
    assert coded.shape == (20, places_bytes(number, count))
    assert coded.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack_places(coded, number, count), places)


@pytest.mark.parametrize(("number", "count", "low"), [(8192, 512, 3), (100, 25, 1)])
def test_places_are_written_as_the_wire_format_says(number, count, low):
    places = np.sort(np.random.default_rng(0).permutation(number)[:count])
    (coded,) = np.asarray(pack_places(jnp.asarray(places)[None], number))
    length = count + ((number - 1) >> low)
    bits = bits_of(coded, count * low + length)
    lowest = bits[: count * low].reshape(count, low) @ (2 ** np.arange(low))
    steps = np.flatnonzero(bits[count * low :]) - np.arange(count)
    np.testing.assert_array_equal(steps * 2**low + lowest, places)


@pytest.mark.parametrize("share", [4, 5, 16, 100])
def test_places_take_no_more_than_a_bitmap_or_than_indices_would(share):
    for number in (*range(1, 400), 8192, 32768):
        count = -(-number // share)
        index = count * math.ceil(math.log2(number))
        # Each of the three may round up by some bits.
        assert 8 * places_bytes(number, count) <= min(number, index + 1) + 8 + 2
    assert places_bytes(8192, 512) * 8 == 0.375 * 8192


def test_bytes_that_no_packet_has_decode_to_places_that_there_are():
    for byte in (0, 255, 129):
        payload = jnp.full((2, places_bytes(VALUES, 11)), byte, jnp.uint8)
        places = np.asarray(unpack_places(payload, VALUES, 11))
        assert ((places >= 0) & (places < VALUES)).all()


# The largest


@pytest.mark.parametrize("name", LARGEST)
@given(x=scaled)
def test_exactly_the_k_largest_are_sent_and_of_ties_the_first(name, x):
    packet, decoded, places = sent_of(name, x)
    count = COUNT[name]
    np.testing.assert_array_equal(places, largest(x, count))
    encode, decode = eight_bits(count)
    kept = np.take_along_axis(x.reshape(len(x), VALUES), places, axis=1)
    codes = encode(kept)
    np.testing.assert_array_equal(packet.payload[:, :count], codes.payload)
    np.testing.assert_array_equal(packet.header, codes.header)
    back = np.take_along_axis(decoded, places, axis=1)
    np.testing.assert_array_equal(back, decode(codes))


@pytest.mark.parametrize("name", NAMES)
@given(x=scaled)
def test_k_different_places_are_sent_and_zeros_come_back_elsewhere(name, x):
    packet, decoded, places = sent_of(name, x)
    assert packet.payload.shape[1] == COUNT[name] + places_bytes(VALUES, COUNT[name])
    assert places.shape == (len(x), COUNT[name])
    assert (np.diff(places, axis=1) > 0).all()
    np.put_along_axis(decoded, places, 0, axis=1)
    assert not decoded.any()


@pytest.mark.parametrize("name", ["top4", "top16-random"])
def test_all_zeros_and_what_is_below_normal_numbers_come_back_as_zeros(name):
    for x in (np.zeros(SHAPE), np.full(SHAPE, 1e-40), -np.full(SHAPE, 1e-40)):
        assert not sent_of(name, x)[1].any()


@pytest.mark.parametrize("name", LARGEST)
def test_inf_is_among_the_largest_and_saturates_with_its_sign(name):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    x[0, 2, 13], x[1, 0, 3] = np.inf, -np.inf
    _, decoded, places = sent_of(name, x)
    np.testing.assert_array_equal(places, largest(x, COUNT[name]))
    assert np.isfinite(decoded).all()
    assert decoded[0, -1] == decoded.max() and decoded[1, 3] == decoded.min() < 0


@pytest.mark.parametrize("name", LARGEST)
def test_nan_is_among_the_largest_and_nan_in_all_that_is_sent(name):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    x[1, 0, 3], x[1, 0, 4] = np.nan, np.inf
    _, decoded, places = sent_of(name, x)
    assert 3 in places[1] and 4 in places[1]
    assert np.isnan(np.take_along_axis(decoded, places, axis=1)).all()
    np.put_along_axis(decoded, places, 0, axis=1)
    assert not decoded.any()


@pytest.mark.parametrize(("share", "bits"), [(4, 3.0), (16, 0.875)])
def test_bits_are_counted_in_whole_bytes_of_an_example(share, bits):
    assert top_k(share).payload_bits((8, 8, 128)) == bits * 8 * 8 * 128
    assert top_k(share).payload_bits((5,)) % 8 == 0
    assert top_k(share).payload_bits((0, 3)) == 0


# By chance


def outside(x, alpha, share=4):
    """Which of the places of the largest, and of the others, are sent: two masks."""
    codec = top_k(share, randomised=True, alpha=alpha).of(x.shape[1:])
    places = np.asarray(jax.jit(lambda x: codec.places(codec.encode(x)))(x))
    chosen, top = np.zeros((2, *x.shape), bool)
    np.put_along_axis(chosen, places, True, axis=1)
    order = np.argsort(-np.abs(x), axis=1, kind="stable")[:, : places.shape[1]]
    np.put_along_axis(top, order, True, axis=1)
    assert (chosen.sum(axis=1) == places.shape[1]).all()
    return chosen, top


def test_a_share_of_alpha_goes_to_others_each_with_the_same_chance():
    x = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    chosen, top = outside(x, 0.1)
    share = (chosen & ~top).sum() / top.sum()
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / top.sum())
    # Large ones outside are no likelier than small ones, nor early ones than late ones.
    rates = [
        chosen[~top & half].mean()
        for half in (
            np.abs(x) < 0.5,
            np.abs(x) >= 0.5,
            np.arange(1024)[None] < 512,
            np.arange(1024)[None] >= 512,
        )
    ]
    assert max(rates) - min(rates) < 0.02 and abs(np.mean(rates) - 0.1 / 3) < 0.01


def test_where_few_are_outside_exactly_k_are_sent_all_the_same():
    x = np.arange(1, 4, dtype=np.float32).reshape(1, 3)
    chosen, top = outside(x, 1.0, share=2)
    assert (chosen & ~top).sum() == 1 and (chosen & top).sum() == 1
    chosen, top = outside(np.ones((2, 1), np.float32), 1.0)
    assert chosen.all()


def test_the_same_tensor_always_gives_the_same_packet_and_another_another():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    one, two = (sent_of("top4-random", x)[0] for _ in range(2))
    np.testing.assert_array_equal(one.payload, two.payload)
    other = x.copy()
    other[0, 0, 0] *= 1 + 1e-6
    changed = sent_of("top4-random", other)[2] != sent_of("top4-random", x)[2]
    assert changed[1:].any()


def test_evaluation_sends_the_largest_whatever_training_does():
    codec = CODECS["top4-random"].of(SHAPE[1:])
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    in_use = jax.jit(codec.encode_in_use)(x)
    largest = jitted("top4")[0](x)
    np.testing.assert_array_equal(in_use.payload, largest.payload)
    assert (np.asarray(jitted("top4-random")[0](x).payload) != largest.payload).any()
    part = jsplit.from_flax(Same())
    steps = jsplit.make_steps(
        part,
        part,
        client_optimizer=optax.sgd(0.1),
        server_optimizer=optax.sgd(0.1),
        codec=codec,
        grad_codec=identity(),
    )
    begun = jax.jit(jsplit.init_side, static_argnums=(0, 1))
    side = begun(part, optax.sgd(0.1), jax.random.key(0), x)
    used = steps.client_evaluate(side, x)
    np.testing.assert_array_equal(used.payload, largest.payload)
    trained, _ = steps.client_forward(side, x, None, jax.random.key(0))
    np.testing.assert_array_equal(trained.payload, jitted("top4-random")[0](x).payload)


# What is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"share": 1}, "share must be at least 2, got 1"),
        ({"share": 4, "alpha": 1.5}, r"alpha must be from 0 to 1, got 1\.5"),
    ],
)
def test_shares_and_chances_that_there_are_not_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        top_k(**given)
