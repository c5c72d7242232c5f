"""Multiply-accumulates of a JAX function, counted exactly from its trace."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

_counting = contextvars.ContextVar("counting", default=False)


def counting() -> bool:
    """Whether this trace is made to be counted, not to be run.

    What has several forms is then traced in the one that defines its cost: a
    convolution as direct sums, though Winograd's algorithm multiplies less.
    """
    return _counting.get()


@contextlib.contextmanager
def as_counted() -> Iterator[None]:
    """What is traced within is traced to be counted, see `counting`."""
    before = _counting.set(True)
    try:
        yield
    finally:
        _counting.reset(before)


def macs(function: Callable[..., Any], *args: Any) -> int:
    """Multiply-accumulates of one call: matrix products and convolutions.

    Everything else (normalisation, activations, casts) is left out, as is usual for
    the cost of a network. The count is taken from the trace, so it is exact, the same
    on every backend, and costs no arithmetic; a loop counts as often as it runs, of a
    conditional's branches the dearest. How often a `jax.lax.while_loop` runs is not in
    the trace, so it is refused.

    Args:
        function: traceable, and not jitted inside where it convolves: `jax.jit` may
            have kept a trace that was made to be run.
        *args: arrays, or `jax.ShapeDtypeStruct`s in their place.

    Raises:
        ValueError: at a while loop.

    Example:
        >>> import jax.numpy as jnp
        >>> macs(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))
        24
    """
    with as_counted():
        return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        # A strided convolution's input gradient is one of an image spread with zeros.
        spread = math.prod(params["lhs_dilation"])
        return equation.outvars[0].aval.size * kernel.size // features // spread
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    if name == "while":
        raise ValueError(
            "a while loop's cost is not known from its trace, and a client's is "
            "counted; use jax.lax.scan, or jax.lax.fori_loop with numbers as bounds"
        )
    times = params.get("length", 1) if name == "scan" else 1
    return times * sum(map(_count, core.jaxprs_in_params(params)))
