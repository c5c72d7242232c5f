"""What a run is called in a few words."""

from pathlib import Path

from jsplit.experiment.run_config import RunConfig


def beside_paper(config: RunConfig) -> list[str]:
    """What a run does beside the paper's states, each in a few words, for labels.

    Example:
        >>> beside_paper(RunConfig(first_filters="dct")), beside_paper(RunConfig())
        (['dct filters'], [])
    """
    words = [f"NoPeek {config.nopeek:g}"] * (config.nopeek > 0)
    words += [f"noise {config.noise:g}"] * (config.noise > 0)
    if config.first_filters != RunConfig.first_filters:
        words.append(f"{config.first_filters} filters")
    if config.local_epochs:
        words.append(f"alone {config.local_epochs}")
    if config.bottleneck is not None:
        words.append(f"bottleneck {config.bottleneck}")
    if config.views != RunConfig.views:
        words.append(f"views {config.views.replace(',', '+')}")
    where = " always" if config.replay_always else ""
    return words + [replay + where for replay in config.replays]


def beginning(config: RunConfig) -> list[str]:
    """The weights that a run begins with, in a few words: none for random ones.

    Example:
        >>> beginning(RunConfig(init="runs/first")), beginning(RunConfig())
        (['begun with first'], [])
        >>> beginning(RunConfig(init="weights.safetensors", init_part="body"))
        ['begun with weights.safetensors (body)']
    """
    if config.init is None:
        return []
    part = "" if config.init_part == RunConfig.init_part else f" ({config.init_part})"
    return [f"begun with {Path(config.init).name or config.init}{part}"]


def unlike(config: RunConfig) -> list[str]:
    """How the states learn from different images, in words; empty if not."""
    words = []
    views = set(config.views.split(","))
    if config.augment and views != {"augmented"}:
        words.append("only A augments")
    if not config.augment and views != {"plain"}:
        words.append("only B augments")
    replays = config.replays
    if replays and not config.replay_always:
        words.append(f"only C has {', '.join(replays)}")
    return words
