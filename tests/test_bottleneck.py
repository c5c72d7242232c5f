"""A bottleneck at the cut: fewer channels cross; plain split learning has none."""

import jax
import jax.numpy as jnp
import pytest

from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig
from jsplit.experiment.parts import parts_of, plain_client_of
from jsplit.models import MODELS, Chain, LocalHead, with_bottleneck

SHAPE = (16, 16, 3)


def shapes(config):
    client, server = parts_of(config, 10, SHAPE)
    x = jnp.zeros((2, *SHAPE))
    how = {"mask": None, "key": jax.random.key(0), "train": False}
    variables = jax.eval_shape(client.init, how["key"], x)
    smashed = jax.eval_shape(lambda v: client.apply(v, x, **how)[0], variables)
    given = jnp.zeros(smashed.shape)
    of_server = jax.eval_shape(server.init, how["key"], given)
    logits = jax.eval_shape(lambda v: server.apply(v, given, **how)[0], of_server)
    return smashed.shape, logits.shape


@pytest.mark.parametrize("model", ["cnn", "vgg11", "resnet18"])
def test_so_many_channels_cross_and_the_rest_is_as_it_was(model):
    plain, logits = shapes(RunConfig(model=model))
    narrow, same = shapes(RunConfig(model=model, bottleneck=4))
    assert narrow == (*plain[:-1], 4) and logits == same == (2, 10)


def test_the_projections_are_linear_and_the_other_blocks_untouched():
    blocks = MODELS["cnn"](10)
    with_it = with_bottleneck(blocks, 2, 3, SHAPE)
    assert [block.name for block in with_it if block not in blocks] == [
        "narrow",
        "widen",
    ]
    variables = Chain(with_it[2:4]).init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)))
    kernels = [value["Dense_0"] for value in variables["params"].values()]
    assert [set(kernel) for kernel in kernels] == [{"kernel"}, {"kernel"}]
    assert [kernel["kernel"].shape for kernel in kernels] == [(32, 3), (3, 32)]


@pytest.mark.parametrize("channels", [16, 64])
def test_a_bottleneck_that_is_none_is_refused(channels):
    with pytest.raises(
        InputError, match=f"--bottleneck {channels}: .* the 16 channels"
    ):
        parts_of(RunConfig(model="cnn", bottleneck=channels), 10, SHAPE)


def test_plain_split_learning_has_no_bottleneck():
    assert plain_client_of(RunConfig(model="cnn"), 10) is None
    plain = plain_client_of(RunConfig(model="cnn", bottleneck=2), 10)
    variables = jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    assert set(variables["params"]) == {"conv1"}


def test_the_head_of_a_client_sees_four_by_four_cells_of_a_map():
    head = LocalHead(10)
    for shape, features in (((2, 9, 8, 5), 80), ((2, 2, 3, 5), 30), ((2, 7), 7)):
        variables = head.init(jax.random.key(0), jnp.zeros(shape))
        assert variables["params"]["Dense_0"]["kernel"].shape == (features, 10)
    maps = jnp.arange(64.0).reshape(1, 8, 8, 1)
    variables = head.init(jax.random.key(0), maps)
    # The mean of four cells is that of any others with the same sum.
    moved = maps.at[0, 0, 0, 0].add(3).at[0, 1, 1, 0].add(-3)
    assert jnp.allclose(
        head.apply(variables, maps), head.apply(variables, moved), atol=1e-4
    )
