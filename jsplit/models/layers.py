"""Layers that are fast inside `lax.scan` on a CPU, and heed a mask.

XLA:CPU runs a native convolution inside a scan 20 to 90 times slower than outside,
and one whose weights differ by client (vmapped) 20 times slower than as a matrix
product. Everything here runs inside a scan, so on a CPU a convolution is im2col and a
matrix product; on a GPU or TPU it is the native one. Pooling is three
maxima of strided slices, whose gradient is 6 to 9 times faster on a CPU than that of
a window reduction (128 images of 16x16x64: 2.2 to 2.6 ms against 20 to 23).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Lowering = Literal["im2col", "native"]


def default_lowering() -> Lowering:
    """How a convolution is computed on the backend in use."""
    return "im2col" if jax.default_backend() == "cpu" else "native"


def patches(
    x: Float[Array, "b h w c"], size: int, stride: int
) -> Float[Array, "b h2 w2 p"]:
    """The `size` x `size` neighbourhoods of an image, zero-padded at its border.

    Args:
        x: `[b, h, w, c]`.
        size: odd edge of the window.
        stride: step between windows.

    Returns:
        `[b, ceil(h / stride), ceil(w / stride), size * size * c]`.
    """
    pad = size // 2
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return jnp.concatenate(
        [
            padded[:, row : row + height : stride, column : column + width : stride]
            for row in range(size)
            for column in range(size)
        ],
        axis=-1,
    )


def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    stride: int,
    lowering: Lowering,
) -> Float[Array, "b h2 w2 o"]:
    """2-D convolution, zero-padded by `size // 2` on every side.

    Args:
        x: `Float32[b, h, w, i]`.
        kernel: `Float32[size, size, i, o]`, `size` odd.
        stride: in both directions.
        lowering: `im2col` or `native`; both compute the same sums, in another order.

    Returns:
        `Float32[b, ceil(h / stride), ceil(w / stride), o]`.
    """
    size = kernel.shape[0]
    if lowering == "native":
        pad = (size // 2, size // 2)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            (pad, pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return patches(x, size, stride) @ kernel.reshape(-1, kernel.shape[-1])


class Conv(nn.Module):
    """A convolution without bias (batch normalisation follows and would cancel it).

    Attributes:
        features: output channels.
        size: odd edge of the kernel.
        stride: in both directions.
    """

    features: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`Float32[b, h, w, c]` to `Float32[b, h', w', features]`."""
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
            (self.size, self.size, x.shape[-1], self.features),
        )
        return convolve(x, kernel, self.stride, default_lowering())


class Norm(nn.Module):
    """Batch normalisation over the rows that `mask` keeps.

    Training uses the batch's statistics and moves the running ones (momentum 0.9);
    evaluation uses the running ones. A batch without one kept row is normalised as a
    whole: whoever calls discards its result.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float32[b, h, w, c]` and `Bool[b]` to `Float32[b, h, w, c]`."""
        if mask is not None:
            kept = mask | ~jnp.any(mask)
            mask = kept.reshape((-1,) + (1,) * (x.ndim - 1))
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
        return norm(x, mask=mask)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2x2 maximum with stride 2; an odd last row or column is dropped.

    An image of one row or column is left as it is, so that a deep network also takes
    small images.
    """
    h, w = x.shape[1:3]
    if min(h, w) < 2:
        return x
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    # Not a maximum over a reshape: its gradient looks for the values equal to the
    # maximum, and where XLA computes those a second time with other rounding it finds
    # none and loses the gradient. Each comparison here stands for itself.
    upper = jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2])
    lower = jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2])
    return jnp.maximum(upper, lower)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU and, if `pool`, a 2x2 maximum."""

    features: int
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float32[b, h, w, c]` to `Float32[b, h', w', features]`."""
        x = Conv(self.features)(x)
        x = nn.relu(Norm()(x, train=train, mask=mask))
        return max_pool(x) if self.pool else x


class Head(nn.Module):
    """Global mean, dense layers with ReLU and dropout between, and the classifier.

    Attributes:
        classes: logits that come out.
        hidden: widths of the layers before the classifier.
        dropout: rate before each hidden layer.
    """

    classes: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float32[b, h, w, c]` to `Float32[b, classes]`."""
        del mask  # no statistic is taken over the batch
        x = x.mean(axis=(1, 2))
        for width in self.hidden:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)
