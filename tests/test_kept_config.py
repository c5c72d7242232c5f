"""Folders of runs that an earlier version made are read as that version meant them."""

import json

import pytest

from jsplit.analysis.results import read_results
from jsplit.cli.run import parse
from jsplit.core.gates import BudgetGate, FreezeGate, LossGate
from jsplit.core.option import options_of
from jsplit.errors import InputError
from jsplit.experiment import workdir
from jsplit.experiment.config import all_options, changed, flat
from jsplit.experiment.kept_config import ADDED, from_kept
from jsplit.experiment.run_config import RunConfig

FIRST = {
    *("model", "cut", "dataset", "data_dir", "image_size", "train_examples"),
    *("test_examples", "augment", "clients", "topology", "partition", "gate"),
    *("threshold", "loss_rule", "loss_reference", "warmup", "period", "sync_epochs"),
    *("codec", "grad_codec", "refresh_statistics", "epochs", "batch_size"),
    *("learning_rate", "momentum", "weight_decay", "seed", "workdir", "chunk"),
}
"""The settings of the first version, all of which it wrote into each folder."""


def kept(**values):
    """What the present version writes, with some of it otherwise; ... for lacking."""
    written = flat(RunConfig()) | values
    return {name: value for name, value in written.items() if value is not ...}


def keep(path, values):
    path.mkdir()
    record = {"format": "jsplit-run-1", "config": values, "dataset": {"source": "s"}}
    (path / "config.json").write_text(json.dumps(record))


def test_every_setting_that_was_added_says_what_runs_did_before():
    # No run had a gate before there was one, nor without what it began with.
    of_later_gates = options_of(BudgetGate).keys() - ADDED.keys()
    assert ADDED.keys() | FIRST == all_options().keys() - of_later_gates
    assert not ADDED.keys() & FIRST
    from_kept(kept(**ADDED), "its values are of the right types and names")


@pytest.mark.parametrize("name", sorted(ADDED))
def test_a_setting_that_a_folder_lacks_is_what_runs_did_before_there_was_one(name):
    written = flat(RunConfig(gate=BudgetGate(budget="1MB")))
    del written[name]
    before = flat(from_kept(written, "kept"))[name]
    assert before == ADDED[name] and type(before) is type(ADDED[name])


@pytest.mark.parametrize("name", sorted(FIRST - {"gate", "period", "sync_epochs"}))
def test_a_folder_that_lacks_what_every_version_wrote_is_refused_by_name(name):
    with pytest.raises(InputError, match=f"kept: the setting '{name}' is missing"):
        from_kept(kept(**{name: ...}), "kept")


@pytest.mark.parametrize(
    ("values", "views"),
    [
        ({"views": ...}, "augmented"),
        ({"views": ..., "refresh_augment": True}, "augmented"),
        ({"views": ..., "refresh_augment": False}, "plain"),
        ({"views": ..., "refresh_augment": True, "augment": False}, "plain"),
        ({"views": "mirrored"}, "mirrored"),
    ],
)
def test_what_b_sent_was_called_refresh_augment(values, views):
    assert from_kept(kept(**values), "kept").views == views


def test_a_folder_with_a_setting_of_another_version_is_refused_by_name():
    with pytest.raises(InputError, match="not know the setting 'crops'; use"):
        from_kept(kept(crops=False), "kept")


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"loss_reference": None}, "same-state"),
        ({"loss_reference": None, "views": "augmented"}, "decision"),
        ({"loss_reference": None, "augment": False}, "decision"),
        ({"loss_reference": None, "augment": False, "mixup": 0.2}, "same-state"),
        ({"loss_reference": "alike"}, "same-state"),
        ({"loss_reference": "previous"}, "previous"),
        ({"mixup": 0.2}, "decision"),
    ],
)
def test_the_reference_of_an_earlier_version_is_read_as_it_was_meant(values, meant):
    assert from_kept(kept(**values), "kept").gate.reference == meant
    of_all_gates = kept(**values, gate="freeze", period=10, sync_epochs=7)
    assert from_kept(of_all_gates, "kept").gate == FreezeGate(7)


def test_resume_and_reports_read_an_old_folder_as_its_version_meant_it(tmp_path):
    keep(tmp_path / "run", kept(views=..., loss_reference=None))
    meant = changed(RunConfig(), views="augmented")
    assert meant.gate == LossGate(reference="decision")
    words = ["--resume", "--workdir", str(tmp_path / "run")]
    asked = parse(words, "jsplit run").settings
    folder, config, _ = workdir.read_workdir(tmp_path / "run")
    assert config == meant == changed(asked, workdir=None)
    workdir.check_same(folder, asked, config)
    with pytest.raises(InputError, match="--views is augmented there, plain here"):
        workdir.check_same(folder, RunConfig(), config)
    folder.summary.write_text("{}")
    with pytest.raises(InputError, match="summary.json is damaged or of another"):
        read_results(tmp_path, partial=False)
    keep(tmp_path / "bad", kept(epochs=...))
    (tmp_path / "bad" / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="bad/config.json: the setting 'epochs' is"):
        read_results(tmp_path, partial=False)
