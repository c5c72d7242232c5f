"""A plan for people: tables for a terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from jsplit.accounting.cost_model import CostModel
from jsplit.analysis.plan_values import Plan, leaked, values_of_offer, values_of_traffic
from jsplit.experiment.offers import Offer
from jsplit.experiment.plan import codec_sizes, coded
from jsplit.experiment.quantities import counted, human_bytes


def tables_of(plan: Plan, rows: int) -> list[Table]:
    """Everything for a terminal, each made to be no wider than 100 columns.

    Args:
        plan: to show.
        rows: most schedules that are shown.
    """
    found = [_clients(plan), _traffic(plan), _codecs(plan)]
    if plan.limited:
        found.append(_best(plan))
    if plan.offers:
        found.append(_schedules(plan, rows))
    return found


def images_line(plan: Plan) -> str:
    """What the images themselves take, in one line."""
    data = plan.data
    every = human_bytes(data.examples * data.image_bytes)
    said = f"{data.examples:,} images: {data.image_bytes:,} B each, {every}"
    if plan.lossless_bytes is None:
        return f"{said}; their lossless size was not measured"
    packed = human_bytes(round(data.examples * plan.lossless_bytes))
    return f"{said}; lossless (WebP, a sample) {plan.lossless_bytes:,.0f} B, {packed}"


def _clients(plan: Plan) -> Table:
    names = ["cut", "after", "sent", "MMACs\nforward", "forward,\nbackward"]
    names += ["part", "memory\nin A"]
    names += [] if plan.leakage is None else ["SSIM\nleaked"]
    table = _table("each cut: what the client computes and holds", names)
    for cut in plan.cuts:
        cells = [
            str(cut.number),
            cut.name,
            "x".join(map(str, cut.shape)),
            f"{cut.costs.forward_macs / 1e6:,.2f}",
            f"{cut.costs.sync_macs / 1e6:,.2f}",
            human_bytes(cut.costs.part_bytes),
            human_bytes(cut.memory),
        ]
        if plan.leakage is not None:
            cells.append(_leak(leaked(plan, cut)))
        table.add_row(*cells)
    return table


def _traffic(plan: Plan) -> Table:
    codecs = f"{plan.codec} up, {plan.grad_codec} down"
    table = _traffic_table(plan, f"each cut: what crosses, {codecs}", "cut")
    for cut in plan.cuts:
        costs = coded(cut, plan.codec, plan.grad_codec)
        table.add_row(str(cut.number), *_traffic_cells(plan, costs))
    return table


def _codecs(plan: Plan) -> Table:
    cut = plan.chosen
    title = f"cut {cut.number} ({cut.name}): what crosses, each codec both ways"
    table = _traffic_table(plan, title, "codec")
    for names in codec_sizes(plan.codecs, cut.shape):
        costs = coded(cut, names[0], names[0])
        also = f" +{len(names) - 1}" if len(names) > 1 else ""
        table.add_row(names[0] + also, *_traffic_cells(plan, costs))
    return table


def _traffic_table(plan: Plan, title: str, first: str) -> Table:
    names = [first, "example,\nbytes up", "\ndown", "epoch of\nA, up", "\nA, down"]
    names += ["\nB, up", "of the\nimages"]
    names += ["\nlossless"] if plan.lossless_bytes is not None else []
    names += ["on the\nlink, A", "\nB"] if plan.link is not None else []
    return _table(title, names)


def _traffic_cells(plan: Plan, costs: CostModel) -> list[str]:
    found = values_of_traffic(plan, costs)
    cells = [f"{found[f'example_{way}_bytes']:,.0f}" for way in ("up", "down")]
    for name in ("epoch_a_up", "epoch_a_down", "epoch_b_up"):
        cells.append(human_bytes(found[f"{name}_bytes"]))
    cells.append(_share(found["of_images"]))
    if plan.lossless_bytes is not None:
        cells.append(_share(found["of_lossless_images"]))
    if plan.link is not None:
        cells += [duration(found[f"epoch_{state}_seconds"]) for state in "ab"]
    return cells


def _best(plan: Plan) -> Table:
    title = f"each cut: the most synchronising schedule of {_limits(plan)}"
    table = _schedule_table(plan, title, ["cut"])
    for cut in plan.cuts:
        best = plan.best[cut.number]
        cells = ["none"] if best is None else _schedule_cells(plan, best)
        table.add_row(str(cut.number), *cells)
    return table


def _schedules(plan: Plan, rows: int) -> Table:
    cut = plan.chosen
    title = f"cut {cut.number} ({cut.name}): schedules"
    if plan.limited:
        title += f" of {_limits(plan)}, with their finest codecs"
    left = len(plan.offers) - rows
    if left > 0:
        title += f"\nthe most synchronising first; --rows shows {left} more"
    table = _schedule_table(plan, title, [])
    for offer in plan.offers[:rows]:
        table.add_row(*_schedule_cells(plan, offer))
    return table


def _limits(plan: Plan) -> str:
    words = []
    if plan.limits.budget is not None:
        words.append(f"at most {human_bytes(plan.limits.budget)}")
    if plan.limits.reduction is not None:
        words.append(f"at least /{plan.limits.reduction:g}")
    return " and ".join(words)


def _schedule_table(plan: Plan, title: str, first: list[str]) -> Table:
    names = [*first, "schedule", "codecs", "every\nbyte", "of the\nimages"]
    names += ["paper's\naccount", "client's\nMACs"]
    names += [] if plan.leakage is None else ["SSIM\nleaked"]
    return _table(title, names + ([] if plan.link is None else ["on the\nlink"]))


def _schedule_cells(plan: Plan, offer: Offer) -> list[str]:
    found = values_of_offer(plan, offer)
    cells = [
        label_of(offer),
        _codecs_of(offer),
        human_bytes(found["bytes"]),
        _share(found["of_images"]),
        f"/{found['communication_reduction']:,.1f}",
        f"/{found['client_compute_reduction']:,.1f}",
    ]
    if plan.leakage is not None:
        cells.append(_leak(found["ssim"]))
    return cells + ([] if plan.link is None else [duration(found["seconds"])])


def _leak(ssim: float | None) -> str:
    return "" if ssim is None else f"{ssim:.3f}"


def label_of(offer: Offer) -> str:
    """A schedule with its bottleneck: `freeze 3, 2 views, 4 channels`."""
    label = offer.schedule.label
    if offer.cut.bottleneck is None:
        return label
    return f"{label}, {counted(offer.cut.bottleneck, 'channel')}"


def _codecs_of(offer: Offer) -> str:
    both = offer.codec, offer.grad_codec
    return "/".join(name for name in both if name is not None)


def _table(title: str, names: Iterable[str]) -> Table:
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in names:
        left = name in ("cut", "after", "codec", "codecs", "schedule")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table


def _share(share: float) -> str:
    return f"{share:,.0%}" if share >= 0.1 else f"{share:.1%}"


def duration(count: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(3.21), duration(600), duration(90_000), duration(400_000)
        ('3.2 s', '10.0 min', '25.0 h', '4.6 d')
    """
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if count < limit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 86_400:.1f} d"
