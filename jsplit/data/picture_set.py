"""A data set made of picture files, in folders that are named by their classes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from jsplit.data.class_folders import by_class
from jsplit.data.class_names import is_name
from jsplit.data.held_out import held_out
from jsplit.data.images import fitted, notes_of, read_picture
from jsplit.errors import InputError


class PictureSet(NamedTuple):
    """Images of one shape, as an `.npz` of a user's own holds them.

    Attributes:
        train_images: to learn from.
        train_labels: of those.
        test_images: held out.
        test_labels: of those.
        class_names: what each class is called, in the order of labels.
        notes: what was done and left out, each in a line for people.
    """

    train_images: UInt8[np.ndarray, "n h w c"]
    train_labels: Int32[np.ndarray, " n"]
    test_images: UInt8[np.ndarray, "m h w c"]
    test_labels: Int32[np.ndarray, " m"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By the names that an `.npz` has for them."""
        held = self._asdict()
        del held["notes"]
        return held | {"class_names": np.array(self.class_names)}


class Asked(NamedTuple):
    """How pictures become a data set.

    Attributes:
        classes: all that there are, in the order of labels; none: the folders' names.
        edge: height and width of the images, in pixels.
        channels: 1 or 3; None: 3 if any picture is in colour.
        test: the folder of the pictures of the test; None: a share of all.
        test_share: that share, of each class.
        group_until: pictures whose names begin alike up to this text are held out
            together or not at all; None: each is for itself.
        seed: of the draw of those that are held out.
        skip_unreadable: leaves out what cannot be read, and says so.
    """

    classes: tuple[str, ...] = ()
    edge: int = 32
    channels: int | None = None
    test: Path | None = None
    test_share: float = 0.2
    group_until: str | None = None
    seed: int = 0
    skip_unreadable: bool = False


class _Found(NamedTuple):
    files: list[Path]
    labels: Int32[np.ndarray, " n"]
    pixels: list[np.ndarray]


def make_picture_set(folder: Path, asked: Asked) -> PictureSet:
    """Reads the pictures of a folder that holds a folder of them for each class.

    They are fitted as those are that a trained model predicts (see `load_images`): cut
    to the middle, averaged down or padded, so that a model sees later what it learned.

    Raises:
        InputError: if there are fewer than two classes or one that cannot be called as
            it is, one of their pictures cannot be read, or nothing is left for training
            or for the test.
    """
    found = by_class(folder, asked.classes)
    names = tuple(found)
    if len(names) < 2:
        raise InputError(
            f"{folder} holds pictures of one class alone ({names[0]}); there must be "
            "two or more, or all of them named"
        )
    for name in names:
        if not is_name(name):
            raise InputError(
                f"{name!r} cannot be the name of a class; give each a name in one line"
            )
    apart = None if asked.test is None else by_class(asked.test, names)
    left_out: list[str] = []
    done: dict[str, int] = {}
    train = _read(found, asked, left_out, done)
    if apart is None:
        groups = _groups(train.files, asked.group_until)
        chosen = held_out(train.labels, groups, asked.test_share, asked.seed)
        train, test = _only(train, ~chosen), _only(train, chosen)
    else:
        test = _read(apart, asked, left_out, done)
    for held, what in ((train, "train on"), (test, "test with")):
        if not held.files:
            raise InputError(
                f"{folder} leaves no picture to {what}; there must be two or more of a "
                "class, and of two groups where names say those"
            )
    depth = asked.channels or max(
        pixels.shape[-1] for pixels in (*train.pixels, *test.pixels)
    )
    shape = asked.edge, asked.edge, depth
    train_images, test_images = (
        np.stack([fitted(pixels, shape, done) for pixels in held.pixels])
        for held in (train, test)
    )
    said = notes_of(done, len(train.files) + len(test.files))
    alike = _alike(train.files, train_images, test.files, test_images)
    return PictureSet(
        *(train_images, train.labels, test_images, test.labels, names),
        (*left_out, *said, *alike),
    )


def _read(
    found: dict[str, list[Path]],
    asked: Asked,
    left_out: list[str],
    done: dict[str, int],
) -> _Found:
    """All pictures of the classes, in their size; notes what is left out and done."""
    files: list[Path] = []
    labels: list[int] = []
    pixels: list[np.ndarray] = []
    for label, inside in enumerate(found.values()):
        for file in inside:
            try:
                picture = read_picture(file)
            except InputError as error:
                if not asked.skip_unreadable:
                    raise InputError(
                        f"{error}; or give --skip-unreadable, which leaves it out"
                    ) from error
                left_out.append(f"left out: {error}")
                continue
            files.append(file)
            labels.append(label)
            # At once: a photograph is a thousand times larger than what is kept of it.
            # Whether all are gray is known at the end.
            shape = asked.edge, asked.edge, picture.shape[-1]
            pixels.append(fitted(picture, shape, done))
    return _Found(files, np.array(labels, np.int32), pixels)


def _only(found: _Found, chosen: np.ndarray) -> _Found:
    places = np.flatnonzero(chosen)
    return _Found(
        [found.files[place] for place in places],
        found.labels[places],
        [found.pixels[place] for place in places],
    )


def _groups(files: Sequence[Path], until: str | None) -> list[str]:
    """What each picture is held out with: all whose names begin alike up to a text."""
    if until is None:
        return list(map(str, files))
    groups = []
    for file in files:
        begin, found, _ = file.name.partition(until)
        if not found:
            raise InputError(
                f"the name of {file} has no {until!r} (--group-until), so that nothing "
                "says which it belongs with; rename it, or give a text that all have"
            )
        groups.append(begin)
    return groups


def _alike(
    train_files: Sequence[Path],
    train_images: np.ndarray,
    test_files: Sequence[Path],
    test_images: np.ndarray,
) -> list[str]:
    """A note where the test has pictures that are trained on, to the pixel."""
    known = {
        hashlib.sha256(image.tobytes()).digest(): file
        for file, image in zip(train_files, train_images, strict=True)
    }
    pairs = [
        (file, known[digest])
        for file, image in zip(test_files, test_images, strict=True)
        if (digest := hashlib.sha256(image.tobytes()).digest()) in known
    ]
    if not pairs:
        return []
    (of_test, of_training), *_ = pairs
    return [
        f"{len(pairs)} of {len(test_files)} test images are also trained on, such as "
        f"{of_test}, which is {of_training}: of those a test says too much"
    ]
