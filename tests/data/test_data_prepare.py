"""Sizes, channels, subsets and the statistics of training images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.data import Dataset, load, normalization, prepare_images
from jsplit.data.dataset import make_dataset
from jsplit.data.prepare import balanced_subset
from jsplit.errors import InputError


def make(height: int, width: int, channels: int, train: int = 30) -> Dataset:
    rng = np.random.default_rng(0)
    return make_dataset(
        "made",
        (
            rng.integers(0, 256, (train, height, width, channels), np.uint8),
            rng.integers(0, 3, train),
            rng.integers(0, 256, (7, height, width, channels), np.uint8),
            rng.integers(0, 3, 7),
        ),
        num_classes=3,
        source="made for a test",
    )


def prepare(
    dataset: Dataset,
    image_size: int | None = None,
    channels: int | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
) -> Dataset:
    return prepare_images(
        dataset,
        image_size=image_size,
        channels=channels,
        train_examples=train_examples,
        test_examples=test_examples,
    )


def test_nothing_asked_is_nothing_done() -> None:
    dataset = make(8, 5, 3)
    assert prepare(dataset) is dataset
    square = make(8, 8, 3)
    assert prepare(square, 8, 3, 30, 7) is square


def test_the_embedded_part_becomes_a_stand_in_for_cifar10() -> None:
    dataset = load("fashion_mnist_10k")
    fitted = prepare(dataset, 32, 3)
    assert fitted.train_images.shape == (10_000, 32, 32, 3)
    assert fitted.test_images.shape == (2_000, 32, 32, 3)
    inner = fitted.train_images[:, 2:30, 2:30]
    np.testing.assert_array_equal(inner, dataset.train_images.repeat(3, -1))
    assert fitted.train_images.sum(dtype=np.int64) == inner.sum(dtype=np.int64)
    assert fitted.fingerprint != dataset.fingerprint
    assert "padded 28 -> 32; 3 equal channels" in fitted.source
    assert fitted.name == dataset.name


def test_an_odd_row_of_padding_goes_below_and_to_the_right() -> None:
    dataset = make(4, 4, 1)
    fitted = prepare(dataset, 7)
    np.testing.assert_array_equal(fitted.test_images[:, 1:5, 1:5], dataset.test_images)


@pytest.mark.parametrize("channels", [1, 3])
def test_halving_is_the_mean_of_four_pixels(channels: int) -> None:
    dataset = make(8, 8, channels)
    blocks = dataset.train_images.reshape(30, 4, 2, 4, 2, channels).astype(int)
    expected = (blocks.sum((2, 4)) + 2) // 4
    np.testing.assert_array_equal(prepare(dataset, 4).train_images, expected)


@given(old=st.integers(5, 24), new=st.integers(4, 23))
def test_averaging_is_the_block_mean_of_the_image_blown_up(old: int, new: int) -> None:
    new = min(new, old - 1)
    dataset = make(old, old, 2, train=3)
    blown = dataset.train_images.repeat(new, 1).repeat(new, 2).astype(np.int64)
    sums = blown.reshape(3, new, old, new, old, 2).sum((2, 4))
    np.testing.assert_array_equal(
        prepare(dataset, new).train_images, (sums + old**2 // 2) // old**2
    )


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    share=st.floats(0, 1),
)
def test_a_subset_is_balanced_sorted_and_takes_the_first_of_each_class(
    labels: list[int], share: float
) -> None:
    array = np.array(labels, np.int32)
    kept = balanced_subset(array, max(1, round(share * len(labels))))
    assert len(kept) == max(1, round(share * len(labels)))
    assert (np.diff(kept) > 0).all()
    counts = np.bincount(array[kept], minlength=6)
    available = np.bincount(array, minlength=6)
    for label in range(6):
        of_class = np.flatnonzero(array == label)
        np.testing.assert_array_equal(
            kept[array[kept] == label], of_class[: counts[label]]
        )
        # No class is short of another unless it has no more to give.
        assert counts[label] == available[label] or counts.max() <= counts[label] + 1


def test_a_subset_of_a_dataset_keeps_pixels_with_labels() -> None:
    dataset = make(8, 8, 1)
    fitted = prepare(dataset, train_examples=9, test_examples=2)
    kept = balanced_subset(dataset.train_labels, 9)
    np.testing.assert_array_equal(fitted.train_images, dataset.train_images[kept])
    np.testing.assert_array_equal(fitted.train_labels, dataset.train_labels[kept])
    np.testing.assert_array_equal(np.bincount(fitted.train_labels), [3, 3, 3])
    assert len(fitted.test_images) == len(fitted.test_labels) == 2
    assert fitted.num_classes == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image_size": 3}, "image_size is 3; give 4 or more"),
        ({"train_examples": 0}, "train_examples is 0; give 1 .. 30"),
        ({"train_examples": 31}, "train_examples is 31; give 1 .. 30"),
        ({"test_examples": -1}, "test_examples is -1; give 1 .. 7"),
        ({"channels": 1}, "channels is 1 and made has 3"),
        ({"channels": 0}, "channels is 0 and made has 3"),
    ],
)
def test_a_size_that_cannot_be_had(asked: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(make(8, 8, 3), **asked)


def test_images_that_are_not_square_keep_their_size_or_are_refused() -> None:
    dataset = make(8, 5, 1)
    assert prepare(dataset, channels=3).image_shape == (8, 5, 3)
    with pytest.raises(InputError, match="has 8x5; leave image_size unset"):
        prepare(dataset, 8)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    channels=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_normalization_is_the_mean_and_deviation_of_each_channel(
    shape: tuple[int, int, int], channels: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (*shape, channels), np.uint8)
    mean, std = normalization(images)
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    expected = np.maximum(pixels.std((0, 1, 2)), 1 / 255)
    np.testing.assert_allclose(std, expected, rtol=1e-6)
    assert all(type(value) is float for value in (*mean, *std))


def test_normalization_counts_every_chunk() -> None:
    images = load("fashion_mnist_10k").train_images
    mean, std = normalization(images)
    np.testing.assert_allclose(mean, [(images / 255).mean()], rtol=1e-6)
    np.testing.assert_allclose(std, [(images / 255).std()], rtol=1e-6)
    assert normalization(images[::-1]) == (mean, std)


def test_a_constant_channel_has_a_deviation_to_divide_by() -> None:
    images = np.full((4, 2, 2, 1), 200, np.uint8)
    assert normalization(images) == (
        (float(np.float32(200 / 255)),),
        (float(np.float32(1 / 255)),),
    )
