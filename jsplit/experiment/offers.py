"""Which schedules and codecs keep a budget, of those that can be counted beforehand."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jsplit.accounting.cost_model import CostModel
from jsplit.accounting.ledger import Ledger
from jsplit.experiment.plan import PlannedCut, codec_sizes, coded
from jsplit.experiment.schedules import Schedule


class Offer(NamedTuple):
    """A schedule with its codecs at a cut, and what it costs.

    Attributes:
        schedule: whose states these are.
        cut: of the network.
        codec: of activations.
        grad_codec: of gradients; None where none are sent.
        ledger: of such a run.
    """

    schedule: Schedule
    cut: PlannedCut
    codec: str
    grad_codec: str | None
    ledger: Ledger


def offers(
    cut: PlannedCut,
    every: Iterable[Schedule],
    codecs: Sequence[str],
    grad_codecs: Sequence[str],
) -> list[Offer]:
    """Each schedule with each pair of codecs; of those of one size, with the first.

    Args:
        cut: that all are for.
        every: schedule.
        codecs: of activations.
        grad_codecs: of gradients.
    """
    downs = {
        names[0]: [each[0] for each in codec_sizes(grad_codecs, cut.shape, names[0])]
        for names in codec_sizes(codecs, cut.shape)
    }
    found = []
    for schedule in every:
        learns = "A" in schedule.states
        for codec in downs:
            for grad_codec in downs[codec] if learns else downs[codec][:1]:
                ledger = _ledger(coded(cut, codec, grad_codec), schedule)
                told = grad_codec if learns else None
                found.append(Offer(schedule, cut, codec, told, ledger))
    return found


class Limits(NamedTuple):
    """What a run may cost.

    Attributes:
        budget: most bytes that may cross in all of the training, whatever they are;
            None for no limit.
        reduction: least one by the paper's account; None for no limit.
    """

    budget: int | None = None
    reduction: float | None = None

    def hold(self, ledger: Ledger) -> bool:
        """Whether a run with this ledger keeps them."""
        return (self.budget is None or ledger.wire_bytes <= self.budget) and (
            self.reduction is None or ledger.communication_reduction >= self.reduction
        )


def within(
    cuts: Iterable[PlannedCut],
    every: Iterable[Schedule],
    codecs: tuple[Sequence[str], Sequence[str]],
    limits: Limits,
) -> list[Offer]:
    """The offers that keep the limits, the most synchronising first.

    Of a schedule's those that another with more bits an example both ways makes
    pointless are left out.

    Args:
        cuts: to look at.
        every: schedule to look at.
        codecs: of activations, and of gradients.
        limits: to keep.
    """
    found = []
    for cut in cuts:
        for schedule in every:
            if limits.hold(_ledger(_least(cut, codecs), schedule)):
                made = offers(cut, [schedule], *codecs)
                met = [offer for offer in made if limits.hold(offer.ledger)]
                found += [
                    offer
                    for offer in met
                    if not any(_finer(other, offer) for other in met)
                ]
    return sorted(found, key=_order)


def first_within(
    cuts: Sequence[PlannedCut],
    every: Iterable[Schedule],
    codecs: tuple[Sequence[str], Sequence[str]],
    limits: Limits,
) -> Offer | None:
    """The first of `within`, without looking for the others."""
    eager = sorted(every, key=_eagerness)
    # Equally eager ones together: what crosses, more or less, decides among them.
    for _, equals in itertools.groupby(eager, key=_eagerness):
        found = within(cuts, list(equals), codecs, limits)
        if found:
            return found[0]
    return None


def _ledger(costs: CostModel, schedule: Schedule) -> Ledger:
    return Ledger.of(costs.of_states(schedule.states), schedule.states)


def _least(cut: PlannedCut, codecs: tuple[Sequence[str], Sequence[str]]) -> CostModel:
    """What no pair of the codecs can be below."""
    each = [coded(cut, up, down) for up in codecs[0] for down in codecs[1]]
    names = ("payload_bits", "grad_payload_bits", "header_bytes", "grad_header_bytes")
    return dataclasses.replace(
        cut.costs,
        **{name: min(getattr(costs, name) for costs in each) for name in names},
    )


def _eagerness(schedule: Schedule) -> tuple[int, ...]:
    states = schedule.states
    return -states.count("A"), -states.count("B"), len(states)


def _order(offer: Offer) -> tuple[int, ...]:
    costs = offer.ledger.costs
    bits = costs.payload_bits
    if offer.grad_codec is not None:
        bits += costs.grad_payload_bits
    return *_eagerness(offer.schedule), -costs.values, -bits


def _finer(other: Offer, offer: Offer) -> bool:
    """Whether an offer has no fewer bits either way, and more one way."""
    theirs, mine = (
        (each.ledger.costs.payload_bits, each.ledger.costs.grad_payload_bits)
        for each in (other, offer)
    )
    return theirs != mine and all(a >= b for a, b in zip(theirs, mine, strict=True))
