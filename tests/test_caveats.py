"""What is said before a run whose settings do not do what one may expect."""

import pytest

from jsplit.experiment.caveats import caveats_of
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
    ("channels", "bottleneck", "said"),
    [
        (3, 5, "--replay-mirror gives the last of 5 channels the wrong sign"),
        (3, 45, "--replay-mirror gives the last of 45 channels the wrong sign"),
        (3, 6, None),
        (3, 7, None),
        (1, 3, "--replay-mirror gives the last of 3 channels the wrong sign"),
        (1, 5, None),
    ],
)
def test_a_bottleneck_that_parts_a_cosine_from_its_mirror_image_is_said(
    channels, bottleneck, said
):
    config = changed(
        RunConfig(model="vgg11", cut=1, first_filters="dct", bottleneck=bottleneck),
        gate="freeze",
        sync_epochs=0,
        replay_mirror=True,
    )
    check_caveat(config, (32, 32, channels), said)
    check_caveat(changed(config, replay_mirror=False), (32, 32, channels), None)
    always = changed(RunConfig(), gate="always", replay_mirror=True)
    always = changed(always, model="vgg11", cut=1, first_filters="dct", bottleneck=5)
    check_caveat(always, (32, 32, channels), "always A has no B and no C")


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


def test_a_run_says_it_and_does_not_call_itself_by_them(tmp_path, capsys):
    words = ("--gate", "always", "--mixup", 0.5, "--nopeek", 0.25, "--epochs", 1)
    assert run_here(*TINY[:10], *words, "--workdir", tmp_path / "run") == 0
    first, *others = " ".join(capsys.readouterr().out.split()).split("folder:")
    assert "NoPeek 0.25" in first and "mixup" not in first
    assert "note: always A has no B and no C, so --mixup 0.5 does nothing" in others[0]
