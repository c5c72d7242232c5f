"""What a module's `__call__` is told of training and of padded rows.

A module that could be told and is not would train as it evaluates: no dropout, and
normalisation by statistics that never move. It is refused.
"""

import dis
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax

MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""The keywords that say whether a module trains, and their value where it does."""


def keywords_of(module: Any) -> Callable[[bool, jax.Array | None], dict[str, Any]]:
    """What a module's `__call__` is told: `keywords(train, mask)`, of what it names.

    The `mask` of a layer of flax itself is another one, and is left alone. Nothing is
    told to what takes `**`: it may hand that on to what does not take it.

    Example:
        >>> class Layer:
        ...     def __call__(self, x, training=False): ...
        >>> keywords_of(Layer())(True, None)
        {'training': True}
    """
    call = type(module).__call__
    takes = inspect.signature(call).parameters
    modes = [name for name in MODES if name in takes]
    heeds = "mask" in takes and not _of_flax(call)

    def keywords(train: bool, mask: jax.Array | None) -> dict[str, Any]:
        told = {name: MODES[name] == train for name in modes}
        return told | ({"mask": mask} if heeds else {})

    return keywords


def refusing_untold(module: Any) -> Callable[..., Any]:
    """For `nn.intercept_methods`: refuses a call within the module that says no mode.

    Only what has a default of its own, or none at all, is meant: flax's own layers
    have None, and are told by their attributes. So is a mode that is never read.

    Raises:
        ValueError: naming both modules and the keyword, once it is in use.
    """

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        # Of a parent's method that is called by `super()` this is the parent's.
        method = getattr(context.orig_method, "func", None)
        if inspect.isfunction(method) and (undecided := _undecided(method)):
            bound = inspect.signature(method).bind_partial(None, *args, **kwargs)
            name = type(context.module).__name__
            if context.method_name != "__call__":
                name += f".{context.method_name}"
            _refuse(module, name, undecided - {*bound.arguments})
        return call(*args, **kwargs)

    return intercept


def check_told(module: Any, parts: Iterable[Any]) -> None:
    """The same where calls cannot be watched: of a layer of flax that holds others.

    Such a one, as `nnx.Sequential` is, calls them without a mode; what another module
    does is its own.

    Args:
        module: that is called.
        parts: all modules in it.

    Raises:
        ValueError: as for `refusing_untold`.
    """
    if callable(module) and _of_flax(type(module).__call__):
        for part in parts:
            if callable(part):
                _refuse(module, type(part).__name__, _undecided(type(part).__call__))


def _undecided(method: Callable[..., Any]) -> set[str]:
    """The modes that a call must be told, or falls back to a default of its own."""
    if _of_flax(method):
        return set()
    parameters = inspect.signature(method).parameters
    return {
        name
        for name in MODES
        if name in parameters
        and parameters[name].default is not None
        and _is_read(method, name)
    }


def _is_read(method: Callable[..., Any], name: str) -> bool:
    """Whether a function, or one within it, looks at one of its arguments."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    if code is None or name in code.co_cellvars:
        return True
    loaded = (it.argval for it in dis.get_instructions(code) if "LOAD" in it.opname)
    return any(name == it or (isinstance(it, tuple) and name in it) for it in loaded)


def _refuse(module: Any, called: str, untold: set[str]) -> None:
    outer = type(module).__name__
    for name in sorted(untold):
        raise ValueError(
            f"{called} in {outer} is called without `{name}`, so that it would "
            f"evaluate while training; make {outer} a module whose __call__ takes "
            f"`train` and tells {called} its `{name}` by it, or tells it outright"
        )


def _of_flax(call: Any) -> bool:
    """Whether flax wrote it, as it did those of its layers."""
    return (getattr(call, "__module__", None) or "").partition(".")[0] == "flax"
