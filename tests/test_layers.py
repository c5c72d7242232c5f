"""Layers against flax and lax."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jsplit.models import MODELS
from jsplit.models.convolution import LOWERINGS, convolve, lowering
from jsplit.models.layers import Norm
from jsplit.models.pooling import POOLINGS, max_pool, pooling
from tests.nets import products
from tests.tiers import sample

# Convolutions


TOLERANCE = {"im2col": 1e-5, "dense": 1e-5, "winograd": 1e-4}
"""Of the largest magnitude of what is compared: sums in another order, and for
winograd transforms that cancel."""


def lowerings_for(x_shape, size, stride):
    """Those that are not XLA's own and that fit; `dense` for small images only."""
    names = ["im2col"]
    names += ["winograd"] if (size, stride) == (3, 1) else []
    names += ["dense"] if math.prod(x_shape[1:3]) <= 16 else []
    return names


def assert_lowerings_agree(x_shape, kernel_shape, stride):
    """Values and both gradients are those of XLA's convolution, within `TOLERANCE`."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(x_shape, np.float32))
    kernel = jnp.asarray(rng.standard_normal(kernel_shape, np.float32))
    image = [-(-side // stride) for side in x_shape[1:3]]
    output = (x_shape[0], *image, kernel_shape[-1])
    cotangent = jnp.asarray(rng.standard_normal(output, np.float32))
    names = lowerings_for(x_shape, kernel_shape[0], stride)

    def run(x, kernel, cotangent):
        results = []
        for name in ("native", *names):
            y, pullback = jax.vjp(
                lambda x, k, way=LOWERINGS[name]: way(x, k, stride), x, kernel
            )
            results.append((y, *pullback(cotangent)))
        return results

    native, *others = jax.jit(run)(x, kernel, cotangent)
    for name, other in zip(names, others, strict=True):
        for ours, theirs in zip(other, native, strict=True):
            assert ours.shape == theirs.shape
            largest = float(jnp.abs(theirs).max())
            np.testing.assert_allclose(
                ours, theirs, rtol=0, atol=TOLERANCE[name] * largest, err_msg=name
            )


@pytest.mark.parametrize("name", sample(MODELS, "cnn", "resnet18"))
def test_the_lowerings_agree_on_every_convolution_of_the_models(name):
    earlier = {
        layer[1:]
        for other in list(MODELS)[: list(MODELS).index(name)]
        for layer in products(other)
    }
    layers = {layer[1:] for layer in products(name) if len(layer[2]) == 4}
    assert layers
    for layer in sorted(layers - earlier):
        assert_lowerings_agree(*layer)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("image", [(7, 10), (1, 2)])
def test_the_lowerings_agree_on_odd_and_tiny_images(image, stride, size):
    assert_lowerings_agree((3, *image, 4), (size, size, 4, 5), stride)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_lowerings_agree_on_random_shapes(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    size = data.draw(st.sampled_from([1, 3, 5]))
    x_shape = (draw(1, 3), draw(1, 13), draw(1, 13), draw(1, 9))
    assert_lowerings_agree(x_shape, (size, size, x_shape[-1], draw(1, 9)), draw(1, 3))


def test_a_convolution_pads_by_half_its_kernel_and_halves_by_its_stride():
    x = jnp.ones((1, 5, 5, 1))
    kernel = jnp.ones((3, 3, 1, 1))
    for name in ("im2col", "dense", "native"):
        y = LOWERINGS[name](x, kernel, 2)[0, :, :, 0]
        np.testing.assert_array_equal(y, [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_each_client_may_have_a_kernel_of_its_own():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 2, 6, 6, 4), np.float32))
    kernels = jnp.asarray(rng.standard_normal((3, 3, 3, 4, 5), np.float32))

    def gradients(x, kernel):
        y, pullback = jax.vjp(lambda x, k: convolve(x, k, 1), x, kernel)
        return y, *pullback(y)

    together = jax.vmap(gradients)(x, kernels)
    for client in range(3):
        alone = gradients(x[client], kernels[client])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[client], theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "backend, shape, size, stride, dtype, expected",
    [
        ("gpu", (8, 32, 32, 64), 3, 1, jnp.float32, "native"),
        ("tpu", (8, 2, 2, 64), 3, 1, jnp.bfloat16, "native"),
        ("cpu", (8, 32, 32, 64), 3, 1, jnp.float32, "winograd"),
        ("cpu", (8, 32, 32, 64), 3, 1, jnp.bfloat16, "im2col"),
        ("cpu", (8, 32, 32, 64), 3, 2, jnp.float32, "im2col"),
        ("cpu", (8, 32, 32, 64), 5, 1, jnp.float32, "im2col"),
        ("cpu", (8, 32, 32, 64), 1, 1, jnp.float32, "im2col"),
        ("cpu", (8, 32, 32, 1), 3, 1, jnp.float32, "im2col"),
        ("cpu", (3, 8, 8, 64), 3, 1, jnp.float32, "im2col"),
        ("cpu", (4, 8, 8, 64), 3, 1, jnp.float32, "winograd"),
        ("cpu", (64, 2, 2, 64), 3, 1, jnp.float32, "dense"),
        ("cpu", (64, 2, 2, 64), 3, 2, jnp.float32, "dense"),
        ("cpu", (63, 2, 2, 64), 3, 1, jnp.float32, "im2col"),
    ],
)
def test_the_lowering_follows_backend_shape_and_dtype(
    backend, shape, size, stride, dtype, expected
):
    assert lowering(backend, shape, size, stride, dtype) == expected


def test_winograd_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="3x3 kernels and stride 1, got 3 and 2"):
        LOWERINGS["winograd"](jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 2)


# Pooling and normalisation


@pytest.mark.parametrize("image", [(4, 6), (5, 7), (2, 3)])
def test_pooling_is_flax_max_pool_and_drops_an_odd_row_or_column(image):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.permutation(3 * math.prod(image)).reshape(1, *image, 3) / 64)
    x = x.astype(jnp.float32)

    def flax_pool(x):
        return nn.max_pool(x, (2, 2), (2, 2), "VALID")

    @jax.jit
    def both(x):
        results = []
        for pool in (max_pool, flax_pool):
            y, pullback = jax.vjp(pool, x)
            results.append((y, *pullback(y)))
        return results

    ours, flaxs = both(x)
    chex.assert_trees_all_equal(ours, flaxs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_poolings_give_the_gradient_to_the_first_of_equal_values(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (4, 6, 8, 3)), dtype)  # many are equal

    def results(way):
        y, pullback = jax.vjp(POOLINGS[way], x)
        return y, *pullback(jnp.arange(1, 1 + y.size, dtype=dtype).reshape(y.shape))

    chex.assert_trees_all_equal(results("slices"), results("native"))
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_pooling_is_native_but_on_a_cpu():
    backends = ("cpu", "gpu", "tpu")
    assert [*map(pooling, backends)] == ["slices", "native", "native"]


@pytest.mark.parametrize("image", [(1, 1), (1, 6), (5, 1)])
def test_an_image_of_one_row_or_column_is_not_pooled(image):
    x = jnp.arange(2.0 * math.prod(image)).reshape(1, *image, 2)
    np.testing.assert_array_equal(max_pool(x), x)


@pytest.fixture(scope="module")
def normalise():
    norm, x = Norm(), jnp.zeros((1, 3, 3, 2))
    start = norm.init(jax.random.key(0), x, train=False, mask=None)

    @jax.jit
    def run(x, mask):
        return norm.apply(start, x, train=True, mask=mask, mutable=["batch_stats"])

    return run


IMAGES = np.random.default_rng(0).normal(3, 2, (6, 3, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("repeats", [1, 4])  # few images and many are added up apart
def test_the_normalisation_and_its_gradient_are_those_of_flax(train, masked, repeats):
    images = np.concatenate([IMAGES + shift for shift in range(repeats)])
    mask = np.array([True, False, True, True, False, True] * repeats)
    mask = mask if masked else None
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    variables = {
        "params": {"scale": jnp.array([1.5, 0.5]), "bias": jnp.array([0.1, -2.0])},
        "batch_stats": {"mean": jnp.array([0.3, 0.0]), "var": jnp.array([2.0, 0.7])},
    }

    def run(apply):
        return jax.vjp(apply, variables["params"], images)

    def ours_apply(params, x):
        return Norm().apply(
            {**variables, "params": params},
            x,
            train=train,
            mask=mask,
            mutable="batch_stats",
        )

    def theirs_apply(params, x):
        wide = None if mask is None else mask.reshape(-1, 1, 1, 1)
        return theirs.apply(
            {**variables, "params": params}, x, mask=wide, mutable="batch_stats"
        )

    (ours, our_pullback), (expected, pullback) = run(ours_apply), run(theirs_apply)
    chex.assert_trees_all_close(ours, expected, atol=1e-5)
    direction = jax.tree.map(lambda leaf: jnp.cos(leaf + 1), expected)
    chex.assert_trees_all_close(our_pullback(direction), pullback(direction), atol=1e-4)


def test_padded_rows_do_not_move_the_normalisation(normalise):
    mask = np.array([True, False, True, True, False, True])
    filled = np.where(mask.reshape(-1, 1, 1, 1), IMAGES, 1e6).astype(np.float32)
    y, moved = normalise(filled, mask)
    expected, expected_moved = normalise(IMAGES[mask], None)
    np.testing.assert_allclose(np.asarray(y)[mask], expected, atol=1e-5)
    chex.assert_trees_all_close(moved, expected_moved, rtol=1e-5)


def test_a_full_mask_is_no_mask(normalise):
    y, moved = normalise(IMAGES, np.ones(6, bool))
    expected, expected_moved = normalise(IMAGES, None)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    chex.assert_trees_all_close(moved, expected_moved, rtol=1e-6)


def test_a_batch_of_nothing_but_padding_stays_finite(normalise):
    chex.assert_tree_all_finite(normalise(IMAGES, np.zeros(6, bool)))
    chex.assert_tree_all_finite(normalise(np.zeros_like(IMAGES), np.zeros(6, bool)))


def test_running_statistics_move_by_a_tenth(normalise):
    _, moved = normalise(IMAGES, None)
    statistics = moved["batch_stats"]
    mean, var = IMAGES.mean(axis=(0, 1, 2)), IMAGES.var(axis=(0, 1, 2))
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * var, rtol=1e-4)
