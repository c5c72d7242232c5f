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
