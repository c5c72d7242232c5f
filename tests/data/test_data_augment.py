"""Random crops and flips, and what they may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.data import augment, preprocess

# Eager, every operation would be compiled on its own.
fast_augment = jax.jit(augment, static_argnames=("padding", "flip"))


def make(batch: int, size: int, channels: int) -> np.ndarray:
    # No two pixels of an image are equal up to size 9, so a window shows its offset.
    base = np.arange(1, size * size + 1, dtype=np.uint8).reshape(size, size, 1)
    images = np.repeat(np.repeat(base[None], batch, 0), channels, -1)
    return images + np.arange(batch, dtype=np.uint8)[:, None, None, None]


def windows(image: np.ndarray, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    size = image.shape[0]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    found = {}
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            window = padded[row : row + size, column : column + size]
            found[window.tobytes()] = (row, column, False)
            found[window[:, ::-1].tobytes()] = (row, column, True)
    return found


@given(
    seed=st.integers(0, 2**31),
    padding=st.sampled_from([0, 1, 3]),
    flip=st.booleans(),
)
def test_each_result_is_a_window_of_the_padded_image(
    seed: int, padding: int, flip: bool
) -> None:
    images = make(4, 6, 3)
    result = fast_augment(
        jax.random.key(seed), jnp.asarray(images), padding=padding, flip=flip
    )
    assert result.dtype == jnp.uint8 and result.shape == images.shape
    for before, after in zip(images, np.asarray(result), strict=True):
        _, _, mirrored = windows(before, padding)[after.tobytes()]
        assert flip or not mirrored


def test_every_offset_and_both_sides_come_up() -> None:
    images = np.repeat(make(1, 6, 1), 800, 0)
    result = fast_augment(jax.random.key(0), jnp.asarray(images), padding=2, flip=True)
    known = windows(images[0], 2)
    found = [known[after.tobytes()] for after in np.asarray(result)]
    assert set(found) == {
        (row, column, side)
        for row in range(5)
        for column in range(5)
        for side in (False, True)
    }
    # 4 standard deviations of a fair coin.
    assert abs(sum(side for _, _, side in found) - 400) < 4 * 200**0.5


def test_an_image_depends_on_its_place_not_on_the_batch() -> None:
    key = jax.random.key(3)
    images = jnp.asarray(make(8, 6, 3))
    whole = fast_augment(key, images, padding=2, flip=True)
    part = fast_augment(key, images[:5], padding=2, flip=True)
    np.testing.assert_array_equal(whole[:5], part)
    others = images.at[1:].set(0)
    np.testing.assert_array_equal(
        fast_augment(key, others, padding=2, flip=True)[0], whole[0]
    )


def test_one_key_gives_one_result_with_and_without_jit() -> None:
    images = jnp.asarray(make(16, 6, 1))
    first = augment(jax.random.key(0), images, padding=2, flip=True)
    np.testing.assert_array_equal(
        first, fast_augment(jax.random.key(0), images, padding=2, flip=True)
    )
    other = fast_augment(jax.random.key(1), images, padding=2, flip=True)
    assert not np.array_equal(first, other)


def test_no_padding_and_no_flip_is_the_identity() -> None:
    images = jnp.asarray(make(3, 6, 3))
    result = augment(jax.random.key(0), images, padding=0, flip=False)
    np.testing.assert_array_equal(result, images)


def test_wrong_arguments_are_refused() -> None:
    images = jnp.asarray(make(1, 6, 1))
    with pytest.raises(ValueError, match="padding must be 0 or more, got -1"):
        augment(jax.random.key(0), images, padding=-1, flip=False)
    with pytest.raises(TypeError, match="typed key"):
        augment(jax.random.PRNGKey(0), images, padding=1, flip=False)


def test_preprocess_is_the_formula() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    result = jax.jit(preprocess)(jnp.asarray(images), mean, std)
    assert result.dtype == jnp.float32
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("images", [make(2, 4, 1)[0], make(2, 4, 1) / 255])
def test_images_of_another_shape_or_dtype_are_refused_by_name(
    images: np.ndarray,
) -> None:
    with pytest.raises(AssertionError, match="rank 3|expected uint8"):
        augment(jax.random.key(0), jnp.asarray(images), padding=1, flip=True)
    with pytest.raises(AssertionError, match="rank 3|expected uint8"):
        preprocess(jnp.asarray(images), (0.5,), (0.5,))


def test_moments_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(AssertionError, match="dimension equal to '1'"):
        preprocess(jnp.asarray(make(2, 4, 3)), (0.5,), (0.5, 0.5, 0.5))
