"""Noise and NoPeek: what they do to a step, exactly."""

import dcor
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsplit.codecs import CODECS
from jsplit.core.defences import Defence, distance_correlation
from jsplit.core.state import init_side
from jsplit.core.steps import make_steps
from jsplit.experiment.parts import parts_of
from jsplit.testing import TINY_RUN


@pytest.mark.parametrize("kept", [None, 17])
def test_the_penalty_is_the_distance_correlation_of_the_kept_rows(kept):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 5, 2)).astype(np.float32)
    z = (np.tanh(x[:, :3, 0]) + 0.5 * rng.normal(size=(24, 3))).astype(np.float32)
    mask = None if kept is None else np.arange(24) < kept
    found = distance_correlation(jnp.asarray(x), jnp.asarray(z), mask)
    flat = x.reshape(24, -1)[:kept].astype(np.float64), z[:kept].astype(np.float64)
    np.testing.assert_allclose(found, dcor.distance_correlation(*flat), rtol=1e-4)


def test_the_penalty_has_a_gradient_where_rows_are_equal_or_none_counts():
    x = jnp.ones((6, 3))
    for mask in (None, jnp.zeros(6, bool)):
        value, gradient = jax.value_and_grad(
            lambda z, mask=mask: distance_correlation(x, z, mask)
        )(jnp.ones((6, 2)))
        assert value == 0 and not jnp.any(gradient)


def steps_of(**defence):
    """Steps with exact codecs and a plain optimizer, and a client to take them."""
    client, server = parts_of(TINY_RUN, 10, (8, 8, 1))
    identity = CODECS["identity"]
    steps = make_steps(
        client,
        server,
        client_optimizer=optax.scale(-1.0),
        server_optimizer=optax.scale(-1.0),
        codec=identity,
        grad_codec=identity,
        defence=Defence(**defence),
    )
    x = jax.random.normal(jax.random.key(1), (12, 8, 8, 1))
    party = init_side(client, optax.scale(-1.0), jax.random.key(2), x)
    return client, steps, party, x


def test_the_client_descends_the_server_s_loss_and_its_penalty():
    client, steps, party, x = steps_of(nopeek=0.7)
    key, identity = jax.random.key(3), CODECS["identity"]
    packet, residual = steps.client_forward(party, x, None, key)
    reply = jax.random.normal(jax.random.key(4), packet.payload.shape)
    after = steps.client_backward(
        party, residual, identity.encode(reply), None, jnp.float32(1)
    )

    def objective(params):
        variables = {**party.variables, "params": params}
        smashed, _ = client.apply(variables, x, mask=None, key=key, train=True)
        return jnp.sum(smashed * reply) + 0.7 * distance_correlation(x, smashed, None)

    params = party.variables["params"]
    gradient = jax.jit(jax.grad(objective))(params)
    moved = jax.tree.map(jnp.subtract, params, after.variables["params"])
    for ours, exact in zip(*map(jax.tree.leaves, (moved, gradient)), strict=True):
        np.testing.assert_allclose(ours, exact, atol=2e-4 * float(abs(exact).max()))


def test_noise_has_the_size_that_is_asked_for_and_is_new_every_batch():
    _, steps, party, x = steps_of(noise=0.5)
    _, bare, *_ = steps_of()
    mask = jnp.arange(12) < 9
    clean = bare.client_refresh(party, x, mask, jax.random.key(0)).payload
    size = jnp.sqrt(jnp.mean(clean[:9] ** 2))
    seen = []
    for key in jax.random.split(jax.random.key(5), 2):
        payload = steps.client_refresh(party, x, mask, key).payload
        assert not jnp.any(payload[9:])
        seen.append((payload - clean)[:9])
        assert jnp.std(seen[-1]) / size == pytest.approx(0.5, rel=0.05)
    assert not jnp.array_equal(*seen)
    assert not jnp.array_equal(steps.client_evaluate(party, x).payload, clean)


@pytest.mark.parametrize(
    ("strengths", "said"),
    [({"noise": -1.0}, "defence.noise .*-1.0"), ({"nopeek": np.nan}, "nopeek .*nan")],
)
def test_a_defence_of_no_strength_is_refused_by_name(strengths, said):
    with pytest.raises(ValueError, match=f"{said}"):
        steps_of(**strengths)
