"""Fits a dataset to a model and a budget: image size, channels, number of examples."""

import math

import numpy as np

from jsplit.data.dataset import Dataset, make_dataset
from jsplit.errors import InputError

_CHUNK = 1024
LEAST_SIZE = 4
"""Of an image's edge that can be asked for, in pixels: two poolings leave one."""


def prepare_images(
    dataset: Dataset,
    *,
    image_size: int | None,
    channels: int | None,
    train_examples: int | None,
    test_examples: int | None,
) -> Dataset:
    """Returns the dataset with the asked sizes; None leaves a size as it is.

    Smaller images are padded with zeros, centred (the odd row or column goes below and
    to the right), so that no pixel is invented. Larger ones are averaged over areas,
    exactly and rounded once. A library's filters would look a little sharper, but their
    rounding differs between versions, and fingerprints should not.

    Args:
        dataset: What to start from.
        image_size: Height and width wanted, at least 4; the images must be square.
        channels: Channels wanted; gray images are repeated.
        train_examples: How many training examples to keep; see `balanced_subset`.
        test_examples: How many test examples to keep.

    Raises:
        InputError: A size that cannot be had.
    """
    height, width, depth = dataset.image_shape
    notes: list[str] = []
    keep_train = _subset("train", dataset.train_labels, train_examples, notes)
    keep_test = _subset("test", dataset.test_labels, test_examples, notes)
    if image_size is not None:
        if image_size < LEAST_SIZE:
            raise InputError(f"image_size is {image_size}; give {LEAST_SIZE} or more")
        if height != width:
            raise InputError(
                f"image_size {image_size} needs square images and {dataset.name} has "
                f"{height}x{width}; leave image_size unset or square the images"
            )
        if image_size != height:
            verb = "padded" if image_size > height else "averaged"
            notes.append(f"{verb} {height} -> {image_size}")
    if channels is not None and channels != depth:
        if depth != 1 or channels < 1:
            raise InputError(
                f"channels is {channels} and {dataset.name} has {depth}; only gray "
                f"images can be repeated, so give {depth if depth > 1 else '1 or more'}"
            )
        notes.append(f"{channels} equal channels")
    if not notes:
        return dataset

    def fit(images: np.ndarray) -> np.ndarray:
        if image_size is not None:
            images = resized(images, image_size, image_size)
        return np.repeat(images, (channels or depth) // depth, axis=-1)

    return make_dataset(
        dataset.name,
        (
            fit(dataset.train_images[keep_train]),
            dataset.train_labels[keep_train],
            fit(dataset.test_images[keep_test]),
            dataset.test_labels[keep_test],
        ),
        num_classes=dataset.num_classes,
        source="; ".join([dataset.source, *notes]),
        class_names=dataset.class_names,
    )


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Images of another size: averaged where that is smaller, padded where larger.

    What has other proportions is cut first, to its largest centred part that has them.
    Images that are larger in one way and smaller in the other are only padded and cut.

    Args:
        images: uint8 [N, H, W, C].
        height: wanted, at least 1.
        width: likewise.

    Returns:
        uint8 [N, height, width, C]; the images themselves where they have that size.

    Example:
        >>> resized(np.full((1, 6, 4, 3), 9, np.uint8), 2, 2).shape
        (1, 2, 2, 3)
        >>> resized(np.full((1, 1, 1, 1), 9, np.uint8), 1, 3).tolist()
        [[[[0], [9], [0]]]]
    """
    old = images.shape[1:3]
    if old[0] >= height and old[1] >= width:
        # The largest part of the wanted proportions.
        part = min(old[0] / height, old[1] / width)
        kept = round(height * part), round(width * part)
        images = _cut(images, kept)
        return (
            images
            if kept == (height, width)
            else _area_average(images, (height, width))
        )
    images = _cut(images, (min(old[0], height), min(old[1], width)))
    return _pad(images, (height, width))


def _cut(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left = ((images.shape[1 + i] - size[i]) // 2 for i in range(2))
    return images[:, top : top + size[0], left : left + size[1]]


def balanced_subset(labels: np.ndarray, examples: int) -> np.ndarray:
    """Returns which examples to keep: the first of each class, class by class in turn.

    Args:
        labels: Integers [N].
        examples: How many to keep, at most N.

    Returns:
        Sorted indices int64 [examples]. Where every class has enough examples, the
        counts of two classes differ by at most one.
    """
    by_class = np.argsort(labels, kind="stable")
    sorted_labels = labels[by_class]
    starts = np.searchsorted(sorted_labels, sorted_labels)
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - starts
    return np.sort(np.lexsort((labels, turn))[:examples])


def _subset(
    split: str, labels: np.ndarray, examples: int | None, notes: list[str]
) -> np.ndarray | slice:
    if examples is None or examples == len(labels):
        return slice(None)
    if not 1 <= examples <= len(labels):
        raise InputError(
            f"{split}_examples is {examples}; give 1 .. {len(labels)}, which is all"
        )
    notes.append(f"first {examples} {split} examples, class by class in turn")
    return balanced_subset(labels, examples)


def _pad(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    sides = [
        (missing // 2, missing - missing // 2)
        for missing in (size[0] - images.shape[1], size[1] - images.shape[2])
    ]
    return np.pad(images, ((0, 0), *sides, (0, 0)))


def _area_average(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    old = images.shape[1:3]
    down, across = (_overlaps(*pair) for pair in zip(old, size, strict=True))
    area = math.prod(old)
    result = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.float64).transpose(0, 3, 1, 2)
        sums = down @ chunk @ across.T
        rounded = (sums.astype(np.int64) + area // 2) // area
        result[start : start + _CHUNK] = rounded.transpose(0, 2, 3, 1)
    return result


def _overlaps(old: int, new: int) -> np.ndarray:
    """How much of each old pixel is in each new one, `[new, old]`, in 1 / new pixels.

    In these units old pixel i spans [i * new, (i + 1) * new] and new pixel j spans
    [j * old, (j + 1) * old]. Integer weights keep every product and sum exact in
    float64, whatever order the matrix product adds in.
    """
    i, j = np.arange(old), np.arange(new)[:, None]
    overlap = np.minimum((i + 1) * new, (j + 1) * old) - np.maximum(i * new, j * old)
    return np.maximum(overlap, 0).astype(np.float64)
