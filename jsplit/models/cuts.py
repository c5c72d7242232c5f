"""What each cut of a network costs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.accounting.macs import macs
from jsplit.models.blocks import Block, Chain


class Cut(NamedTuple):
    """One place to cut.

    Attributes:
        number: of blocks that the client holds.
        name: the last of them.
        smashed_shape: of one example's activations at the cut.
        client_params: number of the client's parameters.
        client_macs: of one forward pass of one example.
        client_share: client part of the whole network's `client_macs`, 0 to 1.
    """

    number: int
    name: str
    smashed_shape: tuple[int, ...]
    client_params: int
    client_macs: int
    client_share: float

    @property
    def values(self) -> int:
        """Values that cross for one example, each way."""
        return math.prod(self.smashed_shape)


def cuts(blocks: tuple[Block, ...], image_shape: tuple[int, int, int]) -> list[Cut]:
    """Every cut that leaves blocks on both sides, from the first to the last.

    Args:
        blocks: of one model.
        image_shape: `(h, w, c)` of one example.
    """
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    rows = []
    for index in range(1, len(blocks) + 1):
        chain = Chain(blocks[:index])
        variables = jax.eval_shape(chain.init, jax.random.key(0), x)
        smashed = jax.eval_shape(chain.apply, variables, x)
        params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        cost = macs(chain.apply, variables, x)
        rows.append((index, blocks[index - 1].name, smashed.shape[1:], params, cost))
    whole = rows[-1][-1]
    return [Cut(*row, client_share=row[-1] / whole) for row in rows[:-1]]
