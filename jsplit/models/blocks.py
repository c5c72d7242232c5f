"""A model is a list of named blocks that can be cut between any two of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import linen as nn


class Block(NamedTuple):
    """One block of a network.

    Attributes:
        name: also in the variable tree, on whichever side of the cut it lands.
        make: `make(name=...)` gives its module, called as `module(x, train=, mask=)`.
    """

    name: str
    make: Callable[..., nn.Module]


class Model(NamedTuple):
    """A network to choose from; called with the number of classes it gives its blocks.

    Attributes:
        name: on the command line.
        blocks: `blocks(classes)`, of the whole network.
        usual_cut: so many blocks are the client's unless told otherwise. The paper does
            not say where it cuts; here it is after the first pooled or residual stages.
    """

    name: str
    blocks: Callable[[int], tuple[Block, ...]]
    usual_cut: int

    def __call__(self, classes: int) -> tuple[Block, ...]:
        """The network's blocks, for so many classes."""
        return self.blocks(classes)


class Chain(nn.Module):
    """Blocks applied in order."""

    blocks: tuple[Block, ...]

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """The last block's output; `mask` is `Bool[b]`, False for padded rows."""
        for block in self.blocks:
            x = block.make(name=block.name)(x, train=train, mask=mask)
        return x


def split(blocks: tuple[Block, ...], cut: int) -> tuple[Chain, Chain]:
    """The client's first `cut` blocks and the server's rest.

    Raises:
        ValueError: if either side would be empty.
    """
    if not 1 <= cut < len(blocks):
        raise ValueError(
            f"cut must leave blocks on both sides, 1 to {len(blocks) - 1}, got {cut}"
        )
    return Chain(blocks[:cut]), Chain(blocks[cut:])
