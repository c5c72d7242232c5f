"""2, 3, 4, 6 or 8 bits a value, packed into whole bytes.

Each packet says what its bits mean: a sign bit where it has a negative value (the
activations behind a ReLU have none), then exponent and mantissa bits, of which the
search chooses those with the least squared error: an integer (no exponent), or a small
float with 2, 3 or 4 exponent bits, such as e2m1 of the OCP microscaling formats. It
chooses the scale as well, at which the largest magnitudes may saturate, but not where
rounding is by chance: what saturates errs one way only. What saturates
is counted among all values, and the error of rounding in some 8,000 of them.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.codecs.binary import chance_of, exp2, floor_exp2, flushed
from jsplit.codecs.lone_cpu import lone_cpu
from jsplit.codecs.packing import pack, packed_bytes, unpack
from jsplit.typing import Codec, Packet

WIDTHS = (2, 3, 4, 6, 8)
"""Bits of a value."""

_EXPONENTS = (0, 2, 3, 4)  # bits; one gives the same grid as none
_CLIPS = {2: 10, 3: 9, 4: 6, 6: 4, 8: 3}
"""Where the grid may end, by bits: so many half octaves down from the largest."""

_SAMPLE = 2**13  # values whose rounding the search looks at
_LANES = 128
_SMALLEST, _LARGEST = 2.0**-126, 2.0**125  # scale, so that 1 / scale is normal too
_SIGNED = 8  # in the header's first byte, beside the exponent bits


def packed(bits: int, *, per_channel: bool = False, stochastic: bool = False) -> Codec:
    """A codec of so many bits a value, packed, of searched format and scale.

    The header is one byte, exponent bits and 8 if there is a sign, and the scale as
    bfloat16: one, or one for each channel (the last axis). An example's payload is
    uint8, `bits / 8` bytes a value, rounded up to the codes that fill whole bytes
    together: 8 of 3 bits and 4 of 6 bits fill 3 bytes, those of other widths one.
    `of(shape)` gives the codec for examples of a shape, which alone can decode.

    **Formal guarantees** (tests of that name): a finite input never decodes to inf or
    NaN; rounding is to the nearest value of the grid; a packet without negative
    values spends no bit on signs; an example takes as many bytes as said above;
    stochastic rounding is right on average for each value up to the largest, and the
    same for the same tensor.

    | input | result |
    |---|---|
    | all zeros | zeros |
    | magnitudes below 2**-126 | zeros |
    | empty | an empty payload |
    | inf | the largest value of the grid, with its sign |
    | magnitudes beyond 2**125 | may saturate |
    | NaN anywhere | NaN throughout: a grid of so few values has no code for it |

    Args:
        bits: of a value, of `WIDTHS`.
        per_channel: a scale for each channel.
        stochastic: round up or down by chance, so that the mean of the errors is 0,
            and saturate nowhere. The chance follows from the tensor itself, so that a
            run that is resumed draws the same.

    Raises:
        ValueError: if there is no such width.

    Example:
        >>> codec = packed(4).of((3,))
        >>> packet = codec.encode(jnp.array([[3.0, 0.9, 15.0]]))
        >>> packet.payload.shape, codec.decode(packet).tolist()
        ((1, 2), [[3.0, 1.0, 15.0]])
        >>> codec.payload_bits((3,)), packed(4).name, packed(4, per_channel=True).name
        (16, 'bits4', 'bits4-channel')
    """
    if bits not in WIDTHS:
        raise ValueError(f"bits must be one of {WIDTHS}, got {bits}")
    name = f"bits{bits}" + "-channel" * per_channel + "-stochastic" * stochastic

    def bind(shape: tuple[int, ...]) -> Codec:
        if per_channel and len(shape) < 2:
            raise ValueError(
                f"{name} has a scale for each channel, but what crosses has no "
                f"channels, its shape is {shape}; take {packed(bits).name}"
            )
        scales = shape[-1] if per_channel else 1
        return Codec(
            name=name,
            encode=functools.partial(_encode, bits, scales, stochastic),
            decode=functools.partial(_decode, bits, scales, shape),
            payload_dtype=jnp.uint8,
            header_bytes=1 + 2 * scales,
            knows=functools.partial(_knows, bits),
            payload_shape=lambda shape: (packed_bytes(math.prod(shape), bits),),
        )

    return Codec.by_shape(name, bind)


def _encode(bits: int, scales: int, stochastic: bool, x: jax.Array) -> Packet:
    x = flushed(x)
    finite = jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))
    signed = jnp.any(x < 0).astype(jnp.int32)
    lanes = _lanes(jnp.abs(finite), scales)
    grid, scale = _searched(bits, lanes, scales, signed, saturates=not stochastic)
    inverse = 1 / scale

    def coded(x: jax.Array, chance: jax.Array | None) -> jax.Array:
        magnitude = jnp.abs(x) * _along(inverse, x.ndim)
        codes = _codes(grid, _rounded(grid, magnitude, chance))
        return (codes | (x < 0).astype(jnp.int32) << (bits - 1)).astype(jnp.uint8)

    codes = _by_example(coded, x, chance_of(finite) if stochastic else None)
    scale = jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, scale).astype(jnp.bfloat16)
    first = (grid.exponent + _SIGNED * signed).astype(jnp.uint8)
    header = jax.lax.bitcast_convert_type(scale, jnp.uint8).reshape(-1)
    rows = codes.reshape(x.shape[0], math.prod(x.shape[1:]))
    return Packet(pack(rows, bits), jnp.concatenate([first[None], header]))


def _by_example(
    coded: Callable[[jax.Array, jax.Array | None], jax.Array],
    x: jax.Array,
    chance: jax.Array | None,
) -> jax.Array:
    """`coded` of all examples, one after another where the only device is a CPU.

    XLA:CPU would make one slow loop of coding and packing, and code anew for each byte.
    """
    if lone_cpu():
        return jax.lax.map(lambda example: coded(*example), (x, chance))
    return coded(x, chance)


def _decode(
    bits: int, scales: int, shape: tuple[int, ...], packet: Packet
) -> jax.Array:
    codes = unpack(packet.payload, math.prod(shape), bits).astype(jnp.int32)
    first = packet.header[0].astype(jnp.int32)
    signed = first // _SIGNED
    grid = _grid(bits, first % _SIGNED, signed)
    scale = jax.lax.bitcast_convert_type(
        packet.header[1:].reshape(scales, 2), jnp.bfloat16
    ).astype(jnp.float32)
    sign = (codes >> (bits - 1)) & signed
    values = _values(grid, codes - (sign << (bits - 1)))
    rows = packet.payload.shape[0]
    values = jnp.where(sign == 1, -values, values).reshape(rows, *shape)
    return values * _along(scale, values.ndim)


def _along(scale: jax.Array, axes: int) -> jax.Array:
    """One scale as a number, several along the last of so many axes."""
    several = (1,) * (axes - 1) + scale.shape
    return scale[0] if len(scale) == 1 else scale.reshape(several)


class _Grid(NamedTuple):
    """The magnitudes that codes stand for, in units of the scale; all are traced.

    Code `c` below `2**mantissa` stands for `c`. In those above, the bits over the
    mantissa are an exponent, as in IEEE floats.

    Attributes:
        exponent: bits of it; 0: the codes are integers.
        mantissa: bits of it.
        largest: magnitude.
    """

    exponent: jax.Array
    mantissa: jax.Array
    largest: jax.Array


def _grid(bits: int, exponent: jax.Array, signed: jax.Array) -> _Grid:
    mantissa = bits - signed - exponent
    octaves = jnp.where(exponent == 0, 0, 2**exponent - 2)
    digits = mantissa + (exponent > 0).astype(jnp.int32)
    return _Grid(exponent, mantissa, (exp2(digits) - 1) * exp2(octaves))


def _candidates(bits: int, signed: jax.Array) -> _Grid:
    """Every grid of so many bits that may pay, along a first axis."""
    without, with_sign = (
        [some for some in _EXPONENTS if some <= width] for width in (bits, bits - 1)
    )
    # As many with a sign as without: the last may be there twice.
    with_sign += with_sign[-1:] * (len(without) - len(with_sign))
    exponents = jnp.where(signed == 1, jnp.array(with_sign), jnp.array(without))
    return jax.vmap(lambda exponent: _grid(bits, exponent, signed))(exponents)


def _lanes(magnitude: jax.Array, scales: int) -> jax.Array:
    """Side by side those of each scale, or as many as a processor takes at a time."""
    if scales > 1:
        return magnitude.reshape(-1, scales)
    missing = -magnitude.size % _LANES
    return jnp.pad(magnitude.reshape(-1), (0, missing)).reshape(-1, _LANES)


def _searched(
    bits: int, lanes: jax.Array, scales: int, signed: jax.Array, *, saturates: bool
) -> tuple[_Grid, jax.Array]:
    """The grid and the scales of least squared error, `Float32[scales]`.

    What saturates is counted among all values, because a few may weigh much; the error
    of rounding, in a sample of them.

    Args:
        bits: of a value.
        lanes: magnitudes, finite, as `_lanes` has them.
        scales: to find: one of all lanes, or one of each.
        signed: 1 if any value is negative, else 0.
        saturates: whether the grid may end below the largest magnitude.
    """
    axis = 0 if scales > 1 else None

    def summed(squares: jax.Array) -> jax.Array:
        # First along the lanes: XLA:CPU adds up one number at a time.
        return jnp.sum(jnp.sum(squares, axis=0, keepdims=True), axis, keepdims=True)

    largest = jnp.max(lanes, axis, keepdims=True, initial=0.0)
    # In units of the largest of all, so that squares cannot overflow.
    unit = 1 / jnp.clip(jnp.max(largest), _SMALLEST, _LARGEST)
    every, ends = lanes * unit, largest * unit
    # An odd step goes through all places of an image in turn.
    sample = every[:: max(lanes.size // _SAMPLE, 1) | 1]
    weight = len(lanes) / max(len(sample), 1)
    ended = range(_CLIPS[bits] if saturates else 1)
    clips = jnp.asarray([2.0 ** (-half / 2) for half in ended])

    def saturated(clip: jax.Array) -> jax.Array:
        return summed(jnp.square(jnp.maximum(every - clip * ends, 0)))

    def rounding(grid: _Grid, clip: jax.Array) -> jax.Array:
        own = jnp.maximum(clip * ends / grid.largest, _SMALLEST)
        y = jnp.minimum(sample * (1 / own), grid.largest)
        return summed(jnp.square((_rounded(grid, y, None) - y) * own))

    def of_clips(grid: _Grid) -> jax.Array:
        return jax.vmap(lambda clip: rounding(grid, clip))(clips)

    # Loops, because a program with all candidates in it takes seconds to compile.
    grids = _candidates(bits, signed)
    beyond = jax.lax.map(saturated, clips)
    errors = beyond[None] + weight * jax.lax.map(of_clips, grids)
    chosen = jnp.argmin(jnp.sum(jnp.min(errors, axis=1), axis=(1, 2)))
    grid = jax.tree.map(lambda leaf: leaf[chosen], grids)
    clip = clips[jnp.argmin(errors[chosen], axis=0)]
    scale = _representable(clip * (largest / grid.largest), grid, up=not saturates)
    return grid, scale.reshape(scales)


def _representable(scale: jax.Array, grid: _Grid, *, up: bool) -> jax.Array:
    """As the header has it, in bfloat16: with a normal inverse, and no overflow.

    To the nearest, or `up` to one at which nothing saturates.
    """
    most = jnp.minimum(_LARGEST, 2.0**127 / grid.largest)
    scale = jnp.clip(scale, _SMALLEST, most)
    near = jax.lax.reduce_precision(scale, exponent_bits=8, mantissa_bits=7)
    if not up:
        return near
    pattern = jax.lax.bitcast_convert_type(near, jnp.int32)
    above = jax.lax.bitcast_convert_type(pattern + (1 << 16), jnp.float32)
    return jnp.where((near < scale) & (above <= most), above, near)


def _rounded(grid: _Grid, magnitude: jax.Array, chance: jax.Array | None) -> jax.Array:
    """To the nearest value of the grid, or with `chance` in [0, 1) to one beside."""
    magnitude = jnp.minimum(magnitude, grid.largest)
    octave = jnp.maximum(floor_exp2(magnitude), exp2(grid.mantissa))
    if chance is None:
        # Adding and subtracting it rounds to nearest even, by the processor itself.
        rounder = octave * exp2(-grid.mantissa) * (1.5 * 2.0**23)
        return (magnitude + rounder) - rounder
    quantum = octave * exp2(-grid.mantissa)
    return jnp.floor(magnitude * (1 / quantum) + chance) * quantum


def _codes(grid: _Grid, rounded: jax.Array) -> jax.Array:
    """Of values of the grid, `Int32`: their own bits from the exponent on."""
    pattern = jax.lax.bitcast_convert_type(rounded, jnp.int32)
    beyond = (pattern >> (23 - grid.mantissa)) - (
        (126 + grid.mantissa) << grid.mantissa
    )
    integer = rounded.astype(jnp.int32)
    return jnp.where(integer < 1 << grid.mantissa, integer, beyond)


def _values(grid: _Grid, codes: jax.Array) -> jax.Array:
    """What codes stand for, the other way round."""
    pattern = codes + ((126 + grid.mantissa) << grid.mantissa)
    beyond = jax.lax.bitcast_convert_type(pattern << (23 - grid.mantissa), jnp.float32)
    return jnp.where(codes < 1 << grid.mantissa, codes.astype(jnp.float32), beyond)


def _knows(bits: int, header: bytes) -> bool:
    """Whether a header has a grid of so many bits, and scales that there can be."""
    signed, exponent = divmod(header[0], _SIGNED)
    scales = np.frombuffer(header, "<u2", offset=1).astype(np.uint32) << 16
    values = scales.view(np.float32)
    return (
        signed in (0, 1)
        and exponent in _EXPONENTS
        and exponent <= bits - signed
        and bool(((values >= _SMALLEST) & (values <= _LARGEST)).all())
    )
