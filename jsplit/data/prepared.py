"""Folders that TensorFlow Datasets prepared, read without TensorFlow.

TFDS writes TFRecord or ArrayRecord files; both hold tf.Example messages with PNG
images. `tfds.data_source` reads only the second kind and decodes at half the speed, so
the records are taken raw and decoded here: about 6 s for 60,000 images of 32x32.
"""

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jsplit.data.dataset import Arrays
from jsplit.data.files import one_line
from jsplit.errors import InputError


def find_prepared(data_dir: Path, name: str) -> Path | None:
    """Returns the newest complete version of `name` under `data_dir`, or None.

    TFDS writes under a name that starts with "incomplete" and renames at the end, so a
    folder named by its version is complete.
    """
    versions = {
        tuple(map(int, path.parent.name.split("."))): path.parent
        for path in (data_dir / name).glob("*/dataset_info.json")
        if path.parent.name.replace(".", "").isdecimal()
    }
    return versions[max(versions)] if versions else None


def prepared_key(folder: Path) -> str:
    """Returns a cache key that changes whenever a file of the folder does.

    It holds the path, the names, the sizes and the times of the files. Their contents
    would say more, but hashing them costs as much as the cache saves.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        digest.update(f"\n{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return f"tfds:{digest.hexdigest()}"


def read_prepared(folder: Path) -> Arrays:
    """Reads the splits "train" and "test" in the order of the original dataset.

    Args:
        folder: `<data_dir>/<name>/<version>`, of either file format.

    Returns:
        Images uint8 [N, H, W, C] or [N, H, W], labels [N], for training and test.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        import tensorflow_datasets as tfds

        info = tfds.builder_from_directory(str(folder)).info
        train, test = (
            _read_split(
                split,
                info.file_format.value,
                list(map(str, info.splits[split].filepaths)),
            )
            for split in ("train", "test")
        )
    except InputError:
        raise
    except Exception as error:  # Foreign bytes, or a reader that is not installed.
        raise _unreadable(folder, error) from error
    return *train, *test


def classes_in(folder: Path) -> int:
    """The number of classes that the labels of a prepared folder come from.

    Raises:
        InputError: The folder cannot be read, or has no feature "label" of classes.
    """
    try:
        import tensorflow_datasets as tfds

        features = tfds.builder_from_directory(str(folder)).info.features
    except Exception as error:  # As above.
        raise _unreadable(folder, error) from error
    label = features["label"] if "label" in features else None
    if not isinstance(label, tfds.features.ClassLabel):
        raise InputError(f"{folder} has no labels of classes; name another dataset")
    return int(label.num_classes)


def class_names_in(folder: Path, classes: int) -> tuple[str, ...] | None:
    """What a prepared folder calls its classes; None if it does not say.

    TFDS keeps one name a line in `label.labels.txt`, beside the examples.
    """
    path = folder / "label.labels.txt"
    if not path.is_file():
        return None
    names = tuple(path.read_text(encoding="utf-8").splitlines())
    return names if len(names) == classes else None


def _unreadable(folder: Path, error: Exception) -> InputError:
    remedy = "prepare it again"
    if isinstance(error, ImportError):
        remedy = "install that module (pip install 'jsplit[data]')"
    return InputError(
        f"the folder {folder} prepared by TFDS cannot be read ({one_line(error)}); "
        f"{remedy} or remove it"
    )


def _read_split(
    split: str, file_format: str, paths: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    records = {"array_record": _array_records, "tfrecord": _tf_records}[file_format]
    ids, images, labels = [], [], []
    for path in paths:
        for record in records(path):
            feature: Any = tf_example_pb2.Example.FromString(record).features.feature
            if not {"image", "label"} <= set(feature):
                raise InputError(
                    f"{path} holds {', '.join(sorted(feature))}, not an image and a "
                    "label each; name another dataset"
                )
            png = feature["image"].bytes_list.value[0]
            images.append(np.asarray(Image.open(io.BytesIO(png))))
            labels.append(feature["label"].int64_list.value[0])
            if "id" in feature:
                ids.append(feature["id"].bytes_list.value[0])
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise InputError(
            f"{paths[0]} holds images of {len(shapes)} shapes, {shapes[0]} and "
            f"{shapes[-1]} among them; make them one shape and give them as an .npz"
        )
    # TFDS shuffles what it writes. Put back in order, every source of a dataset gives
    # the same arrays, and so the same shards for the clients.
    order = np.argsort(ids) if ids else np.argsort(_shuffled(split, len(images)))
    return np.stack(images)[order], np.array(labels)[order]


def _shuffled(split: str, count: int) -> list[int]:
    """Returns the original index of each record that a builder keyed by index wrote.

    TFDS sorts by the md5 of the split's name and the key (`tfds.core.hashing`, which
    promises not to change). Callers check the result against a checksum.
    """

    def position(index: int) -> bytes:
        return hashlib.md5(f"{split}{index}".encode(), usedforsecurity=False).digest()

    return sorted(range(count), key=position)


def _array_records(path: str) -> list[bytes]:
    # Imported here: there is no wheel of it for every platform.
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    try:
        return reader.read_all()
    finally:
        reader.close()


def _tf_records(path: str) -> Iterator[bytes]:
    """Yields the records of a TFRecord file: length, its CRC, bytes, their CRC.

    The CRCs are not checked: CRC-32C in Python would take minutes, and PNG has its own.
    A file cut inside a record fails to parse; one cut between two has too few records.
    """
    with open(path, "rb") as file:
        while head := file.read(12):
            (length,) = struct.unpack("<Q4x", head)
            yield file.read(length)
            file.seek(4, 1)
