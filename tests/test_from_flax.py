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


class Block(nn.Module):
    """As many are written: it evaluates unless it is told."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


class Told(nn.Module):
    way: str = "keyword"

    @nn.compact
    def __call__(self, x, train=False):
        return Block()(x, train) if self.way == "place" else Block()(x, train=train)


class Frozen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Block()(x, train=False))


class Untold(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(Block()(x))


class ByHelper(nn.Module):
    def setup(self):
        self.block = Block()

    def encode(self, x, deterministic=True):
        return self.block(x, train=not deterministic)

    def __call__(self, x):
        return self.encode(x)


class Needy(nn.Module):
    @nn.compact
    def __call__(self, x, training):
        return nn.Dropout(0.5, deterministic=not training)(x)


class Base(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


class Extended(Base):
    """Another signature than its parent's, which it calls."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(super().__call__(x))


class OwnDropout(nn.Dropout):
    def __call__(self, x, train=False):
        return super().__call__(x, deterministic=not train)


class Owner(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return OwnDropout(0.5)(x, train=train)


class Unread(nn.Module):
    """Takes what others take, and needs none of it."""

    @nn.compact
    def __call__(self, x, train=False, mask=None):
        return nn.relu(nn.Dense(3)(x))


class Around(nn.Module):
    inner: nn.Module

    def __call__(self, *args, **more):
        return self.inner(*args, **more)


class OtherMethod(nn.Module):
    """The mode of a method that is not called, and of one that is."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)

    def decode(self, x, train=False):
        return x if train else -x


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Sequential([Block(), nn.Dense(8)]), "Block in Sequential .* `train`"),
        (nn.Sequential([nn.remat(Block)()]), "Block in Sequential .* `train`"),
        (nn.Sequential([Needy()]), "Needy in Sequential .* without `training`"),
        (Untold(), "Block in Untold is called without `train`"),
        (ByHelper(), "ByHelper.encode in ByHelper is called without `deterministic`"),
        (Around(Block()), "Block in Around is called without `train`"),
    ],
)
def test_a_module_in_which_another_is_never_told_that_it_trains_is_refused(
    module, said
):
    with pytest.raises(ValueError, match=f"{said}.* takes `train` and tells"):
        from_flax(module).init(KEY, jnp.asarray(X))


@pytest.mark.parametrize(
    "module",
    [
        Told(),
        Told("place"),
        Frozen(),
        nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True)]),
        nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)]),
        nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True), nn.relu]),
        nn.Sequential([nn.SelfAttention(2)]),
        nn.remat(Plain)(),
        Extended(),
        Owner(),
        nn.Sequential([Unread(), Unread()]),
        Around(nn.Dense(3)),
        OtherMethod(),
    ],
)
def test_a_module_that_says_it_or_has_nothing_to_say_is_taken(module):
    assert "params" in from_flax(module).init(KEY, jnp.asarray(X))


@pytest.mark.parametrize("name", ["training", "is_training"])
def test_other_names_of_the_mode_are_told_too(name):
    # With a default, so that it would not be missed.
    source = f"lambda self, x, {name}=False: x if {name} else -x"
    module = type("Other", (nn.Module,), {"__call__": eval(source)})
    for train, expected in ((True, X), (False, -X)):
        y, _ = applied(module, train=train)
        np.testing.assert_array_equal(y, expected)


def test_a_layer_of_flax_is_not_given_the_mask_of_rows():
    x, mask = jnp.ones((8, 8)), jnp.arange(8) < 5
    for module in (nn.BatchNorm(), nn.SelfAttention(2)):
        part = from_flax(module)
        assert not part.masks
        variables = part.init(KEY, x)
        with_mask, _ = part.apply(variables, x, mask=mask, key=KEY, train=True)
        without, _ = part.apply(variables, x, mask=None, key=KEY, train=True)
        np.testing.assert_array_equal(with_mask, without)
