"""Who takes part in a networked run, kept so that a restarted server knows them."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jsplit import data
from jsplit.errors import RunError
from jsplit.net.admission import SessionAdmission
from jsplit.net.traffic_counter import TrafficCounter
from jsplit.runtime.atomic import write_bytes, write_json
from jsplit.wire.messages import UNNAMED, Hello

MEMBERS, LABELS = "members.json", "labels.npz"

_OF_A_CONNECTION: dict[str, Any] = {
    "token": UNNAMED,
    "run": UNNAMED,
    "task": 0,
    "answered": 0,
    "stored": (),
}
"""What a hello says of its connection, and not of its client."""


def moments_of(hellos: dict[int, Hello]) -> data.Moments:
    """The moments of all clients' images, from their sums."""
    pixels = sum(
        hello.examples * hello.image[0] * hello.image[1] for hello in hellos.values()
    )
    channels = zip(*(hello.sums for hello in hellos.values()), strict=True)
    sums = tuple(
        (sum(total for total, _ in each), sum(squares for _, squares in each))
        for each in channels
    )
    return data.moments(pixels, sums)


def save_members(
    folder: Path, run: bytes, admission: SessionAdmission, counter: TrafficCounter
) -> None:
    """Keeps who takes part, their labels, and what it cost to learn that."""
    arrays = {f"client_{client}": labels for client, labels in admission.labels.items()}
    if admission.held_out is not None:
        arrays["held_out"] = admission.held_out
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    write_bytes(folder / LABELS, file.getvalue())
    hellos = {
        str(client): dict(vars(hello)) for client, hello in admission.hellos.items()
    }
    for hello in hellos.values():
        for name in _OF_A_CONNECTION:
            del hello[name]
        hello["class_names"] = hello["class_names"].hex()
    write_json(
        folder / MEMBERS,
        {"run": run.hex(), "clients": hellos, "account": counter.record()},
    )


def load_members(
    folder: Path, admission: SessionAdmission, counter: TrafficCounter
) -> bytes | None:
    """Takes up what `save_members` kept; the run's name, or None where nothing is kept.

    Raises:
        RunError: if what is kept is damaged.
    """
    path = folder / MEMBERS
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for client, values in record["clients"].items():
            values["image"] = tuple(values["image"])
            values["sums"] = tuple(map(tuple, values["sums"]))
            # A run that began by version 4 of the protocol did not ask for them.
            names = values.get("class_names", UNNAMED.hex())
            values["class_names"] = bytes.fromhex(names)
            hello = Hello(**values, **_OF_A_CONNECTION)
            admission.hellos[int(client)] = hello
        # By bytes: NumPy leaves a file open that it cannot read.
        archive = io.BytesIO((folder / LABELS).read_bytes())
        with np.load(archive, allow_pickle=False) as arrays:
            admission.labels = {
                client: arrays[f"client_{client}"]
                for client in admission.hellos
                if f"client_{client}" in arrays
            }
            admission.held_out = arrays["held_out"] if "held_out" in arrays else None
        counter.restore(record["account"])
        return bytes.fromhex(record["run"])
    # Of what is no archive or a torn one NumPy says whatever its libraries do.
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise RunError(
            f"{path} or {LABELS} beside it is damaged ({type(error).__name__}); put "
            "both back, or start a new run in another --workdir"
        ) from error
