"""The comparison of attacked runs, without having attacked any."""

import pytest

from jsplit.analysis.comparison import grouped
from jsplit.analysis.privacy_report import FORMAT, kept_file, left_to_attack, page
from jsplit.analysis.results import read_results
from jsplit.errors import InputError
from jsplit.experiment.config import changed
from jsplit.runtime.atomic import write_json
from tests.finished_runs import BASE, finish


def view(private=1024, public=1920):
    """What an attack found of one epoch."""
    score = {"mse": 0.01, "psnr": 20.0, "ssim": 0.5}
    return {
        "private_images": private,
        "public_images": public,
        "inversion": score,
        "blind": score,
        "distance_correlation": {"value": 0.9, "shuffled": 0.1},
        "information": {"bits": 8.0, "deviation": 0.1, "ceiling": 10.0},
    }


def attacked(path, views, **settings):
    """A finished run, and the figures of its attack."""
    finish(path, changed(BASE, **settings), 0.9)
    (run,), _ = read_results(path, partial=False)
    about = {"format": FORMAT, "device": "a test (cpu)", "epochs_sent": 1}
    write_json(kept_file(run), about | views)


def groups_of(path):
    return grouped(read_results(path, partial=False)[0])


ALONE = {"gate": "freeze", "sync_epochs": 0, "local_epochs": 2}


def test_what_clients_sent_before_they_learned_alone_is_no_row(tmp_path):
    attacked(tmp_path / "alone", {"last": view()}, **ALONE)
    (group,) = groups_of(tmp_path)
    assert left_to_attack(group, again=False) == []
    assert "| first epoch" not in page([group])
    both = {"first": view(), "last": view()}
    attacked(tmp_path / "loss", both, threshold=0.5, seed=1)
    (group,) = groups_of(tmp_path)
    assert left_to_attack(group, again=False) == []
    assert "| first epoch (loss 0.5) | 1 |" in page([group])


def test_figures_of_another_version_are_refused_before_any_attack(tmp_path):
    attacked(tmp_path / "loss", {"first": view(), "last": view()}, threshold=0.5)
    attacked(tmp_path / "old", {"last": view()}, threshold=0.5, noise=1.0)
    kept = tmp_path / "old" / "privacy.json"
    kept.write_text(kept.read_text().replace(FORMAT, "jsplit-privacy-1"))
    (group,) = groups_of(tmp_path)
    with pytest.raises(InputError, match="old.* is not of this version .*--again"):
        left_to_attack(group, again=False)
    assert len(left_to_attack(group, again=True)) == 2


def test_counts_of_examples_are_those_of_all_runs(tmp_path):
    attacked(tmp_path / "one", {"first": view(), "last": view()})
    several = view(private=1030, public=2000)
    several["information"]["ceiling"] = 10.008
    attacked(tmp_path / "ten", {"first": several, "last": several}, clients=10)
    text = page(groups_of(tmp_path))
    assert "held-out images (1920 to 2000)" in text
    assert "applies it to 1024 to 1030 examples" in text
    assert "cannot exceed 10.01 bits" in text
    assert "images (1920)" in page(groups_of(tmp_path / "one"))
