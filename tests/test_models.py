"""Networks and their cuts against counts made by hand."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.models import MODELS, Chain, cuts, split
from tests.nets import CLASSES, products, whole
from tests.tiers import sample


@functools.cache
def table(name):
    return cuts(MODELS[name](CLASSES), (32, 32, 3))


def shapes_of(chain):
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    return jax.eval_shape(chain.init, jax.random.key(0), x)


@functools.cache
def variables_of(name):
    """Random variables of the right shapes, statistics among them."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[0].key == "batch_stats" or path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        scale = np.float32(math.prod(leaf.shape[:-1]) ** -0.5)
        return scale * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(whole(name)))


def owned(variables, chain):
    """What the blocks of a chain own of the whole network's variables."""
    names = [block.name for block in chain.blocks]
    return {
        kind: {name: tree[name] for name in names if name in tree}
        for kind, tree in variables.items()
    }


# Cutting


def composed(name, cut, variables, x):
    client, server = split(MODELS[name](CLASSES), cut)
    assert len(client.blocks) == cut
    smashed = client.apply(owned(variables, client), x)
    return server.apply(owned(variables, server), smashed)


@pytest.mark.parametrize("name", sample(MODELS, "cnn", "vgg11", "resnet18"))
def test_client_and_server_are_the_whole_network_at_every_cut(name):
    # The same operations on the same variables in the same order, by their trace.
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = shapes_of(whole(name))
    expected = str(jax.make_jaxpr(whole(name).apply)(variables, x))
    for cut in range(1, len(MODELS[name](CLASSES))):
        parts = functools.partial(composed, name, cut)
        assert str(jax.make_jaxpr(parts)(variables, x)) == expected, f"cut {cut}"


def test_client_and_server_give_the_whole_networks_logits_to_the_bit():
    # In one program: compiled apart, XLA may fuse the halves in another way.
    variables = variables_of("cnn")
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3), np.float32)

    @jax.jit
    def run(variables, x):
        cuts_ = [composed("cnn", cut, variables, x) for cut in (1, 2, 3)]
        return whole("cnn").apply(variables, x), cuts_

    expected, outputs = run(variables, x)
    chex.assert_shape(expected, (2, CLASSES))
    assert jnp.ptp(expected) > 0.01
    for actual in outputs:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", MODELS)
def test_client_and_server_own_the_whole_networks_variables(name):
    client, _ = split(MODELS[name](CLASSES), MODELS[name].usual_cut)
    expected = owned(shapes_of(whole(name)), client)
    chex.assert_trees_all_equal_shapes(shapes_of(client), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_that_leaves_a_side_empty_is_refused(name):
    blocks = MODELS[name](CLASSES)
    for cut in (-1, 0, len(blocks), len(blocks) + 1):
        with pytest.raises(ValueError, match=f"1 to {len(blocks) - 1}, got {cut}"):
            split(blocks, cut)
    assert 1 <= MODELS[name].usual_cut < len(blocks)


@pytest.mark.parametrize("name", sample(MODELS, "cnn", "vgg11"))
def test_the_cut_table_agrees_with_the_layers_themselves(name):
    blocks, variables = MODELS[name](CLASSES), variables_of(name)
    rows = table(name)
    assert [row.number for row in rows] == list(range(1, len(blocks)))
    assert [row.name for row in rows] == [block.name for block in blocks[:-1]]
    costs = {block.name: 0 for block in blocks}
    for block, (_, *image, _), kernel, stride in products(name):
        pixels = math.prod(-(-side // stride) for side in image)
        costs[block] += pixels * math.prod(kernel)
    shares = [row.client_share for row in rows]
    assert shares == sorted(set(shares)) and 0 < shares[0] and shares[-1] < 1
    for row in rows:
        client, _ = split(blocks, row.number)
        params = owned(variables, client)["params"]
        assert row.client_params == sum(leaf.size for leaf in jax.tree.leaves(params))
        assert row.client_macs == sum(costs[block.name] for block in client.blocks)
        assert row.client_share == row.client_macs / sum(costs.values())
        assert row.values == math.prod(row.smashed_shape)


def test_the_cut_table_agrees_with_a_real_network():
    client, _ = split(MODELS["cnn"](CLASSES), 2)
    row = cuts(MODELS["cnn"](CLASSES), (14, 14, 1))[1]
    init = jax.jit(client.init_with_output)
    smashed, variables = init(jax.random.key(0), jnp.ones((3, 14, 14, 1)))
    assert smashed.shape == (3, *row.smashed_shape)
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == row.client_params == 16 * 9 + 32 + 16 * 32 * 9 + 64


USUAL = {
    "cnn": (1, (16, 16, 16)),
    "vgg11": (2, (8, 8, 128)),
    "vgg13": (4, (8, 8, 128)),
    "resnet18": (3, (32, 32, 64)),
    "resnet50": (4, (32, 32, 256)),
}
"""Where each model is usually cut, and what crosses there: a row for a new one."""


@pytest.mark.parametrize("name", sample(MODELS, "cnn", "vgg11", "vgg13"))
def test_the_usual_cuts_send_what_they_always_sent(name):
    cut, smashed = USUAL[name]
    assert MODELS[name].usual_cut == cut and MODELS[name].name == name
    assert table(name)[cut - 1].smashed_shape == smashed


# Networks


@pytest.mark.parametrize(
    ("name", "params"),
    [("vgg11", 9_753_674), ("resnet18", 11_173_962), ("resnet50", 23_520_842)],
)
def test_networks_have_the_published_number_of_parameters(name, params):
    leaves = jax.tree.leaves(shapes_of(whole(name))["params"])
    assert sum(leaf.size for leaf in leaves) == params


@pytest.mark.parametrize(
    ("name", "last"),
    sample(
        [("cnn", (4, 4, 64)), ("vgg13", (1, 1, 512)), ("resnet18", (4, 4, 512))],
        ("cnn", (4, 4, 64)),
        ("vgg13", (1, 1, 512)),
    ),
)
def test_networks_shrink_the_image_to_the_published_size(name, last):
    assert table(name)[-1].smashed_shape == last


@functools.cache
def hundred_classes(name, side, channels):
    x = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    chain = Chain(MODELS[name](100))
    return jax.eval_shape(chain.init_with_output, jax.random.key(0), x)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [14, 28, 32])
def test_networks_take_every_image_size_channels_and_classes(name, side, channels):
    logits, variables = hundred_classes(name, side, channels)
    assert logits == jax.ShapeDtypeStruct((2, 100), jnp.float32)
    # The variables do not depend on the image's size.
    assert variables == hundred_classes(name, 32, channels)[1]
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert dtypes == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_padded_images_do_not_move_the_networks_statistics(name):
    # Two blocks are enough: each kind of block hands the mask on to its layers.
    chain = Chain(MODELS[name](CLASSES)[:2])
    variables = owned(variables_of(name), chain)
    x = np.random.default_rng(1).standard_normal((4, 8, 8, 3), np.float32)
    x[2:] = 100.0
    mask = np.array([True, True, False, False])

    @jax.jit
    def run(variables, x, mask):
        train = functools.partial(
            chain.apply, variables, train=True, mutable=["batch_stats"]
        )
        return train(x, mask=mask), train(x[:2], mask=None)

    (y, moved), (expected, expected_moved) = run(variables, x, mask)
    np.testing.assert_allclose(y[:2], expected, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(moved, expected_moved, rtol=1e-4, atol=1e-5)
