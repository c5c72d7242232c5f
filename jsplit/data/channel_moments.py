"""Mean and standard deviation of each channel of images, from exact sums."""

import numpy as np

_CHUNK = 1024

Sums = tuple[tuple[int, int], ...]
"""Of each channel: the sum of all its pixels, and of their squares, exact."""

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, pixels taken as 0 .. 1."""


def channel_sums(images: np.ndarray) -> Sums:
    """Returns each channel's sums; those of several sets of images can be added up.

    Args:
        images: uint8 [N, H, W, C].
    """
    levels = np.arange(256)
    sums = []
    for channel in range(images.shape[-1]):
        counts = sum(
            np.bincount(images[i : i + _CHUNK, ..., channel].ravel(), minlength=256)
            for i in range(0, len(images), _CHUNK)
        )
        sums.append((int(np.sum(counts * levels)), int(np.sum(counts * levels**2))))
    return tuple(sums)


def moments(pixels: int, sums: Sums) -> Moments:
    """Returns the moments of images with these sums.

    Args:
        pixels: of each channel, over all images; at least 1.
        sums: of their values.

    Returns:
        Two tuples of C numbers, rounded once, to float32. A deviation is at least one
        gray level, 1/255, so that a constant channel can be divided by it.
    """
    means, deviations = [], []
    for total, squares in sums:
        means.append(float(np.float32(total / (255 * pixels))))
        variance = (pixels * squares - total**2) / (255 * pixels) ** 2
        deviations.append(float(np.float32(max(max(variance, 0.0) ** 0.5, 1 / 255))))
    return tuple(means), tuple(deviations)


def normalization(images: np.ndarray) -> Moments:
    """Returns mean and standard deviation of each channel, pixels taken as 0 .. 1.

    Sums are exact integers, so the result depends neither on the order of the images
    nor on the machine.

    Args:
        images: uint8 [N, H, W, C], the training images.
    """
    return moments(images[..., 0].size, channel_sums(images))
