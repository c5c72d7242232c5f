"""Which arrays a training cannot use, and which of its results nobody can."""

from typing import Any

import numpy as np

from jsplit.core.metrics import Metrics
from jsplit.core.state import EpochRecord
from jsplit.errors import RunError
from jsplit.typing import STATES

_MOST = 2**31 - 1
"""The highest label: they are int32."""


def native(name: str, examples: Any) -> Any:
    """The examples in this machine's byte order, whatever theirs is.

    Example:
        >>> native("train", np.arange(2, dtype=">f4")).dtype.isnative
        True

    Args:
        name: of the set, for errors.
        examples: `[n, ...]` of any numeric dtype, or lists of such numbers; another
            kind of array is returned.

    Raises:
        ValueError: if they are objects, text or dates.
    """
    if isinstance(examples, list | tuple):
        examples = np.asarray(examples)
    if not isinstance(examples, np.ndarray):
        return examples
    if examples.dtype.kind in "OSUMm":
        raise ValueError(
            f"{name} examples must be numbers, got dtype {examples.dtype}; convert "
            "them, such as by examples.astype(numpy.float32)"
        )
    return examples.astype(examples.dtype.newbyteorder("="), copy=False)


def check_labels(name: str, labels: np.ndarray, count: int) -> None:
    """Refuses labels that are not `Int[count]` from 0.

    Raises:
        ValueError: naming the set, and the shape or the dtype of its labels.
    """
    labels = np.asarray(labels)
    if not count or labels.shape[:1] != (count,):
        raise ValueError(
            f"{name} needs as many labels as examples and at least one, got "
            f"{count} examples and {len(np.atleast_1d(labels))} labels"
        )
    if labels.ndim != 1:
        column = labels.size == count
        remedy = "labels.reshape(-1)" if column else "labels.argmax(-1) of one-hot ones"
        raise ValueError(
            f"{name} labels must be one number an example, [{count}], got "
            f"{list(labels.shape)}; give {remedy}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            f"{name} labels must be integers from 0, got {labels.dtype} from "
            f"{labels.min()}"
        )
    if labels.max() > _MOST:
        raise ValueError(f"{name} labels must be at most {_MOST}, got {labels.max()}")


def check_finite(record: EpochRecord) -> None:
    """Refuses a training whose loss stopped being a number.

    Args:
        record: of all epochs, stacked along a first axis.

    Raises:
        RunError: naming the first such epoch, its state, and which loss it was.
    """
    sums: tuple[tuple[str, Metrics], ...] = (
        ("training", record.train),
        ("test", record.test),
    )
    losses = {kind: np.asarray(metrics.loss) for kind, metrics in sums}
    finite = {kind: np.isfinite(values) for kind, values in losses.items()}
    for epoch, state in enumerate(np.asarray(record.state)):
        for kind, values in losses.items():
            if not finite[kind][epoch]:
                raise RunError(
                    f"the {kind} loss became {values[epoch]} in epoch {epoch + 1} "
                    f"(state {STATES[int(state)]}); look for values that are not "
                    "finite in the examples, or take smaller step sizes"
                )
