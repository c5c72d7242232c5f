"""A model is a list of named blocks that can be cut between any two of them."""

from typing import NamedTuple

import jax
from flax import linen as nn


class Block(NamedTuple):
    """One block: its name, and a module called as `module(x, train=, mask=)`."""

    name: str
    module: nn.Module


class Chain(nn.Module):
    """Blocks applied in order; each keeps its own name in the variable tree."""

    blocks: tuple[nn.Module, ...]

    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """The last block's output; `mask` is `Bool[b]`, False for padded rows."""
        for block in self.blocks:
            x = block(x, train=train, mask=mask)
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
    modules = tuple(block.module for block in blocks)
    return Chain(modules[:cut]), Chain(modules[cut:])
