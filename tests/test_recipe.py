"""The recipe of training, by numbers worked out by hand: what happens in one place.

Whole epochs are in `test_recipe_epochs.py`, and what the server is given to learn
from in `test_recipe_store.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jsplit.experiment.build as building
from jsplit.core.gate import REFERENCES
from jsplit.core.gates import LossGate
from jsplit.core.model_part import from_flax
from jsplit.data import normalization
from jsplit.data.dataset import make_dataset
from jsplit.experiment.build import build, optimizer_of, transform_of
from jsplit.experiment.config import RunConfig
from jsplit.experiment.step_sizes import step_sizes_of
from jsplit.models import MODELS, Chain
from tests.test_budget_gate import COSTS

KEY = jax.random.key(0)


def tree_like_a_network():
    """Parameters of a network with batch normalisation, none of them 0."""
    network = from_flax(Chain(MODELS["cnn"](3)))
    shapes = jax.eval_shape(network.init, KEY, jnp.zeros((1, 8, 8, 1)))["params"]
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: draw.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes
    )


def test_one_weight_takes_the_steps_that_were_worked_out_on_paper():
    """Momentum 0.5, decay 0.1; the rate falls from 0.1 to 0.02 before the third.

    velocity: 0.5 x 0 + 0.5 + 0.1 x 1 = 0.6; 0.3 + 0.5 + 0.094 = 0.894;
    0.447 - 1 + 0.08506 = -0.46794; -0.23397 + 0 + 0.08599588 = -0.14797412.
    """
    optimizer = optimizer_of(RunConfig(momentum=0.5, weight_decay=0.1))
    weight = jnp.float32(1)
    state = optimizer.init(weight)
    taken = []
    for gradient, rate in ((0.5, 0.1), (0.5, 0.1), (-1.0, 0.02), (0.0, 0.02)):
        update, state = optimizer.update(jnp.float32(gradient), state, weight)
        weight += jnp.float32(rate) * update
        taken.append(float(weight))
    expected = [0.94, 0.8506, 0.8599588, 0.8629182824]
    np.testing.assert_allclose(taken, expected, rtol=1e-6)


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 5e-4), (0.9, 0.1), (0.0, 0.3)])
def test_every_parameter_has_momentum_and_decays_batch_normalisations_too(
    momentum, decay
):
    params = tree_like_a_network()
    names = str(jax.tree.structure(params))
    assert all(f"'{name}'" in names for name in ("kernel", "scale", "bias"))
    optimizer = optimizer_of(RunConfig(momentum=momentum, weight_decay=decay))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    draw = np.random.default_rng(1)
    weights = [np.float64(leaf) for leaf in jax.tree.leaves(params)]
    velocity = [np.zeros_like(leaf) for leaf in weights]
    for rate in np.float32([0.05, 0.05, 0.01, 0.002]):
        # As large as what decays, so that neither hides the other.
        gradients = jax.tree.map(
            lambda leaf: np.float32(decay * draw.normal(size=leaf.shape)), params
        )
        updates, state = update(gradients, state, params)
        params = jax.tree.map(lambda p, u, r=rate: p + r * u, params, updates)
        for i, gradient in enumerate(jax.tree.leaves(gradients)):
            velocity[i] = momentum * velocity[i] + gradient + decay * weights[i]
            weights[i] = weights[i] - rate * velocity[i]
    for mine, theirs in zip(velocity, jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=decay * 1e-5)
    for mine, theirs in zip(weights, jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [0.05]),
        (2, [0.05, 0.01]),
        (3, [0.05, 0.01, 0.002]),
        (5, [0.05, 0.05, 0.01, 0.002, 0.0004]),
        (10, [0.05] * 3 + [0.01] * 3 + [0.002] * 2 + [0.0004] * 2),
        (200, [0.05] * 60 + [0.01] * 60 + [0.002] * 40 + [0.0004] * 40),
    ],
)
def test_the_learning_rate_of_so_many_epochs_is_this(epochs, expected):
    sizes = step_sizes_of(RunConfig(epochs=epochs, learning_rate=0.05))
    assert sizes.dtype == np.float32
    np.testing.assert_allclose(sizes, expected, rtol=1e-6)


@given(epochs=st.integers(1, 2000), rate=st.sampled_from([0.05, 0.1, 1.0]))
def test_the_learning_rate_falls_to_a_fifth_after_30_60_and_80_percent(epochs, rate):
    """In whole tenths: epoch `e` of `n` is beyond 30 % where `10 e >= 3 n`."""
    passed = [
        sum(10 * epoch >= tenths * epochs for tenths in (3, 6, 8))
        for epoch in range(epochs)
    ]
    sizes = step_sizes_of(RunConfig(epochs=epochs, learning_rate=rate))
    np.testing.assert_allclose(sizes, [rate / 5**it for it in passed], rtol=1e-6)


@pytest.mark.parametrize(
    ("clients", "topology", "batch", "expected"),
    [
        (1, "parallel", None, 0.05),
        (4, "parallel", 100, 0.025),
        (10, "parallel", None, 0.0158114),
        (10, "sequential", None, 0.05),
        (8, "parallel", 2, 0.0353553),  # a batch of 1 each
    ],
)
def test_alone_the_learning_rate_shrinks_by_the_root_of_a_clients_part_of_a_batch(
    clients, topology, batch, expected
):
    config = RunConfig(
        epochs=1,
        local_epochs=2,
        learning_rate=0.05,
        clients=clients,
        topology=topology,
        batch_size=batch,
    )
    sizes = step_sizes_of(config)
    np.testing.assert_allclose(sizes, [expected, expected / 2, 0.05], rtol=1e-5)


def test_alone_the_learning_rate_falls_over_half_a_cosine():
    sizes = step_sizes_of(RunConfig(epochs=1, local_epochs=3, learning_rate=0.1))
    np.testing.assert_allclose(sizes, [0.1, 0.075, 0.025, 0.1], rtol=1e-6)


def black_around(image):
    """How far a white image was moved, down and to the right, by its black rows."""
    black = image < 0
    down, right = (black.all(axis=axis) for axis in (1, 0))
    ways = []
    for line in (down, right):
        white = np.flatnonzero(~line)
        before, after = int(white[0]), len(line) - 1 - int(white[-1])
        # What is black is a border on one side, and nothing inside it.
        assert line.sum() == before + after == max(before, after)
        ways.append(before - after)
    assert black.sum() == black.size - (~down).sum() * (~right).sum()
    return tuple(ways)


@pytest.mark.parametrize(
    ("edge", "padding"), [(4, 0), (8, 1), (28, 4), (32, 4), (64, 8)]
)
def test_images_move_by_up_to_an_eighth_of_their_edge_and_leave_black(edge, padding):
    """White is (1 - 0.25) / 0.5 = 1.5 and black (0 - 0.25) / 0.5 = -0.5."""
    transform = transform_of(RunConfig(), ((0.25,), (0.5,)), edge=edge)
    white = np.full((400, edge, edge, 1), 255, np.uint8)
    seen = np.asarray(jax.jit(transform.train)(KEY, white))
    assert seen.shape == white.shape and seen.dtype == np.float32
    assert set(np.unique(np.round(seen, 5))) <= {1.5, -0.5}
    moved = np.asarray([black_around(image) for image in seen[..., 0]])
    for way in moved.T:
        assert set(way) == set(range(-padding, padding + 1))
    if padding:
        # Down and to the right by draws of their own.
        assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


THREE = np.asarray([0.0, 0.2, 0.4]), np.asarray([1.0, 0.5, 0.25])


def squares(count, edge=4):
    """Copies of an image whose pixels all differ, in three channels."""
    pixels = 5 * np.arange(3 * edge**2, dtype=np.uint8).reshape(edge, edge, 3)
    return np.repeat(pixels[None], count, axis=0)


def test_half_of_the_images_are_mirrored_left_to_right_and_none_upside_down():
    """Of edge 4, which no crop moves: 4 / 8 rounds to 0."""
    transform = transform_of(RunConfig(), THREE, edge=4)
    images = squares(400)
    seen = np.asarray(jax.jit(transform.train)(KEY, images))
    plain = (images[0] / 255 - THREE[0]) / THREE[1]
    either = np.stack([plain, plain[:, ::-1]])[:, None]
    as_is, mirrored = np.isclose(seen, either, atol=1e-5).all(axis=(2, 3, 4))
    assert (as_is ^ mirrored).all()
    # Five standard deviations of a fair coin, thrown 400 times.
    assert abs(mirrored.sum() - 200) < 5 * 10


def test_each_channel_is_normalised_by_its_own_mean_and_deviation():
    """51 is 0.2 of white: (0.2 - 0) / 1, (0.2 - 0.2) / 0.5, (0.2 - 0.4) / 0.25."""
    transform = transform_of(RunConfig(), THREE, edge=4)
    gray = np.full((2, 4, 4, 3), 51, np.uint8)
    for seen in (transform.evaluate(gray), jax.jit(transform.train)(KEY, gray)):
        np.testing.assert_allclose(
            seen, np.broadcast_to([0.2, 0.0, -0.8], gray.shape), atol=1e-6
        )


@pytest.mark.parametrize("edge", [4, 8])
def test_evaluation_and_state_b_see_images_as_they_are(edge):
    transform = transform_of(RunConfig(), THREE, edge=edge)
    images = squares(8, edge)
    plain = (images / 255 - THREE[0]) / THREE[1]
    in_a = jax.jit(transform.train)
    refresh = jax.jit(lambda key, raw: transform.refresh(0, key, raw))
    for seen in (
        transform.evaluate(images),
        refresh(KEY, images),
        refresh(jax.random.key(1), images),
    ):
        np.testing.assert_allclose(seen, plain, atol=1e-5)
    assert not np.allclose(in_a(KEY, images), plain, atol=1e-2)


def test_state_b_augments_where_asked_and_nothing_does_where_not():
    images = squares(16, 8)
    plain = (images / 255 - THREE[0]) / THREE[1]
    both = transform_of(RunConfig(views="augmented"), THREE, edge=8)
    in_a = jax.jit(both.train)(KEY, images)
    in_b = jax.jit(lambda key, raw: both.refresh(0, key, raw))(KEY, images)
    np.testing.assert_array_equal(in_a, in_b)
    assert not np.allclose(in_b, plain, atol=1e-2)
    neither = transform_of(RunConfig(augment=False), THREE, edge=8)
    for training in (neither.train, neither.view(0)):
        seen = jax.jit(training)(KEY, images)
        np.testing.assert_allclose(seen, plain, atol=1e-5)


def test_augmentation_follows_from_its_key():
    transform = transform_of(RunConfig(), THREE, edge=8)
    train, images = jax.jit(transform.train), squares(16, 8)
    first = train(KEY, images)
    np.testing.assert_array_equal(first, train(jax.random.key(0), images))
    assert not np.array_equal(first, train(jax.random.key(1), images))
    # And images that are equal are not all augmented alike.
    assert len({np.asarray(image).tobytes() for image in first}) > 4


def states_of(gate, losses):
    update, state = jax.jit(gate.update), gate.init()
    states = [state]
    for loss in losses:
        state = update(state, jnp.float32(loss))
        states.append(state)
    return "".join("ABC"[int(state.state)] for state in states)


LOSSES = (1.5, 1.25, 0.875, 1.5, 2.125, 1.0, 0.875)


@pytest.mark.parametrize(
    ("reference", "rule", "states"),
    [
        # What each epoch's loss is compared with; before the first, log(10) = 2.303.
        # 2.303, 1.5, 1.5, 0.875, 1.5, 2.125, 1.0: the last that opened the gate
        ("decision", "abs", "AABAAAAB"),
        # 2.303, 1.5, 1.5, 0.875, 0.875, 0.875, 0.875
        ("decision", "drop", "AABABCCC"),
        # 2.303, 1.5, 1.25, 0.875, 1.5, 2.125, 1.0: the one before, in both
        ("previous", "abs", "AABCAAAB"),
        ("previous", "drop", "AABCCCAB"),
        # 2.303, 1.5 in A; none in B; none, then 1.5, the first of C; 1.5 in A, 1.0
        ("same-state", "abs", "AABCCAAB"),
        # 2.303, 1.5 in A; none in B; none, 1.5, 1.5 in C; in A 1.5, as it last opened
        ("same-state", "drop", "AABCCCAA"),
    ],
)
def test_each_reference_of_the_loss_gate_opens_it_after_these_losses(
    reference, rule, states
):
    """By hand, at a threshold of 0.5: no two of the six end alike."""
    gate = LossGate(0.5, rule=rule, reference=reference).make(10)
    assert states_of(gate, LOSSES) == states


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    ("classes", "blind"),
    [(2, 0.693147), (3, 1.098612), (10, 2.302585), (100, 4.605170)],
)
def test_the_first_loss_is_compared_with_that_of_a_blind_guess(
    classes, blind, reference
):
    gate = LossGate(0.01, reference=reference).make(classes)
    for moved, after in ((0, "B"), (0.0099, "B"), (0.0101, "A"), (1, "A")):
        assert states_of(gate, [blind - moved]) == "A" + after
        assert states_of(gate, [blind + moved]) == "A" + after


def test_a_run_is_built_with_this_recipe(monkeypatch):
    """Of what is handed to the simulation, without one."""
    draw = np.random.default_rng(0)
    images = draw.integers(30, 190, (60, 16, 16, 3), np.uint8)
    images[..., 1] //= 2
    arrays = (images, np.arange(60) % 5, images[:10], np.arange(10) % 5)
    dataset = make_dataset("noise", arrays, num_classes=5, source="here")
    monkeypatch.setattr(building, "make_simulation", lambda *_, **settings: settings)
    config = RunConfig(
        model="cnn", epochs=10, batch_size=20, gate=LossGate(0.1), weight_decay=0.25
    )
    experiment = build(config, dataset)
    made, sizes = experiment.simulation, experiment.step_sizes
    np.testing.assert_allclose(sizes[[2, 5, 7, 9]], [0.05, 0.01, 2e-3, 4e-4], rtol=1e-6)
    evaluated = np.asarray(made["transform"].evaluate(images))
    np.testing.assert_allclose(evaluated.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(evaluated.std(axis=(0, 1, 2)), 1, atol=1e-4)
    mean, deviation = normalization(images)
    black = -np.asarray(mean) / np.asarray(deviation)
    trained = np.asarray(jax.jit(made["transform"].train)(KEY, images))
    bordered = np.isclose(trained, black, atol=1e-5).all(axis=-1).all(axis=2)
    # Rows wholly black, up to 2 of 16 and only at the top and the bottom.
    assert set(np.flatnonzero(bordered.any(axis=0))) == {0, 1, 14, 15}
    assert states_of(made["gate"](COSTS), [np.log(5) - 0.2, np.log(5) - 0.25]) == "AAB"
    optimizer, ones = made["optimizer"], jnp.ones(3)
    updates, _ = optimizer.update(jnp.zeros(3), optimizer.init(ones), ones)
    np.testing.assert_allclose(updates, [-0.25] * 3)
