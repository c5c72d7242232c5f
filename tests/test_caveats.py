"""What is said before a run whose settings do not do what one may expect."""

import pytest

from jsplit.core.topology import PARALLEL, PROPORTIONAL, SEQUENTIAL, make_layout
from jsplit.experiment.caveats import caveats_of, whole_batch
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.run_labels import unlike
from tests.runs import TINY, run_here


def check_caveat(config, shape, said):
    """That this alone is said, or nothing at all."""
    found = caveats_of(config, shape)
    assert len(found) == (said is not None) and all(
        one.startswith(said) for one in found
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "only A augments"),
        ({"views": "augmented"}, None),
        ({"augment": False}, None),
        ({"augment": False, "views": "plain,mirrored"}, "only B augments"),
        ({"augment": False, "views": "augmented"}, "only B augments"),
        ({"augment": False, "mixup": 1.0}, "only C has mixup 1"),
        ({"loss_reference": "same-state", "mixup": 1.0}, None),
        ({"gate": "freeze", "mixup": 1.0}, None),
    ],
)
def test_a_run_says_where_the_papers_rule_compares_unlike_losses(changes, words):
    config = changed(RunConfig(), **changes)
    said = config.gate.caveat(unlike(config))
    assert (said is None) == (words is None)
    if words is not None:
        assert said.startswith(words) and said.endswith("see --loss-reference")
        assert len(f"note: {said}") <= 80


@pytest.mark.parametrize(
    ("channels", "changes", "said"),
    [
        (3, {}, "of 64 channels that cross 54 are cosines, and the others stay random"),
        (1, {"bottleneck": 54}, "of 54 channels that cross 18 are cosines"),
        (3, {"bottleneck": 54}, None),
        (3, {"first_filters": "dct-ac"}, "of 64 channels that cross 48 are cosines"),
        (3, {"first_filters": "dct-ac", "bottleneck": 48}, None),
        (3, {"gate": "always"}, None),
        (3, {"local_epochs": 1}, None),
        (3, {"first_filters": "random"}, None),
        (3, {"cut": 2}, None),
    ],
)
def test_channels_that_nobody_trains_and_are_no_cosines_are_said(
    channels, changes, said
):
    settings = {"gate": "freeze", "sync_epochs": 0, "first_filters": "dct", "cut": 1}
    config = changed(RunConfig(model="vgg11"), **settings | changes)
    check_caveat(config, (32, 32, channels), said)


@pytest.mark.parametrize(
    ("filters", "channels", "bottleneck", "remedy"),
    [
        ("dct", 3, 5, "take --bottleneck 6 or 4"),
        ("dct", 3, 45, "take --bottleneck 46 or 44"),
        ("dct", 3, 6, None),
        ("dct", 3, 7, None),
        ("dct", 1, 3, "take --bottleneck 4 or 2"),
        ("dct", 1, 5, None),
        ("dct-ac", 3, 9, "take --bottleneck 10 or 8"),
        ("dct-ac", 3, 5, None),
        ("dct-ac", 1, 1, "take --bottleneck 2"),
    ],
)
def test_a_bottleneck_that_parts_a_cosine_from_its_mirror_image_is_said(
    filters, channels, bottleneck, remedy
):
    config = changed(
        RunConfig(model="vgg11", cut=1, first_filters=filters, bottleneck=bottleneck),
        gate="freeze",
        sync_epochs=0,
        replay_mirror=True,
    )
    said = f"--replay-mirror gives the last of {bottleneck} channels the wrong sign"
    check_caveat(config, (32, 32, channels), None if remedy is None else said)
    assert all(one.endswith(remedy) for one in caveats_of(config, (32, 32, channels)))
    check_caveat(changed(config, replay_mirror=False), (32, 32, channels), None)
    always = changed(RunConfig(), gate="always", replay_mirror=True)
    always = changed(always, model="vgg11", cut=1, first_filters="dct", bottleneck=5)
    check_caveat(always, (32, 32, channels), "always A has no B and no C")


def test_what_is_to_be_taken_instead_of_a_parted_pair_is_a_bottleneck():
    settings = {"gate": "freeze", "replay_mirror": True, "first_filters": "dct"}
    config = changed(RunConfig(model="cnn"), **settings, cut=1, bottleneck=15)
    *_, last = caveats_of(config, (32, 32, 3))  # 16 cross without a bottleneck.
    assert last.endswith("take --bottleneck 14")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"mixup": 0.5}, "always A has no B and no C, so --mixup 0.5 does nothing"),
        (
            {"views": "plain,mirrored", "replay_mirror": True, "replay_cutout": 2},
            "always A has no B and no C, so --views plain,mirrored, --replay-mirror "
            "and --replay-cutout 2 do nothing",
        ),
        ({"mixup": 0.5, "replay_always": True}, None),
        ({"gate": "freeze", "mixup": 0.5}, None),
    ],
)
def test_settings_of_states_that_a_run_never_is_in_are_said(changes, said):
    config = changed(RunConfig(), **{"gate": "always"} | changes)
    assert caveats_of(config) == ([] if said is None else [said])


def test_a_run_says_where_its_usual_batch_is_all_that_there_is(tmp_path, capsys):
    words = ("--gate", "always", "--epochs", 1)
    said = "note: batches of 90, all examples: one step an epoch; see --batch-size\n"
    for examples, asked, is_said in ((90, (), True), (90, (90,), False)):
        given = ("--train-examples", examples, *(("--batch-size", *asked) * len(asked)))
        path = tmp_path / f"run {len(asked)}"
        assert run_here(*TINY[:6], *given, *words, "--workdir", path) == 0
        assert (said in capsys.readouterr().out) == is_said


@pytest.mark.parametrize(
    ("sizes", "topology", "said"),
    [
        ((33, 33, 33), PARALLEL, "batches of 99, all examples"),
        ((33, 33, 33), PROPORTIONAL, "batches of 99, all examples"),
        # Each of them takes a step of its own.
        ((33, 33, 33), SEQUENTIAL, None),
        ((33, 34, 33), PARALLEL, None),
        # The largest alone takes the last step.
        ((80, 10, 9), PARALLEL, None),
    ],
)
def test_several_clients_take_all_examples_in_a_step_only_side_by_side(
    sizes, topology, said
):
    config = RunConfig(clients=3)
    layout = make_layout(sizes, topology, config.server_batch)
    found = whole_batch(config, layout)
    assert found is None if said is None else found.startswith(said)


def test_a_run_says_it_and_does_not_call_itself_by_them(tmp_path, capsys):
    words = ("--gate", "always", "--mixup", 0.5, "--nopeek", 0.25, "--epochs", 1)
    assert run_here(*TINY[:10], *words, "--workdir", tmp_path / "run") == 0
    first, *others = " ".join(capsys.readouterr().out.split()).split("folder:")
    assert "NoPeek 0.25" in first and "mixup" not in first
    assert "note: always A has no B and no C, so --mixup 0.5 does nothing" in others[0]
