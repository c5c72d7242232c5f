"""VGG11 and VGG13 in the form used for 32x32 images (Simonyan & Zisserman 2015)."""

from functools import partial

from jsplit.models.blocks import Block
from jsplit.models.layers import ConvBlock, Head

_POOLED = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
}


def vgg(name: str, classes: int) -> tuple[Block, ...]:
    """Convolutions with batch normalisation and a 512-512 head with dropout.

    One block is one convolution with its normalisation, ReLU and, where a stage ends,
    its pooling; the last is the head. For 32x32 images the head's mean is over one
    pixel.

    Args:
        name: `vgg11` or `vgg13`.
        classes: logits that come out.
    """
    widths = [
        (width, index == len(stage) - 1)
        for stage in _POOLED[name]
        for index, width in enumerate(stage)
    ]
    convs = [
        Block(f"conv{number}", partial(ConvBlock, width, pool))
        for number, (width, pool) in enumerate(widths, start=1)
    ]
    head = partial(Head, classes, hidden=(512, 512), dropout=0.5)
    return (*convs, Block("head", head))
