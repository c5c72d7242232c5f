"""What it takes to use a trained model beside its weights: `model.json` of a run.

A client's folder has no config, and a server's no data, so this file repeats what both
would say: the settings that make the network, what images go in, and what comes out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsplit import data
from jsplit.data.class_names import fault_of_names
from jsplit.errors import InputError
from jsplit.experiment.config import RunConfig, flat
from jsplit.experiment.kept_config import from_kept
from jsplit.runtime import atomic

NAME = "model.json"
"""Of the file, in a run's folder and in an export."""

FORMAT = "jsplit-model-1"


@dataclass(frozen=True)
class ModelDescription:
    """What a model takes and gives.

    Attributes:
        config: the run's settings, which make the network.
        image_shape: height, width and channels of an image; images are uint8.
        num_classes: how many logits come out.
        class_names: what each class is called; None where the data did not say.
        mean: of each channel of the training images, pixels taken as 0 .. 1.
        deviation: likewise, the standard deviation.
    """

    config: RunConfig
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What each class is called: its number, where the data gave no names."""
        return self.class_names or tuple(map(str, range(self.num_classes)))


def describe(config: RunConfig, dataset: data.Dataset) -> ModelDescription:
    """The description of what a run with these settings trains on this data.

    Args:
        config: of the run.
        dataset: fitted to the config.
    """
    return ModelDescription(
        config,
        dataset.image_shape,
        dataset.num_classes,
        dataset.class_names,
        *dataset.moments,
    )


def as_json(description: ModelDescription) -> dict[str, Any]:
    """The description as plain values, for a file."""
    names = description.class_names
    return {
        "format": FORMAT,
        "input": {"shape": list(description.image_shape), "dtype": "uint8"},
        "normalization": {
            "formula": "(image / 255 - mean) / deviation",
            "mean": list(description.mean),
            "deviation": list(description.deviation),
        },
        "classes": description.num_classes,
        "class_names": None if names is None else list(names),
        "config": flat(description.config),
    }


def write_description(folder: Path, description: ModelDescription) -> None:
    """Writes `model.json` into a folder.

    Raises:
        OSError: if it cannot be written.
    """
    atomic.write_json(folder / NAME, as_json(description))


def read_description(folder: Path) -> ModelDescription | None:
    """The description in a run's folder; None where there is no such file.

    Raises:
        InputError: if the file is damaged or of another version.
    """
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}")
        height, width, channels = map(int, record["input"]["shape"])
        names = record["class_names"]
        mean, deviation = (
            tuple(map(float, record["normalization"][name]))
            for name in ("mean", "deviation")
        )
        classes = int(record["classes"])
        if names is not None:
            _check_names(path, names, classes)
        if {len(mean), len(deviation)} != {channels}:
            raise ValueError(f"moments of {len(mean)} channels, images of {channels}")
        return ModelDescription(
            config=from_kept(record["config"], str(path)),
            image_shape=(height, width, channels),
            num_classes=classes,
            class_names=None if names is None else tuple(names),
            mean=mean,
            deviation=deviation,
        )
    except FileNotFoundError:
        return None
    except InputError:  # Of its settings, with a remedy of its own.
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no description of a model ({type(error).__name__}: {error}); "
            "put the right one back, or delete it to have it computed from the run's "
            "data again"
        ) from error


def _check_names(path: Path, names: Any, classes: int) -> None:
    """Of a server's folder they are written by hand."""
    if not isinstance(names, list):
        raise ValueError(f"class_names {names!r}, which is no list")
    if len(names) != classes:
        raise ValueError(f"{len(names)} class_names of {classes} classes")
    told = fault_of_names(names)
    if told is not None:
        raise InputError(f"{path}: {'; '.join(told)}")
