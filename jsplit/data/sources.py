"""From a name to a dataset."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

from jsplit.data.cifar10 import load_cifar10
from jsplit.data.dataset import Dataset
from jsplit.data.embedded import load_embedded
from jsplit.data.fashion_mnist import load_fashion_mnist
from jsplit.data.files import one_line
from jsplit.data.label_doubts import label_doubts
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
            written, classes that nobody can learn or that a test cannot tell of.

    Returns:
        The dataset, images uint8 and labels int32.

    Raises:
        InputError: The name is unknown, no source has the data, or what is there is
            broken.
    """
    check_name(name)
    dataset = _find(name, data_dir, cache_dir, notify)
    for doubt in label_doubts(dataset):
        notify(f"note: {doubt}")
    return dataset


def _find(
    name: str,
    data_dir: Path | None,
    cache_dir: Path | None,
    notify: Callable[[str], None],
) -> Dataset:
    if is_file(name):
        return load_npz(Path(os.path.expanduser(name)))
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


def is_file(name: str) -> bool:
    """Whether a dataset is named by its file, a user's own.

    Example:
        >>> is_file("~/photos.npz"), is_file("cifar10")
        (True, False)
    """
    return name.endswith(".npz")


def check_name(name: str) -> None:
    """Refuses what `load` can make nothing of, before anything is looked for.

    Raises:
        InputError: The name is unknown, or one of a folder.
    """
    if name in NAMES or name.startswith(PREFIX):
        return
    if name and os.path.isdir(os.path.expanduser(name)):  # Path fails on "~nobody".
        raise InputError(
            f"dataset {name!r} is a folder, and a data set is one .npz file; of a "
            f"folder of pictures jsplit pack {name} OUT.npz makes one"
        )
    if is_file(name):
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
