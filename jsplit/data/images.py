"""Images to predict: from picture files of any size, or from an `.npz`."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from jsplit.data.class_folders import pictures
from jsplit.data.files import one_line
from jsplit.data.npz import opened, plain
from jsplit.data.one_image import one_channels_first, one_image
from jsplit.data.prepare import resized
from jsplit.errors import InputError

_KEY_SETS = (
    ("images", "labels"),
    ("x", "y"),
    ("test_images", "test_labels"),
    ("x_test", "y_test"),
)
_LUMINANCE = np.array([299, 587, 114])  # thousandths, of ITU-R BT.601


class Images(NamedTuple):
    """Images, as a model takes them.

    Attributes:
        names: where each one came from: its file, or `FILE.npz[17]`.
        pixels: the images.
        labels: of each image; None where they were not given.
        notes: what was done to make them fit, each in a line for people.
    """

    names: tuple[str, ...]
    pixels: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"] | None
    notes: tuple[str, ...]


def load_images(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    classes: Sequence[str],
    *,
    named: bool = True,
) -> Images:
    """Loads images and fits them to a model.

    Larger images are averaged down and smaller ones padded, as the training images are
    by an image size (see `resized`); colour becomes gray by luminance, gray becomes
    colour by repetition, transparency is dropped, and a camera's rotation is heeded.

    Args:
        paths: one `.npz`, or picture files and folders of them, which say labels where
            they hold folders called as the classes are. An `.npz` holds uint8
            `images` or `x`, [N, H, W] or [N, H, W, C], and if labels are known
            `labels` or `y`, integers [N]; of a data set in the form of `load_npz` its
            test images are taken.
        shape: height, width and channels of the model's images.
        classes: what each class is called, in the order of labels.
        named: whether these are names, and no numbers in their place.

    Raises:
        InputError: if there is no image, one cannot be read, an `.npz` stands beside
            other files, its arrays are not as said above, or folders in a folder are
            not called as classes are.
    """
    archives = [path for path in paths if path.suffix.lower() == ".npz"]
    if archives and len(paths) > 1:
        raise InputError(
            f"{archives[0]} stands beside other files; give one .npz alone, or "
            "pictures alone"
        )
    if archives:
        return _from_npz(archives[0], shape, len(classes))
    files, labels, said = pictures(paths, classes, named=named)
    if not files:
        raise InputError("there are no images to read; name some files")
    notes: dict[str, int] = {}
    pixels = np.stack([fitted(read_picture(file), shape, notes) for file in files])
    return Images(
        tuple(map(str, files)),
        pixels,
        None if labels is None else np.array(labels, np.int32),
        (*said, *notes_of(notes, len(files))),
    )


def read_picture(path: Path) -> np.ndarray:
    """The pixels of a picture file, uint8 [h, w, 1 or 3], as a camera was held.

    Raises:
        InputError: if it is no picture that Pillow reads, or has more than 8 bits.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError(
            f"{path}: pictures need {error.name}, which is not installed; pip install "
            "'jsplit[data]' brings it, or give the images as an .npz"
        ) from error
    try:
        # By bytes: Pillow leaves a file open that it cannot read.
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            # Of 16 or 32 bits: Pillow would cut values off at 255.
            if picture.mode.startswith(("I", "F")):
                raise InputError(
                    f"{path} has pixels of mode {picture.mode!r}; save it with 8 bits "
                    "a channel"
                )
            upright = ImageOps.exif_transpose(picture)
            gray = upright.mode in ("1", "L", "LA")
            pixels = np.asarray(upright.convert("L" if gray else "RGB"), np.uint8)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or "it is no picture that Pillow reads"
        raise InputError(f"{path}: {reason}; name pictures or one .npz") from error
    except Exception as error:  # Any parser may fail on foreign bytes.
        raise InputError(
            f"{path} cannot be read ({one_line(error)}); save the picture anew"
        ) from error
    return pixels[..., None] if gray else pixels


def _from_npz(path: Path, shape: tuple[int, int, int], num_classes: int) -> Images:
    with opened(path, str(path)) as stored:
        keys = _keys(path, list(stored))
        images, labels = (
            plain(stored, key, str(path)) if key in stored else None for key in keys
        )
    assert images is not None
    if images.shape[:1] == (0,):
        raise InputError(f"{path}: {keys[0]} holds no images; give at least one")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise InputError(
            f"{path}: {keys[0]} is {images.dtype} {list(images.shape)}; give uint8 "
            "[N, H, W] or [N, H, W, C], pixels from 0 to 255"
        )
    # A model of images so narrow takes them as they are.
    told = None if images.shape[1:] == shape[:2] else one_image(images.shape)
    if told is None and labels is None and images.ndim == 3:
        told = one_channels_first(images.shape, shape[2])
    if told is not None:
        raise InputError(f"{path}: {keys[0]} {told}")
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[-1] not in (1, 3, shape[2]):
        raise InputError(
            f"{path}: {keys[0]} is {list(images.shape)}, so its images have "
            f"{images.shape[-1]} channels; put the channels last, "
            f"{' or '.join(map(str, sorted({1, 3, shape[2]})))} of them"
        )
    if labels is not None:
        labels = _checked(path, keys[1], labels, len(images), num_classes)
    notes: dict[str, int] = {}
    pixels = fitted(images, shape, notes)
    said = [] if keys[0] in ("images", "x") else [f"{path}: {keys[0]} alone are taken"]
    return Images(
        tuple(f"{path}[{place}]" for place in range(len(images))),
        pixels,
        labels,
        (*said, *notes_of(dict.fromkeys(notes, len(images)), len(images))),
    )


def _keys(path: Path, found: list[str]) -> tuple[str, str]:
    known = [keys for keys in _KEY_SETS if keys[0] in found]
    if len(known) > 1:
        raise InputError(
            f"{path} holds {' and '.join(keys[0] for keys in known)}, which are all "
            "images to predict; leave but one of them in it"
        )
    if known:
        return known[0]
    if len(found) == 1:
        return found[0], "labels"
    raise InputError(
        f"{path} holds {', '.join(sorted(found)) or 'nothing'}; call its images "
        "`images`, and their labels, if they are known, `labels`"
    )


def _checked(
    path: Path, name: str, labels: np.ndarray, count: int, num_classes: int
) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(
            f"{path}: {name} is {labels.dtype} {list(labels.shape)}; give an integer "
            f"an image, [{count}]"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise InputError(
            f"{path}: {name}[{wrong[0]}] is {labels[wrong[0]]}, and the model knows "
            f"the classes 0 to {num_classes - 1}; give the labels that it was trained "
            f"with, or no {name}, where they are not known"
        )
    return labels.astype(np.int32)


def fitted(
    pixels: np.ndarray, shape: tuple[int, int, int], notes: dict[str, int]
) -> np.ndarray:
    """Images `[..., h, w, c]` in the model's shape; counts in `notes` what was done."""

    def note(words: str) -> None:
        notes[words] = notes.get(words, 0) + 1

    height, width, channels = shape
    old, depth = pixels.shape[-3:-1], pixels.shape[-1]
    if old != (height, width):
        shrunk = old[0] >= height and old[1] >= width
        verb = "averaged" if shrunk else "padded with black"
        cut = (
            old[0] * width != old[1] * height
            if shrunk
            else old[0] > height or old[1] > width
        )
        note(f"{'cut to the middle and ' * cut}{verb} to {height}x{width}")
        batch = pixels.reshape(-1, *pixels.shape[-3:])
        pixels = resized(batch, height, width).reshape(
            *pixels.shape[:-3], height, width, depth
        )
    if depth == 3 and channels == 1:
        note("made gray")
        gray = (pixels.astype(np.int64) @ _LUMINANCE + 500) // 1000
        pixels = gray.astype(np.uint8)[..., None]
    elif depth == 1 and channels > 1:
        note(f"gray repeated in {channels} channels")
        pixels = np.repeat(pixels, channels, axis=-1)
    elif depth != channels:
        raise InputError(
            f"the images have {depth} channels and the model takes {channels}; give "
            f"it images of {channels}"
        )
    return pixels


def notes_of(notes: dict[str, int], count: int) -> tuple[str, ...]:
    """What `fitted` counted, of so many images, each in a line for people."""
    images = "image" if count == 1 else "images"
    return tuple(f"{done} of {count} {images} {words}" for words, done in notes.items())
