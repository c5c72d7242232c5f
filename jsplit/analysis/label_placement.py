"""Where the labels of points go, so that none covers another label or a point."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

Array = np.ndarray

_DIRECTIONS = 16
"""In which a place is looked for around a point, the first up and to the right."""


def place_labels(
    points: Float[Array, "n 2"],
    sizes: Float[Array, "n 2"],
    bounds: Float[Array, "2 2"],
    clearance: float,
) -> Float[Array, "n 2"]:
    """Places one label beside each point, nearest first, without an overlap.

    Greedy, in the order of the points: each label takes the nearest place around its
    point, on circles of growing radius, where it covers no point, no label that was
    placed before, and nothing outside of the bounds. The same input gives the same
    places.

    Args:
        points: of the labels, in any unit of length; they may coincide.
        sizes: width and height of each label, in the same unit.
        bounds: lower left and upper right corner of where labels may be.
        clearance: that a label keeps from the middle of every point, such as the radius
            of its marker; more than 0.

    Returns:
        The middle of each label. Where no circle has a place that is free, which takes
        labels that fill a good part of the bounds, it is the one that covers least.

    Raises:
        ValueError: if the clearance is not more than 0.

    Example:
        >>> import numpy as np
        >>> points = np.array([[5.0, 5.0], [5.0, 5.0]])
        >>> sizes = np.full((2, 2), 2.0)
        >>> bounds = np.array([[0.0, 0.0], [20.0, 20.0]])
        >>> places = place_labels(points, sizes, bounds, clearance=1.0)
        >>> bool((abs(places[0] - places[1]) >= 2.0).any())
        True
    """
    if clearance <= 0:
        raise ValueError(f"clearance must be more than 0, got {clearance}")
    taken = [(point - clearance, point + clearance) for point in points]
    places = np.empty_like(points, dtype=float)
    reach = float(np.linalg.norm(bounds[1] - bounds[0]))
    for number, (point, size) in enumerate(zip(points, sizes, strict=True)):
        least = np.inf
        for middle in _around(point, size, clearance, reach):
            box = middle - size / 2, middle + size / 2
            covered = _outside(box, bounds) + sum(
                _shared(box, other) for other in taken
            )
            if covered < least:
                least, places[number] = covered, middle
            if least == 0:
                break
        taken.append((places[number] - size / 2, places[number] + size / 2))
    return places


def _around(
    point: Array, size: Array, clearance: float, reach: float
) -> Iterator[Array]:
    """Middles of a label around a point, from the nearest to those out of reach."""
    angles = np.pi / 4 + 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    ways = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    # Scaled so that the label just touches the point's own clearance, with a hair to
    # spare for rounding.
    touching = (size / 2 + clearance) / np.abs(ways).max(axis=-1, keepdims=True)
    gap = 0.0
    while gap < reach:
        for way, far in zip(ways, touching, strict=True):
            yield point + way * (far * (1 + 1e-6) + gap)
        gap += clearance


def _shared(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """The area that two boxes share."""
    sides = np.minimum(one[1], other[1]) - np.maximum(one[0], other[0])
    return float(np.prod(np.maximum(sides, 0)))


def _outside(box: tuple[Array, Array], bounds: Array) -> float:
    """The area of a box that lies outside of the bounds."""
    whole = float(np.prod(box[1] - box[0]))
    outside = whole - _shared(box, (bounds[0], bounds[1]))
    return outside if outside > 1e-9 * whole else 0.0
