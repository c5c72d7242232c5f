"""What a module's `__call__` is told of training and of padded rows.

A module that could be told and is not would train as it evaluates: no dropout, and
normalisation by statistics that never move. It is refused.
"""

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

    The `mask` of a layer of flax itself is another one, and is left alone.

    Raises:
        ValueError: if it takes `**` something and names none of what it could be told.

    Example:
        >>> class Layer:
        ...     def __call__(self, x, training=False): ...
        >>> keywords_of(Layer())(True, None)
        {'training': True}
    """
    call = type(module).__call__
    takes = inspect.signature(call).parameters
    names = {*MODES} & {*takes}
    rest = [name for name, it in takes.items() if it.kind is it.VAR_KEYWORD]
    if rest and not names and not _of_flax(call):
        raise ValueError(
            f"{type(module).__name__}.__call__ does not say what it takes as "
            f"**{rest[0]}; let it name `train`, and `mask` where it heeds that"
        )
    heeds = "mask" in takes and not _of_flax(call)

    def keywords(train: bool, mask: jax.Array | None) -> dict[str, Any]:
        told = {name: MODES[name] == train for name in MODES if name in names}
        return told | ({"mask": mask} if heeds else {})

    return keywords


def refusing_untold(module: Any) -> Callable[..., Any]:
    """For `nn.intercept_methods`: refuses a call within the module that says no mode.

    Only what has a default of its own, or none at all, is meant: flax's own layers
    have None, and are told by their attributes.

    Raises:
        ValueError: naming both modules and the keyword, once it is in use.
    """

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        called = type(context.module)
        method = getattr(called, context.method_name, None)
        if inspect.isfunction(method) and (undecided := _undecided(method)):
            bound = inspect.signature(method).bind_partial(None, *args, **kwargs)
            _refuse(module, called, undecided - {*bound.arguments})
        return call(*args, **kwargs)

    return intercept


def check_told(module: Any, parts: Iterable[Any]) -> None:
    """The same of a module whose calls cannot be watched: it must take a mode itself.

    Args:
        module: that takes none, or some.
        parts: all modules in it.
    """
    if not {*MODES} & {*inspect.signature(type(module).__call__).parameters}:
        for part in parts:
            if callable(part):
                _refuse(module, type(part), _undecided(type(part).__call__))


def _undecided(method: Callable[..., Any]) -> set[str]:
    """The modes that a call must be told, or falls back to a default of its own."""
    if _of_flax(method):
        return set()
    parameters = inspect.signature(method).parameters
    return {
        name
        for name in MODES
        if name in parameters and parameters[name].default is not None
    }


def _refuse(module: Any, called: type, untold: set[str]) -> None:
    for name in sorted(untold):
        outer = type(module).__name__
        raise ValueError(
            f"{called.__name__} in {outer} is called without `{name}`, so that it "
            f"would evaluate while training; make {outer} a module whose "
            f"__call__ takes `train` and tells {called.__name__} its `{name}` by it"
        )


def _of_flax(call: Any) -> bool:
    """Whether flax wrote it, as it did those of its layers."""
    return (getattr(call, "__module__", None) or "").partition(".")[0] == "flax"
