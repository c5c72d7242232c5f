"""3x3 convolution by Winograd's minimal filtering, F(4x4, 3x3) of Lavin & Gray 2016.

(arXiv:1509.09308.) An output tile of 4x4 pixels comes from an input tile of 6x6 by 36
multiplications a channel pair instead of 144. In the transformed domain a convolution
is 36 matrix products, one for each place in the tile, and so are both its gradients:

    forward      M = V U          V = B'xB,  U = GwG',   y  = A'MA
    to input     dV = dM U'       dM = A dy A',          dx = B dV B'
    to kernel    dU = V' dM                              dw = G'dU G

The gradient is written out since automatic differentiation of the strided slices below
pads every one of them to the full image and adds them up.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

TILE = 4
"""Edge of an output tile; an input tile is two pixels wider."""

WIDE = TILE + 2

_TO_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_TO_OUTPUT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
_TO_KERNEL = (
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]])
    / 24
)

Images = Float[Array, "b h w c"]
Rows = list[jax.Array]
"""A wide tile's places: an array `[6, tiles, c]` for each of its rows.

One array for all 36 would have to be put together in memory, 36 arrays make 36 matrix
products, which take twice as long to compile.
"""


@jax.custom_vjp
def winograd(x: Images, kernel: Float[Array, "3 3 c o"]) -> Images:
    """Convolution of stride 1, zero-padded by one pixel on every side.

    Equal to the direct sums up to rounding: in float32 within 1e-4 of the largest
    value, and so are both gradients. Differentiable once, in reverse.

    Args:
        x: `Float32[b, h, w, c]`, any size; work is done for whole tiles of 4x4.
        kernel: `Float32[3, 3, c, o]`.

    Returns:
        `Float32[b, h, w, o]`.
    """
    return _forward(x, kernel)[0]


def _forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pairs = zip(_spread_input(x), _spread_kernel(kernel), strict=True)
    return _gather_output([v @ u for v, u in pairs], x.shape), (x, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    d_products = _spread_gradient(dy)
    pairs = zip(_spread_input(x), d_products, strict=True)
    d_kernel = jnp.concatenate([v.mT @ d for v, d in pairs])
    pairs = zip(d_products, _spread_kernel(kernel), strict=True)
    d_input = [d @ u.mT for d, u in pairs]
    return _gather_gradient(d_input, x.shape), _gather_kernel(d_kernel)


winograd.defvjp(_forward, _backward)


def _tiles(size: int) -> int:
    return -(-size // TILE)


def _combine(coefficients: np.ndarray, parts: Sequence[jax.Array]) -> jax.Array:
    """The linear combination, without terms that are zero."""
    terms = [
        part if coefficient == 1 else coefficient * part
        for coefficient, part in zip(coefficients.tolist(), parts, strict=True)
        if coefficient != 0
    ]
    return functools.reduce(jnp.add, terms)


def _every_fourth(x: jax.Array, axis: int) -> list[jax.Array]:
    """Pixel 0 to 5 of every wide tile along an axis of `4 * tiles + 2`."""
    last = x.shape[axis] - WIDE + 1
    return [
        jax.lax.slice_in_dim(x, place, place + last, TILE, axis)
        for place in range(WIDE)
    ]


def _kernel_matrix(dtype: DTypeLike) -> jax.Array:
    """`G (x) G`, `[36, 9]`."""
    return jnp.asarray(np.kron(_TO_KERNEL, _TO_KERNEL), dtype)


def _spread_kernel(kernel: jax.Array) -> Rows:
    """`[3, 3, c, o]` to U, a row `[6, c, o]`."""
    _, _, c, o = kernel.shape
    spread = _kernel_matrix(kernel.dtype) @ kernel.reshape(9, c * o)
    return list(spread.reshape(WIDE, WIDE, c, o))


def _gather_kernel(d_spread: jax.Array) -> jax.Array:
    """dU, `[36, c, o]`, to the gradient of the kernel."""
    _, c, o = d_spread.shape
    gathered = _kernel_matrix(d_spread.dtype).T @ d_spread.reshape(WIDE**2, c * o)
    return gathered.reshape(3, 3, c, o)


def _spread_input(x: jax.Array) -> Rows:
    """`[b, h, w, c]` to V, a row `[6, tiles, c]`."""
    _, height, width, channels = x.shape
    down, across = TILE * _tiles(height), TILE * _tiles(width)
    around = ((0, 0), (1, 1 + down - height), (1, 1 + across - width), (0, 0))
    lines = _every_fourth(jnp.pad(x, around), axis=1)
    rows = []
    for row in _TO_INPUT:
        pixels = _every_fourth(_combine(row, lines), axis=2)
        places = [_combine(column, pixels) for column in _TO_INPUT]
        rows.append(jnp.stack(places).reshape(WIDE, -1, channels))
    return rows


def _gather_output(products: Rows, shape: tuple[int, ...]) -> jax.Array:
    """M, a row `[6, tiles, o]`, to the output for an input of this shape."""
    images, height, width, _ = shape
    lines = []
    for row in products:
        places = row.reshape(WIDE, images, _tiles(height), _tiles(width), -1)
        pixels = [_combine(column, list(places)) for column in _TO_OUTPUT]
        lines.append(_join(pixels, axis=3))
    y = _join([_combine(row, lines) for row in _TO_OUTPUT], axis=2)
    return y[:, :height, :width]


def _spread_gradient(dy: jax.Array) -> Rows:
    """`[b, h, w, o]` to dM, a row `[6, tiles, o]`."""
    images, height, width, channels = dy.shape
    down, across = _tiles(height), _tiles(width)
    below, right = TILE * down - height, TILE * across - width
    dy = jnp.pad(dy, ((0, 0), (0, below), (0, right), (0, 0)))
    dy = dy.reshape(images, down, TILE, across, TILE, channels)
    lines = [dy[:, :, row] for row in range(TILE)]
    rows = []
    for row in _TO_OUTPUT.T:
        line = _combine(row, lines)
        pixels = [line[:, :, :, column] for column in range(TILE)]
        places = [_combine(column, pixels) for column in _TO_OUTPUT.T]
        rows.append(jnp.stack(places).reshape(WIDE, -1, channels))
    return rows


def _gather_gradient(d_input: Rows, shape: tuple[int, ...]) -> jax.Array:
    """dV, a row `[6, tiles, c]`, to the gradient of an input of this shape."""
    images, height, width, channels = shape
    tiles = (WIDE, images, _tiles(height), _tiles(width), channels)
    lines = [_overlap(list(row.reshape(tiles)), axis=2) for row in d_input]
    return _overlap(lines, axis=1)[:, :height, :width]


def _overlap(places: list[jax.Array], axis: int) -> jax.Array:
    """Adds up along one axis what neighbouring wide tiles say of the same pixel.

    A wide tile begins one pixel before its tile and ends one after: its first pixel is
    the last of the tile before, its last the first of the tile after.
    """
    before, *own, after = [_combine(column, places) for column in _TO_INPUT.T]
    own[0] += _shifted(after, 1, axis)
    own[-1] += _shifted(before, -1, axis)
    return _join(own, axis + 1)


def _shifted(x: jax.Array, by: int, axis: int) -> jax.Array:
    """Each tile's value moved to the tile `by` further on, zeros at the border."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (by, -by, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def _join(pixels: list[jax.Array], axis: int) -> jax.Array:
    """The pixels of every tile, side by side along the axis before `axis`."""
    stacked = jnp.stack(pixels, axis)
    shape = stacked.shape
    return stacked.reshape(*shape[: axis - 1], -1, *shape[axis + 1 :])
