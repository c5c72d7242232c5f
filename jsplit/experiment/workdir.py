"""A run's folder: what lies in it, and whose it is."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsplit.data.sources import is_file
from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig, differences, flat
from jsplit.experiment.kept_config import from_kept
from jsplit.runtime import atomic

_FORMAT = "jsplit-run-1"


class RunFolder:
    """Paths of everything that a run keeps."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.traffic = path / "traffic"  # of a server


@contextlib.contextmanager
def open_new(
    config: RunConfig, dataset: dict[str, Any], *, mode: int = 0o777
) -> Iterator[RunFolder]:
    """Makes the folder of a new run, writes `config.json` and holds the folder.

    What was made goes again if it is left by an error while nothing is in it.

    Args:
        config: its `workdir` names the folder; None makes a new one under `runs/`.
        dataset: what is known of the data, kept beside the config.
        mode: of the folder if it is made, as `make_folder` has it.

    Raises:
        InputError: if the folder holds anything already, cannot be written, or is in
            use.
    """
    path = path_of(config.workdir) if config.workdir else _unused(config.model)
    check_unused(path)
    folder = RunFolder(path)
    record = {"format": _FORMAT, "config": flat(config), "dataset": dataset}
    with contextlib.ExitStack() as stack:
        try:
            folders = make(path, mode)
            stack.enter_context(lock(path))
            stack.enter_context(atomic.removed_if_empty(folders))
            check_unused(path)  # Again: another process may have been faster.
            with atomic.unfinished(*folders[:1]):
                atomic.write_json(folder.config, record)
        except OSError as error:
            raise InputError(
                f"--workdir {path}: {error.strerror}; name another folder"
            ) from error
        yield folder


def make_folder(path: Path, option: str, mode: int = 0o777) -> list[Path]:
    """Makes a folder, with those above it, unless it is there.

    Args:
        path: of the folder.
        option: that names it, for errors.
        mode: of the folder itself, less the umask; those above have the usual one.

    Returns:
        The folders that were made, for `atomic.removed_if_empty`.

    Raises:
        InputError: naming the option that names the folder, if it cannot be made.
    """
    try:
        return make(path, mode)
    except OSError as error:
        raise InputError(
            f"{option} {path}: {error.strerror}; name another folder"
        ) from error


def make(path: Path, mode: int = 0o777) -> list[Path]:
    """As `make_folder`, but what the system refuses is an `OSError`."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with atomic.removed_if_empty(missing):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
    return missing


@contextlib.contextmanager
def lock(path: Path, option: str = "--workdir") -> Iterator[None]:
    """Keeps other processes out of a run's folder; the system ends it with the process.

    The folder itself is locked, and nothing is added to it; `filelock` locks only files
    of its own, and leaves them behind.

    Args:
        path: of the folder, which exists.
        option: that names it, for errors.

    Raises:
        InputError: if another process holds the folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{option} {path} is in use by another process; wait for it, or name "
                "another folder"
            ) from error
        yield
    finally:
        os.close(descriptor)


def is_export(path: Path) -> bool:
    """Whether `jsplit export` made a folder of a run, and no run did."""
    exported = any(path.glob("*.jaxexport"))
    return exported and not RunFolder(path).config.is_file()


def path_of(workdir: str, option: str = "--workdir") -> Path:
    """The folder that an option names; `~` is the user's home.

    Example:
        >>> path_of("runs/first").name
        'first'

    Args:
        workdir: the name, relative to where the program runs.
        option: that gave it, for errors.

    Raises:
        InputError: if no folder can have that name: it is too long for the system, a
            part of it is not UTF-8, as checkpoints need, or `~` names nobody.
    """
    try:
        path = Path(workdir).expanduser()
        str(path.absolute()).encode()
        # Names inside are up to so long, those of temporary files among them.
        os.lstat(path / ("x" * 100))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # Nothing is there yet, or whoever opens it says why it cannot.
    except UnicodeEncodeError as error:
        raise InputError(
            f"{option} {workdir!r} is not UTF-8, which checkpoints need; name a folder "
            "that is"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option} {workdir}: {reason}; name another folder") from (
            error
        )
    return path


def check_unused(path: Path) -> None:
    """Refuses a folder that a new run cannot have, before any work is done.

    Raises:
        InputError: if the folder holds anything already or cannot be written.
    """
    if not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(
                f"--workdir {path}: {parent} cannot be written; name another"
            )
        return
    if not path.is_dir():
        raise InputError(f"--workdir {path} is a file; name a folder")
    # A run killed before it began leaves no more than this.
    if all(atomic.is_temporary(entry.name) for entry in path.iterdir()):
        if not os.access(path, os.W_OK | os.X_OK):
            raise InputError(f"--workdir {path} cannot be written; name another")
        return
    if RunFolder(path).config.is_file():
        raise InputError(
            f"--workdir {path} holds a run already; go on with it by --resume, or name "
            "another folder"
        )
    raise InputError(
        f"--workdir {path} holds files that are not a jsplit run; name another folder"
    )


def read_workdir(path: Path) -> tuple[RunFolder, RunConfig, dict[str, Any]]:
    """The folder of an earlier run, with its config and its dataset record.

    Raises:
        InputError: if the folder is not a jsplit run's, or `from_kept` refuses what it
            holds.
    """
    folder = RunFolder(path)
    try:
        record = json.loads(folder.config.read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']!r}")
        values, dataset = dict(record["config"]), dict(record["dataset"])
    except FileNotFoundError as error:
        raise InputError(
            f"--workdir {path} holds no run to resume (no config.json); name the "
            "folder of one, or leave --resume out to start one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--workdir {path}: its config.json is not a jsplit run's ({error}); put "
            "the right one back, or start a new run in another --workdir"
        ) from error
    return folder, from_kept(values, str(folder.config)), dataset


def check_same(folder: RunFolder, asked: RunConfig, kept: RunConfig) -> None:
    """Refuses to resume a run with settings that would change its result.

    A user's own file may lie elsewhere by now: whether another name stands for the
    same data, `check_data` tells by the data.

    Raises:
        InputError: naming each setting that differs.
    """
    if is_file(kept.dataset) and is_file(asked.dataset):
        asked = dataclasses.replace(asked, dataset=kept.dataset)
    differing = differences(kept, asked)
    if differing:
        raise InputError(
            f"--resume: {folder.path} was started otherwise ({'; '.join(differing)}); "
            "give it the settings that it was started with, or start a new run in "
            "another --workdir"
        )


def check_file(folder: RunFolder, asked: RunConfig, kept: RunConfig) -> None:
    """Refuses to resume a run whose data file is not where the run last had it.

    A relative path is one from where the program runs, which may be another folder now.

    Raises:
        InputError: if nothing else was asked for, and there is no such file.
    """
    name = kept.dataset
    if asked.dataset != name or not is_file(name):
        return
    if not os.path.exists(os.path.expanduser(name)):
        raise InputError(
            f"--resume: {folder.path} was started on the file {name}, which is not "
            f"there (seen from {Path.cwd()}); say where it is by --dataset FILE"
        )


def extend(folder: RunFolder, epochs: int) -> None:
    """Gives a run more epochs: it counts as unfinished, whatever it was.

    Its record keeps after how many epochs it was to end before, because a run that was
    extended is none that was begun with so many: its first epochs had other step sizes.

    Args:
        folder: of the run, held by this process.
        epochs: in all, more than it was given before.

    Raises:
        OSError: if it cannot be written.
    """
    record = json.loads(folder.config.read_text(encoding="utf-8"))
    earlier = record.get("extended_from", [])
    record["extended_from"] = [*earlier, record["config"]["epochs"]]
    record["config"]["epochs"] = epochs
    # In this order: without a summary it is an unfinished run of either length.
    folder.summary.unlink(missing_ok=True)
    atomic.write_json(folder.config, record)


def extended_from(folder: RunFolder) -> tuple[int, ...]:
    """After how many epochs a run was to end, each time before `extend` gave it more.

    Args:
        folder: of a run whose record `read_workdir` has read.

    Raises:
        InputError: if the entry is no list of whole numbers.
    """
    record = json.loads(folder.config.read_text(encoding="utf-8"))
    earlier = record.get("extended_from", [])
    if not isinstance(earlier, list) or any(
        type(count) is not int for count in earlier
    ):
        raise InputError(
            f"{folder.config}: extended_from is {earlier!r}, which is no list of whole "
            "numbers; put back what the run wrote, or move its folder away"
        )
    return tuple(earlier)


def described(dataset: Any) -> dict[str, Any]:
    """What is kept of a run's data, for `open_new` and `check_data`."""
    kept = {name: getattr(dataset, name) for name in ("name", "source", "fingerprint")}
    # A file may name more classes than its images have, which no fingerprint tells.
    return kept | {"classes": dataset.num_classes}


def check_data(folder: RunFolder, record: dict[str, Any], dataset: Any) -> None:
    """Refuses to resume a run with other data than it was started with.

    Args:
        folder: of the run.
        record: of the data that it was started with, as `read_workdir` gives it.
        dataset: of now.

    Raises:
        InputError: if they differ.
    """
    if record.get("fingerprint") != dataset.fingerprint:
        raise InputError(
            f"--resume: {folder.path} was started on other data "
            f"({record.get('source')}) than is there now ({dataset.source}); bring "
            "that data back, or start a new run in another --workdir"
        )
    classes = record.get("classes", dataset.num_classes)
    if classes != dataset.num_classes:
        raise InputError(
            f"--resume: {folder.path} was started on data of {classes} classes, and "
            f"there are {dataset.num_classes} now ({dataset.source}); give it the "
            "class_names that it had, or start a new run in another --workdir"
        )


def _unused(model: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{stamp}-{model}"
    number = 2
    while path.exists():
        path = Path("runs") / f"{stamp}-{model}-{number}"
        number += 1
    return path
