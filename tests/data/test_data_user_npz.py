"""A user's file is used as it is or refused in one line that names file and remedy."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jsplit.data import load
from jsplit.data.fashion_mnist import CLASS_NAMES
from jsplit.errors import InputError

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def good() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 8, 5, 3), np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (2, 8, 5, 3), np.uint8),
        "test_labels": np.array([3, 0], np.uint8),
    }


def save(path: Path, arrays: dict[str, Any]) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_a_good_file_is_used(tmp_path: Path) -> None:
    arrays = good()
    dataset = load(save(tmp_path / "mine.npz", arrays))
    for key in KEYS:
        np.testing.assert_array_equal(getattr(dataset, key), arrays[key])
    assert dataset.name == "mine" and dataset.num_classes == 4
    assert dataset.image_shape == (8, 5, 3)
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32
    assert str(tmp_path) in dataset.source


def test_a_file_may_name_classes_that_it_has_no_image_of(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cat", "dog", "eel", "fly"])
    path = save(tmp_path / "mine.npz", good() | {"class_names": names})
    said: list[str] = []
    dataset = load(path, notify=said.append)
    assert dataset.num_classes == 6 and dataset.class_names == tuple(names)
    assert said == [
        "note: no training image of mine has label 3, 4 or 5, of 6 classes (0 to 5)"
    ]
    zeros = {"train_labels": np.zeros(6, int), "test_labels": np.zeros(2, int)}
    path = save(tmp_path / "mine.npz", good() | zeros | {"class_names": names[:2]})
    assert load(path).num_classes == 2


def test_a_file_may_name_its_classes(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cat", "dog"])
    dataset = load(save(tmp_path / "mine.npz", good() | {"class_names": names}))
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    assert load(save(tmp_path / "mine.npz", good())).class_names is None
    many = np.arange(65_537).astype(str)
    for wrong in (names[:3], names[:, None], np.arange(4), names[[0, 1, 2, 0]], many):
        path = save(tmp_path / "mine.npz", good() | {"class_names": wrong})
        with pytest.raises(
            InputError, match=r"mine.npz.*class_names (is|are) .*; give"
        ):
            load(path)


def test_a_client_s_own_file_may_call_classes_as_fashion_mnist_does(
    tmp_path: Path,
) -> None:
    """One has a slash."""
    names = np.array(CLASS_NAMES)
    path = save(tmp_path / "mine.npz", good() | {"class_names": names})
    assert load(path).class_names == CLASS_NAMES


@pytest.mark.parametrize("name", ["", "  ", "b\nee", "b\x1b[1mee", "b\u2028"])
def test_names_that_no_line_can_have_are_no_names_of_classes(
    tmp_path: Path, name: str
) -> None:
    names = np.array(["ant", name, "cat", "dog"])
    with pytest.raises(InputError) as refusal:
        load(save(tmp_path / "mine.npz", good() | {"class_names": names}))
    said = str(refusal.value)
    assert f"class_names[1] is {name!r}, which nothing can be called" in said
    assert said.isprintable()
    names[1] = "bée/wasp 2, \u1f41d"
    dataset = load(save(tmp_path / "mine.npz", good() | {"class_names": names}))
    assert dataset.class_names == tuple(names)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 9, 8)])
def test_images_with_channels_first_are_refused_with_the_remedy(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    arrays = good() | {
        "train_images": np.zeros((6, *shape), np.uint8),
        "test_images": np.zeros((2, *shape), np.uint8),
    }
    with pytest.raises(InputError) as refusal:
        load(save(tmp_path / "mine.npz", arrays))
    said = str(refusal.value)
    assert f"train_images is {[6, *shape]}, which has the channels first" in said
    assert "numpy.moveaxis(train_images, 1, -1)" in said
    for name in ("train_images", "test_images"):
        arrays[name] = np.moveaxis(arrays[name], 1, -1)
    assert load(save(tmp_path / "mine.npz", arrays)).image_shape == (
        *shape[1:],
        shape[0],
    )


@pytest.mark.parametrize("shape", [(8, 5, 3), (1, 128, 6), (3, 3, 3), (32, 32, 12)])
def test_images_that_may_have_their_channels_last_are_taken(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    arrays = good() | {
        "train_images": np.zeros((6, *shape), np.uint8),
        "test_images": np.zeros((2, *shape), np.uint8),
    }
    assert load(save(tmp_path / "mine.npz", arrays)).image_shape == shape


def test_classes_without_a_training_image_are_said_in_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    load(save(tmp_path / "mine.npz", good()), notify=said.append)
    assert said == [
        "note: no training image of mine has label 3, of 4 classes (0 to 3)"
    ]
    whole = good() | {"test_labels": np.array([2, 0])}
    load(save(tmp_path / "mine.npz", whole), notify=said.append)
    assert len(said) == 1
    many = good() | {"train_labels": np.array([0, 1, 2, 0, 1, 200])}
    load(save(tmp_path / "mine.npz", many), notify=said.append)
    assert said[1].count("\n") == 0 and len(said[1]) < 120
    assert "3, 4, 5, 6, 7, 8, 9 or 10 (189 more such labels)" in said[1]


def test_training_images_of_one_class_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    alone = good() | {"train_labels": np.full(6, 3)}
    load(save(tmp_path / "mine.npz", alone), notify=said.append)
    assert said == [
        "note: every training image of mine has label 3; alone that teaches a network "
        "nothing"
    ]


def test_a_file_of_a_single_class_is_refused(tmp_path: Path) -> None:
    zeros = {"train_labels": np.zeros(6, int), "test_labels": np.zeros(2, int)}
    with pytest.raises(InputError, match="and test_labels are 0, .* two classes or"):
        load(save(tmp_path / "mine.npz", good() | zeros))


def test_a_test_set_of_classes_that_are_never_trained_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    apart = good() | {"test_labels": np.array([3, 4])}
    load(save(tmp_path / "mine.npz", apart), notify=said.append)
    assert said == [
        "note: no training image of mine has label 3 or 4, of 5 classes (0 to 4)",
        "note: no test image of mine has a label that a training image has, so that "
        "test accuracy says nothing",
    ]


@pytest.mark.parametrize("name", ["photos", "photos.npz"])
def test_a_folder_is_refused_with_the_command_that_makes_a_file_of_it(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError) as refusal:
        load(str(tmp_path / name))
    assert str(refusal.value) == (
        f"dataset {str(tmp_path / name)!r} is a folder, and a data set is one .npz "
        f"file; of a folder of pictures jsplit pack {tmp_path / name} OUT.npz makes one"
    )


def test_short_names_gray_images_and_fortran_order_are_taken(tmp_path: Path) -> None:
    arrays = good()
    gray = {
        "x_train": np.asfortranarray(arrays["train_images"][..., 0]),
        "y_train": arrays["train_labels"],
        "x_test": arrays["test_images"][..., 0],
        "y_test": arrays["test_labels"],
    }
    dataset = load(save(tmp_path / "gray.npz", gray))
    np.testing.assert_array_equal(dataset.train_images, arrays["train_images"][..., :1])
    whole = {**arrays, "train_images": arrays["train_images"][..., :1]}
    whole["test_images"] = arrays["test_images"][..., :1]
    assert dataset.fingerprint == load(save(tmp_path / "b.npz", whole)).fingerprint


def test_the_fingerprint_tells_splits_shapes_and_labels_apart(tmp_path: Path) -> None:
    arrays = good()
    swapped = {
        "train_images": arrays["test_images"],
        "train_labels": arrays["test_labels"],
        "test_images": arrays["train_images"],
        "test_labels": arrays["train_labels"],
    }
    turned = {
        **arrays,
        "train_images": arrays["train_images"].reshape(6, 5, 8, 3),
        "test_images": arrays["test_images"].reshape(2, 5, 8, 3),
    }
    relabelled = {**arrays, "test_labels": np.array([3, 1])}
    prints = {
        load(save(tmp_path / f"{i}.npz", each)).fingerprint
        for i, each in enumerate((arrays, swapped, turned, relabelled))
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("train_images", np.zeros((6, 8, 5, 3)), "is float64; scale pixels"),
        ("test_images", np.zeros((2, 8, 5, 3), np.int64), "is int64; scale pixels"),
        ("train_images", np.zeros((6, 8), np.uint8), r"is \[6, 8\]; give \[N, H"),
        ("test_images", np.zeros((0, 8, 5, 3), np.uint8), "test_images holds no imag"),
        ("train_images", np.array([]), "train_images holds no images; give at least"),
        ("test_images", np.zeros((2, 0, 5, 3), np.uint8), r"is \[2, 0, 5, 3\]; give"),
        ("test_images", np.zeros((2, 8, 4, 3), np.uint8), "images of one shape"),
        ("train_labels", np.zeros(6), "is float64; give integers"),
        ("train_labels", np.zeros(6, bool), "is bool; give integers"),
        ("train_labels", np.zeros(5, int), r"is \[5\]; give one label an image, \[6\]"),
        ("train_labels", np.zeros((6, 1), int), r"is \[6, 1\]; give one label"),
        (
            "test_labels",
            np.array([0, -1]),
            r"test_labels\[1\] is -1, which is no label; number",
        ),
        (
            "test_labels",
            np.array([0, 10**12]),
            "is 1000000000000, which is no .* at most 65,536",
        ),
        (
            "test_labels",
            np.array([0, None]),
            r"test_labels holds Python objects .* anew, labels by test_labels.astype\(",
        ),
        (
            "class_names",
            np.array(["ant", None], object),
            r"class_names holds Python objects .* of classes by class_names.astype\(s",
        ),
        (
            "x_train",
            np.zeros((6, 8, 5, 3), np.uint8),
            "it holds train_images and x_train; leave one of them out",
        ),
        (
            "train_images",
            np.zeros((16, 16, 3), np.uint8),
            r"train_images is \[16, 16, 3\], which looks like one image; give \[1, 16",
        ),
        ("test_labels", None, "test_images, train_images, train_labels; name its"),
    ],
)
def test_a_bad_array_is_refused(
    tmp_path: Path, key: str, value: np.ndarray | None, fault: str
) -> None:
    arrays = {**good(), key: value}
    if value is None:
        del arrays[key]
    with pytest.raises(InputError, match=fault) as caught:
        load(save(tmp_path / "bad.npz", arrays))
    assert "bad.npz" in str(caught.value) and "\n" not in str(caught.value)


def whole_file() -> bytes:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **good())
    return buffer.getvalue()


def one_array() -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def flipped(at: int) -> bytes:
    raw = bytearray(whole_file())
    raw[at] ^= 255
    return bytes(raw)


NO_ARCHIVE = "it is no .npz archive of numpy; write it with numpy.savez$"
DAMAGED = "it is damaged, or holds more than plain arrays .* anew with numpy.savez"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", NO_ARCHIVE),
        (b"no archive", NO_ARCHIVE),
        (pickle.dumps({"train_images": 1}), NO_ARCHIVE),
        (one_array(), "archive of numpy, but a single array, as numpy.save writes it;"),
        (whole_file()[:400], DAMAGED),
        (whole_file()[:-30], DAMAGED),
        (flipped(500), DAMAGED),
        (None, "No such file"),
    ],
    ids=["empty", "text", "pickle", "npy", "head", "torn", "flipped", "absent"],
)
def test_a_file_that_is_no_npz_is_refused(
    tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "bad.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=fault) as caught:
        load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_in_the_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    arrays = {**good(), "test_labels": np.array([Trap(), Trap()], object)}
    with pytest.raises(InputError):
        load(save(tmp_path / "trap.npz", arrays))
    assert not (tmp_path / "sprung").exists()
