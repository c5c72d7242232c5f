"""Counts against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jsplit.accounting.macs import counting, macs
from jsplit.models.convolution import LOWERINGS, convolve
from jsplit.models.layers import Norm


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


X, W = shaped(8, 5), shaped(5, 3)
DENSE = 8 * 5 * 3


def dense(x, w):
    return jax.nn.relu(x @ w) + 1.0


def test_a_dense_layer_costs_rows_times_inputs_times_outputs():
    assert macs(dense, X, W) == DENSE


def test_arrays_and_their_shapes_cost_the_same():
    assert macs(dense, jnp.ones((8, 5)), jnp.ones((5, 3))) == DENSE


def test_batch_axes_of_a_product_count():
    assert macs(jax.vmap(jnp.matmul), shaped(7, 8, 5), shaped(7, 5, 3)) == 7 * DENSE


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_costs_its_direct_sums_whatever_computes_it(size, stride):
    side = -(-9 // stride)
    x, kernel = shaped(2, 9, 9, 4), shaped(size, size, 4, 6)
    direct = 2 * side * side * size * size * 4 * 6
    for form in (convolve, LOWERINGS["im2col"], LOWERINGS["native"]):
        assert macs(functools.partial(form, stride=stride), x, kernel) == direct


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_of_a_convolution_cost_as_much_as_its_value_each(stride):
    def gradients(x, kernel, dy):
        return jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)[1](dy)

    side = 8 // stride
    shapes = shaped(2, 8, 8, 4), shaped(3, 3, 4, 6), shaped(2, side, side, 6)
    assert macs(gradients, *shapes) == 3 * 2 * side * side * 9 * 4 * 6


def test_normalisation_costs_nothing():
    def normalised(x):
        norm = Norm()
        variables = norm.init(jax.random.key(0), x, train=False, mask=None)
        return norm.apply(variables, x, train=True, mask=None, mutable="batch_stats")

    assert macs(normalised, shaped(2, 8, 8, 4)) == 0


def test_counting_does_not_change_what_runs_afterwards():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))
    before = jax.make_jaxpr(lambda x, k: convolve(x, k, 1))(x, kernel)
    macs(lambda x, k: convolve(x, k, 1), x, kernel)
    after = jax.make_jaxpr(lambda x, k: convolve(x, k, 1))(x, kernel)
    assert str(before) == str(after)
    assert not counting()


def test_a_grouped_convolution_costs_its_own_channels_only():
    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    count = macs(grouped, shaped(2, 8, 8, 8), shaped(3, 3, 2, 12))
    assert count == 2 * 8 * 8 * 9 * 2 * 12


def test_a_scan_costs_as_often_as_it_runs():
    def looped(x, w):
        return jax.lax.scan(lambda c, _: (c, dense(x, w)), 0, None, length=11)

    assert macs(looped, X, W) == 11 * DENSE
    nested = jax.jit(lambda x, w: jax.lax.map(lambda row: looped(row, w), x))
    assert macs(nested, shaped(4, 8, 5), W) == 4 * 11 * DENSE


def test_a_conditional_costs_its_dearest_branch():
    def chosen(index, x, w):
        branches = [
            lambda x, w: dense(x, w),
            lambda x, w: dense(x, w) + dense(2 * x, w),
            lambda x, w: jnp.zeros((8, 3)),
        ]
        return jax.lax.switch(index, branches, x, w)

    assert macs(chosen, jax.ShapeDtypeStruct((), jnp.int32), X, W) == 2 * DENSE


def test_what_hides_in_transformations_is_counted():
    for wrap in (jax.jit, jax.checkpoint, lambda f: jax.jit(jax.jit(f))):
        assert macs(wrap(dense), X, W) == DENSE

    @jax.custom_vjp
    def custom(x, w):
        return dense(x, w)

    custom.defvjp(lambda x, w: (dense(x, w), None), lambda _, g: (g, g))
    assert macs(custom, X, W) == DENSE


def test_a_gradient_costs_one_product_more_for_each_argument():
    def loss(w, x):
        return jnp.sum(jnp.square(x @ w))

    assert macs(jax.grad(loss), W, X) == 2 * DENSE
    assert macs(jax.grad(loss, argnums=(0, 1)), W, X) == 3 * DENSE


def test_a_flax_dense_layer_costs_its_kernel():
    module = nn.Dense(3)
    variables = jax.eval_shape(module.init, jax.random.key(0), X)
    assert macs(module.apply, variables, X) == DENSE


def test_all_but_products_and_convolutions_is_free():
    assert macs(lambda x: jnp.sum(jax.nn.softmax(x) * x + 1), X) == 0


def test_a_while_loop_is_refused():
    def endless(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x)

    with pytest.raises(ValueError, match="while loop's cost is not known"):
        macs(endless, X)
    with pytest.raises(ValueError, match="while loop's cost is not known"):
        macs(jax.jit(endless), X)
