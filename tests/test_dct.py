"""First filters that are cosines, and a run that begins with them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsplit.core.option import options_of
from jsplit.errors import InputError
from jsplit.experiment import parts
from jsplit.experiment.build import check_names, replay_of, shape_of
from jsplit.experiment.config import RunConfig
from jsplit.experiment.parts import COSINES, mirrored_channels, parts_of
from jsplit.experiment.plain import plain_of
from jsplit.experiment.run_facts import facts_of
from jsplit.models import (
    MODELS,
    Model,
    cnn,
    dct_filters,
    mirrored_filters,
    with_dct_filters,
)
from tests.test_budget_gate import COSTS
from tests.tiers import sample


def filters(size: int, channels: int, features: int) -> np.ndarray:
    """Cosines in place of zeros: `[features, size * size * channels]`."""
    kernel = dct_filters(jnp.zeros((size, size, channels, features)))
    return np.asarray(kernel).reshape(-1, features).T


@given(size=st.sampled_from([1, 3, 5]), channels=st.integers(1, 4))
def test_all_filters_of_a_sign_are_orthogonal(size: int, channels: int) -> None:
    positive = filters(size, channels, 2 * size * size * channels)[::2]
    products = positive @ positive.T
    lengths = np.sqrt(np.diag(products))
    cosines = products / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines, np.eye(len(positive)), atol=1e-5)


def test_filters_come_in_pairs_of_both_signs() -> None:
    found = filters(3, 3, 16)
    np.testing.assert_array_equal(found[::2], -found[1::2])


def test_an_odd_number_ends_with_a_filter_of_one_sign() -> None:
    np.testing.assert_array_equal(filters(3, 3, 5), filters(3, 3, 6)[:5])


def test_without_dc_no_filter_sees_what_is_the_same_all_over_the_patch() -> None:
    found = dct_filters(jnp.zeros((3, 3, 3, 48)), dc=False)
    np.testing.assert_allclose(found.sum(axis=(0, 1)), 0, atol=1e-5)
    assert (np.abs(found).sum(axis=(0, 1, 2)) > 1).all()


def test_without_dc_the_other_coefficients_keep_their_order() -> None:
    every = dct_filters(jnp.zeros((3, 3, 3, 54)))
    differing = np.abs(every.sum(axis=(0, 1))).max(axis=0) < 1e-5
    assert differing.sum() == 48
    found = dct_filters(jnp.zeros((3, 3, 3, 48)), dc=False)
    np.testing.assert_array_equal(found, every[..., differing])


def test_filters_beyond_all_coefficients_stay_as_they_were() -> None:
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 1, 24))
    found = dct_filters(kernel)
    np.testing.assert_array_equal(found[..., 18:], kernel[..., 18:])
    assert not np.array_equal(found[..., :18], kernel[..., :18])
    fewer = dct_filters(kernel, dc=False)
    np.testing.assert_array_equal(fewer[..., 16:], kernel[..., 16:])


def test_the_widest_spread_comes_first_and_mixed_frequencies_after_pure_ones() -> None:
    # A mean; then edges across, down and between colours in some order; curves.
    waves = filters(3, 3, 16)[::2].reshape(-1, 3, 3, 3)
    turns = [
        tuple(int(np.abs(np.diff(wave.mean(other))).max() > 1e-6) for other in axes)
        for wave in waves
        for axes in [((1, 2), (0, 2), (0, 1))]
    ]
    assert turns[0] == (0, 0, 0)
    assert set(turns[1:4]) == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert set(turns[4:7]) == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_what_comes_out_of_an_autoregressive_image_has_variance_1() -> None:
    # The covariance of an image whose neighbours correlate 0.9, written out by hand.
    near = np.array([[1, 0.9, 0.81], [0.9, 1, 0.9], [0.81, 0.9, 1]])
    covariance = np.kron(np.kron(near, near), near)
    found = filters(3, 3, 54)
    variances = np.einsum("fi,ij,fj->f", found, covariance, found)
    np.testing.assert_allclose(variances, 1, rtol=1e-4)


def test_what_comes_out_of_photographs_has_a_variance_near_1() -> None:
    from jsplit.data import load, normalization, preprocess

    images = load("fashion_mnist_10k").train_images[:500]
    x = preprocess(images, *normalization(images))
    kernel = dct_filters(jnp.zeros((3, 3, 1, 8)))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    spread = np.asarray(y).std(axis=(0, 1, 2))
    assert (spread > 0.3).all() and (spread < 3).all()


@pytest.mark.parametrize("filters", COSINES)
@pytest.mark.parametrize("model", sample(sorted(MODELS), "cnn", "resnet18"))
def test_every_model_begins_with_cosines_and_is_otherwise_as_it_was(
    model: str, filters: str
) -> None:
    x, key = jnp.zeros((1, 16, 16, 3)), jax.random.key(0)
    config = RunConfig(model=model)
    begun, usual = (
        parts_of(dataclasses.replace(config, first_filters=kind), 10, (16, 16, 3))[0]
        for kind in (filters, "random")
    )
    differing = [
        (path, ours.shape)
        for (path, ours), theirs in zip(
            jax.tree_util.tree_leaves_with_path(begun.init(key, x)),
            jax.tree.leaves(usual.init(key, x)),
            strict=True,
        )
        if not np.array_equal(ours, theirs)
    ]
    ((path, shape),) = differing
    assert path[-1].key == "kernel" and shape[:3] == (3, 3, 3)


def test_a_block_without_exactly_one_such_kernel_is_refused() -> None:
    two = {"a": jnp.zeros((3, 3, 3, 8)), "b": jnp.zeros((1, 1, 3, 8))}
    with pytest.raises(ValueError, match="stem has 2 kernels of images with 3 cha"):
        with_dct_filters({"params": {"stem": two}}, "stem", channels=3)
    with pytest.raises(ValueError, match="no block body with parameters, but stem"):
        with_dct_filters({"params": {"stem": two}}, "body", channels=3)


def test_every_kind_of_cosines_can_be_asked_for() -> None:
    choices = options_of(RunConfig)["first_filters"].choices
    assert set(choices) == {"random", *COSINES}


def test_weights_of_another_run_and_cosines_are_not_both_the_clients() -> None:
    config = RunConfig(first_filters="dct", init="runs/first")
    with pytest.raises(InputError, match="--first-filters dct and --init runs/first b"):
        check_names(config)
    check_names(dataclasses.replace(config, init_part="server"))


def test_plain_split_learning_beside_a_run_begins_with_the_same_filters() -> None:
    for kind in COSINES:
        assert plain_of(RunConfig(first_filters=kind)).first_filters == kind


@pytest.mark.parametrize("model", ["cnn", "resnet18"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("filters", COSINES)
def test_the_map_of_a_mirrored_image_is_the_mirrored_map_with_pairs_exchanged(
    model: str, channels: int, filters: str
) -> None:
    shape = (8, 8, channels)
    config = RunConfig(model=model, cut=1, first_filters=filters, replay_mirror=True)
    client, _ = parts_of(config, 10, shape)
    x = jax.random.normal(jax.random.key(1), (32, *shape))
    variables = client.init(jax.random.key(0), x)

    def maps(x: jax.Array) -> jax.Array:
        return client.apply(variables, x, mask=None, key=None, train=False)[0]

    places = mirrored_channels(config, shape)
    assert places is not None
    of_a_channel = 9 if COSINES[filters] else 8
    cosines = min(len(places), 2 * of_a_channel * channels)
    turned = maps(x)[:, :, ::-1, np.asarray(places)]
    np.testing.assert_allclose(
        maps(x[:, :, ::-1])[..., :cosines], turned[..., :cosines], rtol=1e-5, atol=1e-4
    )
    # What the server of such a run does to half of the maps.
    replay = replay_of(config, shape)
    found, _ = replay.apply(jax.random.key(2), maps(x), None)
    mirrored = np.asarray((found == turned).all(axis=(1, 2, 3)))
    kept = np.asarray((found == maps(x)).all(axis=(1, 2, 3)))
    assert (mirrored ^ kept).all() and mirrored.any() and kept.any()


def test_channels_are_exchanged_only_where_cosines_cross() -> None:
    shape, config = (8, 8, 3), RunConfig(model="cnn", first_filters="dct")
    assert mirrored_channels(config, shape) is not None
    for changes in ({"cut": 2}, {"first_filters": "random"}):
        assert mirrored_channels(dataclasses.replace(config, **changes), shape) is None


@pytest.mark.parametrize(
    ("filters", "cut", "known"),
    [
        *[("dct", 1, True), ("dct", None, True), ("dct", 2, False)],
        *[("dct-ac", 1, True), ("random", 1, False)],
    ],
)
def test_a_gate_is_told_whether_cosines_are_all_that_the_client_holds(
    filters: str, cut: int | None, known: bool
) -> None:
    config = RunConfig(model="cnn", cut=cut, first_filters=filters)
    assert facts_of(config, 10, costs=COSTS).known_filters == known


def test_filters_without_their_pair_count_as_symmetric() -> None:
    assert mirrored_filters((3, 3, 1, 3)) == [0, 1, 2]
    assert mirrored_filters((3, 3, 1, 24))[18:] == list(range(18, 24))
    assert mirrored_filters((3, 3, 1, 24), dc=False)[16:] == list(range(16, 24))


@pytest.mark.parametrize("shape", [(3, 3, 8), (0, 3, 3, 8), (3, 3, 3, 0), ()])
def test_what_is_no_kernel_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width, channels and filters"):
        dct_filters(jnp.zeros(shape))
    with pytest.raises(ValueError, match="height, width, channels and filters"):
        mirrored_filters(shape)


def test_a_kernel_of_a_single_pixel_is_refused_without_dc() -> None:
    kernel = jnp.zeros((1, 1, 3, 8))
    for refused in (
        lambda: dct_filters(kernel, dc=False),
        lambda: mirrored_filters(kernel.shape, dc=False),
    ):
        with pytest.raises(ValueError, match="sees a single pixel has no filters with"):
            refused()


def test_a_kernel_of_integers_is_refused() -> None:
    with pytest.raises(ValueError, match="must be floats, got int32"):
        dct_filters(jnp.zeros((3, 3, 3, 8), jnp.int32))


def test_runs_with_other_first_filters_share_no_program() -> None:
    # Which channels a mirrored map exchanges is part of it.
    config = RunConfig(replay_mirror=True)
    kinds = [
        shape_of(dataclasses.replace(config, first_filters=kind))
        for kind in ("random", *COSINES)
    ]
    assert all(one != other for one, other in itertools.combinations(kinds, 2))


@pytest.mark.parametrize("filters", COSINES)
def test_a_bottleneck_passes_the_widest_cosines_on(filters: str) -> None:
    shape = (8, 8, 3)
    whole = RunConfig(model="vgg11", cut=1, first_filters=filters, replay_mirror=True)
    x = jax.random.normal(jax.random.key(1), (4, *shape))

    def maps(config: RunConfig, x: jax.Array) -> jax.Array:
        client, _ = parts_of(config, 10, shape)
        variables = client.init(jax.random.key(0), x)
        return client.apply(variables, x, mask=None, key=None, train=False)[0]

    narrow = dataclasses.replace(whole, bottleneck=6)
    np.testing.assert_allclose(maps(narrow, x), maps(whole, x)[..., :6], rtol=1e-5)
    places = mirrored_channels(narrow, shape)
    turned = maps(narrow, x)[:, :, ::-1, np.asarray(places)]
    mirrored = maps(narrow, x[:, :, ::-1])
    np.testing.assert_allclose(mirrored, turned, rtol=1e-5, atol=1e-4)
    assert places != list(range(6))


def test_after_later_blocks_a_bottleneck_begins_at_random() -> None:
    shape = (8, 8, 3)
    config = RunConfig(model="cnn", cut=2, bottleneck=4, first_filters="dct")
    begun, usual = (
        parts_of(dataclasses.replace(config, first_filters=kind), 10, shape)[0]
        for kind in ("dct", "random")
    )
    kernels = [
        part.init(jax.random.key(0), jnp.zeros((1, *shape)))["params"]["narrow"]
        for part in (begun, usual)
    ]
    np.testing.assert_array_equal(*(kernel["Dense_0"]["kernel"] for kernel in kernels))


def test_a_model_without_one_first_convolution_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whose first block is a head: it takes the mean of the images.
    toy = Model("toy", lambda classes: cnn(classes)[::-1], usual_cut=1)
    monkeypatch.setattr(parts, "MODELS", {"toy": toy})
    client, _ = parts_of(RunConfig(model="toy", first_filters="dct"), 10, (8, 8, 3))
    with pytest.raises(InputError, match="--first-filters dct does not suit --model t"):
        client.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
