"""`from_nnx` against `from_flax`: the same network with the same weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jsplit
from jsplit.core.model_part import from_flax
from jsplit.core.nnx_part import from_nnx

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
KEY = jax.random.key(3)
HIDDEN = 8


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        self.first = nnx.Dropout(0.3, rngs=rngs)
        self.second = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x, *, mask=None):
        mask = None if mask is None else mask[:, None]
        x = self.first(nnx.relu(self.norm(self.dense(x), mask=mask)))
        return self.second(x)


class SameDropout(nn.Module):
    """Draws what the nnx stream of this number draws first in a step."""

    rate: float
    number: int

    @nn.compact
    def __call__(self, x, deterministic):
        if deterministic:
            return x
        key = self.scope.root.rngs["dropout"].rng
        stream = jax.random.fold_in(key, self.number)
        drop = nn.Dropout(self.rate, deterministic=False)
        return drop(x, rng=jax.random.fold_in(stream, 0))


class LinenEncoder(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask=None):
        mask = None if mask is None else mask[:, None]
        norm = nn.BatchNorm(use_running_average=not train, name="norm")
        x = nn.relu(norm(nn.Dense(HIDDEN, name="dense")(x), mask=mask))
        x = SameDropout(0.3, 0)(x, not train)
        return SameDropout(0.2, 1)(x, not train)


def made(module, x=X):
    part = from_nnx(module)
    return part, part.init(jax.random.key(0), jnp.asarray(x))


def encoder():
    return made(Encoder(nnx.Rngs(0)))


def applied(part, variables, *, train, key=KEY, mask=None):
    return part.apply(variables, jnp.asarray(X), mask=mask, key=key, train=train)


def test_an_nnx_network_trains_as_the_linen_network_of_the_same_weights():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    x = (rng.normal(size=(90, 4)) + 2 * np.eye(3, 4)[y]).astype(np.float32)
    client = from_nnx(Encoder(nnx.Rngs(0)))
    server = from_nnx(nnx.Linear(HIDDEN, 3, rngs=nnx.Rngs(1)))
    both = [
        (client, server),
        (
            from_flax(LinenEncoder())._replace(init=client.init),
            from_flax(nn.Dense(3))._replace(init=server.init),
        ),
    ]

    def trained(parts):
        simulation = jsplit.make_simulation(
            *parts,
            train=(x[:70], y[:70]),  # the last of four batches is padded
            test=(x[70:], y[70:]),
            gate=jsplit.freeze_gate(2),
            optimizer=optax.sgd(0.1, momentum=0.9),
            batch_size=20,
        )
        state, record, ledger = simulation.run(np.ones(4))
        assert ledger.states == "AABC"
        return state.client.variables, state.server.variables, record, ledger

    nnx_run, linen_run = map(trained, both)
    chex.assert_trees_all_close(nnx_run[:3], linen_run[:3], rtol=0, atol=1e-6)
    assert nnx_run[3] == linen_run[3]
    begun = client.init(KEY, x)["batch_stats"]["norm"]["mean"]
    assert not np.allclose(nnx_run[0]["batch_stats"]["norm"]["mean"], begun)


def test_statistics_move_in_training_only_and_parameters_never():
    part, before = encoder()
    _, evaluated = applied(part, before, train=False)
    chex.assert_trees_all_equal(evaluated, before)
    _, after = applied(part, before, train=True)
    chex.assert_trees_all_equal(after["params"], before["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        assert np.array_equal(old, new) == any(
            old is leaf for leaf in jax.tree.leaves(before["params"])
        )


def test_dropout_draws_from_the_key_while_training_and_each_layer_for_itself():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            return jnp.concatenate([layer(x) for layer in self.layers], axis=1)

    part, variables = made(Twice(nnx.Rngs(0)))
    assert variables == {"params": {}}
    once, _ = applied(part, variables, train=True)
    again, _ = applied(part, variables, train=True)
    other, _ = applied(part, variables, train=True, key=jax.random.key(4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert not np.array_equal(once[:, :4], once[:, 4:])
    for key in (KEY, jax.random.key(4)):
        evaluated, _ = applied(part, variables, train=False, key=key)
        np.testing.assert_array_equal(evaluated, np.concatenate([X, X], axis=1))


def test_masked_rows_enter_no_statistic():
    part, variables = encoder()
    assert part.masks and not made(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))[0].masks
    rows = jnp.arange(6) < 4
    _, masked = applied(part, variables, train=True, mask=rows)
    _, alone = part.apply(variables, jnp.asarray(X[:4]), mask=None, key=KEY, train=True)
    chex.assert_trees_all_close(masked, alone, rtol=1e-6)


def test_variables_of_any_other_kind_are_carried_along():
    class Calls(nnx.Variable):
        pass

    class Counting(nnx.Module):
        def __init__(self):
            self.calls = Calls(jnp.zeros((), jnp.int32))

        def __call__(self, x, *, train):
            self.calls[...] += 1
            return x if train else -x

    part, variables = made(Counting())
    y, after = applied(part, variables, train=True)
    assert after["others"]["calls"] == 1 and np.array_equal(y, X)
    y, after = applied(part, variables, train=False)
    assert after["others"]["calls"] == 0 and np.array_equal(y, -X)


def test_the_module_stays_as_it_is_and_takes_back_what_was_trained():
    module = Encoder(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(module, nnx.Param))
    part = from_nnx(module)
    variables = part.init(KEY, X)
    assert not module.first.deterministic
    moved = jax.tree.map(lambda leaf: leaf + 1, variables["params"])
    # As a training may, that donates what it is given.
    jax.tree.map(lambda leaf: leaf.delete(), variables)
    chex.assert_trees_all_equal(nnx.state(module, nnx.Param), before)
    nnx.update(module, moved)
    np.testing.assert_array_equal(module.dense.bias[...], np.ones(HIDDEN))


def test_a_module_of_the_other_kind_is_refused_by_each():
    with pytest.raises(ValueError, match="got Linear; an nnx.Module goes to from_nnx"):
        jsplit.from_flax(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="got Dense; a linen module goes to from_flax"):
        jsplit.from_nnx(nn.Dense(3))


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, training=False):
        return self.dropout(x) if training else x


class Around(nnx.Module):
    def __init__(self, rngs):
        self.noisy = Noisy(rngs)

    def __call__(self, x, *, train):
        return self.noisy(x, training=train)


class ByAttribute(nnx.Module):
    """As nnx does it: `train()` and `eval()` set the attribute."""

    def __init__(self, rngs):
        self.noisy = Noisy(rngs)
        self.deterministic = True

    def __call__(self, x):
        return self.noisy(x, training=not self.deterministic)


class Anything(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, **more):
        return self.dropout(x)


def test_a_module_in_which_another_is_never_told_that_it_trains_is_refused():
    rngs = nnx.Rngs(0)
    outer = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), Noisy(rngs))
    said = (
        "Noisy in Sequential is called without `training`, .* takes `train` and tells"
    )
    with pytest.raises(ValueError, match=said):
        from_nnx(outer)


def test_a_module_that_is_told_or_has_nothing_to_be_told_is_taken():
    rngs = nnx.Rngs(0)
    from_nnx(nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)))
    for kind in (Noisy, Around, ByAttribute, Anything):
        part, variables = made(kind(rngs))
        trained, _ = applied(part, variables, train=True)
        evaluated, _ = applied(part, variables, train=False)
        assert np.any(np.asarray(trained) == 0)
        np.testing.assert_array_equal(evaluated, X)


def test_a_layer_of_flax_is_not_given_the_mask_of_rows():
    assert not from_nnx(nnx.BatchNorm(4, rngs=nnx.Rngs(0))).masks
