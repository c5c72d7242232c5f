"""Any set of labelled images that TensorFlow Datasets prepared: `tfds:NAME[/CONFIG]`.

Such as `tfds:cifar100` or `tfds:emnist/balanced`. Nothing is downloaded and no builder
runs, because the stock ones need TensorFlow: the folder must be there.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jsplit.data.cache import read_cache, write_cache
from jsplit.data.dataset import Dataset, make_dataset
from jsplit.data.prepared import (
    class_names_in,
    classes_in,
    find_prepared,
    prepared_key,
    read_prepared,
)
from jsplit.errors import InputError

PREFIX = "tfds:"

_NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.-]+)?")


def load_tfds(
    name: str, data_dir: Path, cache_dir: Path, notify: Callable[[str], None]
) -> Dataset:
    """Loads the splits "train" and "test" of a prepared set.

    Args:
        name: As TFDS has it, without the prefix; with its config where it has several.
        data_dir: Where TFDS keeps its data.
        cache_dir: Where the decoded arrays are kept.
        notify: Takes one line when the cache cannot be written.

    Raises:
        InputError: It is not prepared there, or is no set of labelled uint8 images of
            one shape with both splits.
    """
    folder = find_prepared(data_dir, name) if _NAME.fullmatch(name) else None
    if folder is None:
        raise InputError(
            f"dataset {PREFIX}{name} is not prepared in {data_dir}; prepare it there "
            f"with TFDS and TensorFlow (tfds build {name}), name another --data-dir, "
            "or give the images as an .npz"
        )
    key, kept_as = prepared_key(folder), "tfds-" + name.replace("/", "-")
    cached = read_cache(cache_dir, kept_as, {key})
    if cached is not None:
        return dataclasses.replace(
            cached, class_names=class_names_in(folder, cached.num_classes)
        )
    arrays, classes = read_prepared(folder), classes_in(folder)
    for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        if images.dtype != np.uint8 or images.shape[1:] != arrays[0].shape[1:]:
            raise InputError(
                f"{folder}: {split} images are {images.dtype} {list(images.shape)}, "
                f"those of train {list(arrays[0].shape)}; jsplit takes uint8 images of "
                "one shape"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"{folder}: {split} labels go from {labels.min()} to {labels.max()}, "
                f"but there are {classes} classes; prepare it again"
            )
    dataset = make_dataset(
        kept_as,
        arrays,
        num_classes=classes,
        source=f"{PREFIX}{name}, folder prepared by TFDS {folder}",
        class_names=class_names_in(folder, classes),
    )
    write_cache(cache_dir, dataset, key, notify)
    return dataset
