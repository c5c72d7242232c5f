"""Gradients that answer where values were sent, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

import jsplit
from jsplit.codecs import CODECS, float8, identity, top_k, where_sent
from jsplit.codecs.places import places_bytes
from jsplit.errors import InputError
from jsplit.experiment.at_cut import codecs_of
from jsplit.experiment.config import RunConfig
from jsplit.net.setup import check_codecs
from jsplit.typing import Packet
from tests.few_values import COUNT, SHAPE, VALUES, Same, eight_bits, scaled, sent_of
from tests.nets import dense_parts
from tests.simulations import TRAIN, simulate


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
    part = jsplit.from_flax(Same())
    with pytest.raises(ValueError, match=r"where-sent goes by .* \.of\(shape, codec\)"):
        jsplit.make_steps(
            part,
            part,
            client_optimizer=optax.sgd(0.1),
            server_optimizer=optax.sgd(0.1),
            codec=identity(),
            grad_codec=where_sent(),
        )
