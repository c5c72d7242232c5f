"""Plain split learning beside a run: its settings, and where it is kept."""

import dataclasses

from jsplit.errors import InputError
from jsplit.experiment.build import canonical
from jsplit.experiment.config import RunConfig
from jsplit.experiment.plain_settings import plain_settings


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
