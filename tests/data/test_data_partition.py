"""Every example to exactly one client, whatever the scheme."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.data import class_counts, partition
from jsplit.errors import InputError

LABELS = np.arange(2000, dtype=np.int32) % 10
ALPHAS = st.floats(-3, 3).map(lambda power: f"{10**power:.6g}")
SCHEMES = st.one_of(
    st.sampled_from(["iid", "uneven"]),
    ALPHAS.map("dirichlet:{}".format),
    ALPHAS.map("uneven:{}".format),
)


@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=80),
    share=st.floats(0, 1),
    scheme=SCHEMES,
    seed=st.integers(0, 2**32),
)
def test_every_example_once_and_no_shard_empty(
    labels: list[int], share: float, scheme: str, seed: int
) -> None:
    array = np.array(labels, np.int32)
    clients = max(1, round(share * len(labels)))
    shards = partition(array, clients=clients, scheme=scheme, seed=seed)
    assert len(shards) == clients
    for shard in shards:
        assert shard.dtype == np.int64 and len(shard) > 0
        assert (np.diff(shard) > 0).all()
    np.testing.assert_array_equal(
        np.sort(np.concatenate(shards)), np.arange(len(labels))
    )
    again = partition(array, clients=clients, scheme=scheme, seed=seed)
    for one, two in zip(shards, again, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:0.001", "uneven:0.001"])
@pytest.mark.parametrize("clients", [1, len(LABELS)])
def test_one_client_has_all_and_as_many_clients_as_examples_have_one(
    scheme: str, clients: int
) -> None:
    shards = partition(LABELS, clients=clients, scheme=scheme, seed=0)
    assert {len(shard) for shard in shards} == {len(LABELS) // clients}


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:1", "uneven"])
def test_another_seed_deals_otherwise(scheme: str) -> None:
    one, two = (
        partition(LABELS, clients=4, scheme=scheme, seed=seed)[0] for seed in (0, 1)
    )
    assert not np.array_equal(one, two)


def test_iid_sizes_differ_by_at_most_one_and_classes_are_mixed() -> None:
    shards = partition(LABELS, clients=7, scheme="iid", seed=0)
    assert {len(shard) for shard in shards} == {285, 286}
    assert class_counts(LABELS, shards, 10).min() > 10


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    def largest_share(scheme: str) -> float:
        counts = class_counts(
            LABELS, partition(LABELS, clients=5, scheme=scheme, seed=0), 10
        )
        return float((counts.max(0) / counts.sum(0)).mean())

    assert largest_share("dirichlet:0.01") > 0.9
    assert 0.4 < largest_share("dirichlet:0.5") < 0.8
    assert largest_share("dirichlet:1000") < 0.25


def test_dirichlet_shares_have_the_moments_of_a_dirichlet() -> None:
    alpha, clients = 0.5, 4
    labels = np.zeros(400, np.int32)
    sizes = [
        len(partition(labels, clients=clients, scheme=f"uneven:{alpha}", seed=seed)[0])
        for seed in range(2000)
    ]
    shares = np.array(sizes) / len(labels)
    mean = 1 / clients
    variance = mean * (1 - mean) / (clients * alpha + 1)
    # Four standard errors of the mean, and of a variance (kurtosis below 4).
    assert abs(shares.mean() - mean) < 4 * (variance / 2000) ** 0.5
    assert abs(shares.var() / variance - 1) < 4 * (3 / 2000) ** 0.5


def test_uneven_sizes_keep_classes_mixed() -> None:
    shards = partition(LABELS, clients=5, scheme="uneven:1", seed=0)
    sizes = np.array([len(shard) for shard in shards])
    assert sizes.max() > 2 * sizes.min()
    counts = class_counts(LABELS, shards, 10)
    large = counts[sizes.argmax()] / sizes.max()
    np.testing.assert_allclose(large, 0.1, atol=0.05)


def test_class_counts_has_a_row_a_client_and_a_column_a_class() -> None:
    labels = np.array([0, 2, 2, 0])
    counts = class_counts(labels, [np.array([0, 1, 2]), np.array([3])], 4)
    np.testing.assert_array_equal(counts, [[1, 0, 2, 0], [1, 0, 0, 0]])


@pytest.mark.parametrize("clients", [0, -1, len(LABELS) + 1])
def test_a_wrong_number_of_clients(clients: int) -> None:
    with pytest.raises(InputError, match=f"clients is {clients}; give 1 .. 2000"):
        partition(LABELS, clients=clients, scheme="iid", seed=0)


@pytest.mark.parametrize("scheme", ["", "IID", "iid:1", "dirichlet", "shards:2"])
def test_an_unknown_scheme(scheme: str) -> None:
    with pytest.raises(InputError, match=f"'{scheme}' is unknown; give iid, dirichlet"):
        partition(LABELS, clients=2, scheme=scheme, seed=0)


@pytest.mark.parametrize("alpha", ["0", "-1", "nan", "inf", "x", "", "1:2", "1e-7"])
@pytest.mark.parametrize("kind", ["dirichlet", "uneven"])
def test_a_wrong_alpha(kind: str, alpha: str) -> None:
    with pytest.raises(InputError, match=f"'{alpha}' is no ALPHA; give a number"):
        partition(LABELS, clients=2, scheme=f"{kind}:{alpha}", seed=0)


def test_a_negative_seed() -> None:
    with pytest.raises(InputError, match="seed is -1; give 0 or more"):
        partition(LABELS, clients=2, scheme="iid", seed=-1)
