"""How a run begins from weights that another one, or another program, has trained."""

import jax
import numpy as np

from jsplit.core.simulation import Simulation
from jsplit.core.state import SideState
from jsplit.errors import InputError
from jsplit.experiment import checkpoint
from jsplit.experiment.halves import read_variables
from jsplit.experiment.weights import Named, merged, named, read_safetensors, unnamed
from jsplit.experiment.workdir import is_export, path_of
from jsplit.typing import Variables


def begun_from(
    simulation: Simulation, source: str, part: str, last_block: str
) -> Simulation:
    """The simulation with weights, and batch statistics, that others trained.

    Optimizers, gate and everything else begin as they are; what is not taken keeps its
    own first weights.

    Args:
        simulation: before its first epoch.
        source: the folder of a run, or a safetensors file with the names that
            `jsplit export` gives.
        part: what is taken: `both` halves, that of the `client` or the `server`, or
            the `body`, which is both but for the last block.
        last_block: the name of the block that gives the logits.

    Raises:
        InputError: if the source cannot be read, lacks a variable, or has another shape
            or numbers that are not finite under its name.
    """
    found = read_named(source)

    def begun(side: SideState, taken: bool) -> SideState:
        if not taken:
            return side
        own = named(side.variables)
        chosen = {
            name: _fitting(source, found, name, array, last_block)
            if part != "body" or _block_of(name) != last_block
            else array
            for name, array in own.items()
        }
        variables: Variables = jax.tree.map(
            checkpoint.place, unnamed(chosen), side.variables
        )
        return side.replace(variables=variables)  # type: ignore[attr-defined]

    state = simulation.state
    return simulation._replace(
        state=state.replace(  # type: ignore[attr-defined]
            client=begun(state.client, part != "server"),
            server=begun(state.server, part != "client"),
        )
    )


def read_named(source: str) -> Named:
    """The weights in a run's newest checkpoint, or in a safetensors file, by name.

    Raises:
        InputError: if it is neither.
        RunError: if the checkpoint is damaged.
    """
    path = path_of(source, "--init")
    if not path.is_dir():
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        raise InputError(
            f"--init {source} is no folder and no .safetensors file; name the folder "
            "of a run, or such a file"
        )
    if is_export(path):
        # A networked run's client has its own half alone.
        names = ("joined", "client", "server")
        files = {name: path / f"{name}.safetensors" for name in names}
        kept = next((name for name in names if files[name].is_file()), "joined")
        half = "" if kept == "joined" else f" --init-part {kept}"
        raise InputError(
            f"--init {source} is what jsplit export made of a run; name the file in "
            f"it, --init {files[kept]}{half}"
        )
    halves = read_variables(path)
    if halves is None:
        raise InputError(
            f"--init {source} holds nothing trained; name the folder of a run that has "
            "finished an epoch"
        )
    return named(merged(*halves.values()))


def _block_of(name: str) -> str:
    """The block in `params.head.Dense_0.bias`."""
    return name.split(".")[1]


def _fitting(
    source: str, found: Named, name: str, own: np.ndarray, last_block: str
) -> np.ndarray:
    """The array that takes the place of this run's own, if it can."""
    if name not in found:
        raise InputError(
            f"--init {source} has no {name}, but for instance "
            f"{next(iter(found), 'nothing')}; take the same --model (and for one half "
            "--init-part client or server), or name the arrays as jsplit export does"
        )
    array = found[name]
    if array.shape != own.shape:
        remedy = "take the same --model and channels of images"
        if _block_of(name) == last_block:
            remedy = "say --init-part body, and the last block begins anew"
        raise InputError(
            f"--init {source}: {name} is {list(array.shape)} there and "
            f"{list(own.shape)} here; {remedy}"
        )
    if not np.can_cast(array.dtype, own.dtype, "safe"):
        raise InputError(
            f"--init {source}: {name} is {array.dtype} there and {own.dtype} here; "
            f"save it as {own.dtype}"
        )
    if not np.all(np.isfinite(array)):
        raise InputError(
            f"--init {source}: {name} holds numbers that are not finite; name another"
        )
    return array.astype(own.dtype)
