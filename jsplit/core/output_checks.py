"""Which outputs, losses and scores a training cannot use.

JAX would spread a loss of another shape over the batch and train on what comes out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.client_steps import evaluated
from jsplit.core.metrics import CorrectFunction, LossFunction, cross_entropy, top_1
from jsplit.core.model_part import ModelPart
from jsplit.core.state import SideState
from jsplit.core.value_checks import described, traced

_EXAMPLES = 7
"""So many examples are tried: hardly a number of classes, or of anything else."""


def check_outputs(
    name: str,
    part: ModelPart,
    side: SideState,
    smashed: jax.ShapeDtypeStruct,
    labels: dict[str, np.ndarray],
    loss: LossFunction,
    correct: CorrectFunction,
) -> None:
    """Refuses outputs that the loss and the score do not give a number an example of.

    Nothing is computed: they are traced. Only cross-entropy is known to take one
    output a class.

    Args:
        name: of the part that makes the outputs, for errors.
        part: itself.
        side: its variables.
        smashed: what crosses for one example, `[1, ...]`.
        labels: `Int[n]` of each set by its name.
        loss: of each example.
        correct: of each example.

    Raises:
        ValueError: naming the part, the function or the set of labels, and what it
            gave.
    """
    x = jax.ShapeDtypeStruct((_EXAMPLES, *smashed.shape[1:]), jnp.float32)
    outputs = jax.eval_shape(lambda side, x: evaluated(part, side, x), side, x)
    if loss is cross_entropy or correct is top_1:
        _check_classes(name, outputs, floats=loss is cross_entropy)
    if loss is cross_entropy:
        _check_labels(name, outputs.shape[-1], labels)
    _check_each("loss", loss, outputs, jnp.float32)
    _check_each("correct", correct, outputs, jnp.bool_)


def _check_classes(name: str, outputs: Any, *, floats: bool) -> None:
    due = f"the {name} must give one float32 array [n, classes] of n examples"
    got = f"got {described(outputs)} of {_EXAMPLES}"
    if getattr(outputs, "ndim", None) != 2:
        raise ValueError(
            f"{due}, {got}; mend what it returns, or give a loss and a correct of "
            "your own"
        )
    if floats and outputs.dtype != jnp.float32:
        raise ValueError(
            f"{due}, {got}; jsplit.with_precision(part, jnp.bfloat16) computes in "
            "bfloat16 and gives float32"
        )


def _check_labels(name: str, classes: int, labels: dict[str, np.ndarray]) -> None:
    for of, found in labels.items():
        if (highest := int(np.max(found))) >= classes:
            raise ValueError(
                f"{of} labels go to {highest}, but the {name} has {classes} outputs, "
                f"for 0 to {classes - 1}; give it {highest + 1}, or mend the labels"
            )


def _check_each(argument: str, function: Any, outputs: Any, dtype: Any) -> None:
    labels = jax.ShapeDtypeStruct((_EXAMPLES,), jnp.int32)
    given = f"outputs {described(outputs)} and labels {described(labels)}"
    found = traced(f"{argument} must take {given}", function, outputs, labels)
    wanted = described(jax.ShapeDtypeStruct((_EXAMPLES,), dtype))
    if (got := described(found)) == wanted:
        return
    if getattr(found, "shape", None) == (_EXAMPLES,):
        remedy = f"convert it, such as by .astype(jnp.{np.dtype(dtype).name})"
    elif getattr(outputs, "shape", None) == (_EXAMPLES, 1):
        remedy = "take outputs[:, 0] in it"
    else:
        remedy = "take no mean over examples, and one over whatever else there is"
    raise ValueError(
        f"{argument} must give a value an example, {wanted}, of {given}, got {got}; "
        f"{remedy}"
    )
