"""Labels of points: none covers another, a point, or what is outside of the bounds."""

import itertools

import numpy as np
import pytest

from jsplit.analysis.label_placement import place_labels

BOUNDS = np.array([[0.0, 0.0], [300.0, 250.0]])
CLEARANCE = 5.0


def gaps(one, other):
    """How far two boxes, `(middle, size)`, are apart along each axis."""
    return np.abs(one[0] - other[0]) - (one[1] + other[1]) / 2


def crowds():
    random = np.random.default_rng(0)
    anywhere = random.uniform(0, BOUNDS[1], (40, 2))
    yield "one place", np.full((25, 2), 120.0)
    yield "a corner", np.full((12, 2), 0.0)
    yield "a line", np.stack([np.linspace(20, 200, 30), np.full(30, 240.0)], axis=-1)
    yield "anywhere", anywhere
    yield "in pairs", np.concatenate([anywhere[:20], anywhere[:20] + 0.5])


@pytest.mark.parametrize("crowd", crowds(), ids=lambda crowd: crowd[0])
def test_no_label_covers_another_or_a_point_or_leaves_the_bounds(crowd):
    points = crowd[1]
    sizes = np.tile([14.0, 10.0], (len(points), 1))
    sizes[::3] = [8.0, 10.0]
    places = place_labels(points, sizes, BOUNDS, CLEARANCE)
    labels = list(zip(places, sizes, strict=True))
    markers = [(point, np.full(2, 2 * CLEARANCE)) for point in points]
    for one, other in itertools.combinations(labels, 2):
        assert gaps(one, other).max() >= -1e-6
    for label, marker in itertools.product(labels, markers):
        assert gaps(label, marker).max() >= -1e-6
    assert (places - sizes / 2 >= BOUNDS[0] - 1e-6).all()
    assert (places + sizes / 2 <= BOUNDS[1] + 1e-6).all()
    again = place_labels(points, sizes, BOUNDS, CLEARANCE)
    np.testing.assert_array_equal(places, again)


def test_a_label_of_a_lone_point_touches_its_clearance():
    point, size = np.array([[100.0, 100.0]]), np.array([[10.0, 8.0]])
    (place,) = place_labels(point, size, BOUNDS, CLEARANCE)
    gap = gaps((place, size[0]), (point[0], np.full(2, 2 * CLEARANCE))).max()
    assert gap == pytest.approx(0, abs=1e-3)


def test_labels_that_cannot_all_fit_are_placed_all_the_same():
    points = np.full((3, 2), 5.0)
    bounds = np.array([[0.0, 0.0], [10.0, 10.0]])
    places = place_labels(points, np.full((3, 2), 9.0), bounds, 1.0)
    assert np.isfinite(places).all()


def test_no_clearance_is_refused():
    with pytest.raises(ValueError, match="clearance must be more than 0, got 0"):
        place_labels(np.zeros((1, 2)), np.ones((1, 2)), BOUNDS, 0)
