"""ResNets in their CIFAR form (He et al. 2016): a 3x3 stem and no first pooling."""

from collections.abc import Sequence
from functools import partial

import jax
from flax import linen as nn

from jsplit.models.blocks import Block
from jsplit.models.layers import Conv, ConvBlock, Head, Norm


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (a 1x1 convolution where shapes differ)."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float32[b, h, w, c]` to `Float32[b, h / stride, w / stride, features]`."""
        y = Conv(self.features, stride=self.stride)(x)
        y = nn.relu(Norm()(y, train=train, mask=mask))
        y = Norm()(Conv(self.features)(y), train=train, mask=mask)
        return _joined(x, y, self.stride, train=train, mask=mask)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 with the stride and a 1x1 convolution, and a shortcut."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float32[b, h, w, c]` to `Float32[b, h / stride, w / stride, 4 features]`."""
        y = nn.relu(Norm()(Conv(self.features, size=1)(x), train=train, mask=mask))
        y = Conv(self.features, stride=self.stride)(y)
        y = nn.relu(Norm()(y, train=train, mask=mask))
        y = Norm()(Conv(4 * self.features, size=1)(y), train=train, mask=mask)
        return _joined(x, y, self.stride, train=train, mask=mask)


def _joined(
    x: jax.Array, y: jax.Array, stride: int, *, train: bool, mask: jax.Array | None
) -> jax.Array:
    """The end of a block: what came in beside what it made of that, and ReLU."""
    if stride != 1 or x.shape[-1] != y.shape[-1]:
        x = Conv(y.shape[-1], size=1, stride=stride)(x)
        x = Norm()(x, train=train, mask=mask)
    return nn.relu(x + y)


def resnet18(classes: int) -> tuple[Block, ...]:
    """A stem, eight residual blocks of 64, 128, 256, 512 features, and the head.

    Args:
        classes: logits that come out.
    """
    return _resnet(Residual, (2, 2, 2, 2), classes)


def resnet50(classes: int) -> tuple[Block, ...]:
    """A stem, 3 + 4 + 6 + 3 bottlenecks of 256 to 2,048 features, and the head.

    Args:
        classes: logits that come out.
    """
    return _resnet(Bottleneck, (3, 4, 6, 3), classes)


def _resnet(
    kind: type[Residual] | type[Bottleneck], depths: Sequence[int], classes: int
) -> tuple[Block, ...]:
    blocks = [
        Block(
            f"layer{stage}_{number}",
            partial(kind, 64 * 2 ** (stage - 1), 2 if stage > 1 and number == 0 else 1),
        )
        for stage, depth in enumerate(depths, 1)
        for number in range(depth)
    ]
    stem = Block("stem", partial(ConvBlock, 64))
    return (stem, *blocks, Block("head", partial(Head, classes)))
