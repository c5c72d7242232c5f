"""What the server saw is what was sent, and runs are attacked and compared."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jsplit.analysis.privacy import audit, dependence, inversion
from jsplit.analysis.privacy.labels import told_by_gradients
from jsplit.analysis.privacy.view import ended, last_sent, private, public
from jsplit.cli import main as cli
from jsplit.cli import privacy as privacy_command
from jsplit.core.gates import AlwaysGate, FreezeGate
from jsplit.experiment import checkpoint
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.workdir import RunFolder, read_workdir
from jsplit.runtime.atomic import write_json
from jsplit.testing import TINY_RUN, words_for
from tests.tiers import sample

pytestmark = pytest.mark.usefixtures("cache", "usual_promotion")

CASES = {
    "one client": {},
    "uneven clients": {"clients": 3, "partition": "uneven:1"},
    "sequential": {
        "clients": 2,
        "topology": "sequential",
        "train_examples": 190,
    },
    "B by batch": {"refresh_statistics": "batch"},
    "B augmented": {"views": "augmented"},
    "two views": {"views": "plain,augmented"},
    # Augmented: without, one of 51,200 codes rounds the other way in another program.
    "noise": {"noise": 0.5, "views": "augmented"},
}


def made(path, **changes):
    """A finished run, from its folder."""
    config = dataclasses.replace(TINY_RUN, **changes)
    assert cli.main(["run", *words_for(config), "--workdir", str(path)]) == 0
    folder, config, _ = read_workdir(path)
    experiment = build(config, load_dataset(config, print))
    return ended(experiment, folder), folder


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    return made(tmp_path_factory.mktemp("made") / "run")


# What was sent


@pytest.mark.parametrize("case", sample(CASES, "two views"))
def test_the_view_is_to_the_bit_what_the_server_stored(case, tmp_path):
    run, folder = made(tmp_path / "run", **CASES[case])
    views = 1 + (case == "two views")
    assert run.states == "AABCCC" if views == 1 else "AABBCC"
    assert last_sent(run.states) == 1 + views
    simulation = run.experiment.simulation
    _, _, store = checkpoint.restore(folder.checkpoints, 6, *simulation.state.parts())
    view = private(run, run.client, 1 + views)
    assert (view.smashed.min() < 0) == (case == "noise")  # Else what a ReLU gave.
    codes = [np.asarray(packet.payload)[mask] for packet, mask in view.packets]
    headers = [np.tile(packet.header, (mask.sum(), 1)) for packet, mask in view.packets]
    layout, counts = simulation.layout, np.asarray(simulation.shards.counts).reshape(-1)
    stored = [
        np.asarray(leaf) for leaf in (*store.examples.packets, store.examples.labels)
    ]
    for found, leaf in zip((codes, headers, [view.labels]), stored, strict=True):
        newest = leaf[views - 1]
        by_client = newest.reshape(len(counts), layout.slots, *newest.shape[4:])
        kept = [own[:count] for own, count in zip(by_client, counts, strict=True)]
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(kept))


def test_images_are_what_entered_the_client_part(run):
    run, _ = run
    view = private(run, run.client, 2)
    known = public(run, run.client, 2)
    dataset = run.experiment.dataset
    # Without augmentation those of the set itself; the private ones were augmented.
    size = len(known.images)
    assert size == 80  # Whole batches of 40 of the 100.
    expected = dataset.test_images[:size].astype(np.float32) / 255
    np.testing.assert_allclose(known.images, expected, atol=1e-6)
    np.testing.assert_array_equal(known.labels, dataset.test_labels[:size])
    assert view.images.shape == (200, 8, 8, 1) and 0 <= view.images.min()
    assert view.images.max() <= 1
    assert view.smashed.shape == (200, 4, 4, 16)
    assert len(private(run, run.client, 2, limit=50).images) == 80


def test_what_is_attacked_is_of_all_clients_in_turn(tmp_path):
    run, _ = made(tmp_path / "run", clients=2, epochs=1, gate=AlwaysGate())
    each = private(run, run.client, 0).labels.reshape(2, -1, 20)
    assert not np.array_equal(*each)
    found = private(run, run.client, 0, limit=80).labels
    in_turn = [each[0, 0], each[1, 0], each[0, 1], each[1, 1]]
    np.testing.assert_array_equal(found, np.concatenate(in_turn))


def test_public_images_are_augmented_as_those_that_were_sent(run):
    run, _ = run
    whole = run.experiment.dataset.test_images[:80].astype(np.float32) / 255
    view = public(run, run.client, 0)
    cropped, inside = view.images, view.inside
    changed = np.abs(cropped - whole).max(axis=(1, 2, 3)) > 0.01
    assert run.states[0] == "A" and 40 < changed.sum() < 80
    # What was cut off is gone, and nothing else was done: each is a part of its image,
    # mirrored or not, beside black.
    assert (cropped[~inside] == 0).all() and 0.7 < inside.mean() < 1
    assert public(run, run.client, 2).inside.all()
    for image, crop in zip(whole, cropped, strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        parts = [
            kind[top : top + 8, left : left + 8]
            for kind in (padded, padded[:, ::-1])
            for top in range(3)
            for left in range(3)
        ]
        assert min(np.abs(part - crop).max() for part in parts) < 1e-5


def test_a_run_without_its_last_checkpoint_is_refused(tmp_path, capsys):
    path = tmp_path / "run"
    made(path, epochs=3)
    for entry in (path / "checkpoints").iterdir():
        entry.rename(tmp_path / entry.name)
    assert cli.main(["privacy", str(path)]) == 2
    assert "has no checkpoint, and this needs the run's last" in capsys.readouterr().err
    assert not (path / "privacy.json").exists() and not (path / "privacy").exists()


# Measures of a run


def test_labels_are_told_by_gradients_after_training(run):
    run, _ = run
    views = (view(run, run.client, 2) for view in (private, public))
    share = told_by_gradients(run, *views)
    assert 0.5 < share <= 1  # By chance a tenth.


def test_gradients_tell_no_labels_where_none_came_back_last(run, monkeypatch):
    monkeypatch.setattr(audit, "PRIVATE", 80)
    monkeypatch.setattr(inversion, "STEPS", 1)
    monkeypatch.setattr(dependence, "STEPS", 20)
    ended_run, _ = run
    for states, told in (("AABCCC", False), ("AAAAAA", True)):
        figures = audit.audit(ended_run._replace(states=states), first=False).figures
        assert ("labels_from_gradients" in figures["last"]) == told


# What a defence does to them


@pytest.mark.slow
def test_nopeek_makes_activations_depend_less_on_images(tmp_path):
    found = {}
    for weight in (0.0, 30.0):
        run, _ = made(tmp_path / str(weight), nopeek=weight, gate=FreezeGate(5))
        view = private(run, run.client, last_sent(run.states))
        found[weight] = dependence.correlation(view.images, view.smashed, 0).value
    assert found[30.0] < found[0.0] - 0.1


# The command


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(inversion, "STEPS", 20)
    monkeypatch.setattr(dependence, "STEPS", 20)
    monkeypatch.setattr(audit, "PRIVATE", 80)


@pytest.mark.parametrize(
    ("changes", "attacks"),
    [
        ({"gate": FreezeGate(0)}, 1),
        ({"gate": FreezeGate(0), "views": "plain,mirrored"}, 2),
        ({"gate": FreezeGate(1)}, 2),
    ],
    ids=["nothing trained, sent once", "sent twice", "trained"],
)
def test_one_epoch_is_attacked_once_where_it_is_the_first_and_the_last(
    changes, attacks, quick, tmp_path, monkeypatch
):
    run, _ = made(tmp_path / "run", epochs=4, **changes)
    asked = []

    def guess(public, smashed, seed):
        asked.append(smashed)
        return np.zeros((len(smashed), *public.images.shape[1:]), np.float32)

    monkeypatch.setattr(inversion, "reconstruct", guess)
    found = audit.audit(run, first=True)
    assert len(asked) == attacks == len(found.images)
    same = found.figures["first"] == found.figures["last"]
    assert same == (attacks == 1)
    # What is taken for the same is the same.
    views = [
        private(run, client, epoch, 80).smashed
        for client, epoch in (
            (run.experiment.simulation.state.client, 0),
            (run.client, last_sent(run.states)),
        )
    ]
    assert np.array_equal(*views) == same


@pytest.mark.slow
def test_runs_are_compared_and_attacked_once(quick, tmp_path, capsys):
    for seed in (0, 1):
        made(tmp_path / f"plain-{seed}", gate=AlwaysGate(), epochs=2, seed=seed)
        made(
            tmp_path / f"noise-{seed}",
            gate=AlwaysGate(),
            epochs=2,
            seed=seed,
            noise=1.0,
        )
    # How a run was computed is nothing to the attack.
    config = RunFolder(tmp_path / "plain-0").config
    config.write_text(config.read_text().replace('"mesh": false', '"mesh": true'))
    capsys.readouterr()
    assert cli.main(["privacy", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("reconstruction") == 4
    text = (tmp_path / "privacy" / "privacy.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| ") for row in rows]
    assert names == [
        *("gate", "---", "blind guess", "first epoch (always)"),
        *("always", "always, noise 1"),
    ]
    found = [
        json.loads((tmp_path / f"plain-{seed}" / "privacy.json").read_text())
        for seed in (0, 1)
    ]
    mse = np.mean([figures["last"]["inversion"]["mse"] for figures in found])
    assert f"| {mse:.4f} ± " in text.split("| always |")[1].split("\n")[0]
    assert found[0]["epochs_sent"] == 2
    page = (tmp_path / "privacy" / "privacy.html").read_text()
    assert "<table>" in page and "src=" not in page
    for seed in (0, 1):
        picture = (tmp_path / f"plain-{seed}" / "privacy.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    assert cli.main(["privacy", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 runs attacked before" in said
    assert "reconstruction" not in said


def over_a_network(path, of):
    """A networked run's folder with the settings of another, as far as it is read."""
    path.mkdir()
    record = json.loads((of / "config.json").read_text())
    record["dataset"] = {"source": "held by the clients"}
    write_json(path / "config.json", record)
    summary = json.loads((of / "summary.json").read_text())
    summary["network"] = {"counted": {}, "saved": {}, "absent_epochs": [0]}
    write_json(path / "summary.json", summary)


@pytest.fixture
def mixed(run, tmp_path, capsys):
    """A folder with one simulated run and two networked ones, before and after it."""
    _, folder = run
    shutil.copytree(folder.path, tmp_path / "simulated")
    for name in ("net", "upon"):
        over_a_network(tmp_path / name, folder.path)
    config = tmp_path / "upon" / "config.json"  # Another seed: else one run twice.
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    return tmp_path


LEFT_OUT = "2 networked runs, whose images stayed with their clients: net, upon"


def test_networked_runs_are_left_out_in_one_line_and_the_others_attacked(
    mixed, monkeypatch, capsys
):
    attacked = []
    monkeypatch.setattr(
        privacy_command, "attacks", lambda group, left, _: attacked.extend(left) or ()
    )
    monkeypatch.setattr(privacy_command, "page", lambda groups, note: f"# {note}")
    assert cli.main(["privacy", str(mixed)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"left out {LEFT_OUT}" and said[1].startswith("1 run in ")
    assert len(said) == 2 and [run.path.name for run in attacked] == ["simulated"]


@pytest.mark.slow
def test_the_comparison_says_which_networked_runs_it_leaves_out(quick, mixed, capsys):
    assert cli.main(["privacy", str(mixed)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("1/1  simulated  reconstruction")
    text = (mixed / "privacy" / "privacy.md").read_text()
    assert f"Left out {LEFT_OUT}." in text and "networked |" not in text
    assert not (mixed / "net" / "privacy.json").exists()


def test_networked_runs_alone_are_refused(run, tmp_path, capsys):
    _, folder = run
    over_a_network(tmp_path / "net", folder.path)
    assert cli.main(["privacy", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "is the server's folder of a networked run, and the images" in error
    assert error.count("\n") == 1 and not (tmp_path / "privacy").exists()


def test_what_cannot_be_attacked_is_one_line(tmp_path, capsys, monkeypatch):
    assert cli.main(["privacy"]) == 2
    assert cli.main(["privacy", str(tmp_path / "none")]) == 2
    assert cli.main(["privacy", str(tmp_path)]) == 2
    made(tmp_path / "run", epochs=2)
    RunFolder(tmp_path / "run").summary.rename(tmp_path / "summary.json")
    assert cli.main(["privacy", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert "no finished run below it, but 1 unfinished" in said[-1]
    (tmp_path / "summary.json").rename(RunFolder(tmp_path / "run").summary)
    monkeypatch.setitem(__import__("sys").modules, "dcor", None)
    assert cli.main(["privacy", str(tmp_path / "run")]) == 2
    assert "pip install 'jsplit[privacy]'" in capsys.readouterr().err
