"""The attacks and measures of privacy do what they say, on made-up images."""

import dcor
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.analysis.privacy import dependence, inversion
from jsplit.analysis.privacy.view import View
from tests.tiers import sample

pytestmark = pytest.mark.usefixtures("usual_promotion")


def images_like(count, seed=0):
    """Smooth pictures, each of four numbers: `[n, 8, 8, 1]`, pixels from 0 to 1."""
    corners = np.random.default_rng(seed).random((count, 2, 2, 1), np.float32)
    return np.asarray(jax.image.resize(corners, (count, 8, 8, 1), "linear"))


def view_of(images, smashed):
    return View(images, all_of(images), smashed, np.zeros(len(images), np.int32), [])


def all_of(images):
    return np.ones(images.shape[:3], bool)


def score_of(images, guesses):
    return inversion.score(images, guesses, all_of(images))


@pytest.mark.slow
@pytest.mark.parametrize("loudness", [0, 1000])
def test_the_attack_reconstructs_what_hides_nothing_and_no_more_than_a_mean_of_noise(
    loudness,
):
    images, others = images_like(512), images_like(64, seed=1)
    mix = np.random.default_rng(2).normal(size=(64, 4, 4, 4)).astype(np.float32)
    random = np.random.default_rng(4)

    def hidden(images):
        told = np.tensordot(images.reshape(len(images), -1), mix, 1)
        # Beside a channel that is all noise, however much larger than the others.
        noise = loudness * random.normal(size=(*told.shape[:3], 1))
        return np.concatenate([told, noise.astype(np.float32)], axis=-1)

    guesses = inversion.reconstruct(view_of(images, hidden(images)), hidden(others), 0)
    blind = np.broadcast_to(images.mean(axis=0), others.shape)
    attacked, floor = score_of(others, guesses), score_of(others, blind)
    assert attacked.mse < floor.mse / 20 and attacked.psnr > floor.psnr + 13
    assert attacked.ssim > 0.9 > floor.ssim
    noise = np.random.default_rng(3).normal(size=(576, 4, 4, 4)).astype(np.float32)
    guesses = inversion.reconstruct(view_of(images, noise[:512]), noise[512:], 0)
    assert score_of(others, guesses).mse > 0.9 * floor.mse


SHAPES = {
    "half": ((32, 32, 3), (16, 16, 8)),
    "a quarter": ((32, 32, 3), (8, 8, 8)),
    "as large": ((8, 8, 1), (8, 8, 4)),
    "larger": ((14, 14, 1), (28, 28, 4)),
    "odd": ((31, 31, 3), (15, 15, 8)),
    "odd, twice pooled": ((50, 50, 3), (12, 12, 8)),
    "halved in one direction": ((32, 32, 3), (8, 32, 4)),
    "no places": ((8, 8, 1), (10,)),
    "few places": ((8, 8, 1), (3, 3, 4)),
}


@pytest.mark.parametrize("case", sample(SHAPES, "half", "odd"))
def test_a_guess_has_the_shape_of_an_image_whatever_crosses(case):
    image, smashed = SHAPES[case]
    decoder = inversion.Decoder(image)
    guess, _ = jax.eval_shape(
        decoder.init_with_output, jax.random.key(0), np.zeros((2, *smashed), np.float32)
    )
    assert guess.shape == (2, *image)


@pytest.mark.parametrize(
    ("places", "pixels"),
    [
        ((30, 30), (31, 31)),
        ((15, 15), (31, 31)),
        ((48, 48), (50, 50)),
        ((16, 31), (31, 31)),
    ],
)
def test_the_pixels_of_a_place_are_where_the_place_is(places, pixels):
    middles = [(np.arange(count) + 0.5) / count for count in (*places, *pixels)]
    down, across, *expected = middles
    each = [-(-whole // part) for whole, part in zip(pixels, places, strict=True)]
    for axis, (at, found) in enumerate(zip((down, across), expected, strict=True)):
        x = np.expand_dims(at, 1 - axis) * np.ones(places)
        x = np.broadcast_to(x[None, ..., None], (1, *places, int(np.prod(each))))
        image = inversion.pixels_of(jnp.asarray(x), pixels)[0, ..., 0]
        along = np.asarray(image).mean(axis=1 - axis)
        np.testing.assert_allclose(along, found, atol=1 / min(places))


@pytest.mark.slow
def test_the_attack_tells_from_edges_far_away_how_bright_an_area_is():
    # Halves of two brightnesses: the one edge between them is all that is seen.
    def halves(count, seed):
        levels = np.random.default_rng(seed).random((count, 2), np.float32)
        images = np.repeat(levels, 16, axis=1)[:, None, :, None]
        return np.broadcast_to(images, (count, 32, 32, 1)).copy()

    def edges(images):
        across = np.diff(images, axis=2, append=images[:, :, -1:])
        values = np.concatenate([across, -across], axis=-1).clip(0)
        return values.reshape(len(images), 16, 2, 16, 2, 2).max(axis=(2, 4))

    images, others = halves(512, 0), halves(64, 1)
    guesses = inversion.reconstruct(view_of(images, edges(images)), edges(others), 0)
    difference = others[:, :, -1] - others[:, :, 0]
    guessed = guesses[:, :, -1] - guesses[:, :, 0]
    # At the outermost columns, sixteen pixels from the edge.
    assert np.abs(guessed - difference).mean() < 0.2 * np.abs(difference).mean()


def test_equal_images_have_the_best_score():
    images = images_like(3)
    assert score_of(images, images)._replace(psnr=0) == (0, 0, 1)
    worse = score_of(images, np.clip(images + 0.1, 0, 1))
    assert 0.004 < worse.mse <= 0.01 and 20 <= worse.psnr < 24


def test_only_pixels_of_the_image_itself_are_scored():
    images, inside = images_like(3), np.zeros((3, 8, 8), bool)
    inside[0, 1:, :7] = inside[1, :, 1:] = inside[2] = True
    black = images * inside[..., None]
    noise = np.random.default_rng(1).random(images.shape, np.float32)
    guesses = np.where(inside[..., None], black, noise)
    assert inversion.score(black, guesses, inside)._replace(psnr=0) == (0, 0, 1)
    assert score_of(black, guesses).mse > 0.01
    # A guess is as good or bad as on the part alone.
    worse = inversion.score(black[:1], noise[:1], inside[:1])
    assert worse == score_of(images[:1, 1:, :7], noise[:1, 1:, :7])


def test_information_is_none_of_strangers_and_all_of_equals():
    known, sent = images_like(600), images_like(200, seed=1)
    strangers = view_of(known, images_like(600, 2)), view_of(sent, images_like(200, 3))
    nothing = dependence.information(*strangers, 0)
    equals = view_of(known, known), view_of(sent, sent)
    everything = dependence.information(*equals, 0)
    assert everything.ceiling == pytest.approx(np.log2(200))
    assert 0 <= nothing.bits < 0.1 and 5 < everything.bits <= everything.ceiling


def test_correlation_is_that_of_the_first_thousand_beside_shuffled_ones():
    images, others = images_like(1100), images_like(1100, seed=1)
    same = dependence.correlation(images, images, 0)
    assert same.value == pytest.approx(1) and same.shuffled < 0.3
    flat = (array[:1000].reshape(1000, -1) for array in (images, others))
    expected = dcor.distance_correlation(
        *(values.astype(np.float64) for values in flat)
    )
    assert dependence.correlation(images, others, 0).value == pytest.approx(expected)
