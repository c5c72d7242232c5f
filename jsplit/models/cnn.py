"""A small network that makes tests and first tries quick."""

from functools import partial

from jsplit.models.blocks import Block
from jsplit.models.layers import ConvBlock, Head


def cnn(classes: int) -> tuple[Block, ...]:
    """Three pooled convolutions of 16, 32 and 64 features, and a head of 64.

    Args:
        classes: logits that come out.
    """
    convs = [
        Block(f"conv{number}", partial(ConvBlock, width, pool=True))
        for number, width in enumerate((16, 32, 64), start=1)
    ]
    return (*convs, Block("head", partial(Head, classes, hidden=(64,))))
