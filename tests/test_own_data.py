"""`jsplit join --own-data`: a client's own file is taken whole."""

import numpy as np
import pytest

from jsplit.cli.join import load_client_data
from jsplit.experiment.config import RunConfig
from jsplit.net.config import JoinConfig


@pytest.fixture
def common(tmp_path):
    """The settings of a run whose common set is cut, with a client's own file."""
    labels = np.arange(60) % 3
    images = np.zeros((60, 8, 8), np.uint8)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return RunConfig(
        dataset=str(path), clients=2, train_examples=12, test_examples=6, batch_size=2
    )


def test_limits_of_a_common_set_do_not_cut_a_clients_own_file(common, capsys):
    held = load_client_data(common, JoinConfig(client=1, own_data=True))
    assert (len(held.labels), len(held.test_labels)) == (60, 60)
    out = capsys.readouterr().out
    assert out == (
        f"note: --own-data takes all of {common.dataset}; --train-examples 12 and "
        "--test-examples 6 are for a common set and not heeded\n"
    )


def test_a_share_of_a_common_set_is_cut_as_asked(common, capsys):
    held = load_client_data(common, JoinConfig(client=1))
    assert (len(held.labels), len(held.test_labels)) == (6, 6)
    assert capsys.readouterr().out == ""
