"""What a gate may know of a run before that begins, from its config."""

import dataclasses

from jsplit import data
from jsplit.accounting.cost_model import CostModel
from jsplit.core.gate_choice import RunFacts
from jsplit.experiment.parts import sends_cosines
from jsplit.experiment.run_config import RunConfig


def facts_of(config: RunConfig, classes: int, costs: CostModel) -> RunFacts:
    """The facts of a run with this config, whose epochs cost so much.

    Args:
        config: whose names are known, see `check_names`.
        classes: of the classification.
        costs: of an epoch.
    """
    views = data.views_of(config.views)
    return RunFacts(
        classes=classes,
        epochs=config.epochs,
        new_views=not data.DRAWN.isdisjoint(views),
        costs=dataclasses.replace(
            costs, views=len(views), local_epochs=config.local_epochs
        ),
        known_filters=sends_cosines(config),
    )
