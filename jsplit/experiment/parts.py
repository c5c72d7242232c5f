"""The parts of a config's network: the client's, the server's, and a client's head."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jsplit.core.model_part import ModelPart, from_flax, with_precision
from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig
from jsplit.models import (
    MODELS,
    LocalHead,
    first_kernel_shape,
    mirrored_filters,
    passing_first_channels,
    split,
    with_bottleneck,
    with_dct_filters,
)
from jsplit.typing import Variables

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

COSINES = {"dct": True, "dct-ac": False}
"""First filters that are cosines, and whether they see the mean of a patch (DC)."""


def cut_index(config: RunConfig) -> int:
    """How many blocks the client holds; the model's usual cut where none is named."""
    return config.cut or MODELS[config.model].usual_cut


def cut_of(config: RunConfig) -> str:
    """Where the network is cut, for people: `3 (layer1_1)`."""
    index = cut_index(config)
    return f"{index} ({MODELS[config.model](2)[index - 1].name})"


def sends_cosines(config: RunConfig) -> bool:
    """Whether the client's part is one block, which begins with cosines.

    Filters beyond those that there are begin at random, as VGG's last 10 of 64.
    """
    return config.first_filters in COSINES and cut_index(config) == 1


def parts_of(
    config: RunConfig, classes: int, image_shape: tuple[int, ...]
) -> tuple[ModelPart, ModelPart]:
    """The client's and the server's part of the config's network.

    Raises:
        InputError: if a bottleneck is none; by the client's `init`, if the first block
            does not take images by one convolution where cosines are its filters.
    """
    blocks, cut = MODELS[config.model](classes), cut_index(config)
    if config.bottleneck is not None:
        try:
            blocks = with_bottleneck(blocks, cut, config.bottleneck, image_shape)
        except ValueError as error:
            raise InputError(f"--bottleneck {config.bottleneck}: {error}") from error
        cut += 1
    client, server = (_part(config, module) for module in split(blocks, cut))
    if config.first_filters in COSINES:
        client = _with_dct_filters(config, client, blocks[0].name)
    return client, server


def _with_dct_filters(
    config: RunConfig, client: ModelPart, first_block: str
) -> ModelPart:
    """The client part that begins with cosines; a bottleneck passes the first on."""

    def init(key: jax.Array, x: jax.Array) -> Variables:
        variables = client.init(key, x)
        if sends_cosines(config) and config.bottleneck is not None:
            variables = passing_first_channels(variables)
        dc = COSINES[config.first_filters]
        try:
            return with_dct_filters(variables, first_block, x.shape[-1], dc=dc)
        except ValueError as error:
            raise InputError(
                f"--first-filters {config.first_filters} does not suit --model "
                f"{config.model}: {error}"
            ) from error

    return client._replace(init=init)


def mirrored_channels(
    config: RunConfig, image_shape: tuple[int, ...]
) -> list[int] | None:
    """For each channel at the cut, that which has its place for mirrored images.

    None where no channels are known to be each other's: only cosines are, where they
    cross as they are.
    """
    if not sends_cosines(config):
        return None
    shape = kernel_shape_of(config, image_shape)
    crossing = config.bottleneck or shape[-1]
    dc = COSINES[config.first_filters]
    return mirrored_filters((*shape[:-1], crossing), dc=dc)


def kernel_shape_of(config: RunConfig, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the first convolution's kernel, `(k, k, channels, filters)`."""
    blocks = MODELS[config.model](2)
    client, _ = parts_of(config, 2, image_shape)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(client.init, jax.random.key(0), x)
    return first_kernel_shape(variables, blocks[0].name, image_shape[-1])


def plain_client_of(config: RunConfig, classes: int) -> ModelPart | None:
    """The client part without a bottleneck; None where there is none."""
    if config.bottleneck is None:
        return None
    return _part(config, split(MODELS[config.model](classes), cut_index(config))[0])


def head_of(config: RunConfig, classes: int) -> ModelPart | None:
    """The head by which a client learns alone; None where it never does."""
    return _part(config, LocalHead(classes)) if config.local_epochs else None


def _part(config: RunConfig, module: nn.Module) -> ModelPart:
    return with_precision(from_flax(module), PRECISIONS[config.precision])
