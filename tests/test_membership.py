"""Who takes part, kept for a server that starts again."""

import json

import numpy as np
import pytest

from jsplit.errors import RunError
from jsplit.net import membership
from jsplit.net.admission import AdmissionRules, SessionAdmission
from jsplit.net.client_session import ClientSession
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.testing import TINY_RUN, hello_of


def admission():
    rules = AdmissionRules(1, "", 1, None, lambda hello: None)
    return SessionAdmission(
        [ClientSession(0, TrafficCounter(), print)],
        rules,
        TrafficCounter(),
        1.0,
        1.0,
        print,
    )


@pytest.fixture
def kept(tmp_path):
    """A folder with a run of one client."""
    known = admission()
    known.hellos[0] = hello_of(TINY_RUN, class_names=b"c" * 16)
    known.labels[0] = np.arange(200, dtype=np.int32)
    known.held_out = np.arange(7, dtype=np.int32)
    counter = TrafficCounter()
    counter.repeated["repeated", "up"] = 3
    membership.save_members(tmp_path, b"n" * 16, known, counter)
    return tmp_path


def test_what_is_kept_is_taken_up(kept):
    new, counter = admission(), TrafficCounter()
    assert membership.load_members(kept, new, counter) == b"n" * 16
    assert new.hellos == {0: hello_of(TINY_RUN, class_names=b"c" * 16)}
    assert np.array_equal(new.labels[0], np.arange(200))
    assert new.held_out is not None and np.array_equal(new.held_out, np.arange(7))
    assert counter.repeated["repeated", "up"] == 3


def test_a_run_that_began_before_classes_had_names_is_taken_up(kept):
    path = kept / membership.MEMBERS
    record = json.loads(path.read_text())
    del record["clients"]["0"]["class_names"]
    path.write_text(json.dumps(record))
    new = admission()
    membership.load_members(kept, new, TrafficCounter())
    assert new.hellos == {0: hello_of(TINY_RUN)}


def test_where_nothing_is_kept_there_is_no_name(tmp_path):
    assert membership.load_members(tmp_path, admission(), TrafficCounter()) is None


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "junk": lambda data: b"PK" + bytes(100),
    "a list": lambda data: b'{"clients": []}',
}


@pytest.mark.parametrize("name", (membership.MEMBERS, membership.LABELS))
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_said_in_one_line(name, damage, kept):
    path = kept / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match="is damaged") as caught:
        membership.load_members(kept, admission(), TrafficCounter())
    assert "\n" not in str(caught.value) and "pickle" not in str(caught.value)
