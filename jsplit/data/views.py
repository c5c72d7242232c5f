"""A client's views of its images: as they are, mirrored, cropped, augmented."""

from collections.abc import Callable

import jax

from jsplit.data.augment import Images, augment
from jsplit.errors import InputError

View = Callable[[jax.Array, Images, int], Images]
"""Makes a view: `(key, images, padding) -> images`, uint8."""

VIEWS: dict[str, View] = {
    "plain": lambda key, images, padding: images,
    "mirrored": lambda key, images, padding: images[:, :, ::-1],
    "cropped": lambda key, images, padding: augment(
        key, images, padding=padding, flip=False
    ),
    "augmented": lambda key, images, padding: augment(
        key, images, padding=padding, flip=True
    ),
}
"""Every kind of view by its name; the last is what state A trains on."""

DRAWN = frozenset({"cropped", "augmented"})
"""Those that send something else each time."""

MOST = 64
"""Views of an example: far above what is used."""


def views_of(names: str) -> list[str]:
    """The kinds of view in a list such as `plain,mirrored`, one for each epoch of B.

    Raises:
        InputError: naming what is no view, or one that would be sent twice as it is.

    Example:
        >>> views_of("plain,mirrored")
        ['plain', 'mirrored']
        >>> views_of("plain,turned")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        jsplit.errors.InputError: --views plain,turned: turned is none of plain, ...
    """
    found = names.split(",")
    for name in found:
        if name not in VIEWS:
            raise InputError(
                f"--views {names}: {name or 'an empty name'} is none of "
                f"{', '.join(VIEWS)}"
            )
    for name in ("plain", "mirrored"):
        if found.count(name) > 1:
            raise InputError(
                f"--views {names} sends the same images more than once; name {name} "
                "once, and augmented as often as you like"
            )
    if len(found) > MOST:
        raise InputError(f"--views names {len(found)} views; the most is {MOST}")
    return found
