"""Whole numbers of 60 bits in two int32: exact, as bytes of a budget must be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.core.wide import MOST, at_least, minus, whole, wide

sixty_bits = st.integers(0, MOST)


@given(sixty_bits, sixty_bits)
def test_wide_numbers_compare_and_subtract_as_whole_ones(one, other):
    more, less = max(one, other), min(one, other)
    assert bool(at_least(wide(one), wide(other))) == (one >= other)
    assert whole(minus(wide(more), wide(less))) == more - less


def test_a_number_that_is_not_wide_enough_is_refused():
    for number in (-1, MOST + 1):
        with pytest.raises(ValueError, match="number must be from 0"):
            wide(number)
