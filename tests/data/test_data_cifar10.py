"""CIFAR-10: every source gives the same arrays; a broken one is never passed over."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_fakes import (
    FakeCifar,
    Site,
    as_tfrecord,
    expect_archive,
    fake_archive,
    fake_arrays,
)

from jsplit.data import Dataset, cifar10, load
from jsplit.data.dataset import arrays_of
from jsplit.errors import InputError


def supply(data_dir: Path, archive: bytes, folder: str = "downloads/manual") -> Path:
    path = data_dir / folder / cifar10.ARCHIVE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive)
    return path


def assert_holds(dataset: Dataset, expected: FakeCifar) -> None:
    for found, wanted in zip(arrays_of(dataset), expected.arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert dataset.num_classes == 10 and dataset.image_shape == (32, 32, 3)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32


@pytest.mark.parametrize("folder", ["", "downloads/manual"])
def test_a_supplied_archive_is_read(
    fake_cifar: FakeCifar, data_dir: Path, folder: str
) -> None:
    path = supply(data_dir, fake_cifar.archive, folder)
    dataset = load("cifar10")
    assert_holds(dataset, fake_cifar)
    assert str(path) in dataset.source


def test_the_environment_names_an_archive_that_goes_before_others(
    fake_cifar: FakeCifar,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supply(data_dir, b"not this one")
    path = supply(tmp_path, fake_cifar.archive, "elsewhere")
    monkeypatch.setenv(cifar10.ARCHIVE_VARIABLE, str(path))
    assert_holds(load("cifar10"), fake_cifar)


def test_the_environment_names_a_missing_archive(
    fake_cifar: FakeCifar, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supply(data_dir, fake_cifar.archive)
    monkeypatch.setenv(cifar10.ARCHIVE_VARIABLE, "/nowhere/cifar.tar.gz")
    with pytest.raises(InputError, match="'/nowhere/cifar.tar.gz', which is not a"):
        load("cifar10")


def test_a_folder_prepared_as_array_record_is_read(
    fake_cifar: FakeCifar, prepared_cifar: Path
) -> None:
    assert list(prepared_cifar.glob("*array_record*"))
    dataset = load("cifar10")
    assert_holds(dataset, fake_cifar)
    assert str(prepared_cifar) in dataset.source


def test_a_folder_prepared_as_tfrecord_is_read(
    fake_cifar: FakeCifar, prepared_cifar: Path
) -> None:
    as_tfrecord(prepared_cifar)
    assert not list(prepared_cifar.glob("*array_record*"))
    assert_holds(load("cifar10"), fake_cifar)


def test_every_source_gives_one_fingerprint(
    fake_cifar: FakeCifar, cifar_folder: Path, tmp_path: Path
) -> None:
    supply(tmp_path / "supplied", fake_cifar.archive)
    prints = {
        load("cifar10", data_dir=folder, cache_dir=tmp_path / f"{i}").fingerprint
        for i, folder in enumerate([cifar_folder, tmp_path / "supplied"])
    }
    assert len(prints) == 1


def test_the_archive_is_downloaded_once_and_kept_where_tfds_looks(
    fake_cifar: FakeCifar,
    data_dir: Path,
    cache_dir: Path,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    notices: list[str],
    notify: Callable[[str], None],
) -> None:
    site.files["/cifar.tar.gz"] = fake_cifar.archive
    monkeypatch.setattr(cifar10, "ARCHIVE_URL", f"{site.url}/cifar.tar.gz")
    assert_holds(load("cifar10", notify=notify), fake_cifar)
    manual = data_dir / "downloads" / "manual"
    assert [path.name for path in manual.iterdir()] == [cifar10.ARCHIVE]
    assert len(notices) == 1 and "downloading CIFAR-10" in notices[0]
    site.files.clear()
    shutil.rmtree(cache_dir)
    assert_holds(load("cifar10", notify=notify), fake_cifar)


def test_a_wrong_download_is_refused_and_not_kept(
    fake_cifar: FakeCifar, data_dir: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/cifar.tar.gz"] = fake_cifar.archive[:-1] + b"x"
    monkeypatch.setattr(cifar10, "ARCHIVE_URL", f"{site.url}/cifar.tar.gz")
    with pytest.raises(InputError, match="cannot be downloaded .* with sha256"):
        load("cifar10", notify=lambda line: None)
    assert not list((data_dir / "downloads" / "manual").iterdir())


def test_a_wrong_archive_is_refused_with_both_checksums(
    fake_cifar: FakeCifar, data_dir: Path
) -> None:
    path = supply(data_dir, fake_archive(fake_arrays(1)))
    with pytest.raises(InputError) as caught:
        load("cifar10")
    for part in (str(path), cifar10.ARCHIVE_SHA256, cifar10.ARCHIVE_URL):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_refused(fake_cifar: FakeCifar, data_dir: Path) -> None:
    supply(data_dir, fake_cifar.archive[:5000])
    with pytest.raises(InputError, match="has 5000 bytes"):
        load("cifar10")


def test_a_prepared_folder_of_too_few_images_is_refused(
    fake_cifar: FakeCifar, prepared_cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "TRAIN_EXAMPLES", 50_000)
    with pytest.raises(InputError, match=r"\[100, 32, 32, 3\], expected \[50000, 32"):
        load("cifar10")


@pytest.mark.parametrize("tfrecord", [False, True])
def test_a_damaged_prepared_folder_is_refused(
    fake_cifar: FakeCifar, prepared_cifar: Path, tfrecord: bool
) -> None:
    if tfrecord:
        as_tfrecord(prepared_cifar)
    (path,) = prepared_cifar.glob("*train*record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 5])
    with pytest.raises(InputError, match="cannot be read .* prepare it again or"):
        load("cifar10")


def test_a_missing_reader_is_named(
    fake_cifar: FakeCifar, prepared_cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "array_record.python.array_record_module"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"{module}.*; install that module"):
        load("cifar10")


def test_an_unfinished_preparation_is_no_source(
    fake_cifar: FakeCifar, prepared_cifar: Path
) -> None:
    prepared_cifar.rename(prepared_cifar.with_name("incomplete.AB12_3.0.2"))
    with pytest.raises(InputError, match="neither cached, nor prepared"):
        load("cifar10")


def test_a_second_run_reads_the_cache(
    fake_cifar: FakeCifar, data_dir: Path, cache_dir: Path
) -> None:
    path = supply(data_dir, fake_cifar.archive)
    first = load("cifar10")
    path.unlink()
    second = load("cifar10")
    assert second.fingerprint == first.fingerprint
    assert_holds(second, fake_cifar)
    assert str(cache_dir / "cifar10.npz") in second.source


@pytest.mark.parametrize("tear", [lambda raw: raw[: len(raw) // 2], lambda raw: b""])
def test_a_torn_cache_is_rebuilt(
    fake_cifar: FakeCifar,
    data_dir: Path,
    cache_dir: Path,
    tear: Callable[[bytes], bytes],
) -> None:
    supply(data_dir, fake_cifar.archive)
    load("cifar10")
    path = cache_dir / "cifar10.npz"
    whole = path.read_bytes()
    path.write_bytes(tear(whole))
    assert_holds(load("cifar10"), fake_cifar)
    assert len(path.read_bytes()) == len(whole)


def test_a_cache_whose_arrays_were_changed_is_rebuilt(
    fake_cifar: FakeCifar, data_dir: Path, cache_dir: Path
) -> None:
    supply(data_dir, fake_cifar.archive)
    load("cifar10")
    path = cache_dir / "cifar10.npz"
    with np.load(path) as stored:
        np.savez(path, **{**stored, "y_train": stored["y_train"][::-1]})
    assert_holds(load("cifar10"), fake_cifar)


def test_the_cache_of_another_archive_is_not_served(
    fake_cifar: FakeCifar, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = supply(data_dir, fake_cifar.archive)
    load("cifar10")
    other = FakeCifar(fake_arrays(1), fake_archive(fake_arrays(1)))
    expect_archive(monkeypatch, other.archive)
    path.write_bytes(other.archive)
    assert_holds(load("cifar10"), other)


def test_the_cache_of_a_prepared_folder_is_served_for_that_folder_only(
    fake_cifar: FakeCifar,
    prepared_cifar: Path,
    tmp_path: Path,
) -> None:
    load("cifar10")
    assert "from the cache" in load("cifar10").source
    with pytest.raises(InputError, match="neither cached"):
        load("cifar10", data_dir=tmp_path / "another")
    # TFDS prepared it again: files of the same names and sizes, but of another time.
    (path,) = prepared_cifar.glob("*train*record*")
    os.utime(path, ns=(0, 0))
    assert "from the cache" not in load("cifar10").source


def test_a_cache_that_cannot_be_written_costs_one_line(
    fake_cifar: FakeCifar,
    data_dir: Path,
    tmp_path: Path,
    notices: list[str],
    notify: Callable[[str], None],
) -> None:
    supply(data_dir, fake_cifar.archive)
    (tmp_path / "file").write_text("not a folder")
    dataset = load("cifar10", cache_dir=tmp_path / "file", notify=notify)
    assert_holds(dataset, fake_cifar)
    assert len(notices) == 1 and "is not cached: cannot write" in notices[0]
