"""CIFAR-10 (Krizhevsky 2009), from the first place that has it.

In this order: the cache, a folder prepared by TFDS, an archive supplied by hand, the
network. Each gives the same arrays, in the order of the original files. What is there
but broken is an error and never passed over.
"""

import dataclasses
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jsplit.data.cache import read_cache, write_cache
from jsplit.data.dataset import Arrays, Dataset, make_dataset
from jsplit.data.download import check_reachable, download
from jsplit.data.files import one_line, sha256_of
from jsplit.data.prepared import find_prepared, prepared_key, read_prepared
from jsplit.errors import InputError

NAME = "cifar10"
ARCHIVE_VARIABLE = "JSPLIT_CIFAR10_ARCHIVE"
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_BYTES = 170_052_171
# The checksum that TFDS pins, too.
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
TRAIN_EXAMPLES = 50_000
TEST_EXAMPLES = 10_000

_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_TRAIN_MEMBERS = tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6))
_TEST_MEMBER = "cifar-10-batches-bin/test_batch.bin"


def load_cifar10(
    data_dir: Path, cache_dir: Path, notify: Callable[[str], None]
) -> Dataset:
    """Loads CIFAR-10: train [50000, 32, 32, 3], test [10000, 32, 32, 3].

    Args:
        data_dir: Where TFDS keeps its data and where a download goes.
        cache_dir: Where the decoded arrays are kept.
        notify: Takes one line when a download starts or the cache cannot be written.

    Raises:
        InputError: No source has it (within about 10 s), or the source is broken.
    """
    archive_key = f"archive:{ARCHIVE_SHA256}"
    folder = find_prepared(data_dir, NAME)
    folder_key = prepared_key(folder) if folder else archive_key
    cached = read_cache(cache_dir, NAME, {archive_key, folder_key})
    if cached is not None:
        return dataclasses.replace(cached, class_names=_CLASSES)
    if folder is not None:
        key, source = folder_key, f"folder prepared by TFDS {folder}"
        arrays = read_prepared(folder)
    else:
        archive = _find_archive(data_dir) or _fetch_archive(data_dir, notify)
        key, source = archive_key, f"archive {archive}, sha256 checked"
        arrays = read_archive(archive)
    _check_complete(arrays, source)
    dataset = make_dataset(
        NAME,
        arrays,
        num_classes=len(_CLASSES),
        source=f"CIFAR-10, {source}",
        class_names=_CLASSES,
    )
    write_cache(cache_dir, dataset, key, notify)
    return dataset


def read_archive(path: Path) -> Arrays:
    """Parses `cifar-10-binary.tar.gz`; nothing is unpacked to disk.

    Raises:
        InputError: The file cannot be read, or is not the published one.
    """
    try:
        size, found = path.stat().st_size, sha256_of(path)
        if found != ARCHIVE_SHA256:
            raise InputError(
                f"the CIFAR-10 archive {path} has {size} bytes and sha256 {found}, "
                f"expected {ARCHIVE_BYTES} bytes and {ARCHIVE_SHA256}; "
                f"remove it or fetch it again from {ARCHIVE_URL}"
            )
        with tarfile.open(path, "r:gz") as tar:
            blobs = [
                _read_member(tar, member) for member in (*_TRAIN_MEMBERS, _TEST_MEMBER)
            ]
    except OSError as error:
        raise InputError(
            f"the CIFAR-10 archive {path} cannot be read ({one_line(error)}); "
            "check its path and its permissions"
        ) from error
    return *_parse(b"".join(blobs[:-1])), *_parse(blobs[-1])


def _read_member(tar: tarfile.TarFile, member: str) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, f"{member} is a file in the archive with this checksum"
    return file.read()


def _parse(blob: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows of one label byte and three 32x32 planes: red, green, blue."""
    rows = np.frombuffer(blob, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, rows[:, 0]


def _find_archive(data_dir: Path) -> Path | None:
    named = os.environ.get(ARCHIVE_VARIABLE)
    if named:
        # Asked for by name, so a wrong path must not lead to another source.
        path = Path(named).expanduser()
        if not path.is_file():
            raise InputError(
                f"${ARCHIVE_VARIABLE} names {named!r}, which is not a file; "
                "correct or unset it"
            )
        return path
    for path in (data_dir / ARCHIVE, _manual_path(data_dir)):
        if path.is_file():
            return path
    return None


def _fetch_archive(data_dir: Path, notify: Callable[[str], None]) -> Path:
    path = _manual_path(data_dir)
    try:
        check_reachable(ARCHIVE_URL)
        notify(f"downloading CIFAR-10, {ARCHIVE_BYTES / 2**20:.0f} MiB, to {path}")
        download(ARCHIVE_URL, path, sha256=ARCHIVE_SHA256, size=ARCHIVE_BYTES)
    except OSError as error:
        raise InputError(
            f"dataset {NAME} is neither cached, nor prepared by TFDS, nor supplied as "
            f"an archive in {data_dir}, and cannot be downloaded ({error}); "
            f"put {ARCHIVE} (sha256 {ARCHIVE_SHA256}) at {path} or use the dataset "
            "fashion_mnist_10k, which needs no network"
        ) from error
    return path


def _manual_path(data_dir: Path) -> Path:
    """Where TFDS itself looks for what a user supplies by hand."""
    return data_dir / "downloads" / "manual" / ARCHIVE


def _check_complete(arrays: Arrays, source: str) -> None:
    """Refuses what is no whole CIFAR-10; the records of TFDS have no known checksum."""
    train_images, train_labels, test_images, test_labels = arrays
    for split, images, labels, expected in (
        ("training", train_images, train_labels, TRAIN_EXAMPLES),
        ("test", test_images, test_labels, TEST_EXAMPLES),
    ):
        counts = np.bincount(labels, minlength=len(_CLASSES))
        if images.shape != (expected, 32, 32, 3) or set(counts) != {expected // 10}:
            raise InputError(
                f"{source} is not CIFAR-10: {split} images {list(images.shape)}, "
                f"expected {[expected, 32, 32, 3]} with {expected // 10} of each of "
                "10 classes; remove it or prepare it again"
            )
