"""Schedules whose states are known before a run: what a plan can count to the byte.

The loss gate is none of them: what it does depends on the losses.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jsplit.experiment.quantities import counted

SYNC_EPOCHS = (0, 1, 3, 5, 10, 20, 50, 100)
"""Epochs of A before a freeze, of those schedules that are looked at."""

PERIODS = (2, 5, 10, 20, 50, 100)
"""Epochs from one A to the next, likewise."""


class Schedule(NamedTuple):
    """A schedule with what it comes to.

    Attributes:
        label: for people, such as `freeze 3, 2 views`.
        states: of all epochs, such as `AAABBCC`.
        settings: of a run, by the names of their flags, that has these states.
    """

    label: str
    states: str
    settings: dict[str, Any]


def schedules(epochs: int, most_views: int, local_epochs: int) -> list[Schedule]:
    """Every schedule of a run of so many epochs that is looked at, none twice.

    Args:
        epochs: in A, B and C.
        most_views: each freeze has from 1 to so many views, where its epochs allow.
        local_epochs: of schedules that begin with clients that learn alone.

    Example:
        >>> for schedule in schedules(epochs=4, most_views=1, local_epochs=2):
        ...     print(f"{schedule.label:20}{schedule.states}")
        always              AAAA
        periodic 2          ABAB
        freeze 3            AAAB
        freeze 1            ABCC
        freeze 0            BCCC
        alone 2             LLBCCC
    """
    found = [Schedule("always", "A" * epochs, {"gate": "always"})]
    found += [_periodic(period, epochs) for period in PERIODS if period < epochs]
    for sync in reversed(SYNC_EPOCHS):
        for views in range(1, most_views + 1):
            if sync + views <= epochs:
                found.append(_freeze(sync, views, epochs))
    alone = [_alone(local_epochs, each) for each in found if each.states[0] == "B"]
    return list(_none_twice(found + alone))


def view_names(count: int) -> str:
    """So many views, as `--views` takes them: plain, mirrored, then augmented ones.

    Example:
        >>> view_names(4)
        'plain,mirrored,augmented,augmented'
    """
    return ",".join((["plain", "mirrored"] + ["augmented"] * count)[:count])


def _periodic(period: int, epochs: int) -> Schedule:
    turn = ("AB" + "C" * period)[:period]
    states = (turn * epochs)[:epochs]
    settings = {"gate": "periodic", "period": period}
    return Schedule(f"periodic {period}", states, settings)


def _freeze(sync: int, views: int, epochs: int) -> Schedule:
    states = ("A" * sync + "B" * views + "C" * epochs)[:epochs]
    label = f"freeze {sync}" + ("" if views == 1 else f", {counted(views, 'view')}")
    settings = {"gate": "freeze", "sync_epochs": sync, "views": view_names(views)}
    return Schedule(label, states, settings)


def _alone(local_epochs: int, after: Schedule) -> Schedule:
    views = after.label.removeprefix("freeze 0")
    return Schedule(
        f"alone {local_epochs}{views}",
        "L" * local_epochs + after.states,
        {**after.settings, "local_epochs": local_epochs},
    )


def _none_twice(found: list[Schedule]) -> Iterator[Schedule]:
    known = set()
    for schedule in found:
        if schedule.states not in known:
            known.add(schedule.states)
            yield schedule
