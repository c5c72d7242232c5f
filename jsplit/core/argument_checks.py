"""Which arguments of a training are of another kind than it takes: said by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.budget import budget_gate
from jsplit.core.defences import Defence
from jsplit.core.gate import always_gate, freeze_gate, loss_gate, periodic_gate
from jsplit.core.model_part import ModelPart
from jsplit.core.replay import Replay
from jsplit.core.state import SideState
from jsplit.core.topology import Topology
from jsplit.core.transform import Transform
from jsplit.core.value_checks import traced

_PART = "jsplit.from_flax(module) or jsplit.from_nnx(module) makes one"
_REPLAY = "call what makes one, as in jsplit.mixup(1.0)"
_SET = "give (examples, labels)"


_GATES = (always_gate, budget_gate, freeze_gate, loss_gate, periodic_gate)


def _is_gate(value: Any) -> bool:
    # Anything else that can be called may make one; check_gate looks at what it makes.
    return not isinstance(value, type) and value not in _GATES


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _is_optimizer(value: Any) -> bool:
    # Not every one of optax's is a GradientTransformation: MultiSteps is none.
    functions = (getattr(value, name, None) for name in ("init", "update"))
    return not isinstance(value, type) and all(map(callable, functions))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray | jax.Array)


def _is_several(value: Any) -> bool:
    return _is_list(value) and len(value) > 0


_KINDS: dict[str, tuple[type | Callable[[Any], bool], str, str]] = {
    "client": (ModelPart, "a ModelPart", _PART),
    "server": (ModelPart, "a ModelPart", _PART),
    "gate": (_is_gate, "a Gate", "call what makes one, as in jsplit.freeze_gate(5)"),
    "head": (ModelPart, "a ModelPart", _PART),
    "plain_client": (ModelPart, "a ModelPart", _PART),
    "train": (_is_pair, "a pair of arrays", _SET),
    "test": (_is_pair, "a pair of arrays", _SET),
    "optimizer": (
        _is_optimizer,
        "an optax optimizer",
        "call what makes one, as in optax.sgd(0.1)",
    ),
    "shares": (
        _is_list,
        "a list of one array of indices for each client",
        "give [np.arange(60), np.arange(60, 120)] for two",
    ),
    "topology": (Topology, "a Topology", "take jsplit.PARALLEL"),
    "transform": (
        Transform,
        "a Transform",
        "give jsplit.Transform(train=..., evaluate=...)",
    ),
    "defence": (Defence, "a Defence", "give jsplit.Defence(nopeek=..., noise=...)"),
    "replay": (Replay, "a Replay", _REPLAY),
    "received_replay": (Replay, "a Replay", _REPLAY),
    "loss": (callable, "a function", "it maps outputs and labels to losses"),
    "correct": (callable, "a function", "it maps outputs and labels to Bool[n]"),
    "observe": (callable, "a function", "it takes a kind, a packet and a mask"),
    "devices": (
        _is_several,
        "a list of devices",
        "give jax.devices(), or None for the default one",
    ),
}
"""Of each argument: what it must be, in words, too, and what to do."""


_MAY_BE_NONE = {"head", "plain_client", "shares", "devices"}


def check_arguments(given: Mapping[str, Any]) -> None:
    """Refuses arguments of `make_simulation` that are of another kind than it takes.

    Args:
        given: by name; what others look at is left to them.

    Raises:
        ValueError: naming the first.

    Example:
        >>> check_arguments({"topology": "parallel"})
        Traceback (most recent call last):
        ValueError: topology must be a Topology, got 'parallel'; take jsplit.PARALLEL
    """
    for name, (kind, words, remedy) in _KINDS.items():
        if name not in given or (given[name] is None and name in _MAY_BE_NONE):
            continue
        value = given[name]
        fits = isinstance(value, kind) if isinstance(kind, type) else kind(value)
        if not fits:
            raise ValueError(f"{name} must be {words}, got {_short(value)}; {remedy}")


def _short(value: Any) -> str:
    """In a few words: a module's own are many lines."""
    if inspect.isroutine(value) or isinstance(value, type):
        return value.__name__
    said = repr(value)
    few = "\n" not in said and len(said) <= 40
    return said if few else f"an object of {type(value).__name__}"


def check_shares(shares: Sequence[np.ndarray], count: int) -> None:
    """Refuses shares that are not the indices of each client's examples.

    Raises:
        ValueError: naming the client, or saying that there is none, or that an example
            is missing or named twice.
    """
    if not len(shares):
        raise ValueError("shares needs a client, got none")
    for client, share in enumerate(map(np.asarray, shares)):
        if share.ndim == 1 and (not share.size or share.dtype.kind in "iu"):
            continue
        remedy = "give one array of whole numbers for each client"
        if share.dtype == bool:
            remedy = "give np.flatnonzero(mask)"
        raise ValueError(
            f"shares must hold indices, whole numbers [n], got {share.dtype} "
            f"{list(share.shape)} for client {client}; {remedy}"
        )
    dealt = np.concatenate([np.asarray(share) for share in shares])
    if len(np.unique(dealt)) != len(dealt):
        raise ValueError("shares must not name an example twice")
    if len(dealt) and (dealt.min() < 0 or dealt.max() >= count):
        raise ValueError(f"shares must name examples from 0 to {count - 1}")


def check_test_examples(transform: Transform, x: jax.Array, test: Any) -> None:
    """Refuses test examples of another shape than the training ones.

    Args:
        transform: of raw examples.
        x: one transformed training example, `[1, ...]`.
        test: raw examples.

    Raises:
        ValueError: naming both shapes.
    """
    raw = jnp.asarray(test[:1])
    due = (
        f"test examples {list(raw.shape[1:])} must be such as transform.evaluate takes"
    )
    made = traced(due, transform.evaluate, raw)
    if made.shape != x.shape:
        raise ValueError(
            "test examples must have the shape of training ones, "
            f"{list(x.shape[1:])} after transform.evaluate, got {list(made.shape[1:])}"
        )


def check_optimizer(optimizer: Any, side: SideState) -> None:
    """Refuses an optimizer that needs more than gradients, or keeps PRNG keys.

    Nothing is computed: it is traced for a side that it began.

    Raises:
        ValueError: naming what it needs, or the key.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(side.opt_state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(
                "optimizer must keep numbers only, but its state has a PRNG key, "
                f"{jax.tree_util.keystr(path)}; leave out what draws from it, such as "
                "optax.add_noise"
            )
    params = side.variables["params"]
    due = "optimizer must make updates of gradients, its state and parameters alone"
    traced(due, optimizer.update, params, side.opt_state, params)
