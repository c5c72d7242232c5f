"""One config for all that say the same."""

import dataclasses

from jsplit.core.option import options_of
from jsplit.experiment.parts import cut_index
from jsplit.experiment.run_config import RunConfig


def canonical(config: RunConfig) -> RunConfig:
    """The same for configs that say the same: a name for it, not a promise beyond that.

    What is usual is said in one way, and what nothing reads has its default.

    Args:
        config: whose names are known, see `check_names`.
    """
    batch = dataclasses.replace(config, batch_size=None).server_batch
    config = dataclasses.replace(
        config,
        cut=cut_index(config),
        batch_size=None if config.batch_size == batch else config.batch_size,
        gate=config.gate.canonical(),
    )
    unread = {
        name: known.default
        for name, known in options_of(RunConfig).items()
        if known.option.speed_only
        or (
            known.option.beyond_a and not (config.gate.leaves_a or config.replay_always)
        )
    }
    return dataclasses.replace(config, **unread)
