"""Small stand-ins for what is published, in every form that the real data comes in."""

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from jsplit.data import cifar10
from jsplit.data.dataset import Arrays

TRAIN, TEST = 100, 20


class FakeCifar(NamedTuple):
    """Arrays and the archive that holds them."""

    arrays: Arrays
    archive: bytes


def fake_arrays(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.arange(count) % 10).astype(np.int32)
        return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), labels

    return *split(TRAIN), *split(TEST)


def fake_archive(arrays: Arrays) -> bytes:
    """Writes the six batches and the class names as the published archive has them."""
    x_train, y_train, x_test, y_test = arrays

    def rows(images: np.ndarray, labels: np.ndarray) -> bytes:
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return np.concatenate([labels[:, None].astype(np.uint8), planes], 1).tobytes()

    members = {"batches.meta.txt": "\n".join("abcdefghij").encode()}
    # Not in the order of the names: a reader must not rely on the order in the archive.
    members["test_batch.bin"] = rows(x_test, y_test)
    for i in reversed(range(5)):
        part = slice(i * TRAIN // 5, (i + 1) * TRAIN // 5)
        members[f"data_batch_{i + 1}.bin"] = rows(x_train[part], y_train[part])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def expect_archive(monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    sha256 = hashlib.sha256(archive).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", sha256)
    monkeypatch.setattr(cifar10, "ARCHIVE_BYTES", len(archive))
    monkeypatch.setattr(cifar10, "TRAIN_EXAMPLES", TRAIN)
    monkeypatch.setattr(cifar10, "TEST_EXAMPLES", TEST)


def tfds_prepare(
    builder_class: Any, name: str, arrays: Arrays, data_dir: Path, **how: Any
) -> Path:
    """Has TFDS write `arrays` with a stock builder's name, version and features.

    Given PNG bytes and no download, the stock builder needs no TensorFlow; shuffling,
    serialising and ArrayRecord are TFDS' own.
    """
    import tensorflow_datasets as tfds
    from PIL import Image

    def png(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()

    def examples(split: str, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
        for i in range(len(images)):
            example = {"image": png(images[i]), "label": int(labels[i])}
            if name.startswith("cifar"):
                example["id"] = f"{split}_{i:05d}"
            if name == "cifar100":
                example["coarse_label"] = int(labels[i]) // 5
            yield i, example

    def generators(self: Any, dl_manager: Any) -> dict[str, Iterator[Any]]:
        del self, dl_manager
        return {
            "train": examples("train", *arrays[:2]),
            "test": examples("test", *arrays[2:]),
        }

    builder = type(
        "Prepared",
        (builder_class,),
        {"name": name, "_split_generators": generators, "__module__": __name__},
        skip_registration=True,
    )(data_dir=str(data_dir), file_format="array_record", **how)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


def as_tfrecord(folder: Path) -> None:
    """Rewrites a folder of ArrayRecord files as the TFRecord that TFDS defaults to."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path in folder.glob("*array_record*"):
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        with (folder / path.name.replace("array_record", "tfrecord")).open("wb") as f:
            for record in records:
                f.write(struct.pack("<QI", len(record), 0) + record + bytes(4))
        path.unlink()
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    assert content["fileFormat"] == "array_record"
    content["fileFormat"] = "tfrecord"
    info.write_text(json.dumps(content))


class Site(NamedTuple):
    """A web server on the loopback; paths it lacks are 404."""

    url: str
    files: dict[str, bytes]
    lengths: dict[str, int]
    """Lengths to announce where they are not to be the true ones."""
