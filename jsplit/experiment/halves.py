"""Which halves of a trained network a folder holds, whoever's it is."""

import re
from pathlib import Path

from jsplit.experiment import checkpoint
from jsplit.experiment.weights import CLIENT_WEIGHTS, Named, read_msgpack, unnamed
from jsplit.experiment.workdir import RunFolder
from jsplit.typing import Variables

_KEY = re.compile(r"\['([^']*)'\]|\.(\w+)")


def read_variables(folder: Path) -> dict[str, Variables] | None:
    """What a run's folder holds of what it trained: of the client, the server, or both.

    Args:
        folder: of a run, or of a party of a networked one.

    Returns:
        Variables by side, in arrays of the host; None where nothing is trained yet.

    Raises:
        InputError: if a client's file cannot be read.
        RunError: if the checkpoint is damaged.
    """
    checkpoints = RunFolder(folder).checkpoints
    epochs = checkpoint.latest(checkpoints)
    if epochs is not None:
        arrays = checkpoint.read_arrays(checkpoints, epochs)
        halves = {side: variables_in(arrays, side) for side in ("client", "server")}
        return {side: variables for side, variables in halves.items() if variables}
    if (folder / CLIENT_WEIGHTS).is_file():
        return {"client": read_msgpack(folder / CLIENT_WEIGHTS)}
    return None


def variables_in(arrays: Named, side: str) -> Variables:
    """A side's variables out of all arrays of a checkpoint; empty if it has none.

    Args:
        arrays: as `checkpoint.read_arrays` gives them.
        side: `client` or `server`.

    Example:
        >>> import numpy as np
        >>> name = "['client'].variables['params']['head']['bias']"
        >>> variables_in({name: np.zeros(1)}, "client")
        {'params': {'head': {'bias': array([0.])}}}
        >>> variables_in({name: np.zeros(1)}, "server")
        {}
    """
    found = {}
    for name, array in arrays.items():
        keys = [bracketed or dotted for bracketed, dotted in _KEY.findall(name)]
        # What a client hands over may hold its part beside other things.
        if keys[0] == side and "variables" in keys[1:3]:
            found[".".join(keys[keys.index("variables") + 1 :])] = array
    return unnamed(found) if found else {}
