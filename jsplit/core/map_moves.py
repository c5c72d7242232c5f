"""Replays of feature maps: moved by whole cells, mirrored, with a square blanked.

For convolutions without a position of their own, the map of a shifted image is the
shifted map but for its borders, as long as the shift is a multiple of the strides
between. Mirroring is no such symmetry where filters were learned, because they are not
symmetric, but what half of the images look like then is learned all the same; where
filters are each other's mirror images, `mirror` is told so. Each is drawn anew for each
example and each step.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jsplit.core.replay import Replay
from jsplit.core.whole_number import whole_number
from jsplit.errors import InputError


def shift(cells: int) -> Replay:
    """Moves each map by up to so many cells either way; its border cells fill up.

    This is the random crop of a padded image, made at the cut. Along every axis of one
    example but the last, its channels: two of a picture, one of a series.

    Args:
        cells: the longest move, at least 1. Static.

    Raises:
        InputError: if `cells` is less than 1; by `check`, if an example has no axis
            but its channels, or one that is not longer than `cells`.
        ValueError: if `cells` is no whole number.

    Example:
        >>> maps = jnp.arange(4.0).reshape(1, 4, 1)
        >>> drawn = {
        ...     tuple(shift(1).apply(jax.random.key(n), maps, None)[0].ravel().tolist())
        ...     for n in range(20)
        ... }
        >>> sorted(drawn)
        [(0.0, 0.0, 1.0, 2.0), (0.0, 1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 3.0)]
    """
    if cells < 1:
        raise InputError(f"a shift must be by at least 1 cell, got {cells}")
    cells = whole_number("cells", cells, least=1)

    def check(smashed_shape: tuple[int, ...]) -> None:
        if len(smashed_shape) < 2 or min(smashed_shape[:-1]) <= cells:
            raise InputError(
                f"shift {cells} needs maps of more than {cells} cells along each axis "
                f"at the cut, got {smashed_shape}; leave it out, or cut earlier"
            )

    def move(key: jax.Array, one: jax.Array) -> jax.Array:
        axes = one.ndim - 1
        start = jax.random.randint(key, (axes,), 0, 2 * cells + 1)
        padded = jnp.pad(one, [(cells, cells)] * axes + [(0, 0)], mode="edge")
        return jax.lax.dynamic_slice(padded, (*start, 0), one.shape)

    return Replay(_of_each(move), check)


def mirror(places: Sequence[int] | None = None) -> Replay:
    """Mirrors half of the maps left and right.

    Args:
        places: for each channel, the one that takes its place in a mirrored map, as
            `jsplit.mirrored_filters` says; None: it keeps its own. Static.

    Raises:
        InputError: by `check`, if an example is not `[height, width, channels]`, or is
            one cell wide and no channels have other places: it would stay as it is.
        ValueError: if the places are not those of all channels in some order; by
            `check`, if there are not as many as channels.

    Example:
        >>> maps = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> drawn = {
        ...     tuple(mirror().apply(jax.random.key(n), maps, None)[0].ravel().tolist())
        ...     for n in range(9)
        ... }
        >>> sorted(drawn)
        [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """
    if places is not None and sorted(places) != list(range(len(places))):
        raise ValueError(
            f"places must be 0 to {len(places) - 1} in some order, got {list(places)}"
        )

    def turn(key: jax.Array, one: jax.Array) -> jax.Array:
        turned = one[:, ::-1]
        if places is not None:
            turned = turned[..., np.asarray(places)]
        return jnp.where(jax.random.bernoulli(key), turned, one)

    def check(smashed_shape: tuple[int, ...]) -> None:
        _check_picture("mirror", smashed_shape)
        if places is None and smashed_shape[1] == 1:
            raise InputError(
                "mirror needs maps of more than 1 cell in width at the cut, got "
                f"{smashed_shape}; leave it out, or cut earlier"
            )
        if places is not None and len(places) != smashed_shape[-1]:
            raise ValueError(
                f"mirror has places for {len(places)} channels, and maps have "
                f"{smashed_shape[-1]}"
            )

    return Replay(_of_each(turn), check)


def cutout(cells: int) -> Replay:
    """Blanks a square of so many cells in each map (DeVries and Taylor 2017).

    (arXiv:1708.04552.) Its centre is any cell, so that some of it may lie outside.

    Args:
        cells: the edge of the square, at least 1. Static.

    Raises:
        InputError: if `cells` is less than 1; by `check`, if an example is not
            `[height, width, channels]`, or the square could blank all of it.
        ValueError: if `cells` is no whole number.

    Example:
        >>> maps = jnp.ones((1, 4, 4, 1))
        >>> blanked, _ = cutout(2).apply(jax.random.key(0), maps, None)
        >>> int((blanked == 0).sum()) in (1, 2, 4)
        True
    """
    if cells < 1:
        raise InputError(f"a cutout must be of at least 1 cell, got {cells}")
    cells = whole_number("cells", cells, least=1)

    def blank(key: jax.Array, one: jax.Array) -> jax.Array:
        row_key, column_key = jax.random.split(key)
        row = _span(row_key, one.shape[0], cells)
        column = _span(column_key, one.shape[1], cells)
        return jnp.where((row[:, None] & column[None])[..., None], 0.0, one)

    def check(smashed_shape: tuple[int, ...]) -> None:
        _check_picture("cutout", smashed_shape)
        if min(smashed_shape[:-1]) <= cells:
            raise InputError(
                f"cutout {cells} needs maps of more than {cells} cells along each axis "
                f"at the cut, got {smashed_shape}; take a smaller one, or cut earlier"
            )

    return Replay(_of_each(blank), check)


def _span(key: jax.Array, length: int, cells: int) -> Bool[Array, " length"]:
    start = jax.random.randint(key, (), 0, length) - cells // 2
    places = jnp.arange(length)
    return (places >= start) & (places < start + cells)


def _of_each(
    one: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[..., tuple[jax.Array, None]]:
    """Draws for each example by itself, whatever the size of the batch."""

    def apply(
        key: Key[Array, ""],
        smashed: Float[Array, "n ..."],
        rows: Bool[Array, " n"] | None,
    ) -> tuple[Float[Array, "n ..."], None]:
        del rows
        numbers = jnp.arange(len(smashed))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return jax.vmap(one)(keys, smashed), None

    return apply


def _check_picture(name: str, smashed_shape: tuple[int, ...]) -> None:
    if len(smashed_shape) != 3:
        raise InputError(
            f"{name} needs maps [height, width, channels] at the cut, got "
            f"{smashed_shape}; leave it out, or cut earlier"
        )
