"""Which examples are held out for the test: of each class a share, and groups whole."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Int


def held_out(
    labels: Int[np.ndarray, " n"],
    groups: Sequence[Hashable],
    share: float,
    seed: int,
) -> Bool[np.ndarray, " n"]:
    """Chooses examples for the test, by chance and about as many of each class.

    Pictures of one patient or of one burst resemble one another, and a test on some of
    those that were trained on says too much. So examples of one group are all held out,
    or none is. Of each class, the rarest first, groups are drawn until `share` of its
    examples are held out, at least one. A group that is too large for that is passed
    over, but for the smallest where the class would have none. No class loses its last
    group to the test.

    Args:
        labels: of the examples, from 0.
        groups: what belongs together: equal for examples of one group.
        share: of each class's examples, between 0 and 1.
        seed: of the draws.

    Returns:
        True for those that are held out; the same for the same arguments.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> chosen = held_out(labels, ["a", "a", "b", "c", "b", "c"], 0.3, seed=0)
        >>> bool(chosen[2]) == bool(chosen[4])  # b, in both classes.
        True
        >>> int(held_out(labels, range(6), 0.25, seed=0).sum())
        2
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    group_of = np.array([places[name] for name in groups], np.int64)
    counts = np.zeros((len(places), int(labels.max(initial=-1)) + 1), np.int32)
    np.add.at(counts, (group_of, labels), 1)
    order = np.random.default_rng(seed).permutation(len(places))
    chosen = np.zeros(len(places), bool)
    held, left = np.zeros_like(counts[0]), counts.sum(axis=0)

    def hold_out(place: int) -> None:
        nonlocal held, left
        rest = left - counts[place]
        # What a class has left it must learn from.
        if not (chosen[place] or np.any((rest == 0) & (counts[place] > 0))):
            chosen[place] = True
            held, left = held + counts[place], rest

    for label in np.argsort(left, kind="stable"):
        wanted = max(1, round(share * int(counts[:, label].sum())))
        members = order[counts[order, label] > 0]
        for place in members:
            if held[label] + counts[place, label] <= wanted:
                hold_out(place)
        for place in sorted(members, key=lambda place: int(counts[place, label])):
            if not held[label]:
                hold_out(place)
    return chosen[group_of]
