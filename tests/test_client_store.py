"""A client's own folder: what it holds, and what it leaves alone."""

import numpy as np
import pytest

from jsplit.errors import InputError, RunError
from jsplit.net.client_store import ClientStateStore


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tmp").write_text("years of work")
    with pytest.raises(InputError, match="holds thesis.tmp, which is not a client's"):
        ClientStateStore(tmp_path)
    assert (tmp_path / "thesis.tmp").read_text() == "years of work"


def test_torn_files_of_its_own_go_and_others_stay(tmp_path):
    ClientStateStore(tmp_path).bind_to_run(b"r" * 16)
    torn = [tmp_path / f"{'0' * 32}.part.tmp", tmp_path / "over.tmp"]
    for path in (*torn, tmp_path / "client.log.tmp"):
        path.write_bytes(b"?")
    store = ClientStateStore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client.log.tmp", "run"]
    assert store.run == b"r" * 16 and store.stored == ()


def test_the_servers_word_that_the_run_is_over_is_kept(tmp_path):
    assert ClientStateStore(tmp_path).result("epochs=6") == b""
    ClientStateStore(tmp_path).save_result("epochs=6", b"done")
    assert ClientStateStore(tmp_path).result("epochs=6") == b"done"


def test_the_end_of_a_run_is_not_that_of_one_with_other_settings(tmp_path):
    ClientStateStore(tmp_path).save_result("epochs=6", b"done")
    assert ClientStateStore(tmp_path).result("epochs=99") == b""


def test_a_folder_that_goes_away_is_named_with_a_remedy(tmp_path):
    store = ClientStateStore(tmp_path / "w")
    (tmp_path / "w").rmdir()
    with pytest.raises(RunError, match="--workdir .*w: No such file .* start this"):
        store.save({"a": np.zeros(2, np.float32)})


def test_a_folder_that_nothing_can_be_written_to_is_found_out_at_once(
    tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device; name another"):
        ClientStateStore(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_damaged_part_is_not_offered(tmp_path):
    store = ClientStateStore(tmp_path)
    store.bind_to_run(b"r" * 16)
    digest = store.save({"w": np.ones(3, np.float32)})
    assert ClientStateStore(tmp_path).stored == (digest,)
    (tmp_path / f"{digest.hex()}.part").write_bytes(b"spoilt")
    assert ClientStateStore(tmp_path).stored == ()
