"""The library says which arrays it cannot use, and never trains on past a NaN."""

import numpy as np
import pytest

from jsplit import loss_gate
from jsplit.core.checks import check_finite, native
from jsplit.core.metrics import Metrics
from jsplit.core.state import EpochRecord
from jsplit.errors import RunError
from tests.simulations import TEST, TRAIN, simulate

X, Y = TRAIN


@pytest.mark.parametrize("name", ["train", "test"])
@pytest.mark.parametrize(
    ("labels", "remedy"),
    [(Y[:, None], "labels.reshape"), (np.eye(9, dtype=int)[Y], "labels.argmax")],
)
def test_labels_of_another_shape_are_refused_by_their_shape(name, labels, remedy):
    with pytest.raises(ValueError, match=remedy) as refusal:
        simulate(**{name: (X, labels)})
    assert f"{name} labels" in str(refusal.value)
    assert str(list(labels.shape)) in str(refusal.value)


@pytest.mark.parametrize("name", ["train", "test"])
def test_labels_that_no_output_stands_for_are_refused_by_the_number(name):
    labels = Y.copy()
    labels[7] = 11
    with pytest.raises(ValueError, match=f"{name} labels go to 11, but the server"):
        simulate(**{name: (X, labels)})


def test_another_loss_may_take_other_labels():
    labels = Y.copy()
    labels[7] = 11
    assert simulate(train=(X, labels), loss=lambda outputs, labels: outputs[:, 0])


def test_examples_of_the_other_byte_order_are_the_same_examples():
    swapped = X.astype(X.dtype.newbyteorder())
    assert not swapped.dtype.isnative
    ours = simulate(train=(swapped, Y), test=(swapped, Y)).shards.examples
    assert np.array_equal(ours, X)


@pytest.mark.parametrize("name", ["train", "test"])
def test_examples_that_are_no_numbers_are_refused_by_their_dtype(name):
    with pytest.raises(ValueError, match=f"{name} examples .* dtype object"):
        simulate(**{name: (X.astype(object), Y)})


def test_examples_of_this_byte_order_are_not_copied():
    assert native("train", X) is X


def test_a_value_that_is_not_finite_stops_the_training_where_it_begins():
    spoilt = X.copy()
    spoilt[3, 2] = np.nan
    gate = loss_gate(0.05, initial_loss=np.log(3))
    with pytest.raises(RunError, match=r"training loss became nan in epoch 1 \(state"):
        simulate(train=(spoilt, Y), test=TEST, gate=gate).run(np.ones(3))


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([1, 2, np.inf], [1, 2, 3], r"training loss became inf in epoch 3 \(state C\)"),
        ([1, np.nan, 1], [1, 2, 3], r"training loss became nan in epoch 2 \(state B\)"),
        ([1, 2, np.nan], [1, np.inf, 3], r"test loss became inf in epoch 2 \(state B"),
    ],
)
def test_the_first_epoch_that_is_not_finite_is_named(train, test, said):
    ones = np.ones(3, int)
    sums = [Metrics(np.float32(losses), ones, ones) for losses in (train, test)]
    record = EpochRecord(
        state=np.arange(3), **dict(zip(("train", "test"), sums, strict=True))
    )
    with pytest.raises(RunError, match=said):
        check_finite(record)
