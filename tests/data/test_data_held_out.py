"""What is held out for the test: about the asked share of each class, groups whole."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jsplit.data.held_out import held_out

pictures = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=80
)
shares = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**31 - 1)


@given(pictures=pictures, share=shares, seed=seeds)
def test_a_group_is_held_out_whole_or_not_at_all(pictures, share, seed):
    labels, groups = map(np.array, zip(*pictures, strict=True))
    chosen = held_out(labels, groups.tolist(), share, seed)
    for group in set(groups.tolist()):
        assert len(set(chosen[groups == group].tolist())) == 1


@given(pictures=pictures, share=shares, seed=seeds)
def test_each_class_keeps_something_to_learn_from(pictures, share, seed):
    labels, groups = map(np.array, zip(*pictures, strict=True))
    chosen = held_out(labels, groups.tolist(), share, seed)
    assert set(labels[~chosen].tolist()) == set(labels.tolist())


@given(labels=st.lists(st.integers(0, 3), min_size=1), share=shares, seed=seeds)
def test_of_pictures_that_are_each_for_themselves_every_class_gives_its_share(
    labels, share, seed
):
    chosen = held_out(np.array(labels), range(len(labels)), share, seed)
    for label in set(labels):
        count = labels.count(label)
        wanted = min(max(1, round(share * count)), count - 1)
        assert np.sum(chosen[np.array(labels) == label]) == wanted


def test_a_patient_in_two_classes_is_on_one_side_and_every_class_is_tested():
    labels = np.array([0] * 6 + [1] * 6)
    patients = ["a", "a", "b", "b", "c", "d"] * 2
    for seed in range(20):
        chosen = held_out(labels, patients, 0.3, seed)
        assert chosen[:6].tolist() == chosen[6:].tolist()
        assert 1 <= chosen[:6].sum() <= 2


def test_a_group_too_large_for_the_share_is_taken_where_the_class_has_no_other():
    labels = np.zeros(10, np.int64)
    chosen = held_out(labels, ["a"] * 7 + ["b"] * 3, 0.1, seed=0)
    assert chosen.tolist() == [False] * 7 + [True] * 3  # The smaller one.


def test_another_seed_draws_others_and_the_same_the_same():
    labels = np.arange(60) % 3
    first, again, other = (held_out(labels, range(60), 0.2, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
