"""What every source of data gives: images, labels and where they came from."""

import dataclasses
import functools
import hashlib

import numpy as np

from jsplit.data.channel_moments import Moments, normalization

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images and labels, test images and labels, in this order."""

_FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, whole in memory.

    Compare two by `fingerprint`: `==` on arrays would not give a truth value, so the
    dataclass compares by identity.

    Attributes:
        name: What the dataset is called in a report.
        train_images: uint8 [N, H, W, C].
        train_labels: int32 [N], each in 0 .. num_classes - 1.
        test_images: uint8 [M, H, W, C].
        test_labels: int32 [M].
        num_classes: Number of classes.
        source: Where the arrays came from and what was done to them, for people.
        fingerprint: sha256 (hex) over names, shapes, dtypes and bytes of the arrays;
            equal arrays have equal fingerprints, whatever source they came from.
        class_names: What each class is called, in the order of labels; None where the
            source does not say.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    source: str
    fingerprint: str
    class_names: tuple[str, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        _, height, width, channels = self.train_images.shape
        return height, width, channels

    @functools.cached_property
    def moments(self) -> Moments:
        """Mean and standard deviation of each channel of the training images."""
        return normalization(self.train_images)


def line_of(dataset: Dataset) -> str:
    """What a dataset is, in one line for people: shape, classes and examples.

    Example:
        >>> images, labels = np.zeros((1200, 8, 8), np.uint8), np.arange(1200) % 3
        >>> arrays = images, labels, images[:30], labels[:30]
        >>> print(line_of(make_dataset("mine", arrays, num_classes=3, source="")))
        data: mine, 8x8x1, 3 classes, 1,200 train + 30 test examples
    """
    shape = "x".join(map(str, dataset.image_shape))
    classes = dataset.num_classes
    return (
        f"data: {dataset.name}, {shape}, {classes} class{'es' * (classes != 1)}, "
        f"{len(dataset.train_labels):,} train + {len(dataset.test_labels):,} test "
        "examples"
    )


def arrays_of(dataset: Dataset) -> Arrays:
    """Returns the four arrays in the order that `make_dataset` takes."""
    return (
        dataset.train_images,
        dataset.train_labels,
        dataset.test_images,
        dataset.test_labels,
    )


def make_dataset(
    name: str,
    arrays: Arrays,
    *,
    num_classes: int,
    source: str,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """Builds a `Dataset` from arrays that are already known to be good.

    Args:
        name: What the dataset is called.
        arrays: Images uint8 [N, H, W] (taken as one channel) or [N, H, W, C], labels of
            any integer dtype.
        num_classes: Number of classes.
        source: Where the arrays came from.
        class_names: As many as there are classes, or None.

    Returns:
        The dataset, with contiguous arrays in its own dtypes and its fingerprint.
    """
    train_images, train_labels, test_images, test_labels = arrays
    final = (
        _as_images(train_images),
        np.ascontiguousarray(train_labels, dtype=np.int32),
        _as_images(test_images),
        np.ascontiguousarray(test_labels, dtype=np.int32),
    )
    return Dataset(
        name,
        *final,
        num_classes=num_classes,
        source=source,
        fingerprint=fingerprint_of(final),
        class_names=class_names,
    )


def _as_images(images: np.ndarray) -> np.ndarray:
    """Adds the channel axis to gray images [N, H, W]."""
    return np.ascontiguousarray(images if images.ndim == 4 else images[..., None])


def fingerprint_of(arrays: Arrays) -> str:
    """The sha256 (hex) that `Dataset.fingerprint` is, of contiguous arrays."""
    # 0.12 s for the 184 MB of CIFAR-10 where the processor has SHA instructions.
    digest = hashlib.sha256()
    for name, array in zip(_FIELDS, arrays, strict=True):
        # Little-endian whatever the machine, so that fingerprints can be compared.
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.shape} {array.dtype.name}\n".encode())
        digest.update(little.data)
    return digest.hexdigest()
