"""A module of `flax.nnx` as a part of a network."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jsplit.core.model_part import ModelPart
from jsplit.core.module_calls import check_told, keywords_of
from jsplit.typing import Variables

_KINDS = {"params": nnx.Param, "batch_stats": nnx.BatchStat, "rngs": nnx.RngState}
_OTHERS = "others"


def from_nnx(module: nnx.Module) -> ModelPart:
    """Makes a `ModelPart` of a `flax.nnx` module that maps one array to one array.

    Training begins with the weights that the module has now, whatever the seed of the
    training; another beginning is another module (`nnx.Rngs(seed)`). The module itself
    is left as it is. `nnx.update(module, variables["params"])` gives it what was
    trained, and its statistics follow in the same way from the other collections.

    The layers' mode is that of `module.train()` in training and `module.eval()`
    otherwise. `__call__` may take the keywords that `from_flax` passes; those it does
    not name are not passed.

    Variables of the part are plain nested dicts by the names in the module: `params`
    (`nnx.Param`), `batch_stats` (`nnx.BatchStat`) and `others`, which are updated while
    training as well; the last two only where there are any. Streams of random numbers
    are not among them: in training each begins anew in every step, from the step's key
    folded with its number in the order of paths.

    Raises:
        ValueError: if it is no `nnx.Module`, or a layer of flax's own, such as
            `nnx.Sequential`, that holds a module which must be told whether it trains.

    Example:
        >>> part = from_nnx(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
        >>> variables = part.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> variables["params"]["kernel"].shape, part.masks
        ((4, 3), False)
        >>> how = {"mask": None, "key": None, "train": False}
        >>> y, _ = part.apply(variables, jnp.ones((5, 4)), **how)
        >>> y.shape
        (5, 3)
    """
    if not isinstance(module, nnx.Module):
        raise ValueError(
            f"from_nnx takes an nnx.Module, got {type(module).__name__}; a linen "
            "module goes to from_flax"
        )
    keywords = keywords_of(module)
    check_told(module, (part for _, part in nnx.iter_modules(module)))
    own = nnx.clone(module)
    own.eval()
    evaluates = nnx.graphdef(own)
    own.train()
    trains, begun = _split(own)
    streams = begun.pop("rngs", {})

    def init(key: jax.Array, x: jax.Array) -> Variables:
        return {"params": {}, **jax.tree.map(jnp.copy, begun)}

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        mask: jax.Array | None,
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, Variables]:
        rngs = _from_key(streams, key) if train else streams
        called = nnx.merge(trains if train else evaluates, *variables.values(), rngs)
        y = called(x, **keywords(train, mask))
        if not train:
            return y, variables
        after = _split(called)[1]
        return y, variables | {
            name: after[name] for name in variables if name != "params"
        }

    return ModelPart(init, apply, masks="mask" in keywords(True, None))


def _split(module: nnx.Module) -> tuple[Any, dict[str, Any]]:
    """What a module is, and what it holds of each kind, where it holds any."""
    graph, *states = nnx.split(module, *_KINDS.values(), ...)
    held = {
        name: nnx.to_pure_dict(state)
        for name, state in zip([*_KINDS, _OTHERS], states, strict=True)
    }
    return graph, {name: tree for name, tree in held.items() if tree}


def _from_key(streams: Any, key: jax.Array) -> Any:
    """The streams at their beginning: keys of their own, and counts of 0."""
    places = itertools.count()

    def begin(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(key, next(places))
        return jnp.zeros_like(leaf)

    return jax.tree.map(begin, streams)
