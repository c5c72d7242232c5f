"""Names, the fallback of "auto", no network, and what an import may cost."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_fakes import FakeCifar, Site

from jsplit.data import cifar10, download, embedded, load
from jsplit.errors import InputError


def test_importing_the_room_imports_no_reader() -> None:
    code = (
        "import sys, jsplit.data; assert not set(sys.modules) & {'tensorflow', "
        "'tensorflow_datasets', 'PIL', 'requests', 'array_record'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_reading_a_prepared_folder_never_imports_tensorflow(
    fake_cifar: FakeCifar, prepared_cifar: Path
) -> None:
    load("cifar10")
    assert "tensorflow" not in sys.modules


def test_the_embedded_part_is_whole_and_balanced() -> None:
    dataset = load("fashion_mnist_10k")
    assert dataset.train_images.shape == (10_000, 28, 28, 1)
    assert dataset.test_images.shape == (2_000, 28, 28, 1)
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.train_labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(dataset.train_labels), [1000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [200] * 10)
    assert dataset.fingerprint == embedded.FINGERPRINT


def test_a_damaged_installation_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "FINGERPRINT", "0" * 64)
    with pytest.raises(InputError, match="is damaged .*; install jsplit again$"):
        load("fashion_mnist_10k")


@pytest.mark.parametrize("name", ["cifar100", "", "Auto", "images.zip"])
def test_an_unknown_name_is_answered_with_the_choices(name: str) -> None:
    with pytest.raises(InputError, match="choose auto, cifar10, fashion_mnist, ") as e:
        load(name)
    assert repr(name) in str(e.value)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_dataset_named_outright_never_falls_back(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        load(name)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    assert "fashion_mnist_10k" in str(caught.value)


def test_auto_falls_back_in_one_visible_line_that_is_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = load("auto")
    (line,) = capsys.readouterr().out.splitlines()
    assert "fashion_mnist_10k, not CIFAR-10, because" in line
    assert dataset.name == "fashion_mnist_10k"
    assert dataset.source.endswith("NameResolutionError)")
    assert dataset.fingerprint == embedded.FINGERPRINT


def test_a_folder_that_may_not_be_looked_into_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Patched, because root may look into every folder.
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    for name in ("cifar10", "fashion_mnist"):
        with pytest.raises(InputError, match="Permission denied.*check its permiss"):
            load(name)
    lines: list[str] = []
    assert load("auto", notify=lines.append).name == "fashion_mnist_10k"
    assert "Permission denied" in lines[0]


def test_auto_says_that_a_supplied_archive_is_corrupt(
    data_dir: Path, notices: list[str], notify: Callable[[str], None]
) -> None:
    path = data_dir / cifar10.ARCHIVE
    path.write_bytes(b"half an archive")
    dataset = load("auto", notify=notify)
    assert dataset.name == "fashion_mnist_10k"
    assert len(notices) == 1 and f"{path} has 15 bytes and sha256" in notices[0]


def test_auto_takes_cifar10_where_it_is(
    fake_cifar: FakeCifar, prepared_cifar: Path, notices: list[str]
) -> None:
    assert load("auto", notify=notices.append).name == "cifar10"
    assert notices == []


def test_auto_takes_cifar10_where_it_can_be_downloaded(
    fake_cifar: FakeCifar, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/archive"] = fake_cifar.archive
    monkeypatch.setattr(cifar10, "ARCHIVE_URL", f"{site.url}/archive")
    assert load("auto", notify=lambda line: None).name == "cifar10"


def test_a_silent_server_ends_in_an_error(
    silent_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "ARCHIVE_URL", silent_url)
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.3)
    with pytest.raises(InputError, match="cannot be downloaded .*ReadTimeoutError"):
        load("cifar10")
