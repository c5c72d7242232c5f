"""Checkpoints that survive `kill -9`, restored to the bit.

A folder of checkpoints holds one Orbax folder per finished epoch and one per store:

    epoch-000010                  the state after 10 epochs, which needs no store
    epoch-000012-store-000011     the state after 12, with the store of epoch 11
    store-000011

The state is small and saved often; the store (the packets that state C trains on) is
large and changes only in states A and B. A state without a store of its own belongs to
the newest store before it, and the folder's name says which. Each folder appears under
its name by one rename, the store before the state that needs it, so that the newest
name is always whole; what a killed save leaves behind goes at the next save.

Orbax checks structure, not content, and casts to the dtype that is asked for, so a
record beside the arrays keeps each one's dtype, shape and CRC-32.

Orbax's CheckpointManager would name, keep and delete the states, but it knows no store
that two of them share, takes an epoch that is not new for one not to be saved, and
empties what it deletes under its good name, or, with `todelete_subdir`, never frees it.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jsplit.errors import InputError, RunError

KEEP = 2
"""How many states a folder keeps: the newest, and one to fall back to."""

_REMOVALS = 40  # tries, 0.05 s apart
_PATIENCE, _SETTLING = 5.0, 0.5  # seconds for the threads of a save that failed

_EPOCH = re.compile(r"epoch-(\d+)(?:-store-(\d+))?")
_STORE = re.compile(r"store-(\d+)")
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # as TensorStore has it
_LEFTOVER = re.compile(r"(epoch|store)-\d+.*\.(orbax-checkpoint-tmp|new|old)")

PyTree = Any


def save(
    folder: Path, epoch: int, state: PyTree, meta: dict, *, store: PyTree | None = None
) -> None:
    """Writes the checkpoint of an epoch, then drops what is no longer needed.

    Blocks until the checkpoint is committed. The `KEEP` newest states stay, with the
    stores that they refer to.

    Args:
      folder: where the checkpoints of one run live; made if missing.
      epoch: number of finished epochs; above every epoch already in the folder.
      state: arrays of any shape and of any dtype that Orbax knows; no typed PRNG keys.
      meta: a JSON value. NaN and infinities come back as they are, tuples as lists.
      store: arrays like `state`'s, or None to go on with the newest store, if any.

    Raises:
      InputError: the epoch is not a new one.
      RunError: the disk refused; the checkpoint before, if any, is intact, and nothing
        is left of this one.
    """
    folder = Path(folder).resolve()
    newest = latest(folder)
    if epoch < 0 or (newest is not None and epoch <= newest):
        raise InputError(
            f"cannot save epoch {epoch} into {folder}, which holds epoch {newest}; "
            "resume from that one or use an empty folder"
        )
    json.dumps(meta)  # Fails here, and not after a store has been written.
    _sweep(folder)
    path = folder / f"store-{epoch:06d}"
    try:
        if store is not None:
            _write(path, store, None)
        stores = [int(match[1]) for match, _ in _entries(folder, _STORE)]
        suffix = f"-store-{max(stores):06d}" if stores else ""
        path = folder / f"epoch-{epoch:06d}{suffix}"
        _write(path, state, meta)
    except Exception as error:  # Orbax and TensorStore raise many kinds.
        with contextlib.suppress(OSError):  # Else it goes at the next save.
            _sweep(folder)
        kept = (
            "there is no earlier one"
            if newest is None
            else f"that of epoch {newest} is intact"
        )
        raise RunError(
            f"cannot write checkpoint {path} ({_reason(error)}); free space there or "
            f"check its permissions: {kept}"
        ) from error
    _sweep(folder)


def latest(folder: Path) -> int | None:
    """Returns the newest epoch that has a whole checkpoint, or None."""
    return max((int(m[1]) for m, _ in _entries(Path(folder), _EPOCH)), default=None)


def restore(
    folder: Path, epoch: int, state_like: PyTree, store_like: PyTree | None = None
) -> tuple[PyTree, dict, PyTree | None]:
    """Reads a checkpoint back, bit for bit, whatever devices it was saved from.

    Args:
      folder: as given to `save`.
      epoch: one of the folder's epochs, usually `latest(folder)`.
      state_like: the structure, shapes and dtypes to expect. Where a leaf is a NumPy
        array the result is one too; where it is a `jax.Array` or `ShapeDtypeStruct`
        that is bound to devices it goes there, otherwise to the default device.
      store_like: the same for the store; None leaves the store unread.

    Returns:
      The state, the meta value, and the store: None where the checkpoint refers to
      none or `store_like` is None.

    Raises:
      RunError: there is no such checkpoint, it is damaged, or it does not fit.
    """
    folder = Path(folder).resolve()
    match, path = _state_of(folder, epoch)
    state, meta = _read(path, state_like)
    store = None
    if store_like is not None and match[2] is not None:
        store, _ = _read(folder / f"store-{match[2]}", store_like)
    return state, meta, store


def read_arrays(folder: Path, epoch: int) -> dict[str, np.ndarray]:
    """Reads all arrays of a state, whatever they are, by their paths in its tree.

    Such as `['client'].variables['params']['conv1']['kernel']`: for readers who want
    some of a state without knowing the rest of it.

    Args:
        folder: as given to `save`.
        epoch: one of the folder's epochs, usually `latest(folder)`.

    Raises:
      RunError: there is no such checkpoint, or it is damaged.
    """
    _, path = _state_of(Path(folder).resolve(), epoch)
    arrays, _ = _read_flat(path, None)
    return {name: np.asarray(array) for name, array in arrays.items()}


def _state_of(folder: Path, epoch: int) -> tuple[re.Match, Path]:
    """The folder of an epoch's state, and how its name reads."""
    found = {int(m[1]): (m, path) for m, path in _entries(folder, _EPOCH)}
    if epoch not in found:
        raise RunError(
            f"no checkpoint of epoch {epoch} in {folder}, only of {sorted(found)}; "
            "name one of those or start afresh"
        )
    return found[epoch]


def _entries(folder: Path, pattern: re.Pattern[str]) -> list[tuple[re.Match, Path]]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [(match, path) for path in paths if (match := pattern.fullmatch(path.name))]


def _sweep(folder: Path) -> None:
    """Removes torn saves, states beyond the newest `KEEP`, and stores without a user.

    A folder is renamed before it is emptied: a kill in between must not leave half a
    checkpoint under a good name.
    """
    states = sorted(_entries(folder, _EPOCH), key=lambda entry: int(entry[0][1]))
    used = {match[2] for match, _ in states[-KEEP:]}
    doomed = [path for _, path in states[:-KEEP]]
    doomed += [path for match, path in _entries(folder, _STORE) if match[1] not in used]
    for path in doomed:
        path.rename(path.with_name(path.name + ".old"))
    for _, path in _entries(folder, _LEFTOVER):
        _remove(path)


def _remove(path: Path) -> None:
    """Removes a leftover, also while a thread of a failed save still adds to it."""
    for _ in range(_REMOVALS):
        with contextlib.suppress(OSError):
            return shutil.rmtree(path)
        time.sleep(0.05)
    shutil.rmtree(path)


def _flatten(tree: PyTree) -> dict[str, Any]:
    """Names each leaf by its path, so that containers of any type can be saved."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _of_kind(kind: str) -> jax.ShapeDtypeStruct:
    dtype, _, shape = kind.partition("[")
    return jax.ShapeDtypeStruct(json.loads("[" + shape), jnp.dtype(dtype))


def _describe(array: np.ndarray) -> list:
    """What must be the same after the journey: dtype, shape and content."""
    return [_kind(array), zlib.crc32(array.reshape(-1).view(np.uint8).data)]


def _sign(meta: dict | None, arrays: dict[str, list]) -> dict:
    """The record as JSON has it, with a checksum of its own."""
    text = json.dumps([meta, arrays])
    meta, arrays = json.loads(text)
    return {"meta": meta, "arrays": arrays, "crc": zlib.crc32(text.encode())}


def _checkpointer() -> ocp.Checkpointer:
    # Of several processes each one reads for itself and one writes; unless every part
    # of Orbax is told, it has all of them wait for one another.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        arrays=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        record=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _write(path: Path, tree: PyTree, meta: dict | None) -> None:
    # On the host the arrays forget their sharding, which must not matter later.
    arrays = {name: np.asarray(leaf) for name, leaf in _flatten(tree).items()}
    record = _sign(meta, {name: _describe(array) for name, array in arrays.items()})
    # Orbax refuses arrays of no elements; the record alone brings those back.
    stored = {name: array for name, array in arrays.items() if array.size}
    # A name of its own, since threads of a save that failed may still write to theirs.
    unfinished = path.with_name(f"{path.name}.{time.time_ns()}.new")
    with _one_error(), _checkpointer() as checkpointer:
        checkpointer.save(
            unfinished,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(stored),
                record=ocp.args.JsonSave(record),
            ),
        )
    unfinished.rename(path)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Drops what threads of Orbax and TensorStore print of an error raised anyway.

    After an error it waits, for a while, for those that still write.
    """
    log, hook = logging.getLogger("absl"), sys.unraisablehook

    def is_other(record: logging.LogRecord) -> bool:
        return "_SignalingThread" not in record.getMessage()

    def tell_other(unraisable: "sys.UnraisableHookArgs") -> None:
        # Writes that end after the first of them has failed find nobody there.
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    log.addFilter(is_other)
    sys.unraisablehook = tell_other
    try:
        yield
    except Exception:
        last = time.monotonic() + _PATIENCE
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                thread.join(max(0.0, last - time.monotonic()))
        time.sleep(_SETTLING)  # Threads of TensorStore's own cannot be waited for.
        raise
    finally:
        sys.unraisablehook = hook
        log.removeFilter(is_other)


def _read(path: Path, like: PyTree) -> tuple[PyTree, dict]:
    expected = _flatten(like)
    arrays, meta = _read_flat(path, {k: _kind(leaf) for k, leaf in expected.items()})
    leaves = [place(arrays[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), meta


def _read_flat(path: Path, expected: dict[str, str] | None) -> tuple[dict, dict]:
    """The arrays of a checkpoint by name, and its meta value.

    Args:
        path: of the checkpoint.
        expected: kinds that its arrays must have; None takes what is there.
    """
    damaged = f"checkpoint {path} is damaged; {_remedy(path)}"
    try:
        with _checkpointer() as checkpointer:
            only_record = ocp.args.Composite(record=ocp.args.JsonRestore())
            record = checkpointer.restore(path, args=only_record)["record"]
            if record != _sign(record["meta"], record["arrays"]):
                raise ValueError("the content of its record has changed")
            kinds = {name: kind for name, (kind, _) in record["arrays"].items()}
            if expected is not None:
                _check_fits(path, kinds, expected)
            abstract = {name: _of_kind(kind) for name, kind in kinds.items()}
            stored = {name: leaf for name, leaf in abstract.items() if leaf.size}
            only_arrays = ocp.args.Composite(arrays=ocp.args.StandardRestore(stored))
            arrays = dict(checkpointer.restore(path, args=only_arrays)["arrays"])
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"{damaged} ({_line(error)})") from error
    for name, leaf in abstract.items():
        array = arrays.setdefault(name, np.zeros(leaf.shape, leaf.dtype))
        if _describe(array) != record["arrays"][name]:
            raise RunError(f"{damaged} (the content of {name} has changed)")
    return arrays, record["meta"]


def _remedy(path: Path) -> str:
    store = _STORE.fullmatch(path.name)
    if store is None:
        return "delete that folder to go on without it"
    users = sorted(user.name for user in path.parent.glob(f"epoch-*-store-{store[1]}"))
    return (
        f"delete {' and '.join(users)} beside it to go on without (from the "
        "checkpoint before, or from the start)"
    )


def _check_fits(path: Path, saved: dict[str, str], expected: dict[str, str]) -> None:
    for name in sorted(saved.keys() | expected.keys()):
        there, here = (kinds.get(name, "missing") for kinds in (saved, expected))
        if there != here:
            raise RunError(
                f"checkpoint {path} is of another run: {name or 'its array'} is "
                f"{there} there and {here} here; resume with the settings, and the "
                "version, that made it"
            )


def place(array: np.ndarray, like: Any) -> Any:
    """An array of the host where another lies: on its devices, or on the host."""
    if isinstance(like, np.ndarray | np.generic):
        return array
    bound = not isinstance(like, jax.Array) or like.committed
    sharding = getattr(like, "sharding", None) if bound else None
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # Each process has read all of it; `device_put` would send it round to compare.
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def _reason(error: Exception) -> str:
    """Why a disk refused, in the system's words where they can be told.

    Example:
        >>> _reason(ValueError("Failed to write: [os_error_code='28']"))
        'No space left on device'
        >>> _reason(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = _OS_ERROR.search(str(error))
    return _line(error) if code is None else os.strerror(int(code[1]))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}".splitlines()[0]
