"""A part of a network, client's or server's, as two pure functions."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jsplit.core.module_calls import keywords_of, refusing_untold
from jsplit.typing import PyTree, Variables


class ModelPart(NamedTuple):
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


def from_flax(module: nn.Module) -> ModelPart:
    """Makes a `ModelPart` of any Flax linen module that maps one array to one array.

    The module's `__call__` may take the keywords `train` (or `training`,
    `is_training`, or the opposites `deterministic` and `use_running_average`) and
    `mask` (`Bool[b]`); those it does not name are not passed, nor is `mask` to a layer
    of flax itself, where it means something else. Every collection besides `params` is
    carried along and updated while training. Dropout draws from the rng stream
    `dropout`.

    Raises:
        ValueError: if it is no linen module; and from `init`, if it calls a module that
            takes and reads such a keyword, other than flax's own, without it, so that
            training would be evaluation.

    Example:
        >>> part = from_flax(nn.Dense(3))
        >>> variables = part.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> variables["params"]["kernel"].shape, part.masks
        ((4, 3), False)
        >>> how = {"mask": None, "key": None, "train": False}
        >>> y, _ = part.apply(variables, jnp.ones((5, 4)), **how)
        >>> y.shape
        (5, 3)
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"from_flax takes a flax.linen module, got {type(module).__name__}; an "
            "nnx.Module goes to from_nnx"
        )
    keywords = keywords_of(module)

    def init(key: jax.Array, x: jax.Array) -> Variables:
        with nn.intercept_methods(refusing_untold(module)):
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

    return ModelPart(init, apply, masks="mask" in keywords(True, None))


def with_precision(part: ModelPart, dtype: jax.typing.DTypeLike) -> ModelPart:
    """The same part, computing in `dtype`; all that it takes and gives stays as it is.

    Parameters and input are cast to `dtype` on the way in and the output to float32 on
    the way out, so that the gradients of both arrive in float32, at master parameters
    and an optimizer that never see less, and what crosses the cut is float32 before
    its codec. Statistics go in uncast and come back in the dtype they had; flax's
    batch normalisation computes them in float32. Integers are left alone. Matrix
    products and convolutions add up in float32 whatever they multiply.

    float32 is taken at its word: where a GPU or TPU would by default round the factors
    of float32 products to TF32 or bfloat16, this does not. A part that was not given
    a precision does as JAX is configured.

    Args:
        part: with float32 parameters and output.
        dtype: float32 or bfloat16.

    Raises:
        ValueError: if `dtype` is neither. (float16 would need its loss scaled.)

    Example:
        >>> part = with_precision(from_flax(nn.Dense(1, use_bias=False)), jnp.bfloat16)
        >>> variables = {"params": {"kernel": jnp.array([[1.001]])}}
        >>> how = {"mask": None, "key": None, "train": False}
        >>> y, _ = part.apply(variables, jnp.ones((1, 1)), **how)
        >>> float(y[0, 0]), y.dtype.name
        (1.0, 'float32')
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"precision must be float32 or bfloat16, got {dtype}")

    def products() -> contextlib.AbstractContextManager[None]:
        if dtype == jnp.float32:
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        mask: jax.Array | None,
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, Variables]:
        low = {**variables, "params": _floats_to(dtype, variables["params"])}
        with products():
            y, updated = part.apply(
                low, _floats_to(dtype, x), mask=mask, key=key, train=train
            )
        kept = {**updated, "params": variables["params"]}
        kept = jax.tree.map(lambda new, old: new.astype(old.dtype), kept, variables)
        return _floats_to(jnp.float32, y), kept

    return part._replace(apply=apply)


def _floats_to(dtype: jax.typing.DTypeLike, tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        ),
        tree,
    )
