"""Which cases are in the first tier of tests (`make test`), and which in the second."""

from collections.abc import Iterable
from typing import Any

import pytest


def sample(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """All cases for `parametrize`, of which only the chosen ones are not slow.

    Raises:
        ValueError: if what is chosen is no case, as after a change of names.
    """
    cases = list(cases)
    for one in chosen:
        cases.index(one)
    return [
        case if case in chosen else pytest.param(*_values(case), marks=pytest.mark.slow)
        for case in cases
    ]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
