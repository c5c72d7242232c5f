"""Weights as files: numbers under names, readable without jsplit.

A variable is named by its path in the tree, such as `params.conv1.Conv_0.kernel`. The
client's blocks and the server's have different names, so that one file can hold both,
and another cut finds each block wherever it belongs.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util

from jsplit.errors import InputError
from jsplit.runtime import atomic
from jsplit.typing import Variables

CLIENT_WEIGHTS = "client.msgpack"
"""Of a client of a networked run, in its folder once the run is over."""

Named = dict[str, np.ndarray]
"""Arrays by the paths of their variables."""


def named(variables: Variables) -> Named:
    """The arrays of a variable tree by their paths.

    Example:
        >>> tree = {"params": {"head": {"bias": np.zeros(2)}}, "batch_stats": {}}
        >>> list(named(tree))
        ['params.head.bias']
    """
    flat = traverse_util.flatten_dict(variables, sep=".")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def unnamed(arrays: Named) -> Variables:
    """The variable tree of arrays by their paths; it has `params` in any case.

    Example:
        >>> unnamed({"batch_stats.norm.mean": np.zeros(2)})
        {'params': {}, 'batch_stats': {'norm': {'mean': array([0., 0.])}}}
    """
    return {"params": {}, **traverse_util.unflatten_dict(arrays, sep=".")}


def merged(*halves: Variables) -> Variables:
    """The variables of both halves in one tree, block beside block."""
    return unnamed(
        {name: leaf for half in halves for name, leaf in named(half).items()}
    )


def to_bytes(variables: Variables) -> bytes:
    """A variable tree as Flax's msgpack."""
    return bytes(serialization.to_bytes(jax.device_get(variables)))


def read_msgpack(path: Path) -> Variables:
    """The variable tree of a client's file that `to_bytes` made the bytes of.

    Raises:
        InputError: if it is damaged.
    """
    try:
        variables: Variables = serialization.msgpack_restore(path.read_bytes())
        return {"params": {}, **variables}
    except Exception as error:  # Any parser may fail on a damaged file.
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); the server's folder has the "
            "same part, if the run had several clients"
        ) from error


def write_safetensors(path: Path, variables: Variables, about: dict[str, Any]) -> None:
    """Writes a variable tree as safetensors.

    Args:
        path: of the file.
        variables: of one half or both.
        about: plain values, kept as JSON under `jsplit` in the file's metadata.

    Raises:
        OSError: if it cannot be written.
    """
    from safetensors.numpy import save

    # Safetensors writes an array's memory as it lies there.
    arrays = {
        name: np.ascontiguousarray(array) for name, array in named(variables).items()
    }
    atomic.write_bytes(path, save(arrays, {"jsplit": json.dumps(about)}))


def read_safetensors(path: Path) -> Named:
    """The arrays of a safetensors file, by their names.

    Raises:
        InputError: if it cannot be read, or is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name another file") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no safetensors file of NumPy's dtypes ({error}); write it with "
            "jsplit export, or safetensors.numpy.save_file"
        ) from error
