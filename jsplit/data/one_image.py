"""An array that looks like one image where a stack of them is asked for."""

from collections.abc import Sequence


def one_image(shape: Sequence[int]) -> str | None:
    """What to say of such a shape: what it looks like, and what to give instead.

    Read as gray images, [16, 16, 3] would be 16 of them, each 16 pixels high and 3
    wide. So few pixels are no image, and one, three or four channels are the usual.

    Args:
        shape: of an array of images.

    Returns:
        The fault and the remedy; None where it does not look like one image.

    Example:
        >>> one_image((16, 16, 3)).split("; ")[1]
        'give [1, 16, 16, 3], or [16, 16, 3, 1] where it is 16 gray images of 16x3'
        >>> one_image((500, 28, 28)), one_image((40, 3, 3))
        (None, None)
    """
    if len(shape) != 3:
        return None
    height, width, channels = shape
    if channels not in (1, 3, 4) or min(height, width) <= channels:
        return None
    return (
        f"is {[height, width, channels]}, which looks like one image; give "
        f"{[1, height, width, channels]}, or {[height, width, channels, 1]} where it "
        f"is {height} gray images of {width}x{channels}"
    )


def one_channels_first(shape: Sequence[int], channels: int) -> str | None:
    """What to say of as many gray images as a model's images have channels.

    Args:
        shape: of an array of gray images, `[n, h, w]`.
        channels: of the images that a model takes.

    Returns:
        The fault and the remedy; None where it does not look like one image.

    Example:
        >>> one_channels_first((3, 16, 16), 3).split("; ")[1]
        'give [1, 16, 16, 3], or [3, 16, 16, 1] where it is 3 gray images'
        >>> one_channels_first((3, 16, 16), 1), one_channels_first((4, 16, 16), 3)
        (None, None)
    """
    count, height, width = shape
    if count != channels or channels == 1:
        return None
    return (
        f"is {[*shape]}, which looks like one image with its channels first; give "
        f"{[1, height, width, count]}, or {[*shape, 1]} where it is {count} gray images"
    )
