"""Any set of images that TFDS prepared, through the code that reads CIFAR-10."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fakes import as_tfrecord, tfds_prepare

from jsplit.cli.main import main
from jsplit.data import load
from jsplit.data.dataset import Arrays, arrays_of
from jsplit.errors import InputError


def arrays_like(side: int, channels: int, classes: int) -> Arrays:
    rng = np.random.default_rng(side)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = rng.integers(0, 256, (count, side, side, channels), np.uint8)
        return images, rng.permutation(np.arange(count) % classes).astype(np.int32)

    return *split(2 * classes), *split(classes)


@pytest.fixture
def cifar100(data_dir: Path) -> Arrays:
    from tensorflow_datasets.image_classification import cifar

    arrays = arrays_like(32, 3, 100)
    tfds_prepare(cifar.Cifar100, "cifar100", arrays, data_dir)
    return arrays


@pytest.fixture
def emnist(data_dir: Path) -> Arrays:
    from tensorflow_datasets.image_classification import mnist

    arrays = arrays_like(28, 1, 47)
    gray = arrays[0][..., 0], arrays[1], arrays[2][..., 0], arrays[3]
    tfds_prepare(mnist.EMNIST, "emnist", gray, data_dir, config="balanced")
    return arrays


def assert_same(dataset: Any, arrays: Arrays) -> None:
    for ours, theirs in zip(arrays_of(dataset), arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_set_like_cifar100_is_read_record_for_record(cifar100: Arrays) -> None:
    dataset = load("tfds:cifar100")
    assert dataset.num_classes == 100 and dataset.image_shape == (32, 32, 3)
    assert_same(dataset, cifar100)
    again = load("tfds:cifar100")
    assert "read from the cache" in again.source
    assert again.fingerprint == dataset.fingerprint


def test_the_names_of_classes_are_those_that_tfds_keeps(
    cifar100: Arrays, data_dir: Path
) -> None:
    (folder,) = (data_dir / "cifar100").iterdir()
    assert load("tfds:cifar100").class_names is None
    names = [f"class {number}" for number in range(100)]
    (folder / "label.labels.txt").write_text("\n".join(names) + "\n")
    for _ in range(2):  # The second time from the cache.
        assert load("tfds:cifar100").class_names == tuple(names)


def test_a_set_like_emnist_is_read_with_its_config(
    emnist: Arrays, data_dir: Path
) -> None:
    dataset = load("tfds:emnist/balanced")
    assert dataset.num_classes == 47 and dataset.image_shape == (28, 28, 1)
    assert_same(dataset, emnist)
    (folder,) = (data_dir / "emnist" / "balanced").iterdir()
    as_tfrecord(folder)
    assert load("tfds:emnist/balanced").fingerprint == dataset.fingerprint


@pytest.mark.slow
def test_a_run_trains_on_such_a_set(
    cifar100: Arrays, data_dir: Path, tmp_path: Path
) -> None:
    words = "--model cnn --dataset tfds:cifar100 --image-size 8 --epochs 2".split()
    where = ["--data-dir", str(data_dir), "--workdir", str(tmp_path / "run")]
    assert main(["run", *words, *where]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dataset"] == "tfds-cifar100"
    assert summary["image_shape"] == [8, 8, 3]


@pytest.mark.parametrize("name", ["cifar100", "emnist/balanced", "../x", "", "a/b/c"])
def test_a_set_that_is_not_prepared_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"tfds:{name} is not prepared in .*; prepare"):
        load(f"tfds:{name}")


def test_images_of_several_shapes_are_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow_datasets.image_classification import mnist

    arrays = arrays_like(28, 1, 47)
    odd = [*arrays[0][..., 0]]
    odd[3] = odd[3][:, :20]
    given: Any = (odd, arrays[1], arrays[2][..., 0], arrays[3])
    monkeypatch.setattr(
        mnist.EMNIST, "_info", lambda self: any_shape(self), raising=True
    )
    tfds_prepare(mnist.EMNIST, "emnist", given, data_dir, config="balanced")
    with pytest.raises(InputError, match="images of 2 shapes.*give them as an .npz"):
        load("tfds:emnist/balanced")


def any_shape(builder: Any) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.DatasetInfo(
        builder=builder,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 1)),
                "label": tfds.features.ClassLabel(num_classes=47),
            }
        ),
    )


def test_a_set_without_labels_is_refused(data_dir: Path) -> None:
    from tensorflow_datasets.image_classification import cifar

    arrays = arrays_like(32, 3, 100)
    folder = tfds_prepare(cifar.Cifar100, "cifar100", arrays, data_dir)
    features = folder / "features.json"
    content = json.loads(features.read_text())
    described = content["featuresDict"]["features"]
    described["fine"] = described.pop("label")
    features.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no labels of classes"):
        load("tfds:cifar100")
