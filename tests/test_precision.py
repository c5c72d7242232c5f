"""Computing in bfloat16: inside the networks all of it, outside of them nothing."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend import core

from jsplit.codecs import float8, identity
from jsplit.core.gate import freeze_gate
from jsplit.core.model_part import ModelPart, from_flax, with_precision
from jsplit.core.simulation import make_simulation
from jsplit.models import convolution
from tests.nets import OPTIMIZER, cnn_parts, dense_parts, images

KEY, STEP = jax.random.key(0), jnp.float32(0.05)
BF16, F32 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)

PRODUCTS = 5 * 3 - 1
"""Of the cnn's five layers, forward and for two gradients; the images need none."""


def simulate(dtype, **more):
    """The cnn; `dtype` None is a part as it comes."""
    parts = cnn_parts()
    if dtype is not None:
        parts = (with_precision(part, dtype) for part in parts)
    return make_simulation(
        *parts,
        images(60),
        images(30, seed=1),
        gate=freeze_gate(1),
        optimizer=OPTIMIZER,
        batch_size=20,
        **{"codec": identity(), "grad_codec": identity(), **more},
    )


def sync_step(simulation, x, y):
    """One batch in state A: both sides after it, and what crossed the cut."""
    steps, client = simulation.steps, simulation.state.client
    packet, residual = steps.client_forward(client, x, None, KEY)
    server, _, replies = steps.server_step_with_reply(
        simulation.state.server,
        jax.tree.map(lambda leaf: leaf[None], packet),
        y[None],
        None,
        KEY,
        STEP,
    )
    reply = jax.tree.map(lambda leaf: leaf[0], replies)
    client = steps.client_backward(client, residual, reply, None, STEP)
    return (client, server), (packet.payload, reply.payload)


@functools.cache
def stepped(dtype):
    """A simulation, and what `sync_step` makes of it."""
    simulation = simulate(dtype)
    return simulation, *sync_step(simulation, *images(20))


def rounded(x):
    return jnp.asarray(x).astype(BF16).astype(F32)


def products_of(jaxpr):
    """Every matrix product and convolution: the dtypes it takes, and its precision.

    Not those by a vector: so a CPU adds up statistics, always in float32.
    """
    for equation in jaxpr.eqns:
        named = equation.primitive.name in ("dot_general", "conv_general_dilated")
        if named and min(var.aval.ndim for var in equation.invars) > 1:
            taken = {var.aval.dtype for var in equation.invars}
            yield taken, equation.params["precision"]
        for inner in core.jaxprs_in_params(equation.params):
            yield from products_of(inner)


@pytest.fixture(params=["im2col", "native"])
def lowering(request, monkeypatch):
    """Convolutions as on a CPU, and as on a GPU or TPU."""
    monkeypatch.setattr(convolution, "lowering", lambda *_: request.param)


def products_of_a_step(dtype):
    step = functools.partial(sync_step, simulate(dtype))
    return list(products_of(jax.make_jaxpr(step)(*images(4)).jaxpr))


def test_every_product_of_a_bfloat16_step_takes_bfloat16(lowering):
    products = products_of_a_step(jnp.bfloat16)
    assert len(products) == PRODUCTS
    assert all(taken == {BF16} for taken, _ in products)


def test_every_product_of_a_float32_step_is_float32_on_a_gpu_too(lowering):
    products = products_of_a_step(jnp.float32)
    assert len(products) == PRODUCTS
    for taken, precision in products:
        assert taken == {F32} and set(precision) == {jax.lax.Precision.HIGHEST}


def test_a_part_without_a_precision_does_as_jax_is_configured(lowering):
    products = products_of_a_step(None)
    assert all(taken == {F32} and not precision for taken, precision in products)


def test_products_of_bfloat16_add_up_in_float32():
    ones = jnp.ones((1, 4096), jnp.bfloat16)  # a bfloat16 sum of ones stops at 256
    assert jax.jit(jnp.matmul)(ones, ones.T)[0, 0] == 4096


def test_on_a_cpu_float32_is_what_it_is_without_a_precision():
    for ours, plain in zip(stepped(jnp.float32)[1:], stepped(None)[1:], strict=True):
        chex.assert_trees_all_equal(ours, plain)


def test_all_that_a_bfloat16_run_keeps_has_the_dtype_of_a_float32_run():
    def after(simulation):
        return jax.eval_shape(
            simulation.program.run,
            simulation.state,
            simulation.shards,
            simulation.test,
            simulation.key,
            jnp.ones(3),
            jnp.ones(3, bool),
        )

    full, low = (
        after(simulate(dtype, codec=float8(), grad_codec=float8()))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert low == full
    assert {leaf.dtype for leaf in jax.tree.leaves(low[0].server)} == {F32}


def test_what_crosses_the_cut_is_float32_of_bfloat16_values():
    for crossed in stepped(jnp.bfloat16)[2]:
        assert crossed.dtype == F32 and np.ptp(crossed) > 0
        np.testing.assert_array_equal(crossed, rounded(crossed))


def test_parameters_and_statistics_are_finer_than_bfloat16():
    for party in stepped(jnp.bfloat16)[1]:
        for leaf in jax.tree.leaves(party.variables):
            assert leaf.dtype == F32 and np.any(leaf != rounded(leaf))


def test_running_means_are_those_of_the_rounded_activations():
    simulation, (client, _), _ = stepped(jnp.bfloat16)
    before = simulation.state.client.variables["params"]
    (kernel,) = (leaf for leaf in jax.tree.leaves(before) if leaf.ndim == 4)
    x, _ = images(20)
    y = rounded(convolution.native(rounded(x), rounded(kernel), 1))
    (mean,) = (
        leaf
        for path, leaf in jax.tree.leaves_with_path(client.variables["batch_stats"])
        if path[-1].key == "mean"
    )
    np.testing.assert_allclose(mean, 0.1 * y.mean(axis=(0, 1, 2)), atol=1e-4)


def test_a_step_is_that_of_float32_but_for_the_rounding():
    """Momenta after one step are the gradients, here with a little weight decay."""
    full, low = (
        jax.tree.leaves([party.opt_state for party in stepped(dtype)[1]])
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for exact, near in zip(full, low, strict=True):
        off = jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact)
        assert 0 < off < 0.2


def test_what_a_client_computes_is_counted_alike_in_any_precision():
    full, low = (simulate(dtype) for dtype in (None, jnp.bfloat16))
    assert low.costs == full.costs and low.costs.sync_macs > 0


def test_integers_stay_integers():
    """A client that looks its input up (token ids), and one that counts its calls."""

    class Lookup(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls = self.variable("calls", "count", lambda: jnp.zeros((), jnp.int32))
            if self.is_mutable_collection("calls") and not self.is_initializing():
                calls.value += 1
            return nn.Embed(1000, 4)(x)

    part = with_precision(from_flax(Lookup()), jnp.bfloat16)
    ids = jnp.asarray([997, 998, 999])  # bfloat16 has none of the three
    variables = part.init(KEY, ids)
    y, after = part.apply(variables, ids, mask=None, key=KEY, train=True)
    (table,) = jax.tree.leaves(variables["params"])
    np.testing.assert_array_equal(y, rounded(table[ids]))
    assert after["calls"]["count"] == 1 and after["calls"]["count"].dtype == jnp.int32


def test_a_collection_that_a_module_keeps_in_bfloat16_comes_back_as_it_was():
    def apply(variables, x, *, mask, key, train):
        return x, {**variables, "seen": {"mean": x.mean(axis=0)}}

    part = with_precision(ModelPart(None, apply, masks=False), jnp.bfloat16)
    variables = {"params": {}, "seen": {"mean": jnp.zeros(2)}}
    _, after = part.apply(variables, jnp.ones((3, 2)), mask=None, key=KEY, train=True)
    chex.assert_trees_all_equal_dtypes(after, variables)


def test_float16_is_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16, got float16"):
        with_precision(dense_parts()[0], jnp.float16)


def test_a_training_runs_where_jax_computes_in_float64_by_default():
    x, y = np.eye(6, dtype=np.float32), np.arange(6) % 3
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        simulation = make_simulation(
            *dense_parts(),
            (x, y),
            (x, y),
            gate=freeze_gate(1),
            optimizer=OPTIMIZER,
            batch_size=4,
            codec=identity(),
            grad_codec=identity(),
        )
        _, record, ledger = simulation.run(np.ones(3))
    assert ledger.states == "ABC" and np.isfinite(record.train.loss).all()
