"""Plain split learning as settings: what it sets, and what a run has beyond it."""

import dataclasses
from typing import Any

from jsplit.codecs import identity
from jsplit.core.gates import AlwaysGate
from jsplit.core.option import options_of
from jsplit.errors import InputError
from jsplit.experiment.canonical import canonical
from jsplit.experiment.run_config import RunConfig

_BEGINNING = ("init", "init_part", "first_filters")


def plain_settings() -> dict[str, Any]:
    """Always A, float32 both ways, and of all else that may differ nothing.

    What a run begins with is not among them: plain split learning may begin with any
    weights, cosines as first filters included.

    Example:
        >>> settings = plain_settings()
        >>> settings["gate"].name, settings["codec"], settings["bottleneck"]
        ('always', 'identity', None)
        >>> "first_filters" in settings
        False
    """
    usual = {
        name: known.default
        for name, known in options_of(RunConfig).items()
        if known.option.compared and name not in _BEGINNING
    }
    codecs = dict.fromkeys(("codec", "grad_codec"), identity().name)
    return {**usual, **codecs, "gate": AlwaysGate()}


def plain_of(config: RunConfig) -> RunConfig:
    """Plain split learning with the same network, data, clients, epochs and seed.

    Always A, float32 both ways, and nothing of what may differ between runs of one
    table: no views, replay, epochs alone, bottleneck, penalty or noise. It begins with
    the weights that the run begins with, first filters included.

    Example:
        >>> plain = plain_of(RunConfig(seed=3, views="plain,mirrored", local_epochs=2))
        >>> plain.seed, plain.gate.name, plain.codec, plain.views, plain.local_epochs
        (3, 'always', 'identity', 'plain', 0)

    Args:
        config: of the run.
    """
    return dataclasses.replace(config, **plain_settings())


def beyond_plain(config: RunConfig) -> dict[str, Any]:
    """The settings by which a run is more or other than plain split learning.

    Those that nothing reads while every epoch is in A are not among them.

    Example:
        >>> config = RunConfig(gate=AlwaysGate(), codec="bf16", views="mirrored")
        >>> beyond_plain(config)
        {'codec': 'bf16', 'grad_codec': 'float8'}

    Args:
        config: of the run.
    """
    known = options_of(RunConfig)
    other = {
        name: getattr(config, name)
        for name, plain in plain_settings().items()
        if not known[name].option.beyond_a and getattr(config, name) != plain
    }
    if not config.gate.leaves_a:
        other.pop("gate", None)
    return other


def check_not_plain(config: RunConfig) -> None:
    """Refuses to compare plain split learning with itself.

    Args:
        config: of the run, whose names are known.

    Raises:
        InputError: if the run is plain split learning.
    """
    if canonical(plain_of(config)) == canonical(config):
        raise InputError(
            "--compare trains plain split learning beside the run, and this run is "
            "that already; leave --compare out, or choose another --gate or --codec"
        )
