"""From a name to a dataset."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jsplit.data.cifar10 import load_cifar10
from jsplit.data.dataset import Dataset
from jsplit.data.embedded import load_embedded
from jsplit.data.fashion_mnist import load_fashion_mnist
from jsplit.data.files import one_line
from jsplit.data.tfds_sets import PREFIX, load_tfds
from jsplit.data.user_npz import load_npz
from jsplit.errors import InputError
from jsplit.runtime.folders import user_cache

NAMES = ("auto", "cifar10", "fashion_mnist", "fashion_mnist_10k")


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
    notify: Callable[[str], None] = print,
) -> Dataset:
    """Loads a dataset, whole, into memory.

    **Guarantees.** A dataset named outright is that dataset or an error, never another
    one. Equal names give equal fingerprints, whatever source had the data. Without a
    network, and with a server that accepts and never answers, the error or the fallback
    comes within 10 seconds. TensorFlow is never imported.

    Args:
        name: "cifar10", "fashion_mnist" (all of it), "fashion_mnist_10k" (the part that
            comes with jsplit), "tfds:NAME[/CONFIG]" of any set that TFDS prepared in
            `data_dir`, the path of a `.npz` file, or "auto": CIFAR-10 where a source
            has it, else fashion_mnist_10k, said in one line and in `source`.
        data_dir: Where TFDS keeps its data and where downloads go; by default
            $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        cache_dir: Where decoded arrays are kept; by default the user's cache folder,
            on Linux $XDG_CACHE_HOME/jsplit, else ~/.cache/jsplit.
        notify: Takes lines for people: a fallback, a download, a cache that cannot be
            written, classes without a training example.

    Returns:
        The dataset, images uint8 and labels int32.

    Raises:
        InputError: The name is unknown, no source has the data, or what is there is
            broken.
    """
    check_name(name)
    dataset = _find(name, data_dir, cache_dir, notify)
    empty = _empty_classes(dataset)
    if empty is not None:
        notify(f"note: {empty}")
    return dataset


def _find(
    name: str,
    data_dir: Path | None,
    cache_dir: Path | None,
    notify: Callable[[str], None],
) -> Dataset:
    if name.endswith(".npz"):
        return load_npz(Path(name).expanduser())
    if name == "fashion_mnist_10k":
        return load_embedded()
    data_dir = data_dir or _data_dir()
    cache_dir = cache_dir or user_cache()
    if name.startswith(PREFIX):
        prepared = functools.partial(load_tfds, name.removeprefix(PREFIX))
        return _load_from(prepared, data_dir, cache_dir, notify)
    if name == "fashion_mnist":
        return _load_from(load_fashion_mnist, data_dir, cache_dir, notify)
    try:
        return _load_from(load_cifar10, data_dir, cache_dir, notify)
    except InputError as error:
        if name != "auto":
            raise
        dataset = load_embedded()
        notify(f"dataset auto: using {dataset.name}, not CIFAR-10, because {error}")
        # An InputError reads "fault; remedy", and only the fault is worth recording.
        fault = str(error).partition("; ")[0]
        source = f"{dataset.source}; not CIFAR-10, because {fault}"
        return dataclasses.replace(dataset, source=source)


def _empty_classes(dataset: Dataset) -> str | None:
    """What to say of classes that nobody can learn; None if there are none.

    Example:
        >>> from jsplit.data.dataset import make_dataset
        >>> images, labels = np.zeros((3, 8, 8), np.uint8), np.array([0, 3, 4])
        >>> arrays = images, labels, images, labels
        >>> _empty_classes(make_dataset("mine", arrays, num_classes=5, source=""))
        'no training image of mine has label 1 or 2, of 5 classes (0 to 4)'
    """
    counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    empty = [str(label) for label in np.flatnonzero(counts == 0)]
    if not empty:
        return None
    more = f" ({len(empty) - 8} more such labels)" if len(empty) > 8 else ""
    *first, last = empty[:8]
    labels = f"{', '.join(first)} or {last}" if first else last
    return (
        f"no training image of {dataset.name} has label {labels}{more}, of "
        f"{dataset.num_classes} classes (0 to {dataset.num_classes - 1})"
    )


def check_name(name: str) -> None:
    """Refuses what `load` can make nothing of, before anything is looked for.

    Raises:
        InputError: The name is unknown.
    """
    if name in NAMES or name.startswith(PREFIX) or name.endswith(".npz"):
        return
    raise InputError(
        f"dataset {name!r} is unknown; choose {', '.join(NAMES)}, tfds:NAME of a "
        "set that TFDS prepared, or give the path of a .npz file"
    )


def _load_from(
    loader: Callable[[Path, Path, Callable[[str], None]], Dataset],
    data_dir: Path,
    cache_dir: Path,
    notify: Callable[[str], None],
) -> Dataset:
    try:
        return loader(data_dir, cache_dir, notify)
    except OSError as error:
        # A folder that may not even be looked into; what else fails, loaders explain.
        raise InputError(
            f"data folder {data_dir} cannot be read ({one_line(error)}); "
            "check its permissions or name another"
        ) from error


def _data_dir() -> Path:
    # An empty variable counts as unset.
    named = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(named).expanduser()
