"""The cuts of a plan with their bottlenecks: what may cross at each of them."""

import dataclasses
from collections.abc import Iterable, Sequence

from jsplit.experiment.parts import cut_index
from jsplit.experiment.plan import PlanData, PlannedCut, planned_cut
from jsplit.experiment.run_config import RunConfig


def with_bottlenecks(
    config: RunConfig,
    data: PlanData,
    cuts: Iterable[PlannedCut],
    channels: Sequence[int],
    *,
    only: bool,
) -> dict[int, list[PlannedCut]]:
    """By number of each cut: itself, and narrowed by each bottleneck that is one there.

    Args:
        config: of the plan, without a bottleneck.
        data: that it is for.
        cuts: as they are, without a bottleneck.
        channels: of each bottleneck.
        only: whether cuts without a bottleneck are left out. A cut at which no
            bottleneck is one then has none.

    Raises:
        InputError: if a bottleneck is none at the config's own cut.
    """
    chosen = cut_index(config)
    return {
        cut.number: [
            *([] if only else [cut]),
            *(
                planned_cut(_narrowed(config, cut.number, few), data)
                for few in channels
                if cut.number == chosen or few < cut.shape[-1]
            ),
        ]
        for cut in cuts
    }


def _narrowed(config: RunConfig, cut: int, channels: int) -> RunConfig:
    return dataclasses.replace(config, cut=cut, bottleneck=channels)
