"""A user's own images, from one `.npz` file that is checked before it is believed."""

from pathlib import Path

import numpy as np

from jsplit.data.class_names import fault_of_names
from jsplit.data.dataset import Dataset, make_dataset
from jsplit.data.npz import opened, plain
from jsplit.data.one_image import one_image
from jsplit.errors import InputError

_KEY_SETS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)
MAX_CLASSES = 65_536


def load_npz(path: Path) -> Dataset:
    """Loads `train_images`, `train_labels`, `test_images`, `test_labels` from a file.

    `x_train`, `y_train`, `x_test`, `y_test` are taken, too. Images are uint8 [N, H, W]
    or [N, H, W, C], of one shape in both splits; labels are integers [N] from 0. An
    array `class_names` of texts, none of them empty or of several lines, says what
    classes there are, those without an image among them. Where there is none, their
    number is the highest label + 1.

    Raises:
        InputError: The file cannot be read, or its arrays are not as said above; images
            with their channels first, no images and a single class among them.
    """
    with opened(path, _called(path)) as stored:
        wanted, called = _keys(path, list(stored)), _called(path)
        arrays = {key: plain(stored, key, called) for key in wanted}
        names = None
        if "class_names" in stored:
            names = plain(stored, "class_names", called)
    x_train, y_train, x_test, y_test = arrays
    train_images, train_labels, test_images, test_labels = arrays.values()
    for name, images in ((x_train, train_images), (x_test, test_images)):
        _check_images(path, name, images)
    for name, labels, images in (
        (y_train, train_labels, train_images),
        (y_test, test_labels, test_images),
    ):
        _check_labels(path, name, labels, len(images))
    if train_images.shape[1:] != test_images.shape[1:]:
        raise _refusal(
            path,
            f"{x_test} is {list(test_images.shape)} but {x_train} is "
            f"{list(train_images.shape)}",
            "give both splits images of one shape",
        )
    least = int(max(train_labels.max(), test_labels.max())) + 1
    class_names = None if names is None else _class_names(path, names, least)
    classes = least if class_names is None else len(class_names)
    if classes == 1:
        raise _refusal(
            path,
            f"all labels in {y_train} and {y_test} are 0, which is a single class",
            "give images of two classes or more, labelled 0, 1, ...",
        )
    return make_dataset(
        path.stem,
        (train_images, train_labels, test_images, test_labels),
        num_classes=classes,
        source=f"file {path}",
        class_names=class_names,
    )


def _class_names(path: Path, names: np.ndarray, least: int) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < least:
        raise _refusal(
            path,
            f"class_names is {names.dtype} {list(names.shape)}, and the highest label "
            f"is {least - 1}",
            f"give one text a class, [{least}] or more",
        )
    if len(names) > MAX_CLASSES:
        raise _refusal(
            path,
            f"class_names is {list(names.shape)}",
            f"give at most {MAX_CLASSES:,} classes",
        )
    told = fault_of_names(names.tolist())
    if told is not None:
        raise _refusal(path, *told)
    return tuple(map(str, names))


def _keys(path: Path, found: list[str]) -> tuple[str, ...]:
    for names in zip(*_KEY_SETS, strict=True):
        if set(names) <= set(found):
            raise _refusal(
                path, f"it holds {' and '.join(names)}", "leave one of them out"
            )
    for keys in _KEY_SETS:
        if set(keys) <= set(found):
            return keys
    raise _refusal(
        path,
        f"it holds {', '.join(sorted(found)) or 'nothing'}",
        f"name its arrays {', '.join(_KEY_SETS[0])}",
    )


def _check_images(path: Path, name: str, images: np.ndarray) -> None:
    # First, because an empty list becomes an array of other values and axes, too.
    if images.shape[:1] == (0,):
        raise _refusal(path, f"{name} holds no images", "give at least one")
    if images.dtype != np.uint8:
        raise _refusal(
            path, f"{name} is {images.dtype}", "scale pixels to 0..255, dtype uint8"
        )
    if images.ndim not in (3, 4) or images.size == 0:
        raise _refusal(
            path, f"{name} is {list(images.shape)}", "give [N, H, W] or [N, H, W, C]"
        )
    told = one_image(images.shape)
    if told is not None:
        raise InputError(f"{_called(path)}: {name} {told}")
    if _is_channels_first(images.shape):
        raise _refusal(
            path,
            f"{name} is {list(images.shape)}, which has the channels first",
            f"put them last, as by numpy.moveaxis({name}, 1, -1)",
        )


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images are [N, C, H, W]: few channels, and too many if taken as last.

    An image that is one to four pixels high and has eight channels or more would be
    taken for one, but such images no model here could pool.

    Example:
        >>> _is_channels_first((9, 3, 32, 32)), _is_channels_first((9, 1, 128, 6))
        (True, False)
    """
    if len(shape) != 4:
        return False
    _, channels, height, width = shape
    return channels in (1, 3, 4) and height > channels and width >= 8


def _check_labels(path: Path, name: str, labels: np.ndarray, count: int) -> None:
    if labels.dtype.kind not in "iu":
        raise _refusal(path, f"{name} is {labels.dtype}", "give integers 0, 1, 2, ...")
    if labels.shape != (count,):
        raise _refusal(
            path,
            f"{name} is {list(labels.shape)}",
            f"give one label an image, [{count}]",
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
    if len(wrong):
        raise _refusal(
            path,
            f"{name}[{wrong[0]}] is {labels[wrong[0]]}, which is no label",
            "number the classes 0, 1, 2, ... without gaps, at most "
            f"{MAX_CLASSES:,} of them",
        )


def _called(path: Path) -> str:
    return f"dataset {str(path)!r}"


def _refusal(path: Path, fault: str, remedy: str) -> InputError:
    return InputError(f"{_called(path)}: {fault}; {remedy}")
