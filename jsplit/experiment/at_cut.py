"""What crosses the cut: its shape, and the codecs for it."""

import jax
import jax.numpy as jnp

from jsplit.codecs import CODECS
from jsplit.core.init import smashed_of
from jsplit.core.model_part import ModelPart
from jsplit.core.state import SideState
from jsplit.errors import InputError
from jsplit.experiment.run_config import RunConfig
from jsplit.typing import Codec


def smashed_spec(
    client: ModelPart, image_shape: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one image's activations, `[1, ...]`; nothing is computed.

    Args:
        client: the client part.
        image_shape: height, width and channels.

    Raises:
        ValueError: if they are not one float32 array.

    Example:
        >>> import flax.linen as nn, jsplit
        >>> client = jsplit.from_flax(nn.Conv(8, (3, 3), strides=2))
        >>> smashed_spec(client, (4, 4, 3)).shape
        (1, 2, 2, 8)
    """
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(client.init, jax.random.key(0), x)
    return smashed_of(client, SideState(variables, ()), x)


def codecs_of(config: RunConfig, shape: tuple[int, ...]) -> tuple[Codec, Codec]:
    """The codecs of activations and of gradients, for examples of this shape.

    Raises:
        InputError: if one cannot be of it.

    Example:
        >>> from jsplit.experiment.config import RunConfig
        >>> activations, gradients = codecs_of(RunConfig(codec="bits4"), (8, 8, 32))
        >>> activations.payload_shape((8, 8, 32)), gradients.name
        ((1024,), 'float8')
    """
    codec = codec_of("--codec", config.codec, shape)
    return codec, codec_of("--grad-codec", config.grad_codec, shape, codec)


def codec_of(
    flag: str, name: str, shape: tuple[int, ...], answered: Codec | None = None
) -> Codec:
    """The codec of this name, for examples of this shape.

    Args:
        flag: that named it, for errors.
        name: of the codec.
        shape: of one example's values.
        answered: of gradients: the codec of the activations that they answer.

    Raises:
        InputError: naming the flag, if it cannot be of it.

    Example:
        >>> codec_of("--codec", "bits4-channel", (512,))
        Traceback (most recent call last):
        jsplit.errors.InputError: --codec: bits4-channel has a scale for each channel, \
but what crosses has no channels, its shape is (512,); take bits4
    """
    try:
        return CODECS[name].of(shape, answered)
    except ValueError as error:
        raise InputError(f"{flag}: {error}") from error
