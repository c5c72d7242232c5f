"""What happens to images on the device, inside jit: crop, flip, normalise.

Images stay uint8 until the last moment: a dataset on the device takes a quarter of the
memory, and cropping moves a quarter of the bytes.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, UInt8

Images = UInt8[Array, "batch height width channels"]


def augment(key: Key[Array, ""], images: Images, *, padding: int, flip: bool) -> Images:
    """Crops each image at random from its zero-padded self and mirrors half of them.

    With padding 4 and flip on 32x32 images this is the usual CIFAR-10 recipe (He et al.
    2016, arXiv:1512.03385, section 4.2).

    **Guarantees.** The result for image i depends on `key`, i and image i only, not on
    the size of the batch. `padding=0, flip=False` is the identity.

    Args:
        key: A typed PRNG key.
        images: uint8 [B, H, W, C].
        padding: Zeros added on each side before the crop, in pixels; static.
        flip: Whether to mirror left and right with probability 1/2; static.

    Returns:
        uint8 [B, H, W, C].

    Raises:
        ValueError: `padding` is negative.
        TypeError: `key` is no typed key.
        AssertionError: `images` have another shape or dtype.
    """
    _check_images(images)
    if padding < 0:
        raise ValueError(f"padding must be 0 or more, got {padding}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key must be a typed key, jax.random.key(0), got {key.dtype}")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))

    # A vmapped slice: faster on CPU than one gather with index arrays (5.4 against 6.6
    # ms for 256 images), and it compiles to a gather elsewhere.
    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if padding:
            row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
            side = (padding, padding)
            padded = jnp.pad(image, (side, side, (0, 0)))
            image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        if flip:
            mirrored = jax.random.bernoulli(flip_key)
            image = jnp.where(mirrored, image[:, ::-1], image)
        return image

    return jax.vmap(one)(keys, images)


def preprocess(
    images: Images, mean: Sequence[float], std: Sequence[float]
) -> Float32[Array, "batch height width channels"]:
    """Returns `(images / 255 - mean) / std`, channel by channel.

    Args:
        images: uint8 [B, H, W, C].
        mean: C numbers, pixels taken as 0 .. 1; see `normalization`.
        std: C numbers.

    Returns:
        float32 [B, H, W, C].

    Raises:
        AssertionError: `images` have another shape or dtype, or the numbers of `mean`
            or `std` are not one a channel.
    """
    _check_images(images)
    for numbers in (mean, std):
        chex.assert_axis_dimension(images, -1, len(numbers))
    shape = (1, 1, 1, -1)
    center = jnp.asarray(mean, jnp.float32).reshape(shape)
    scale = jnp.asarray(std, jnp.float32).reshape(shape)
    return (images.astype(jnp.float32) / 255 - center) / scale


def _check_images(images: Images) -> None:
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
