"""A bottleneck at the cut: fewer channels cross than the network has there.

(BottleNet: Eshratifar et al. 2019, arXiv:1902.01000; against inversion: ResSFL, Li et
al. 2022, arXiv:2205.04007.) A linear map of each place's channels to a few ends the
client's part, and one back to as many as there were begins the server's.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from jsplit.models.blocks import Block, Chain
from jsplit.typing import Variables


class Project(nn.Module):
    """A linear map of the last axis, the same at every place (a 1x1 convolution).

    Attributes:
        features: that come out.
    """

    features: int

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """`[b, ..., c]` to `[b, ..., features]`."""
        return nn.Dense(self.features, use_bias=False, dtype=x.dtype)(x)


NARROW, WIDEN = "narrow", "widen"
"""The names of its blocks, on the client's and on the server's side."""


def with_bottleneck(
    blocks: tuple[Block, ...], cut: int, channels: int, image_shape: tuple[int, ...]
) -> tuple[Block, ...]:
    """The same network with a bottleneck at a cut, which is then one block later.

    Args:
        blocks: of the network.
        cut: blocks that the client holds.
        channels: that cross.
        image_shape: of one example.

    Raises:
        ValueError: if so many channels are no fewer than there are.

    Example:
        >>> from jsplit.models import cnn
        >>> blocks = with_bottleneck(cnn(10), 1, 4, (28, 28, 1))
        >>> [block.name for block in blocks]
        ['conv1', 'narrow', 'widen', 'conv2', 'conv3', 'head']
    """
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    client = Chain(blocks[:cut])
    variables = jax.eval_shape(client.init, jax.random.key(0), x)
    width = jax.eval_shape(client.apply, variables, x).shape[-1]
    if not 1 <= channels < width:
        raise ValueError(
            f"a bottleneck must be narrower than the {width} channels at the cut, got "
            f"{channels}"
        )
    narrow, widen = (
        Block(name, partial(Project, features))
        for name, features in ((NARROW, channels), (WIDEN, width))
    )
    return (*blocks[:cut], narrow, widen, *blocks[cut:])


def passing_first_channels(variables: Variables) -> Variables:
    """Variables of a client part whose bottleneck gives its first channels as they are.

    Where a client trains nothing, a random projection would mix all channels for good.

    Args:
        variables: of a part that ends with a bottleneck.

    Returns:
        The same, but for the kernel of the projection, which is an identity matrix
        without its last columns.

    Example:
        >>> narrow = {"Dense_0": {"kernel": jnp.zeros((3, 2))}}
        >>> passing = passing_first_channels({"params": {"narrow": narrow}})
        >>> passing["params"]["narrow"]["Dense_0"]["kernel"].tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    params = variables["params"]
    kernel = params[NARROW]["Dense_0"]["kernel"]
    passing = {"Dense_0": {"kernel": jnp.eye(*kernel.shape).astype(kernel.dtype)}}
    return {**variables, "params": {**params, NARROW: passing}}
