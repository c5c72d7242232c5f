"""How a convolution is computed: one sum, several orders of adding it up.

On a GPU or TPU the native convolution is best. On a CPU it never is: XLA:CPU brings a
convolution's gradients into the form that its library computes only outside of loops,
and everything here runs in one (20 to 90 times slower), and one whose weights differ by
client is 20 times slower than as a matrix product. There the shape decides:

| lowering | chosen for | multiplications for a 3x3 kernel |
|---|---|---|
| dense | many images of few pixels: one matrix from all pixels to all | pixels^2 |
| winograd | 3x3 kernels, stride 1, float32, enough tiles | 36 for 4x4 pixels, not 144 |
| im2col | everything else | 9 a pixel |

`python -m benchmarks.lowerings` measures all of them on every shape of the models;
`benchmarks/results/lowerings_cpu.json` has what justified the limits below.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jsplit.accounting.macs import counting
from jsplit.models.winograd import TILE, winograd

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "k k i o"]


def native(x: Images, kernel: Kernel, stride: int) -> Images:
    """XLA's own convolution."""
    pad = (kernel.shape[0] // 2,) * 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def im2col(x: Images, kernel: Kernel, stride: int) -> Images:
    """The neighbourhoods as rows of a matrix, times the kernel as a matrix."""
    return _patches(x, len(kernel), stride) @ kernel.reshape(-1, kernel.shape[-1])


def dense(x: Images, kernel: Kernel, stride: int) -> Images:
    """A matrix from all pixels that come in to all that go out."""
    images, height, width, _ = x.shape
    reach = len(kernel) // 2
    nothing = jnp.zeros(kernel.shape[2:], kernel.dtype)
    pixels = [(row, column) for row in range(height) for column in range(width)]
    out = [pixel for pixel in pixels if not any(at % stride for at in pixel)]

    def tap(source: tuple[int, int], target: tuple[int, int]) -> jax.Array:
        row, column = (s - t + reach for s, t in zip(source, target, strict=True))
        inside = 0 <= row < len(kernel) and 0 <= column < len(kernel)
        return kernel[row, column] if inside else nothing

    matrix = jnp.concatenate(
        [jnp.concatenate([tap(p, q) for q in out], axis=1) for p in pixels]
    )
    y = x.reshape(images, -1) @ matrix
    return y.reshape(images, -(-height // stride), -(-width // stride), -1)


def _winograd(x: Images, kernel: Kernel, stride: int) -> Images:
    if len(kernel) != 3 or stride != 1:
        raise ValueError(
            f"winograd takes 3x3 kernels and stride 1, got {len(kernel)} and {stride}"
        )
    return winograd(x, kernel)


LOWERINGS: dict[str, Callable[[Images, Kernel, int], Images]] = {
    "native": native,
    "im2col": im2col,
    "dense": dense,
    "winograd": _winograd,
}
"""Each `(x: [b, h, w, i], kernel: [size, size, i, o], stride) -> [b, h', w', o]` with
odd `size`, zero padding of `size // 2` and `h' = ceil(h / stride)`."""

_FEW_PIXELS = 4
_MANY_IMAGES = 64  # fewer do not repay making the dense matrix
# Alone Winograd is up to 1.6 times as fast there; a whole step is not (`--whole`).
_FEW_CHANNELS = 3
_FEW_TILES = 16  # below that, transforming the kernel costs more than it saves


def lowering(
    backend: str,
    shape: tuple[int, ...],
    size: int,
    stride: int,
    dtype: DTypeLike,
) -> str:
    """The name of the fastest lowering.

    Args:
        backend: `cpu` or another, as `jax.default_backend()` says.
        shape: of the images, `(b, h, w, i)`.
        size: edge of the kernel, odd.
        stride: in both directions.
        dtype: of the sums. Winograd's transforms cancel, which 8 bits of mantissa do
            not bear, so it is for float32 alone.
    """
    if backend != "cpu":
        return "native"
    images, height, width, channels = shape
    if size == 1:
        return "im2col"
    if height * width <= _FEW_PIXELS:
        return "dense" if images >= _MANY_IMAGES else "im2col"
    fits = (size, stride, jnp.dtype(dtype)) == (3, 1, jnp.float32)
    tiles = images * -(-height // TILE) * -(-width // TILE)
    if fits and tiles >= _FEW_TILES and channels > _FEW_CHANNELS:
        return "winograd"
    return "im2col"


def convolve(x: Images, kernel: Kernel, stride: int) -> Images:
    """2-D convolution, zero-padded by `size // 2` on every side.

    Args:
        x: `[b, h, w, i]`.
        kernel: `[size, size, i, o]` of the same dtype, `size` odd.
        stride: in both directions.

    Returns:
        `[b, ceil(h / stride), ceil(w / stride), o]`, by whatever lowering is fastest on
        the backend in use; they agree within rounding (see `winograd`). Where the
        length of a batch is left open, as `jax.export` may, by XLA's own.
    """
    # A program that is exported has batches of any length, and goes anywhere.
    if counting() or not isinstance(x.shape[0], int):
        return native(x, kernel, stride)
    name = lowering(jax.default_backend(), x.shape, len(kernel), stride, x.dtype)
    return LOWERINGS[name](x, kernel, stride)


def _patches(x: Images, size: int, stride: int) -> Float[Array, "b h2 w2 p"]:
    """The `size` x `size` neighbourhoods of every image, zero-padded at its border."""
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
