"""A part of a network, client's or server's, as two pure functions."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from jsplit.typing import Variables


class Part(NamedTuple):
    """One side of the cut as a value: `init` makes variables, `apply` uses them.

    Attributes:
        init: `init(key, x) -> variables`; `x` is an example batch `[b, ...]`.
        apply: `apply(variables, x, *, mask, key, train) -> (y, variables)`.
            `mask` is `Bool[b]` or None: rows that are False are padding and must not
            enter any statistic. `key` feeds dropout. The variables that come back
            differ from those that went in only in their non-parameter collections
            (batch statistics), and only if `train`.
        masks: whether `apply` heeds `mask`. A part with batch statistics that does
            not can only be trained where no batch is padded.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[jax.Array, Variables]]
    masks: bool


def from_flax(module: nn.Module) -> Part:
    """Makes a `Part` of any Flax linen module that maps one array to one array.

    The module's `__call__` may take the keywords `train` (or its opposites
    `deterministic` and `use_running_average`) and `mask` (`Bool[b]`); those it does
    not name are not passed. Every collection besides `params` is carried along and
    updated while training. Dropout draws from the rng stream `dropout`.
    """
    takes = inspect.signature(type(module).__call__).parameters

    def keywords(train: bool, mask: jax.Array | None) -> dict[str, Any]:
        offered = {
            "train": train,
            "deterministic": not train,
            "use_running_average": not train,
            "mask": mask,
        }
        return {name: value for name, value in offered.items() if name in takes}

    def init(key: jax.Array, x: jax.Array) -> Variables:
        variables = module.init(key, x, **keywords(False, None))
        return {"params": {}, **variables}

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        mask: jax.Array | None,
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, Variables]:
        extra = [name for name in variables if name != "params"]
        y, updated = module.apply(
            variables,
            x,
            **keywords(train, mask),
            mutable=extra if train else [],
            rngs={"dropout": key} if train else None,
        )
        return y, {**variables, **updated}

    return Part(init, apply, masks="mask" in takes)
