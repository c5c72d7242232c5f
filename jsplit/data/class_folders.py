"""Picture files in folders, which may be named by the classes of what is in them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jsplit.errors import InputError

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Of the files that are taken from a folder; a file that is named may have any."""


def pictures(
    paths: Iterable[Path], classes: Sequence[str], *, named: bool = True
) -> tuple[list[Path], list[int] | None, list[str]]:
    """Finds picture files, and their labels where folders say them.

    A folder gives the pictures that lie in it, sorted by name. One with no pictures but
    folders of them gives those, folder by folder, and the name of each is the class of
    its pictures: `photos/cat/1.png` is a cat. It may be the number of the class, too,
    unless classes are called by numbers. Hidden folders are not looked into, and hidden
    files, such as the `._1.png` that macOS leaves beside a picture, are none.

    Args:
        paths: files and folders.
        classes: what each class is called, in the order of labels.
        named: whether these are names; else they are numbers, because the model does
            not know its classes by names.

    Returns:
        The files, the label of each (None where no folder says any) and notes about
        what is left out, each in a line for people.

    Raises:
        InputError: if a folder holds no pictures, folders in it are not called as
            classes are, or some pictures lie in folders of classes and others do not.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as photos:
        ...     for name in ("dog", "cat"):
        ...         os.mkdir(f"{photos}/{name}")
        ...         open(f"{photos}/{name}/1.png", "w").close()
        ...     files, labels, notes = pictures([Path(photos)], ("cat", "dog"))
        >>> [file.parent.name for file in files], labels
        (['cat', 'dog'], [0, 1])
    """
    files: list[Path] = []
    labels: list[int] = []
    notes: list[str] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        direct = _inside(path)
        folders = [(folder, inside) for folder, inside in _folders(path) if inside]
        if direct:
            files += direct
            if folders:
                notes.append(f"{path}: its folders, {_named(folders)}, are left out")
        for folder, inside in () if direct else folders:
            files += inside
            labels += [_label(path, folder.name, classes, named)] * len(inside)
        if not direct and not folders:
            raise InputError(
                f"{path} is a folder with no pictures ({', '.join(sorted(SUFFIXES))}) "
                "in it, nor in folders in it; name another"
            )
    if labels and len(labels) != len(files):
        raise InputError(
            "some pictures lie in folders of classes and others do not; give folders "
            "that hold folders of classes alone, or name the pictures (FOLDER/*/*)"
        )
    return files, labels or None, notes


def by_class(path: Path, classes: Sequence[str] = ()) -> dict[str, list[Path]]:
    """The pictures of a folder that holds a folder of them for each class.

    Args:
        path: that folder. Hidden files and folders in it are left out.
        classes: all that there are, in the order of labels, also those without a
            picture here; if there are none, the folders' names in their order.

    Returns:
        The pictures of each class, sorted by name, in the order of labels.

    Raises:
        InputError: if it is no folder, holds no folders of pictures, one that is called
            as no class is, or pictures anywhere else: none is left out without a word.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; name one with a folder for each class")
    listed = list(_folders(path))
    folders = {folder.name: inside for folder, inside in listed if inside}
    if not folders:
        splits = [name for name in ("train", "test") if (path / name).is_dir()]
        remedy = "name one with a folder of pictures for each class"
        if splits == ["train", "test"]:
            remedy = f"if those hold the classes, name {path}/train --test {path}/test"
        raise InputError(
            f"no folder in {path} holds pictures ({', '.join(sorted(SUFFIXES))}); "
            + remedy
        )
    for folder, _ in listed:
        deeper = _below(folder)
        if deeper is not None:
            raise InputError(
                f"{deeper} lies deeper than {folder}, so that it would be left out; "
                "put all pictures of a class into its folder itself"
            )
    loose = _inside(path)
    if loose:
        raise InputError(
            f"{loose[0]} lies in no folder of a class, where folders are for classes; "
            "put it into one, or take it away"
        )
    unknown = sorted(folders.keys() - set(classes))
    if classes and unknown:
        raise InputError(
            f"{path} holds a folder {unknown[0]!r}, which is none of the classes "
            f"({_first(classes)}); rename it, or name it among them"
        )
    return {name: folders.get(name, []) for name in classes or sorted(folders)}


def _first(classes: Sequence[str]) -> str:
    return ", ".join(classes[:8]) + ", ..." * (len(classes) > 8)


def _inside(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not (_is_hidden(file) or file.is_dir())
    )


def _below(folder: Path) -> Path | None:
    """The first picture deeper than in the folder itself; None if there is none."""
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inner)
        if len(inner) > 1 and not hidden and file.suffix.lower() in SUFFIXES:
            return file
    return None


def _folders(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not _is_hidden(folder):
            yield folder, _inside(folder)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _named(folders: Sequence[tuple[Path, list[Path]]]) -> str:
    more = f" and {len(folders) - 4} more" if len(folders) > 4 else ""
    return ", ".join(folder.name for folder, _ in folders[:4]) + more


def _label(path: Path, name: str, classes: Sequence[str], named: bool) -> int:
    """The label that a folder's name says: by the class, or by its number."""
    if name in classes:
        return classes.index(name)
    # A folder "1" of a model of the digits 3 and 7 is a mistake, not a seven.
    numbers = [str(label) for label in range(len(classes))]
    if name in numbers and not any(called.isdigit() for called in classes):
        return int(name)
    first = _first(classes)
    if not named:
        raise InputError(
            f"{path} holds a folder {name!r}, and the model knows its classes by "
            f"numbers alone ({first}), as in a server's folder; write class_names, a "
            "list of their names in the order of labels, into the model.json of the "
            "run, or call the folders by numbers"
        )
    raise InputError(
        f"{path} holds a folder {name!r}, and the model has no such class ({first}); "
        f"call the folders of {path} as the classes are, or name the pictures instead "
        f"({path}/*/*)"
    )
