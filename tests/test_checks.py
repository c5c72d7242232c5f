"""The library says which arrays it cannot use, and never trains on past a NaN."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsplit import Transform, from_flax, loss_gate, with_precision
from jsplit.core.checks import check_finite, native
from jsplit.core.metrics import Metrics, cross_entropy, top_1
from jsplit.core.output_checks import check_outputs
from jsplit.core.state import EpochRecord, init_side
from jsplit.errors import RunError
from tests.nets import dense_parts
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


class Shaped(nn.Module):
    """Gives outputs of another kind than `[n, 3]`."""

    what: str

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(1 if self.what == "column" else 3)(x)
        return {
            "bfloat16": lambda: y.astype(jnp.bfloat16),
            "places": lambda: jnp.stack([y] * 5, axis=1),
            "pair": lambda: (y, y),
            "number": lambda: y[:, 0],
            "column": lambda: y,
            "classes": lambda: y,
        }[self.what]()


def check(what, loss=cross_entropy, correct=top_1, part=None):
    part = part or from_flax(Shaped(what))
    smashed = jax.ShapeDtypeStruct((1, 4), jnp.float32)
    side = jax.eval_shape(
        lambda x: init_side(part, optax.sgd(0.1), jax.random.key(0), x), smashed
    )
    check_outputs("server", part, side, smashed, {"train": Y}, loss, correct)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("bfloat16", r"got bfloat16 \[7, 3\] of 7; jsplit.with_precision\(part, "),
        ("places", r"got float32 \[7, 5, 3\] of 7; mend what it returns"),
        ("pair", r"got \('float32 \[7, 3\]', 'float32 \[7, 3\]'\) of 7; mend"),
        ("number", r"got float32 \[7\] of 7; mend what it returns"),
    ],
)
def test_outputs_of_another_kind_are_refused_by_what_they_are(what, said):
    with pytest.raises(ValueError, match=f"^the server must give one float32 .*{said}"):
        check(what)


def test_a_server_that_computes_in_bfloat16_by_with_precision_is_taken():
    check("classes", part=with_precision(from_flax(Shaped("classes")), jnp.bfloat16))


# As it is outside these tests.
@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def binary(outputs, labels):
    return optax.sigmoid_binary_cross_entropy(outputs, labels)


@jax.numpy_rank_promotion("allow")
@jax.numpy_dtype_promotion("standard")
def right(outputs, labels):
    return (outputs > 0) == labels


def of_first(function):
    return lambda outputs, labels: function(outputs[:, 0], labels)


@pytest.mark.parametrize(
    ("loss", "correct", "said"),
    [
        (binary, of_first(right), r"^loss .*got float32 \[7, 7\]; take outputs\[:, 0"),
        (of_first(binary), right, r"^correct .*got bool \[7, 7\]; take outputs\[:, 0"),
        (
            lambda outputs, labels: binary(outputs[:, 0], labels).mean(),
            of_first(right),
            r"^loss must give a value an example, float32 \[7\], .*got float32 \[\]; t",
        ),
        (
            of_first(binary),
            lambda outputs, labels: right(outputs[:, 0], labels).astype(jnp.int32),
            r"^correct .* bool \[7\], of .* got int32 \[7\]; convert it, such as by",
        ),
        (
            lambda outputs: outputs[:, 0],
            of_first(right),
            r"^loss must take outputs float32 \[7, 1\] and labels int32 \[7\], but Ty",
        ),
    ],
)
def test_a_loss_or_score_that_is_not_one_value_an_example_is_refused(
    loss, correct, said
):
    with pytest.raises(ValueError, match=said):
        check("column", loss, correct)


def test_a_training_begins_with_no_such_loss():
    parts = dense_parts()[0], from_flax(nn.Dense(1))
    with pytest.raises(ValueError, match=r"^loss .* \[7, 7\]; take outputs\[:, 0"):
        simulate(parts, loss=binary, correct=of_first(right))


def test_a_loss_and_score_of_ones_own_may_take_any_outputs():
    check("column", of_first(binary), of_first(right))
    check(
        "pair",
        lambda outputs, labels: cross_entropy(outputs[0], labels),
        lambda outputs, labels: top_1(outputs[1], labels),
    )


def test_a_head_with_too_few_outputs_is_refused_by_their_number():
    said = "train labels go to 2, but the head has 2 outputs, for 0 to 1; give it 3"
    with pytest.raises(ValueError, match=said):
        simulate(head=from_flax(nn.Dense(2)), local_epochs=1)


def test_labels_may_be_lists_in_both_sets():
    as_lists = X, Y.tolist()
    simulation = simulate(train=as_lists, test=as_lists)
    assert simulation.shards.labels.tolist() == Y.tolist()
    assert simulation.test.labels.reshape(-1).tolist() == Y.tolist()


def test_labels_that_are_cut_short_by_int32_are_refused():
    labels = Y.astype(np.int64)
    labels[0] += 2**31
    with pytest.raises(ValueError, match="train labels must be at most 2147483647, go"):
        simulate(train=(X, labels))


def test_test_examples_of_another_shape_are_refused_by_both_shapes():
    said = r"^test examples must have the shape .*, \[5\] after .*, got \[4\]$"
    with pytest.raises(ValueError, match=said):
        simulate(test=(X[:, :4], Y))
    # What the client gets is compared, not what is there.
    same = Transform(train=lambda key, raw: raw, evaluate=lambda raw: raw[:, :5])
    simulate(test=(np.hstack([X, X]), Y), transform=same)


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
