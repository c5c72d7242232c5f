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
from jsplit.models.layers import Conv
from jsplit.typing import PyTree

WIDTH, BATCH, STEPS, RATE = 32, 64, 800, 2e-3
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
    """Smashed data `[n, ...]` to images `[n, h, w, c]` of pixels from 0 to 1."""

    image: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Dense where little of the image's geometry is left; then convolutions."""
        height, width, channels = self.image
        if x.ndim < 4 or math.prod(x.shape[1:3]) <= SMALL:
            half = (-(-height // 2), -(-width // 2))
            x = nn.relu(nn.Dense(WIDTH * math.prod(half))(x.reshape(len(x), -1)))
            x = x.reshape(len(x), *half, WIDTH)
        x = nn.relu(nn.Dense(WIDTH)(Conv(2 * WIDTH)(x)))
        x = jax.image.resize(x, (len(x), height, width, x.shape[-1]), "linear")
        x = nn.relu(nn.Dense(WIDTH)(Conv(WIDTH)(x)))
        return nn.sigmoid(nn.Dense(channels)(Conv(WIDTH)(x)))


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
    start, draws = jax.random.split(jax.random.key(seed))
    inputs = jnp.asarray((public.smashed - mean) / scale)
    params = decoder.init(start, inputs[:1])
    trained = _trained(decoder, params, inputs, jnp.asarray(public.images), draws)
    apply = jax.jit(decoder.apply)
    return np.concatenate(
        [
            np.asarray(apply(trained, jnp.asarray(some)))
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


@functools.partial(jax.jit, static_argnums=0)
def _trained(
    decoder: Decoder,
    params: PyTree,
    inputs: jax.Array,
    images: jax.Array,
    key: jax.Array,
) -> PyTree:
    """The decoder's parameters after `STEPS` of Adam on the squared error."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def step(
        carry: tuple[PyTree, PyTree], key: jax.Array
    ) -> tuple[tuple[PyTree, PyTree], None]:
        params, state = carry
        rows = jax.random.randint(key, (BATCH,), 0, len(inputs))

        def loss(params: PyTree) -> jax.Array:
            guesses = jnp.asarray(decoder.apply(params, inputs[rows]))
            return jnp.mean(jnp.square(guesses - images[rows]))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, jax.random.split(key, STEPS))[0][0]
