"""What a plain run reached epoch by epoch, and the loss that this allows another run.

A gate sees training losses alone, so points of accuracy must be told in losses: an
epoch may have the loss that the plain run had when it was so many points less accurate
than it is at that epoch.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

_WORDS = "classes {}, examples {}, loss/accuracy by epoch"
_FORM = re.compile(
    r"(.+): " + _WORDS.format(r"(\d+)", r"(\d+)") + r"((?: [\d.e+-]+/[\d.e+-]+)+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class PlainCurve:
    """The records of a finished run of plain split learning.

    Attributes:
        run: the folder that it was read from, as it was named.
        classes: of the classification.
        examples: it was trained on, of all clients.
        losses: mean training loss of each epoch, in nats, as float32 holds them.
        accuracies: of the test set after each epoch, fractions, likewise.
    """

    run: str
    classes: int
    examples: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    def text(self) -> str:
        """All of it as one text, as a run's settings keep it.

        Example:
            >>> PlainCurve("plain", 10, 400, (1.5, 1.25), (0.4, 0.5)).text()
            'plain: classes 10, examples 400, loss/accuracy by epoch 1.5/0.4 1.25/0.5'
        """
        pairs = zip(self.losses, self.accuracies, strict=True)
        said = ["/".join(str(np.float32(each)) for each in pair) for pair in pairs]
        words = _WORDS.format(self.classes, self.examples)
        return " ".join([f"{self.run}: {words}", *said])

    def allowed(self, points: float) -> Float32[np.ndarray, " epochs"]:
        """The loss that each epoch may have, never below that of the plain run.

        The best accuracy so far counts, and between epochs, the first of which is a
        blind guess, losses are read off linearly.

        Args:
            points: of accuracy (percent) by which a run may stay below, at least 0.

        Raises:
            ValueError: if `points` is negative or not finite.

        Example:
            Ten points below 0.5 the plain run had the loss of its first epoch.

            >>> curve = PlainCurve("plain", 10, 400, (1.5, 1.25, 1.0), (0.4, 0.5, 0.6))
            >>> curve.allowed(10)[1:].tolist(), curve.allowed(0).tolist()
            ([1.5, 1.25], [1.5, 1.25, 1.0])
        """
        if not (math.isfinite(points) and points >= 0):
            raise ValueError(f"points must be finite and at least 0, got {points}")
        losses = np.asarray([math.log(self.classes), *self.losses])
        best = np.maximum.accumulate([1 / self.classes, *self.accuracies])
        # Where an accuracy was first reached; in between it is not known better.
        first = np.concatenate([[True], np.diff(best) > 0])
        reached = np.interp(best[1:] - points / 100, best[first], losses[first])
        return np.maximum(losses[1:], reached).astype(np.float32)


def read_curve(text: str) -> PlainCurve | None:
    """What `PlainCurve.text` wrote; None of any other text, such as a folder's name.

    Example:
        >>> curve = PlainCurve("runs/plain", 10, 400, (1.5, 1.25), (0.4, 0.5))
        >>> read_curve(curve.text()) == curve, read_curve("runs/plain")
        (True, None)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    run, classes, examples, pairs = found.groups()
    try:
        numbers = [tuple(map(float, pair.split("/"))) for pair in pairs.split()]
    except ValueError:
        return None
    if not np.isfinite(numbers).all() or int(classes) < 1:
        return None
    losses, accuracies = zip(*numbers, strict=True)
    return PlainCurve(run, int(classes), int(examples), losses, accuracies)
