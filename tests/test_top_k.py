"""Top-k codecs and their answers against NumPy, which knows only the wire's words."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jsplit
from jsplit.codecs import CODECS, float8, identity, packed, top_k, where_sent
from jsplit.codecs.places import pack_places, places_bytes, unpack_places
from jsplit.errors import InputError
from jsplit.experiment.at_cut import codecs_of
from jsplit.experiment.config import RunConfig
from jsplit.net.setup import check_codecs
from jsplit.typing import Packet
from tests.nets import dense_parts
from tests.simulations import TRAIN, simulate

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


class _Same(nn.Module):
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
    part = jsplit.from_flax(_Same())
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


# Answers where values were sent


@functools.cache
def paired(name):
    forward = CODECS[name].of(SHAPE[1:])
    codec = where_sent().of(SHAPE[1:], forward)

    def there_and_back(sent, gradient):
        reply = codec.to(sent).encode(gradient)
        return reply, codec.to(sent).decode(reply)

    return codec, jax.jit(there_and_back)


@pytest.mark.parametrize("name", ["top4", "top16-random"])
@given(x=scaled, gradient=scaled)
def test_gradients_come_back_where_values_were_sent_and_are_zero_elsewhere(
    name, x, gradient
):
    sent, _, places = sent_of(name, x)
    codec, there_and_back = paired(name)
    reply, decoded = there_and_back(sent, gradient)
    count = COUNT[name]
    assert reply.payload.shape == (len(x), count) and count * 8 == codec.payload_bits(
        SHAPE[1:]
    )
    rows = gradient.reshape(len(x), VALUES)
    kept = np.take_along_axis(rows, places, axis=1)
    encode, decode = eight_bits(count)
    expected = np.zeros_like(rows)
    back = decode(encode(kept))
    np.put_along_axis(expected, places, np.asarray(back), axis=1)
    np.testing.assert_array_equal(np.asarray(decoded).reshape(rows.shape), expected)
    assert np.isfinite(expected).all()


def test_nan_and_inf_count_only_where_values_were_sent():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    sent, _, places = sent_of("top4", x)
    _, there_and_back = paired("top4")
    gradient = np.full((len(x), VALUES), np.nan, np.float32)
    np.put_along_axis(gradient, places, 1, axis=1)
    decoded = np.asarray(there_and_back(sent, gradient.reshape(SHAPE))[1])
    np.testing.assert_allclose(decoded.sum(), len(x) * 11, rtol=1e-2)
    gradient[0, places[0, 0]] = np.nan
    decoded = np.asarray(there_and_back(sent, gradient.reshape(SHAPE))[1])
    assert np.isnan(decoded).sum() == len(x) * 11


@pytest.mark.slow
def test_every_client_is_answered_where_its_own_values_were_sent():
    """And learns from that alone: by hand it is the pullback of what came back."""
    forward = top_k(4).of((8,))
    codec = where_sent().of((8,), forward)
    parts = dense_parts()
    sgd = optax.sgd(1.0)
    steps, exact = (
        jsplit.make_steps(
            *parts,
            client_optimizer=sgd,
            server_optimizer=sgd,
            codec=forward,
            grad_codec=each,
        )
        for each in (codec, identity())
    )
    key = jax.random.key(0)
    x, labels = TRAIN[0][:12].reshape(-1, 4, *TRAIN[0].shape[1:]), TRAIN[1][:12]
    x, labels, clients = jnp.asarray(x), jnp.asarray(labels).reshape(3, 4), 3
    begun = jax.jit(jsplit.init_side, static_argnums=(0, 1))
    client = begun(parts[0], sgd, key, x[0])
    server = begun(parts[1], sgd, key, jnp.zeros((4, 8)))
    forward_of = jax.jit(jax.vmap(steps.client_forward, (None, 0, None, None)))
    packets, kept = forward_of(client, x, None, key)
    given = labels, None, key, jnp.float32(1)
    *_, replies = steps.server_step_with_reply(server, packets, *given)
    *_, gradients = exact.server_step_with_reply(server, packets, *given)
    assert replies.payload.shape == (clients, 4, 2)
    decoded = jax.jit(lambda packet, reply: codec.to(packet).decode(reply))
    for number in range(clients):
        of = functools.partial(jax.tree.map, lambda leaf, at=number: leaf[at])
        reply, packet = of(replies), of(packets)
        gradient = decoded(packet, reply)
        places = np.asarray(forward.places(packet))
        elsewhere = np.array(gradient)
        assert elsewhere.any()
        np.put_along_axis(elsewhere, places, 0, axis=1)
        assert not elsewhere.any()
        there, due = (
            np.take_along_axis(np.asarray(each), places, axis=1)
            for each in (gradient, gradients.payload[number])
        )
        np.testing.assert_allclose(there, due, atol=0.05 * np.abs(due).max())

        def smashed(params, rows=x[number]):
            variables = {**client.variables, "params": params}
            return parts[0].apply(variables, rows, mask=None, key=key, train=True)[0]

        params = client.variables["params"]
        (expected,) = jax.vjp(smashed, params)[1](gradient)
        moved = steps.client_backward(
            client, of(kept), reply, None, jnp.float32(1)
        ).variables["params"]
        jax.tree.map(
            lambda before, after, due: np.testing.assert_allclose(
                before - after, due, atol=1e-6
            ),
            params,
            moved,
            expected,
        )


@pytest.mark.slow
def test_a_training_counts_k_bytes_down_and_learns():
    simulation = simulate(codec=top_k(4, randomised=True), grad_codec=where_sent())
    _, record, ledger = simulation.run(np.full(8, 0.05))
    stored = simulation.state.store.examples.packets.payload
    assert stored.shape[5:] == (2 + places_bytes(8, 2),)
    assert ledger.wire["gradients"]["down"] == 8 * 60 * 2
    assert ledger.wire["activations"]["up"] == 8 * 60 * stored.shape[5]
    losses = np.asarray(record.train.loss)
    assert losses[-1] < 0.7 * losses[0]


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


def test_answers_need_a_codec_that_says_where_it_sent_values():
    said = (
        r"where-sent sends gradients in the places .* float8 does not say which; take"
    )
    with pytest.raises(InputError, match=f"--grad-codec: {said}"):
        codecs_of(RunConfig(grad_codec="where-sent"), (8,))
    with pytest.raises(ValueError, match=f"grad_codec: {said}"):
        simulate(codec=float8(), grad_codec=where_sent())
    up, down = codecs_of(RunConfig(codec="top16", grad_codec="where-sent"), (8, 4))
    assert (up.name, down.name, down.payload_bits((8, 4))) == (
        "top16",
        "where-sent",
        16,
    )


def test_a_server_refuses_answers_to_nothing_before_any_client_comes():
    with pytest.raises(InputError, match=r"--grad-codec: .* bf16 does not say which"):
        check_codecs(RunConfig(codec="bf16", grad_codec="where-sent"))
    with pytest.raises(InputError, match=r"--codec: where-sent is for gradients alone"):
        check_codecs(RunConfig(codec="where-sent"))
    check_codecs(RunConfig(codec="top4-random", grad_codec="where-sent"))


def test_answers_are_refused_where_there_is_nothing_to_answer():
    with pytest.raises(InputError, match=r"--codec: where-sent is for gradients alone"):
        codecs_of(RunConfig(codec="where-sent"), (8,))
    with pytest.raises(ValueError, match="codec: where-sent is for gradients alone"):
        simulate(codec=where_sent())
    codec = where_sent().of((8,), top_k(4))
    with pytest.raises(
        ValueError, match=r"only for an answer: take codec\.to\(packet\)"
    ):
        codec.decode(Packet(jnp.zeros((1, 2), jnp.uint8), jnp.zeros(3, jnp.uint8)))
    part = jsplit.from_flax(_Same())
    with pytest.raises(ValueError, match=r"where-sent goes by .* \.of\(shape, codec\)"):
        jsplit.make_steps(
            part,
            part,
            client_optimizer=optax.sgd(0.1),
            server_optimizer=optax.sgd(0.1),
            codec=identity(),
            grad_codec=where_sent(),
        )
