"""What a report says beside its best reductions: how sure they are, and the paper's."""

from collections.abc import Sequence

from jsplit.analysis.comparison import Group
from jsplit.experiment.quantities import counted, some_of

LOSS = 0.005
"""Of test accuracy that a reduction may cost: the paper's half a percent."""

REDUCTIONS = ("communication_reduction", "client_compute_reduction")
"""Those that have a best, by their names in `summary.json`."""

PAPER = {
    1: ("1.64 to 106.7 (VGG11, VGG13, ResNet18)", "2.86 to 32.1"),
    5: ("11.9 (VGG11)", "not said"),
    10: ("11.3 (VGG11)", "not said"),
}
"""By clients: reductions of communication and of client computation on CIFAR-10."""


def paper_rows(groups: Sequence[Group], dataset: str) -> list[list[str]]:
    """The paper's figures for as many clients, where it has any for this data set."""
    if dataset.removeprefix("tfds-") != "cifar10":
        return []
    return [
        [f"the paper, CIFAR-10, {counted(clients, 'client')}", *PAPER[clients]]
        for clients in sorted({group.clients for group in groups})
        if clients in PAPER
    ]


def doubts(groups: Sequence[Group], test_examples: int) -> str | None:
    """Why a loss of no more than `LOSS` may be chance here; None if nothing says so.

    Args:
        groups: of the report.
        test_examples: by which accuracies are measured.
    """
    best = [
        (setting.label, len(setting.seeds))
        for group in groups
        for name in REDUCTIONS
        if (setting := group.best(name, LOSS)) is not None
    ]
    found = []
    enough = round(1 / LOSS)
    if best and 0 < test_examples < enough:
        found.append(
            f"with {counted(test_examples, 'test image')} one of them is "
            f"{100 / test_examples:.2f} points, so that a loss of {100 * LOSS:g} "
            f"cannot be seen; test on {enough} or more"
        )
    # Several tables may each have a best that is called so, of more seeds or fewer.
    alone = list(dict.fromkeys(label for label, seeds in best if seeds == 1))
    if alone:
        found.append(
            f"one seed alone stands behind the best ({some_of(alone)}), and seeds may "
            f"differ by more than {100 * LOSS:g} points; run more of them"
        )
    return f"Note: {'. Also, '.join(found)}." if found else None
