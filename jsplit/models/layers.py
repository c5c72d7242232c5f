"""Layers that are fast inside `lax.scan` on a CPU, and heed a mask."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jsplit.accounting.macs import counting
from jsplit.models.convolution import convolve
from jsplit.models.pooling import max_pool


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
        return convolve(x, kernel, self.stride)


class Norm(nn.Module):
    """Batch normalisation over the rows that `mask` keeps (Ioffe & Szegedy 2015).

    Training uses the batch's statistics and moves the running ones (momentum 0.9);
    evaluation uses the running ones. A batch without one kept row is normalised as a
    whole: whoever calls discards its result. It computes in float32 whatever `x` is.

    The formula and the variables are those of `flax.linen.BatchNorm`, which counts the
    kept values by adding up the mask at the size of the images: twice the time of a
    layer on a CPU. Here rows are weighted, masked or not, on a CPU by matrix product.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float[b, h, w, c]` and `Bool[b]` to the same."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape).astype(jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        exact = x.astype(jnp.float32)
        if train:
            weights = _weights(len(x), mask)
            center = _weighted_mean(exact, weights)
            exact -= _wide(center)
            spread = _weighted_mean(jnp.square(exact), weights)
            if not self.is_initializing():
                mean.value = _MOMENTUM * mean.value + (1 - _MOMENTUM) * center
                var.value = _MOMENTUM * var.value + (1 - _MOMENTUM) * spread
        else:
            exact -= _wide(mean.value)
            spread = var.value
        y = exact * _wide(jax.lax.rsqrt(spread + _EPSILON) * scale) + _wide(bias)
        return y.astype(x.dtype)


_MOMENTUM = 0.9
_EPSILON = 1e-5
_FEW_IMAGES = 16  # a client's, among many: a product over them alone has few terms


def _wide(channels: Float[Array, " c"]) -> Float[Array, "1 1 1 c"]:
    return channels[None, None, None]


def _weights(rows: int, mask: jax.Array | None) -> Float[Array, " b"]:
    """What each row weighs in a mean over the kept rows; all alike if none is."""
    if mask is None:
        return jnp.full((rows,), 1 / rows)
    kept = (mask | ~jnp.any(mask)).astype(jnp.float32)
    return kept / jnp.sum(kept)


def _weighted_mean(
    x: Float[Array, "b h w c"], weights: Float[Array, " b"]
) -> Float[Array, " c"]:
    if counting() or jax.default_backend() != "cpu":
        # Fused with what makes x, which a matrix product is not, and not counted.
        return jnp.sum(x * weights[:, None, None, None], axis=0).mean(axis=(0, 1))
    if len(x) < _FEW_IMAGES:
        pixels = x.shape[1] * x.shape[2]
        return jnp.repeat(weights / pixels, pixels) @ x.reshape(-1, x.shape[-1])
    return (weights @ x.reshape(len(x), -1)).reshape(-1, x.shape[-1]).mean(axis=0)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, if `pool` a 2x2 maximum, and ReLU."""

    features: int
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """`Float32[b, h, w, c]` to `Float32[b, h', w', features]`."""
        x = Conv(self.features)(x)
        x = Norm()(x, train=train, mask=mask)
        # Before the ReLU, which gives the same on a quarter of the values.
        return nn.relu(max_pool(x) if self.pool else x)


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
