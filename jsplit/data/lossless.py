"""What images take when they are compressed without loss: a measure to compare with."""

import io
import math

import numpy as np

SAMPLE = 1024
"""Images that are compressed; of 32x32 pixels this takes half a second."""


def lossless_bytes(images: np.ndarray, sample: int = SAMPLE) -> float | None:
    """Mean bytes of an image in a sheet of lossless WebP.

    Neither one sheet for all of a data set nor another format makes much of a
    difference: 1,689 bytes an image of CIFAR-10 in a sheet of 1,024, 1,768 in one sheet
    each, and 2,156 in a sheet of PNG.

    Args:
        images: uint8 `[n, h, w, c]`, at least one.
        sample: most images that are looked at, at even distances.

    Returns:
        None for images of neither one channel nor three, or where a sheet cannot be
        written because pillow is not installed or has no WebP.

    Example:
        >>> lossless_bytes(np.zeros((9, 8, 8, 1), np.uint8)) < 64
        True
        >>> lossless_bytes(np.zeros((9, 8, 8, 2), np.uint8)) is None
        True
    """
    try:
        from PIL import Image, features
    except ImportError:
        return None
    if images.shape[-1] not in (1, 3) or not features.check("webp"):
        return None
    edge = min(math.isqrt(len(images)), math.isqrt(sample))
    _, height, width, channels = images.shape
    # WebP's pictures have at most 16,383 pixels either way.
    edge = max(1, min(edge, 16_383 // max(height, width)))
    chosen = images[np.linspace(0, len(images) - 1, edge * edge).astype(int)]
    sheet = chosen.reshape(edge, edge, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(edge * height, edge * width, channels)
    file = io.BytesIO()
    picture = Image.fromarray(sheet if channels == 3 else sheet[..., 0])
    picture.save(file, "WEBP", lossless=True, method=4, quality=75)
    return file.tell() / len(chosen)
