"""One run's leakage in figures."""

from typing import Any, NamedTuple

import numpy as np

from jsplit.analysis.privacy import dependence, inversion, labels
from jsplit.analysis.privacy.view import Ended, View, last_sent, private, public
from jsplit.typing import LOCAL, SENT, STATES, SYNC

PRIVATE = 1024
"""Examples that are attacked."""

TRAINED = STATES[SYNC] + STATES[LOCAL]
"""States of epochs in which the client learns."""

FIRST, LAST = "first", "last"
"""Views: the first epoch, with the client part that every run begins with, and the last
in which activations were sent, with the part that it ended with."""


class Audit(NamedTuple):
    """What was found.

    Attributes:
        figures: plain values, for a file.
        images: some that entered the client part, `[n, h, w, c]`, pixels from 0 to 1.
        guesses: what the attack made of them, by view.
    """

    figures: dict[str, Any]
    images: dict[str, np.ndarray]
    guesses: dict[str, np.ndarray]


def audit(run: Ended, *, first: bool, shown: int = 10) -> Audit:
    """Attacks what a run sent, and measures what it tells of the images.

    Args:
        run: that ended.
        first: whether to look at its first epoch too, in which runs of one seed, cut
            and codec do not differ, whatever their gate; not where it sent nothing.
        shown: examples to keep for a picture.
    """
    seed = run.experiment.config.seed
    figures: dict[str, Any] = {
        "epochs_sent": sum(state in SENT for state in run.states)
    }
    images, guesses = {}, {}
    last = last_sent(run.states)
    views = {LAST: (run.client, last)}
    # Where nobody trained the client and one epoch sent all, they are the same.
    same = last == 0 and set(run.states).isdisjoint(TRAINED)
    if first and not same:
        views = {FIRST: (run.experiment.simulation.state.client, 0), **views}
    for name, (client, epoch) in views.items():
        sent = private(run, client, epoch, PRIVATE)
        known = public(run, client, epoch)
        guessed = inversion.reconstruct(known, sent.smashed, seed)
        figures[name] = _figures(sent, known, guessed, seed)
        # Where others come after the last A, the server's part is no longer what sent
        # gradients, and an epoch of B is answered by none.
        if name == LAST and run.states.endswith(STATES[SYNC]):
            figures[name]["labels_from_gradients"] = labels.told_by_gradients(
                run, sent, known
            )
        images[name], guesses[name] = sent.images[:shown], guessed[:shown]
    if first and same:
        figures[FIRST] = figures[LAST]
    return Audit(figures, images, guesses)


def _figures(sent: View, known: View, guessed: np.ndarray, seed: int) -> dict[str, Any]:
    # What can be guessed of an image without having seen anything of it.
    blind = np.broadcast_to(known.images.mean(axis=0), sent.images.shape)
    return {
        "private_images": len(sent.images),
        "public_images": len(known.images),
        "inversion": inversion.score(sent.images, guessed, sent.inside)._asdict(),
        "blind": inversion.score(sent.images, blind, sent.inside)._asdict(),
        "distance_correlation": dependence.correlation(
            sent.images, sent.smashed, seed
        )._asdict(),
        "information": dependence.information(known, sent, seed)._asdict(),
    }
