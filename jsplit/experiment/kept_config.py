"""The settings in the folder of a run, which an earlier version may have written."""

from collections.abc import Mapping
from typing import Any

from jsplit.core.gates import GATES
from jsplit.errors import InputError
from jsplit.experiment.config import all_options, flat, from_mapping
from jsplit.experiment.run_config import RunConfig
from jsplit.experiment.run_labels import unlike

ADDED: dict[str, Any] = {
    "precision": "float32",
    "device": "auto",
    "compile_cache": None,
    "mesh": False,
    "lossless": False,
    "nopeek": 0.0,
    "noise": 0.0,
    "views": "augmented",
    "mixup": 0.0,
    "init": None,
    "init_part": "both",
    "replay_shift": 0,
    "replay_mirror": False,
    "replay_cutout": 0,
    "replay_always": False,
    "local_epochs": 0,
    "loss_budget": None,
    "against": None,
    "bottleneck": None,
    "first_filters": "random",
}
"""Settings that were added since the first version, each with what runs did before.

A run's folder holds every setting of its version, so one that it lacks is one that its
version did not have. That need not be the present default: B augmented images as A did
before `views` could say otherwise. A new setting gets its entry here.
"""


def from_kept(values: Mapping[str, Any], source: str) -> RunConfig:
    """The config that a run's folder holds, as the version that wrote it meant it.

    Args:
        values: plain values of the settings by name.
        source: where they are from, for errors.

    Raises:
        InputError: if one is missing that every version wrote, if this version does not
            know one, or as `from_mapping` does.

    Example:
        >>> kept = flat(RunConfig())
        >>> del kept["views"]
        >>> from_kept(kept, "config.json").views
        'augmented'
    """
    values = {**ADDED, **_renamed(values)}
    gate = values.get("gate")
    # Looked up first, because a gate of another package brings settings of its own.
    known = isinstance(gate, str) and gate in GATES
    strange = sorted(values.keys() - all_options().keys())
    if strange and known:
        raise InputError(
            f"{source}: this version of jsplit does not know the setting "
            f"{strange[0]!r}; use the version that made the run, or move its folder "
            "away"
        )
    if values.get("loss_reference", "") in (None, "alike"):
        values["loss_reference"] = _reference(values, source)
    config = from_mapping(values, source)
    missing = sorted(flat(config).keys() - values.keys())
    if missing:
        raise InputError(
            f"{source}: the setting {missing[0]!r} is missing, which every run "
            "has there; put the file back as the run wrote it, or move its folder away"
        )
    return config


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with `views` for what was `refresh_augment`."""
    values = dict(values)
    augmented = values.pop("refresh_augment", True) and values.get("augment", True)
    values.setdefault("views", "augmented" if augmented else "plain")
    return values


def _reference(values: Mapping[str, Any], source: str) -> str:
    """What is now called the reference that was `alike`, or None and so left to jsplit.

    None meant `alike` where the states learn from different images.
    """
    others = {name: value for name, value in values.items() if name != "loss_reference"}
    if values["loss_reference"] == "alike" or unlike(from_mapping(others, source)):
        return "same-state"
    return "decision"
