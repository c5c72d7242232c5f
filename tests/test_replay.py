"""What the server does to stored maps before it learns from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.core.map_moves import cutout, mirror, shift
from jsplit.core.mixup import mixup
from jsplit.core.replay import AS_RECEIVED, Mixture, Replay, chain, losses
from jsplit.errors import InputError

KEY = jax.random.key(7)


def maps(seed=0, shape=(12, 5, 6, 2)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(seed=st.integers(0, 1000), cells=st.integers(1, 3))
def test_a_shift_moves_each_map_by_whole_cells_and_fills_with_its_border(seed, cells):
    x = maps(seed)
    moved, mixture = shift(cells).apply(jax.random.key(seed), jnp.asarray(x), None)
    assert mixture is None
    span = range(-cells, cells + 1)
    rows, columns = np.arange(x.shape[1]), np.arange(x.shape[2])
    for one, found in zip(x, np.asarray(moved), strict=True):
        assert any(
            np.array_equal(
                found,
                one[np.clip(rows + down, 0, 4)][:, np.clip(columns + right, 0, 5)],
            )
            for down in span
            for right in span
        )


def test_all_moves_of_a_shift_are_as_likely():
    x = jnp.broadcast_to(jnp.arange(9.0)[None, :, None], (3000, 9, 1))
    moved, _ = shift(2).apply(KEY, x, None)
    counts = np.bincount(np.asarray(moved)[:, 4, 0].astype(int), minlength=9)
    np.testing.assert_array_equal(np.flatnonzero(counts), [2, 3, 4, 5, 6])
    np.testing.assert_allclose(counts[2:7] / 3000, 0.2, atol=0.03)


def test_half_of_the_maps_are_mirrored():
    x = maps(shape=(2000, 1, 4, 1))
    found = np.asarray(mirror().apply(KEY, jnp.asarray(x), None)[0])
    kept = (found == x).all(axis=(1, 2, 3))
    turned = (found == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ turned).all()
    np.testing.assert_allclose(turned.mean(), 0.5, atol=0.05)


def test_channels_are_exchanged_in_mirrored_maps_alone():
    x = maps(shape=(50, 2, 4, 3))
    places = [1, 0, 2]
    found = np.asarray(mirror(places).apply(KEY, jnp.asarray(x), None)[0])
    kept = (found == x).all(axis=(1, 2, 3))
    turned = (found == x[:, :, ::-1][..., places]).all(axis=(1, 2, 3))
    assert (kept ^ turned).all() and kept.any() and turned.any()


def test_places_for_other_channels_than_there_are_are_refused():
    with pytest.raises(ValueError, match="places for 2 channels, and maps have 3"):
        mirror([1, 0]).check((2, 4, 3))


@pytest.mark.parametrize("places", [[0, 0], [1, 2], [-1, 0]])
def test_places_that_are_no_order_of_the_channels_are_refused(places):
    with pytest.raises(ValueError, match="places must be 0 to 1 in some order, got"):
        mirror(places)


@given(seed=st.integers(0, 1000), cells=st.integers(1, 4))
def test_a_cutout_blanks_one_square_and_nothing_else(seed, cells):
    x = maps(seed, (8, 6, 7, 2)) + 10  # never 0
    found = np.asarray(
        cutout(cells).apply(jax.random.key(seed), jnp.asarray(x), None)[0]
    )
    for one, made in zip(x, found, strict=True):
        blank = (made == 0).all(axis=-1)
        np.testing.assert_array_equal(made[~blank], one[~blank])
        rows, columns = blank.any(axis=1), blank.any(axis=0)
        np.testing.assert_array_equal(blank, rows[:, None] & columns)
        for side in (rows, columns):
            (where,) = np.nonzero(side)
            assert 1 <= len(where) <= cells and np.ptp(where) == len(where) - 1


@pytest.mark.parametrize("replay", [shift(2), mirror(), cutout(3)])
def test_what_becomes_of_a_map_does_not_depend_on_the_others(replay):
    x = jnp.asarray(maps())
    whole, _ = jax.jit(replay.apply)(KEY, x, None)
    some, _ = replay.apply(KEY, x[:5], None)
    np.testing.assert_array_equal(whole[:5], some)
    later, _ = replay.apply(jax.random.key(8), x, None)
    assert not np.array_equal(whole, later)


@pytest.mark.parametrize(
    ("replay", "shape", "words"),
    [
        (shift(2), (512,), r"shift 2 needs maps .*, got \(512,\)"),
        (shift(2), (2, 8, 4), r"shift 2 needs maps of more than 2 cells"),
        (mirror(), (512,), r"mirror needs maps .*, got \(512,\)"),
        (mirror(), (2, 1, 3), r"mirror needs maps of more than 1 cell in width"),
        (cutout(1), (128, 3), r"cutout needs maps .*, got \(128, 3\)"),
        (cutout(8), (16, 8, 4), r"cutout 8 needs maps of more than 8 cells"),
        (chain(mixup(1.0), mirror()), (512,), "mirror needs maps"),
    ],
)
def test_a_replay_that_means_nothing_for_the_cut_is_refused(replay, shape, words):
    with pytest.raises(InputError, match=words):
        replay.check(shape)


def test_replays_that_mean_something_for_the_cut_are_taken():
    for replay, shape in ((shift(2), (40, 8)), (mirror(), (1, 2, 3)), (mixup(1), (9,))):
        replay.check(shape)
    mirror([1, 0]).check((2, 1, 2))  # Its channels change places.
    AS_RECEIVED.check((9,))


@pytest.mark.parametrize("make", [shift, cutout])
def test_a_replay_of_no_cells_is_refused(make):
    with pytest.raises(InputError, match="at least 1 cell, got 0"):
        make(0)


@pytest.mark.parametrize("make", [shift, cutout])
def test_a_replay_of_a_fraction_of_a_cell_is_refused(make):
    with pytest.raises(ValueError, match=r"cells must be a whole number, got 1.5"):
        make(1.5)


def test_a_chain_does_one_after_another_each_with_a_key_of_its_own():
    replays = shift(1), mirror()
    x = jnp.asarray(maps())
    expected = x
    for number, replay in enumerate(replays):
        expected, _ = replay.apply(jax.random.fold_in(KEY, number), expected, None)
    made, mixture = chain(*replays).apply(KEY, x, None)
    np.testing.assert_array_equal(made, expected)
    assert mixture is None
    assert chain(replays[0]) is replays[0] and chain() is AS_RECEIVED


def test_the_labels_of_mixtures_of_mixtures_are_those_of_all_their_examples():
    def halves(step):
        """Each row with half of the row so many after it."""

        def apply(key, x, rows):
            own = jnp.arange(len(x))
            sources = jnp.stack([own, (own + step) % len(x)], axis=1)
            return x[sources].mean(axis=1), Mixture(
                sources, jnp.full(sources.shape, 0.5)
            )

        return Replay(apply)

    x = jnp.eye(5)
    made, mixture = chain(halves(1), halves(2)).apply(KEY, x, None)
    # Losses that are linear in the labels are those of the mixed labels.
    values = 0.1 * np.arange(5, dtype=np.float32)
    found = losses(lambda labels: jnp.asarray(values)[labels], jnp.arange(5), mixture)
    np.testing.assert_allclose(found, np.asarray(made) @ values, rtol=1e-6)
    np.testing.assert_allclose(mixture.shares.sum(axis=1), 1)
