"""Reconstruction: a decoder from activations back to images.

The server is given what it may have at most: the client part (with several clients it
averages them anyway) and public images of the same kind. It sends those through the
part and the codec, trains a decoder on the pairs, and applies it to what the clients
sent. (An inverse network, as of He, Zhang and Lee, "Model inversion attacks against
collaborative inference", ACSAC 2019.)
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from skimage.metrics import structural_similarity

from jsplit.analysis.privacy.view import View
from jsplit.typing import PyTree

BATCH, STEPS, RATE = 64, 1000, 2e-3
WIDTHS = (32, 48, 64)
"""Features of the decoder: as the activations are, and where they are halved."""

WHOLE = 192
"""Features in which the decoder looks at all of an image at once."""

SMALL = 16
"""Pixels; a smashed image of no more first becomes a larger one by a dense layer."""

FLOOR = 1e-3
"""Of the widest channel's deviation, the least that another is divided by, so that a
channel that is the same for all images is not blown up."""


class Score(NamedTuple):
    """How well images were reconstructed; means over them.

    Attributes:
        mse: of pixels from 0 to 1.
        psnr: in decibels, `10 log10(1 / mse)` of each image.
        ssim: structural similarity (Wang et al. 2004), 1 for equal images.
    """

    mse: float
    psnr: float
    ssim: float


class Decoder(nn.Module):
    """Smashed data `[n, ...]` to images `[n, h, w, c]` of pixels from 0 to 1.

    A U-Net (Ronneberger, Fischer and Brox 2015): every pixel is guessed from the whole
    of what was sent. How bright an area is may be told by its edges far away alone.
    """

    image: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Dense where little of the image's geometry is left; then convolutions."""
        height, width, channels = self.image
        if x.ndim < 4 or math.prod(x.shape[1:3]) <= SMALL:
            half = (-(-height // 2), -(-width // 2))
            x = nn.relu(nn.Dense(WIDTHS[0] * math.prod(half))(x.reshape(len(x), -1)))
            x = x.reshape(len(x), *half, WIDTHS[0])
        x = _Level(WIDTHS)(x)
        while (larger := towards(x.shape[1:3], (height, width))) != x.shape[1:3]:
            x = _convolved(_resized(x, larger), WIDTHS[0])
        each = math.prod(_pixels_each(x.shape[1:3], (height, width)))
        return nn.sigmoid(pixels_of(_conv(each * channels)(x), (height, width)))


class _Level(nn.Module):
    """A U-Net, of so many features at each of its sizes, the next half as large."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float `[n, h, w, c]` to `[n, h, w, widths[0]]`."""
        width, *deeper = self.widths
        x = _convolved(_convolved(x, width), width)
        if deeper:
            halved = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
            far = _resized(_Level(tuple(deeper))(halved), x.shape[1:3])
        else:
            flat = nn.relu(nn.Dense(WHOLE)(x.reshape(len(x), -1)))
            far = nn.Dense(math.prod(x.shape[1:3]) * WIDTHS[0])(flat)
            far = far.reshape(*x.shape[:3], WIDTHS[0])
        return _convolved(jnp.concatenate([x, far], axis=-1), width)


def _conv(features: int) -> nn.Conv:
    return nn.Conv(features, (3, 3))


def _convolved(x: jax.Array, features: int) -> jax.Array:
    return nn.relu(_conv(features)(x))


def _resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(x, (len(x), *size, x.shape[-1]), "linear")


def towards(size: tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    """Twice as many places in each direction that has not half the pixels yet.

    Example:
        >>> towards((4, 16), (32, 32)), towards((8, 16), (32, 32))
        ((8, 16), (16, 16))
    """
    return tuple(
        2 * places if 2 * places < pixels else places
        for places, pixels in zip(size, whole, strict=True)
    )


def _pixels_each(size: tuple[int, ...], whole: tuple[int, ...]) -> list[int]:
    """How many pixels a place has in each direction, at least."""
    return [-(-pixels // places) for places, pixels in zip(size, whole, strict=True)]


def pixels_of(x: jax.Array, whole: tuple[int, int]) -> jax.Array:
    """An image whose pixels are the channels of its places.

    Args:
        x: `[n, h, w, values]`, values of all the pixels that a place has.
        whole: height and width of the image. Where pooling left a row or a column
            over, the pixels of all places are more, and are drawn together.

    Example:
        >>> pixels_of(jnp.arange(4.0).reshape(1, 1, 1, 4), (2, 2))[0, ..., 0].tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """
    count, height, width, values = x.shape
    down, across = _pixels_each((height, width), whole)
    split = x.reshape(count, height, width, down, across, values // down // across)
    together = split.transpose(0, 1, 3, 2, 4, 5)
    image = together.reshape(count, height * down, width * across, split.shape[-1])
    return _resized(image, whole)


def reconstruct(public: View, smashed: np.ndarray, seed: int) -> np.ndarray:
    """What the attack makes of the activations.

    Args:
        public: what it is trained on.
        smashed: float32 `[n, ...]`.
        seed: of its weights and batches.

    Returns:
        Float32 `[n, h, w, c]`, pixels from 0 to 1.
    """
    # Of each channel, for filters may spread their outputs over orders of magnitude,
    # and what is small is not hidden.
    axes = tuple(range(public.smashed.ndim - 1))
    mean, spread = public.smashed.mean(axes), public.smashed.std(axes)
    scale = np.maximum(spread, FLOOR * spread.max() + 1e-6)
    decoder = Decoder(public.images.shape[1:])
    inputs = (public.smashed - mean) / scale
    params = decoder.init(jax.random.key(seed), inputs[:1])
    trained = _trained(decoder, params, inputs, public.images, seed)
    return np.concatenate(
        [
            np.asarray(_guessed(decoder, trained, some))
            for some in _batches((smashed - mean) / scale)
        ]
    )


def score(images: np.ndarray, guesses: np.ndarray, inside: np.ndarray) -> Score:
    """How near guesses are to images, where these are.

    Args:
        images: `[n, h, w, c]`, pixels from 0 to 1.
        guesses: likewise.
        inside: `Bool[n, h, w]`, of each image a rectangle: its pixels count, and not
            the black around a crop, which is no secret.
    """
    places = [np.ix_(own.any(axis=1), own.any(axis=0)) for own in inside]
    pairs = [
        (image[place], guess[place])
        for image, guess, place in zip(images, guesses, places, strict=True)
    ]
    errors = np.asarray([np.square(image - guess).mean() for image, guess in pairs])
    similar = [_similarity(image, guess) for image, guess in pairs]
    # An error of 0 is below what 8-bit pixels can tell from it.
    decibels = -10 * np.log10(np.maximum(errors, 1 / 255**2 / 12))
    return Score(float(errors.mean()), float(decibels.mean()), float(np.mean(similar)))


def _similarity(image: np.ndarray, guess: np.ndarray) -> float:
    window = min(7, *image.shape[:2])
    return float(
        structural_similarity(
            image,
            guess,
            win_size=window - (window % 2 == 0),
            data_range=1.0,
            channel_axis=-1,
        )
    )


def _batches(array: np.ndarray) -> list[np.ndarray]:
    return [array[at : at + BATCH] for at in range(0, len(array), BATCH)]


def _trained(
    decoder: Decoder,
    params: PyTree,
    inputs: np.ndarray,
    images: np.ndarray,
    seed: int,
) -> PyTree:
    """The decoder's parameters after `STEPS` of Adam on the squared error."""
    state = _adam(STEPS).init(params)
    # One by one, for XLA:CPU has slow convolutions in a loop of its own.
    for rows in np.random.default_rng(seed).integers(len(inputs), size=(STEPS, BATCH)):
        params, state = _step(decoder, STEPS, params, state, inputs[rows], images[rows])
    return params


def _adam(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(RATE, steps))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(
    decoder: Decoder,
    steps: int,
    params: PyTree,
    state: PyTree,
    inputs: jax.Array,
    images: jax.Array,
) -> tuple[PyTree, PyTree]:
    """One of so many steps, whose program all attacks on such activations share."""

    def loss(params: PyTree) -> jax.Array:
        return jnp.mean(jnp.square(_guessed(decoder, params, inputs) - images))

    updates, state = _adam(steps).update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnums=0)
def _guessed(decoder: Decoder, params: PyTree, smashed: jax.Array) -> jax.Array:
    return jnp.asarray(decoder.apply(params, smashed))
