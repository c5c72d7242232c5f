"""All of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747).

From idx files (Debian's package `dataset-fashion-mnist`, or a user's), from a folder
prepared by TFDS, or from the network. Whatever the source, the idx files that it
amounts to must have the pinned checksums.
"""

import dataclasses
import gzip
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jsplit.data.cache import read_cache, write_cache
from jsplit.data.dataset import Arrays, Dataset, make_dataset
from jsplit.data.download import check_reachable, download
from jsplit.data.files import one_line
from jsplit.data.prepared import find_prepared, read_prepared
from jsplit.errors import InputError

NAME = "fashion_mnist"
CLASS_NAMES = (
    *("t-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
"""What the paper calls the classes, in the order of labels."""
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"


class IdxFile(NamedTuple):
    """What is known of one published file.

    Attributes:
        sha256: Of the idx file inside the gzip; Debian's have another gzip header.
        gzip_bytes: Length of the published gzip file.
        gzip_sha256: Its checksum, as TFDS pins it.
    """

    sha256: str
    gzip_bytes: int
    gzip_sha256: str


# In the order of `Arrays`.
IDX_FILES = {
    "train-images-idx3-ubyte": IdxFile(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte": IdxFile(
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}


def load_fashion_mnist(
    data_dir: Path, cache_dir: Path, notify: Callable[[str], None]
) -> Dataset:
    """Loads Fashion-MNIST: train [60000, 28, 28, 1], test [10000, 28, 28, 1].

    Args:
        data_dir: Where TFDS keeps its data and where a download goes.
        cache_dir: Where arrays decoded from a TFDS folder are kept; idx files read in
            0.4 s and need no cache.
        notify: Takes one line when a download starts or the cache cannot be written.

    Raises:
        InputError: No source has it (within about 10 s), or the source is broken.
    """
    for folder in (DEBIAN_DIR, data_dir / NAME, data_dir / "downloads" / "manual"):
        if all(_find(folder, stem) for stem in IDX_FILES):
            return _from_idx(folder)
    prepared = find_prepared(data_dir, NAME)
    if prepared is None:
        return _from_idx(_fetch(data_dir, notify))
    key = "idx:" + ",".join(file.sha256 for file in IDX_FILES.values())
    cached = read_cache(cache_dir, NAME, {key})
    if cached is not None:
        return dataclasses.replace(cached, class_names=CLASS_NAMES)
    source = f"folder prepared by TFDS {prepared}"
    arrays = read_prepared(prepared)
    for stem, array in zip(IDX_FILES, arrays, strict=True):
        _check(stem, idx_bytes(array), source)
    dataset = _dataset(arrays, source)
    write_cache(cache_dir, dataset, key, notify)
    return dataset


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns the idx file of an array of bytes: magic, big-endian sizes, bytes."""
    magic = bytes([0, 0, 8, array.ndim])
    return magic + np.array(array.shape, ">u4").tobytes() + array.astype("u1").tobytes()


def _from_idx(folder: Path) -> Dataset:
    train_images, train_labels, test_images, test_labels = (
        _read_idx(folder, stem) for stem in IDX_FILES
    )
    return _dataset(
        (train_images, train_labels, test_images, test_labels), f"idx files {folder}"
    )


def _dataset(arrays: Arrays, source: str) -> Dataset:
    source = f"Fashion-MNIST, {source}, sha256 checked"
    return make_dataset(
        NAME,
        arrays,
        num_classes=len(CLASS_NAMES),
        source=source,
        class_names=CLASS_NAMES,
    )


def _read_idx(folder: Path, stem: str) -> np.ndarray:
    path = _find(folder, stem) or folder / f"{stem}.gz"
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({one_line(error)}); remove it or fetch it again"
        ) from error
    _check(stem, raw, str(path))
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _check(stem: str, raw: bytes, where: str) -> None:
    found, expected = hashlib.sha256(raw).hexdigest(), IDX_FILES[stem].sha256
    if found != expected:
        raise InputError(
            f"{where} is not Fashion-MNIST: {stem} has sha256 {found}, "
            f"expected {expected}; remove it or fetch it again"
        )


def _find(folder: Path, stem: str) -> Path | None:
    """Returns the file, packed or plain, if the folder has it."""
    paths = (folder / f"{stem}.gz", folder / stem)
    return next((path for path in paths if path.is_file()), None)


def _fetch(data_dir: Path, notify: Callable[[str], None]) -> Path:
    # Not into downloads/manual: MNIST has files of the same names.
    folder = data_dir / NAME
    # Those that an interrupted download left are whole, and checked when they are read.
    missing = [stem for stem in IDX_FILES if not _find(folder, stem)]
    try:
        check_reachable(f"{URL}/{missing[0]}.gz")
        notify(f"downloading Fashion-MNIST, {len(missing)} files, to {folder}")
        for stem in missing:
            file, known = f"{stem}.gz", IDX_FILES[stem]
            download(
                f"{URL}/{file}",
                folder / file,
                sha256=known.gzip_sha256,
                size=known.gzip_bytes,
            )
    except OSError as error:
        raise InputError(
            f"dataset {NAME} is neither prepared by TFDS nor supplied as its four idx "
            f"files in {data_dir}, and cannot be downloaded ({error}); "
            f"install Debian's dataset-fashion-mnist, put the files into {folder}, or "
            "use the dataset fashion_mnist_10k, which needs no network"
        ) from error
    return folder
