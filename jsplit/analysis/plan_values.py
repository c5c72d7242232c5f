"""A plan, and the same as plain values for programs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jsplit.accounting.cost_model import CostModel
from jsplit.experiment.link_time import Link, seconds
from jsplit.experiment.offers import Limits, Offer
from jsplit.experiment.plan import PlanData, PlannedCut, codec_sizes, coded, crossing
from jsplit.experiment.progress import states_in_words

Leakage = dict[tuple[int, int | None], float]
"""By number of the cut and channels of its bottleneck: the highest SSIM to the private
images that an attack reached."""

FORMAT = "jsplit-plan-1"

CAVEAT = (
    "accuracy is not predicted; bytes, MACs and seconds follow from a schedule, "
    "accuracy does not"
)


class Plan(NamedTuple):
    """All that a plan says.

    Attributes:
        model: its name.
        data: that it is for.
        lossless_bytes: of a mean image, compressed without loss; None: not measured.
        codec: of activations, in what is said of every cut.
        grad_codec: of gradients, likewise.
        codecs: that are compared.
        cuts: of the network, from the first to the last.
        chosen: that schedules are for.
        link: of each client; None if not asked for.
        leakage: that privacy runs measured; None if not asked for.
        limits: that schedules must keep.
        best: the most synchronising schedule within them, by the cut's number, its
            bottlenecks among them; None where there is none.
        offers: all that are at the chosen cut, likewise.
    """

    model: str
    data: PlanData
    lossless_bytes: float | None
    codec: str
    grad_codec: str
    codecs: Sequence[str]
    cuts: Sequence[PlannedCut]
    chosen: PlannedCut
    link: Link | None
    leakage: Leakage | None
    limits: Limits
    best: dict[int, Offer | None]
    offers: Sequence[Offer]

    @property
    def limited(self) -> bool:
        """Whether there are any limits."""
        return self.limits != Limits()


def values_of(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, for a file."""
    data = plan.data
    return {
        "format": FORMAT,
        "note": CAVEAT,
        "model": plan.model,
        "dataset": data.name,
        "image_shape": list(data.image_shape),
        "examples": data.examples,
        "clients": len(data.sizes),
        "image_bytes": data.image_bytes,
        "lossless_image_bytes": plan.lossless_bytes,
        "label_bytes_once": plan.chosen.costs.label_bytes * data.examples,
        "link": None
        if plan.link is None
        else {"bits_per_second": plan.link.bits, "delay_seconds": plan.link.delay},
        "budget_bytes": plan.limits.budget,
        "reduction": plan.limits.reduction,
        "chosen_cut": plan.chosen.number,
        "cuts": [_values_of_cut(plan, cut) for cut in plan.cuts],
        "schedules": [values_of_offer(plan, offer) for offer in plan.offers],
    }


def lines_of(plan: Plan) -> list[dict[str, Any]]:
    """One flat mapping for each cut and size of codec, for a table in a file."""
    lines = []
    for cut in values_of(plan)["cuts"]:
        codecs = cut.pop("codecs")
        del cut["most_synchronising"]
        cut["smashed_shape"] = "x".join(map(str, cut["smashed_shape"]))
        lines += [
            {**cut, **codec, "codecs": " ".join(codec["codecs"])} for codec in codecs
        ]
    return lines


def _values_of_cut(plan: Plan, cut: PlannedCut) -> dict[str, Any]:
    costs, best = cut.costs, plan.best.get(cut.number)
    return {
        "cut": cut.number,
        "after": cut.name,
        "bottleneck": cut.bottleneck,
        "smashed_shape": list(cut.shape),
        "values": costs.values,
        "macs_forward": costs.forward_macs,
        "macs_forward_and_backward": costs.sync_macs,
        "macs_alone": costs.local_macs,
        "part_bytes": costs.part_bytes,
        "memory_bytes": cut.memory,
        "ssim": leaked(plan, cut),
        "most_synchronising": None if best is None else values_of_offer(plan, best),
        "codecs": [
            {"codecs": names, **values_of_traffic(plan, coded(cut, *names[:1] * 2))}
            for names in codec_sizes(plan.codecs, cut.shape)
        ],
    }


def values_of_traffic(plan: Plan, costs: CostModel) -> dict[str, Any]:
    """What an example and an epoch send, and how long that takes on the link.

    They are of a run in which nobody learns alone: its clients have no heads to send.
    """
    costs = costs.of_states("AB")
    sync, refresh = (crossing(costs, state) for state in "AB")
    found: dict[str, Any] = {
        "example_up_bytes": costs.payload_bits / 8,
        "example_down_bytes": costs.grad_payload_bits / 8,
        "epoch_a_up_bytes": sync.up,
        "epoch_a_down_bytes": sync.down,
        "epoch_b_up_bytes": refresh.up,
        "epoch_b_down_bytes": refresh.down,
        "of_images": costs.payload_bits / 8 / plan.data.image_bytes,
        "of_lossless_images": _of(costs.payload_bits / 8, plan.lossless_bytes),
    }
    for state in "AB":
        found[f"epoch_{state.lower()}_seconds"] = (
            None if plan.link is None else _epoch_seconds(costs, state, plan.link)
        )
    return found


def values_of_offer(plan: Plan, offer: Offer) -> dict[str, Any]:
    """A schedule, the settings of a run of it, and what it costs."""
    ledger = offer.ledger
    settings = {"cut": offer.cut.number, "codec": offer.codec}
    if offer.grad_codec is not None:
        settings["grad_codec"] = offer.grad_codec
    if offer.cut.bottleneck is not None:
        settings["bottleneck"] = offer.cut.bottleneck
    return {
        "schedule": offer.schedule.label,
        "states": states_in_words(offer.schedule.states),
        "settings": {**offer.schedule.settings, **settings},
        "bytes": ledger.wire_bytes,
        "of_images": ledger.wire_bytes / (plan.data.examples * plan.data.image_bytes),
        "communication_reduction": ledger.communication_reduction,
        "client_macs": ledger.client_macs,
        "ssim": leaked(plan, offer.cut),
        "client_compute_reduction": ledger.client_compute_reduction,
        "seconds": None
        if plan.link is None
        else seconds(ledger.costs, ledger.states, plan.link),
    }


def leaked(plan: Plan, cut: PlannedCut) -> float | None:
    """What was measured at a cut; None if nothing."""
    return (plan.leakage or {}).get((cut.number, cut.bottleneck))


def _epoch_seconds(costs: CostModel, state: str, link: Link) -> float:
    return seconds(costs, "A" + state, link) - seconds(costs, "A", link)


def _of(part: float, whole: float | None) -> float | None:
    return None if whole is None else part / whole
