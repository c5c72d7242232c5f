"""`from_flax` on modules that take each of the keywords, and none of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jsplit.core.model_part import from_flax

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
KEY = jax.random.key(3)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class ByTrain(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


class ByDeterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(30)(x))


class ByRunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average):
        return nn.BatchNorm(use_running_average=use_running_average)(x)


class ByMask(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False, mask=None):
        mask = None if mask is None else mask[:, None]
        return nn.BatchNorm(use_running_average=not train)(x, mask=mask)


class Counting(nn.Module):
    """Counts its calls, whether it trains or not, wherever it is allowed to."""

    @nn.compact
    def __call__(self, x):
        calls = self.variable("calls", "count", lambda: jnp.zeros((), jnp.int32))
        if self.is_mutable_collection("calls") and not self.is_initializing():
            calls.value += 1
        return x


class Nothing(nn.Module):
    def __call__(self, x):
        return jnp.tanh(x)


MODULES = [Plain, ByTrain, ByDeterministic, ByRunningAverage, ByMask, Counting, Nothing]
WITH_STATISTICS = [ByTrain, ByRunningAverage, ByMask]


def made(module):
    part = from_flax(module())
    return part, part.init(jax.random.key(0), jnp.asarray(X))


def applied(module, *, train, mask=None, key=KEY):
    part, variables = made(module)
    return part.apply(variables, jnp.asarray(X), mask=mask, key=key, train=train)


@pytest.mark.parametrize("module", MODULES)
def test_every_part_has_parameters_and_keeps_them(module):
    _, variables = made(module)
    assert "params" in variables
    for train in (False, True):
        _, after = applied(module, train=train)
        chex.assert_trees_all_equal(after["params"], variables["params"])
        chex.assert_trees_all_equal_shapes_and_dtypes(after, variables)


@pytest.mark.parametrize("module", WITH_STATISTICS)
def test_statistics_move_in_training_only(module):
    _, before = made(module)
    _, evaluated = applied(module, train=False)
    chex.assert_trees_all_equal(evaluated, before)
    _, trained = applied(module, train=True)
    for old, new in zip(
        jax.tree.leaves(before["batch_stats"]),
        jax.tree.leaves(trained["batch_stats"]),
        strict=True,
    ):
        assert not np.array_equal(old, new)


def test_any_collection_is_carried_along_and_updated_in_training_only():
    for train, calls in ((False, 0), (True, 1)):
        _, after = applied(Counting, train=train)
        assert after["calls"]["count"] == calls


@pytest.mark.parametrize("module", [ByRunningAverage, ByMask])
def test_training_normalises_by_the_batch_and_evaluation_by_the_running_mean(module):
    trained, _ = applied(module, train=True)
    np.testing.assert_allclose(trained.mean(axis=0), np.zeros(4), atol=1e-6)
    evaluated, _ = applied(module, train=False)  # running statistics are 0 and 1
    np.testing.assert_allclose(evaluated, X, rtol=1e-4)


@pytest.mark.parametrize("module", [ByTrain, ByDeterministic])
def test_dropout_draws_from_the_key_while_training(module):
    once, _ = applied(module, train=True)
    again, _ = applied(module, train=True)
    other, _ = applied(module, train=True, key=jax.random.key(4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert np.any(np.asarray(once) == 0)


@pytest.mark.parametrize("module", MODULES)
def test_evaluation_does_not_depend_on_the_key(module):
    once, _ = applied(module, train=False)
    other, _ = applied(module, train=False, key=jax.random.key(4))
    np.testing.assert_array_equal(once, other)


@pytest.mark.parametrize("module", MODULES)
def test_a_part_says_whether_it_heeds_the_mask(module):
    assert from_flax(module()).masks == (module is ByMask)


def test_masked_rows_enter_no_statistic():
    mask = jnp.asarray([True] * 4 + [False] * 2)
    part, variables = made(ByMask)
    masked, after = part.apply(
        variables, jnp.asarray(X), mask=mask, key=KEY, train=True
    )
    alone, expected = part.apply(
        variables, jnp.asarray(X[:4]), mask=None, key=KEY, train=True
    )
    np.testing.assert_allclose(masked[:4], alone, atol=1e-6)
    chex.assert_trees_all_close(after, expected, rtol=1e-6)


@pytest.mark.parametrize("module", [Plain, ByTrain, Nothing])
def test_a_module_that_takes_no_mask_is_not_given_one(module):
    mask = jnp.ones(6, bool)
    with_mask, _ = applied(module, train=True, mask=mask)
    without, _ = applied(module, train=True)
    np.testing.assert_array_equal(with_mask, without)


def test_the_parts_output_is_the_modules():
    part, variables = made(Plain)
    y, _ = applied(Plain, train=True)
    kernel, bias = (variables["params"]["Dense_0"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(y, X @ np.asarray(kernel) + np.asarray(bias), rtol=1e-5)
