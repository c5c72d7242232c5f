"""What runs left in their folders, read without jsplit, and compared to the bit."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

COMPARED = re.compile(r"(client|server|store|epoch|gate/state)(/|$)")
"""Of a checkpoint. A gate's own memory may have another form."""

MEASURED = {"seconds", "eta_seconds", "clients", "counted_bytes"}
"""Of an epoch, what two runs of the same code may have otherwise."""

ACCOUNT = {
    *("states", "bytes", "client_macs", "always_a_float32", "wire_reduction"),
    *("communication_reduction", "client_compute_reduction"),
    *("test_accuracy", "best_test_accuracy"),
}
"""Of a summary; what else it tells, and where, is not a result of training."""


class Failure(Exception):
    """Why there is nothing to compare."""


class Result(NamedTuple):
    """What a run ended with: arrays and numbers, by name."""

    arrays: dict[str, np.ndarray]
    figures: dict[str, Any]


def result_of(folder: Path) -> Result:
    """The last checkpoint, and the figures of every epoch and of the summary.

    Args:
        folder: of a finished run, on one machine or of a server.

    Raises:
        Failure: if something is missing that such a run has.
    """
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    epochs = {str(number): json.loads(line) for number, line in enumerate(lines, 1)}
    account = {name: summary[name] for name in sorted(ACCOUNT & summary.keys())}
    figures = numbers({"epoch": epochs, "summary": account})
    saved, name = folder / "checkpoints", re.compile(r"epoch-(\d+)(?:-(store-\d+))?")
    found = {int(m[1]): m for it in saved.iterdir() if (m := name.fullmatch(it.name))}
    if not len(epochs) == len(summary["states"]) == max(found, default=0) > 0:
        raise Failure(f"{len(epochs)} epochs, {summary['states']}, saved {list(found)}")
    newest = found[len(epochs)]
    arrays = restored(saved / newest[0])
    if newest[2]:
        arrays |= restored(saved / newest[2], "store")
    needed = {"client", "server"} | (
        {"store"} if summary["states"][-1] == "C" else set()
    )
    if missing := needed - {name.split("/")[0] for name in arrays}:
        raise Failure(f"the last checkpoint is without {', '.join(sorted(missing))}")
    return Result(dict(sorted(arrays.items())), figures)


def restored(folder: Path, entry: str = "") -> dict[str, np.ndarray]:
    """The arrays below a folder that are compared, named by the words of their paths.

    Args:
        folder: of one checkpoint.
        entry: what comes before all paths.
    """
    arrays = {}
    for metadata in folder.resolve().rglob("_METADATA"):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(metadata.parent).item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), tree)
            how = ocp.args.PyTreeRestore(restore_args=kinds)
            tree = checkpointer.restore(metadata.parent, args=how)
        for path, array in flat(tree, entry):
            arrays["/".join(re.findall(r"[\w-]+", path))] = np.asarray(array)
    return {name: arrays[name] for name in arrays if COMPARED.match(name)}


def numbers(value: Any) -> dict[str, Any]:
    """All numbers and states in nested plain values, but those that were measured."""
    return {
        name: leaf
        for name, leaf in flat(value)
        if not MEASURED.intersection(name.split("."))
        and (isinstance(leaf, int | float) or re.search(r"\bstates?$", name))
    }


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists, with their paths."""
    if not isinstance(value, dict | list | tuple):
        yield path, value
        return
    for name, below in value.items() if isinstance(value, dict) else enumerate(value):
        yield from flat(below, f"{path}.{name}" if path else str(name))


def differences(before: Result, after: Result) -> tuple[list[str], list[str]]:
    """What is not the same, and what to know although it is.

    Arrays of one name are compared, then those with a name on one side only, in order.
    Figures that are only after are new, and not compared.
    """
    shared = before.arrays.keys() & after.arrays.keys() | {"gate/state"}
    lone = [[it for it in side.arrays if it not in shared] for side in (before, after)]
    pairs = [(it, it) for it in before.arrays if it in after.arrays]
    unlike = [
        f"{name}: {figure}, then {after.figures.get(name)}"
        for name, figure in before.figures.items()
        if figure != after.figures.get(name)
    ]
    remarks = []
    if len(lone[0]) != len(lone[1]):
        unlike.append(f"arrays only before {lone[0]}, only after {lone[1]}")
    elif lone[0]:
        pairs += zip(*lone, strict=True)
        example = f"{lone[0][0]} with {lone[1][0]}"
        remarks.append(f"{len(lone[0])} arrays were paired by order, as {example}")
    for name, other in pairs:
        one, two = before.arrays[name], after.arrays[other]
        kinds = [f"{it.dtype}{list(it.shape)}" for it in (one, two)]
        if kinds[0] != kinds[1]:
            unlike.append(f"{name}: {kinds[0]}, then {kinds[1]}")
        elif one.tobytes() != two.tobytes():
            unlike.append(f"{name}: {np.sum(one != two)} of {one.size} values")
    return unlike, remarks
