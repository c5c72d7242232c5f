"""All of Fashion-MNIST: idx files, prepared folders and downloads agree."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_fakes import Site, tfds_prepare

from jsplit.data import fashion_mnist, load
from jsplit.data.dataset import Arrays, arrays_of
from jsplit.data.fashion_mnist import IdxFile, idx_bytes
from jsplit.errors import InputError

DEBIAN_DIR = fashion_mnist.DEBIAN_DIR


@pytest.fixture
def fake_fashion(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """Makes the loader expect 60 + 20 images."""
    rng = np.random.default_rng(0)
    arrays = (
        rng.integers(0, 256, (60, 28, 28), np.uint8),
        rng.integers(0, 10, 60, np.uint8),
        rng.integers(0, 256, (20, 28, 28), np.uint8),
        rng.integers(0, 10, 20, np.uint8),
    )
    files = {}
    for stem, array in zip(fashion_mnist.IDX_FILES, arrays, strict=True):
        raw = idx_bytes(array)
        packed = gzip.compress(raw, mtime=0)
        digests = [hashlib.sha256(content).hexdigest() for content in (raw, packed)]
        files[stem] = IdxFile(digests[0], len(packed), digests[1])
    monkeypatch.setattr(fashion_mnist, "IDX_FILES", files)
    return arrays


def write_idx(folder: Path, arrays: Arrays, packed: bool = True) -> None:
    folder.mkdir(parents=True)
    for stem, array in zip(fashion_mnist.IDX_FILES, arrays, strict=True):
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / stem).write_bytes(idx_bytes(array))


def assert_holds(name: str, expected: Arrays) -> None:
    for found, wanted in zip(arrays_of(load(name)), expected, strict=True):
        np.testing.assert_array_equal(found.squeeze(), wanted)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["fashion_mnist", "downloads/manual"])
def test_idx_files_of_a_user(
    fake_fashion: Arrays, data_dir: Path, folder: str, packed: bool
) -> None:
    write_idx(data_dir / folder, fake_fashion, packed)
    assert_holds("fashion_mnist", fake_fashion)


def test_idx_files_of_debian(
    fake_fashion: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "debian", fake_fashion)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "debian")
    assert_holds("fashion_mnist", fake_fashion)


def test_a_prepared_folder_comes_in_the_order_of_the_idx_files_and_is_cached(
    fake_fashion: Arrays, data_dir: Path, cache_dir: Path
) -> None:
    from tensorflow_datasets.image_classification import mnist

    tfds_prepare(mnist.FashionMNIST, "fashion_mnist", fake_fashion, data_dir)
    assert_holds("fashion_mnist", fake_fashion)
    assert str(cache_dir) in load("fashion_mnist").source


def test_a_prepared_folder_of_other_images_is_refused(
    fake_fashion: Arrays, data_dir: Path
) -> None:
    from tensorflow_datasets.image_classification import mnist

    images, *rest = fake_fashion
    other = (255 - images, *rest)
    tfds_prepare(mnist.FashionMNIST, "fashion_mnist", other, data_dir)
    with pytest.raises(InputError, match="is not Fashion-MNIST: train-images-idx3"):
        load("fashion_mnist")


def test_missing_files_are_downloaded_and_kept(
    fake_fashion: Arrays,
    data_dir: Path,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    notices: list[str],
    notify: Callable[[str], None],
) -> None:
    for stem, array in zip(fashion_mnist.IDX_FILES, fake_fashion, strict=True):
        site.files[f"/{stem}.gz"] = gzip.compress(idx_bytes(array), mtime=0)
    last = site.files.pop("/t10k-labels-idx1-ubyte.gz")
    monkeypatch.setattr(fashion_mnist, "URL", site.url)
    with pytest.raises(InputError, match="404"):
        load("fashion_mnist", notify=notify)
    assert len(list((data_dir / "fashion_mnist").iterdir())) == 3
    site.files.clear()
    site.files["/t10k-labels-idx1-ubyte.gz"] = last
    load("fashion_mnist", notify=notify)
    assert "4 files" in notices[0] and "1 files" in notices[1] and len(notices) == 2
    site.files.clear()
    assert_holds("fashion_mnist", fake_fashion)


def test_a_damaged_idx_file_is_refused(fake_fashion: Arrays, data_dir: Path) -> None:
    write_idx(data_dir / "fashion_mnist", fake_fashion)
    path = data_dir / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte.gz cannot be read"):
        load("fashion_mnist")


def test_an_idx_file_of_mnist_is_refused(fake_fashion: Arrays, data_dir: Path) -> None:
    images, *rest = fake_fashion
    write_idx(data_dir / "fashion_mnist", (images + 1, *rest))
    with pytest.raises(InputError, match="is not Fashion-MNIST: train-images"):
        load("fashion_mnist")


def test_the_embedded_part_is_the_first_of_each_class_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not DEBIAN_DIR.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", DEBIAN_DIR)
    whole, part = load("fashion_mnist"), load("fashion_mnist_10k")
    assert whole.train_images.shape == (60_000, 28, 28, 1)
    assert whole.test_images.shape == (10_000, 28, 28, 1)
    for label in range(10):
        np.testing.assert_array_equal(
            part.train_images[part.train_labels == label],
            whole.train_images[whole.train_labels == label][:1000],
        )
        np.testing.assert_array_equal(
            part.test_images[part.test_labels == label],
            whole.test_images[whole.test_labels == label][:200],
        )
