import io
import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from jsplit.errors import RunError
from jsplit.experiment import console, quantities, writers


def record(epoch=1, **changes):
    return {
        "epoch": epoch,
        "epochs": 12,
        "state": "ABC"[(epoch - 1) % 3],
        "train_loss": 0.5 / epoch,
        "train_accuracy": 0.8,
        "test_loss": 0.7,
        "test_accuracy": 0.8432,
        "paper_bytes": 1_000_000 * epoch,
        "wire_bytes": 512 * 1024 * epoch,
        "wire_reduction": 2.7,
        "communication_reduction": 3.1,
        "client_compute_reduction": 1.5,
        "budget_left": 100_000 // epoch,
        "learning_rate": 0.05,
        "seconds": 2.5 * epoch,
        "eta_seconds": 42.4,
    } | changes


def strict(line):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


# JSON Lines


def test_a_jsonl_record_can_be_read_before_close(tmp_path):
    writer = writers.JsonlWriter(tmp_path / "run" / "epochs.jsonl")
    writer.write(record(1))
    writer.write(record(2))
    lines = (tmp_path / "run" / "epochs.jsonl").read_text().splitlines()
    assert [strict(line) for line in lines] == [record(1), record(2)]
    writer.close()


def test_jsonl_is_strict_json_whatever_the_numbers(tmp_path):
    path = tmp_path / "epochs.jsonl"
    writer = writers.JsonlWriter(path)
    writer.write(
        {
            "nan": float("nan"),
            "inf": np.float32("inf"),
            "jax": jnp.float32(0.5),
            "int": np.int64(2**60),
            "text": "é\n",
            "none": None,
        }
    )
    writer.close()
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert strict(line) == {
        "nan": None,
        "inf": None,
        "jax": 0.5,
        "int": 2**60,
        "text": "é\n",
        "none": None,
    }


def written(path, count, tail=b""):
    writer = writers.JsonlWriter(path)
    for epoch in range(1, count + 1):
        writer.write(record(epoch))
    writer.close()
    with open(path, "ab") as file:
        file.write(tail)
    return path


@pytest.mark.parametrize("tail", [b"", b'{"epoch": 6, "tr'], ids=["whole", "torn"])
@pytest.mark.parametrize("epochs", [0, 3, 5])
def test_rewind_keeps_the_first_epochs_and_the_run_goes_on(tmp_path, epochs, tail):
    path = written(tmp_path / "epochs.jsonl", 5, tail)
    kept = writers.rewind(path, epochs)
    assert kept == [record(e) for e in range(1, epochs + 1)]
    writer = writers.JsonlWriter(path)
    writer.write(record(77))
    writer.close()
    lines = path.read_text().splitlines()
    assert [strict(line) for line in lines] == [*kept, record(77)]
    assert os.listdir(tmp_path) == ["epochs.jsonl"]


def test_rewind_over_a_damaged_line_is_refused_and_loses_nothing(tmp_path):
    path = written(tmp_path / "epochs.jsonl", 2, b"\xff\x00garbage\n")
    path.write_bytes(path.read_bytes() + json.dumps(record(4)).encode() + b"\n")
    before = path.read_bytes()
    with pytest.raises(RunError, match="line 3 is damaged"):
        writers.rewind(path, 4)
    assert path.read_bytes() == before
    assert writers.rewind(path, 2) == [record(1), record(2)]


def test_rewind_of_a_missing_file_makes_none(tmp_path):
    assert writers.rewind(tmp_path / "epochs.jsonl", 0) == []
    with pytest.raises(RunError, match="line 1 is damaged or missing"):
        writers.rewind(tmp_path / "epochs.jsonl", 3)
    assert os.listdir(tmp_path) == []


def test_rewind_that_fails_leaves_the_file(tmp_path, monkeypatch):
    path = written(tmp_path / "epochs.jsonl", 3)
    before = path.read_bytes()

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError):
        writers.rewind(path, 1)
    assert path.read_bytes() == before


# TensorBoard


def read_events(folder):
    """Reads event files in TensorBoard's order, checking each record's checksums."""
    events = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            payload = data[12 : 12 + length]
            crcs = data[8:12] + data[12 + length : 16 + length]
            expected = masked_crc32c(data[:8]), masked_crc32c(payload)
            assert struct.unpack("<II", crcs) == expected
            events.append(Event.FromString(payload))
            data = data[16 + length :]
    return events


def read_scalars(folder):
    """{tag: {step: value}}, with what TensorBoard hides after a restart left out."""
    scalars = {}
    for event in read_events(folder):
        if event.session_log.status == SessionLog.START:
            for steps in scalars.values():
                for step in [s for s in steps if s >= event.step]:
                    del steps[step]
        for value in event.summary.value:
            scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def test_tensorboard_has_every_scalar_before_close(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path / "tb", 0)
    for epoch in (1, 2, 3):
        writer.write(record(epoch))
    scalars = read_scalars(tmp_path / "tb")
    assert scalars["gate/state"] == {1: 0, 2: 1, 3: 2}
    assert scalars["train/loss"] == pytest.approx({1: 0.5, 2: 0.25, 3: 0.5 / 3})
    assert scalars["traffic/wire_bytes"] == {e: 512 * 1024 * e for e in (1, 2, 3)}
    assert set(scalars) == {*writers.TAGS.values(), "gate/state"}
    writer.close()
    assert read_scalars(tmp_path / "tb") == scalars


def test_tensorboard_shows_nan_and_skips_what_is_missing(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path, 0)
    writer.write({"epoch": 4, "train_loss": float("nan"), "test_loss": None, "x": 1})
    writer.close()
    scalars = read_scalars(tmp_path)
    assert list(scalars) == ["train/loss"]
    assert np.isnan(scalars["train/loss"][4])


def test_a_resumed_run_hides_the_epochs_it_repeats(tmp_path):
    first = writers.TensorBoardWriter(tmp_path, 0)
    for epoch in (1, 2, 3, 4):
        first.write(record(epoch, train_loss=epoch))
    # Not closed: it was killed. The next one starts within the same second.
    second = writers.TensorBoardWriter(tmp_path, 2)
    second.write(record(3, train_loss=30))
    second.close()
    assert len(os.listdir(tmp_path)) == 2
    assert read_scalars(tmp_path)["train/loss"] == {1: 1, 2: 2, 3: 30}
    first.close()


@pytest.mark.parametrize(
    "writer", ["ConsoleWriter", "JsonlWriter", "TensorBoardWriter"]
)
def test_every_writer_takes_the_same_calls(tmp_path, writer):
    made = {
        "ConsoleWriter": lambda: console.ConsoleWriter(io.StringIO()),
        "JsonlWriter": lambda: writers.JsonlWriter(tmp_path / "x.jsonl"),
        "TensorBoardWriter": lambda: writers.TensorBoardWriter(tmp_path, 0),
    }[writer]()
    made.write(record())
    made.close()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**20 - 60, "1023.9 KiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**40, "1.0 TiB"),
        (2**52, "4096.0 TiB"),
    ],
)
def test_human_bytes(count, text):
    assert quantities.human_bytes(count) == text
