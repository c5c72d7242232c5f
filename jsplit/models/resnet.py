"""ResNet18 in its CIFAR form (He et al. 2016): a 3x3 stem and no first pooling."""

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
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, size=1, stride=self.stride)(x)
            x = Norm()(x, train=train, mask=mask)
        return nn.relu(x + y)


def resnet18(classes: int) -> tuple[Block, ...]:
    """A stem, eight residual blocks of 64, 128, 256, 512 features, and the head.

    Args:
        classes: logits that come out.
    """
    residuals = [
        Block(
            f"layer{stage}_{number}", partial(Residual, 64 * 2 ** (stage - 1), stride)
        )
        for stage in (1, 2, 3, 4)
        for number, stride in ((0, 1 if stage == 1 else 2), (1, 1))
    ]
    stem = Block("stem", partial(ConvBlock, 64))
    return (stem, *residuals, Block("head", partial(Head, classes)))
