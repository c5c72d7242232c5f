"""What a run is called in a few words."""

from jsplit.experiment.run_config import RunConfig


def beside_paper(config: RunConfig) -> list[str]:
    """What a run does beside the paper's states, each in a few words, for labels."""
    words = []
    if config.local_epochs:
        words.append(f"alone {config.local_epochs}")
    if config.bottleneck is not None:
        words.append(f"bottleneck {config.bottleneck}")
    if config.views != RunConfig.views:
        words.append(f"views {config.views.replace(',', '+')}")
    where = " always" if config.replay_always else ""
    return words + [replay + where for replay in config.replays]
