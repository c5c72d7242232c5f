"""What `jsplit plan` says beside its tables."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jsplit.analysis.plan_tables import duration, label_of
from jsplit.analysis.plan_values import Plan
from jsplit.experiment.config import RunConfig
from jsplit.experiment.link_time import largest_message
from jsplit.experiment.offers import Offer
from jsplit.experiment.parts import COSINES, sends_cosines
from jsplit.experiment.plan import PlannedCut, coded
from jsplit.experiment.quantities import counted, human_bytes
from jsplit.net.config import PING_TIMEOUT
from jsplit.net.link_simulation import LinkSpeed


def alone(
    channels: int, whole: Sequence[PlannedCut], cuts: Sequence[PlannedCut]
) -> str:
    """That everything is counted with the bottleneck of a file alone.

    Args:
        channels: of it.
        whole: every cut of the network.
        cuts: those at which the bottleneck is one.
    """
    said = f"with a bottleneck of {counted(channels, 'channel')} alone, as --config has"
    shown = {cut.number for cut in cuts}
    left = [str(cut.number) for cut in whole if cut.number not in shown]
    if left:
        said += f"; left out: cut {', '.join(left)}, where no more channels cross"
    return f"{said}; --bottlenecks 4,8 tries others"


def untrained(plan: Plan, config: RunConfig, file: Mapping[str, Any]) -> str | None:
    """What to say where a client that nobody trains begins at random.

    Args:
        plan: whose schedules may have such a client.
        config: of its runs.
        file: the settings in the file that `--config` names.
    """
    if file.get("init") is not None and file.get("init_part") != "server":
        return None
    offered = [*plan.offers, *filter(None, plan.best.values())]
    at_random = any(
        offer.schedule.states[0] == "B"
        and not sends_cosines(dataclasses.replace(config, cut=offer.cut.number))
        for offer in offered
    )
    if not at_random:
        return None
    if config.first_filters in COSINES:
        return (
            f"freeze 0 trains no client: the cosines of --first-filters "
            f"{config.first_filters} are enough at cut 1 alone; at others begin it "
            "with trained weights (--init)"
        )
    return (
        "freeze 0 trains no client: begin it with filters that need no training "
        "(--first-filters dct, with --cut 1) or with trained ones (--init)"
    )


def slow_messages(plan: Plan, speed: LinkSpeed | None, held_out: int) -> str | None:
    """What to say where a message takes so long that the link may count as dead."""
    if speed is None:
        return None
    chosen = coded(plan.chosen, plan.codec, plan.grad_codec)
    sizes = []
    for costs in (chosen, *(offer.ledger.costs for offer in plan.offers)):
        batch = min(costs.batch, max(costs.sizes))
        up, down = costs.payload_bits // 8, costs.grad_payload_bits // 8
        part = costs.part_bytes + costs.head_bytes if len(costs.sizes) > 1 else 0
        largest = largest_message(batch, up, down, held_out=held_out, part=part)
        sizes.append((largest, batch * max(up, down) == largest))
    size, of_a_batch = max(sizes)
    # A ping waits behind it, and what is sent again of it, both ways.
    enough = 10 * math.ceil(4 * 8 * size / speed.bits / 10)
    if enough <= PING_TIMEOUT:
        return None
    smaller = "a smaller --batch-size" if of_a_batch else "a codec of fewer bits"
    return (
        f"a message of {human_bytes(size)} takes {duration(8 * size / speed.bits)} on "
        f"this link: give jsplit serve and jsplit join --ping-timeout {enough}, and "
        f"the server a --wait of no less, or take {smaller}"
    )


def nearest(made: Sequence[Offer]) -> str:
    """What comes nearest to the limits, where nothing keeps them."""
    least = min(made, key=lambda offer: offer.ledger.wire_bytes)
    most = max(made, key=lambda offer: offer.ledger.communication_reduction)
    return (
        f"no schedule keeps the limits at this cut: the least that crosses is "
        f"{human_bytes(least.ledger.wire_bytes)} ({label_of(least)}, "
        f"{least.codec}), the most that it is reduced by is "
        f"/{most.ledger.communication_reduction:,.1f}; another --cut, --bottlenecks or "
        "--codecs may"
    )
