"""`jsplit plan`: what cuts, codecs and schedules would cost, without a training."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from jsplit.accounting.byte_counts import bytes_from
from jsplit.analysis import tables
from jsplit.analysis.csv_text import as_csv
from jsplit.analysis.plan_tables import images_line, tables_of
from jsplit.analysis.plan_values import CAVEAT, Plan, lines_of, values_of
from jsplit.cli import parsing, plan_notes
from jsplit.cli.terminal import complain, folded, say
from jsplit.codecs import CODECS, USUAL
from jsplit.core.gates import GATES
from jsplit.core.option import MOST, Option, options_of
from jsplit.data import line_of
from jsplit.data.lossless import lossless_bytes
from jsplit.data.views import MOST as MOST_VIEWS
from jsplit.errors import InputError
from jsplit.experiment.build import check_names, layout_of, load_dataset
from jsplit.experiment.config import RunConfig, check, check_ranges, flag, unknown
from jsplit.experiment.narrowed import with_bottlenecks
from jsplit.experiment.offers import Limits, first_within, offers, within
from jsplit.experiment.parts import cut_index
from jsplit.experiment.plan import data_of, every_cut
from jsplit.experiment.quantities import counted
from jsplit.experiment.schedules import schedules
from jsplit.experiment.workdir import path_of
from jsplit.net.link_simulation import LinkSpeed
from jsplit.runtime import atomic, device

DESCRIPTION = """\
What each cut of a model would send and compute for a data set, each way and by codec,
beside the images' own bytes, and which schedules and codecs meet a budget. Nothing is
trained: bytes and multiply-accumulates are those that jsplit run would count, accuracy
is not predicted. The loss gate is not among the schedules, because its states depend on
the losses.
"""


def _of_run(name: str) -> Option:
    """What is known of a setting of a run that a plan has too."""
    return options_of(RunConfig)[name].option


@dataclass(frozen=True)
class PlanCommand:
    """`jsplit plan`: those settings of a run that costs depend on, and what to ask."""

    GROUP = "plan"

    model: Annotated[str, _of_run("model")] = RunConfig.model
    cut: Annotated[int | None, _of_run("cut")] = None
    first_filters: Annotated[str, _of_run("first_filters")] = RunConfig.first_filters
    dataset: Annotated[str, _of_run("dataset")] = RunConfig.dataset
    data_dir: Annotated[str | None, _of_run("data_dir")] = None
    image_size: Annotated[int | None, _of_run("image_size")] = None
    train_examples: Annotated[int | None, _of_run("train_examples")] = None
    clients: Annotated[int, _of_run("clients")] = RunConfig.clients
    topology: Annotated[str, _of_run("topology")] = RunConfig.topology
    partition: Annotated[str, _of_run("partition")] = RunConfig.partition
    codec: Annotated[str, _of_run("codec")] = RunConfig.codec
    grad_codec: Annotated[str, _of_run("grad_codec")] = RunConfig.grad_codec
    precision: Annotated[Literal["float32", "bfloat16"], _of_run("precision")] = (
        RunConfig.precision
    )
    epochs: Annotated[int, _of_run("epochs")] = RunConfig.epochs
    batch_size: Annotated[int | None, _of_run("batch_size")] = None
    seed: Annotated[int, _of_run("seed")] = RunConfig.seed
    config: Annotated[
        str | None,
        Option(
            "A TOML file of a run's settings. Taken are those that are options here, "
            "its bottleneck (alone, unless --bottlenecks lists others), its number of "
            "views, and how many epochs clients learn alone; flags override it.",
            "FILE",
        ),
    ] = None

    budget: Annotated[
        str | None,
        Option("Most bytes that may cross in all, such as 150MB or 1.5GiB."),
    ] = None
    reduction: Annotated[
        float | None,
        Option("Least reduction of communication, by the paper's account.", least=1),
    ] = None
    codecs: Annotated[
        str | None,
        Option(
            "A list of codecs to compare, such as float8,bits2-channel. None: "
            f"{', '.join(USUAL)}, and that of --codec."
        ),
    ] = None
    grad_codecs: Annotated[
        str | None,
        Option(
            "A list of codecs that gradients may have in schedules that keep --budget "
            "or --reduction. None: those of --codecs, or as there, and that of "
            "--grad-codec."
        ),
    ] = None
    bottlenecks: Annotated[
        str | None,
        Option(
            "A list of channels, such as 4,8: schedules are also tried with each of "
            "these bottlenecks, at every cut where more channels cross."
        ),
    ] = None
    most_views: Annotated[
        int,
        Option(
            "Most views of each example that a schedule sends.",
            least=1,
            most=MOST_VIEWS,
        ),
    ] = 2
    local_epochs: Annotated[
        int,
        Option(
            "Number of epochs that clients learn alone, where a schedule begins so. "
            "0: none does.",
            least=0,
            most=MOST,
        ),
    ] = 5
    link: Annotated[
        str | None,
        Option(
            "Each client's link, such as 10mbit/40ms (rate, one-way delay): adds times."
        ),
    ] = None
    privacy: Annotated[
        str | None,
        Option("A folder of runs that jsplit privacy attacked.", "FOLDER"),
    ] = None
    rows: Annotated[
        int, Option("Most schedules that are shown.", least=1, most=MOST)
    ] = 20
    json: Annotated[
        str | None, Option("Everything is also written there as JSON.", "FILE")
    ] = None
    csv: Annotated[
        str | None,
        Option("Cuts and codecs are also written there as CSV.", "FILE"),
    ] = None
    picture: Annotated[
        str | None,
        Option("Bytes against the cut are drawn there.", "FILE.png"),
    ] = None


def command(argv: Sequence[str], prog: str) -> int:
    """`jsplit plan`: prints tables, and writes what is asked for."""
    file = parsing.settings(argv)
    asked = parsing.parse(_default(file), argv, prog, DESCRIPTION)
    config = _checked(asked)
    limits = Limits(_budget(asked), asked.reduction)
    listed = _codecs("codecs", asked.codecs)
    codecs = listed or _usual(config.codec)
    grad_codecs = (
        _codecs("grad_codecs", asked.grad_codecs) or listed or _usual(config.grad_codec)
    )
    limited = limits != Limits()
    if asked.grad_codecs is not None and not limited:
        raise InputError(
            f"--grad-codecs {asked.grad_codecs} has no effect without limits, where "
            "all schedules have the codecs of a run; add --budget or --reduction, or "
            "take --grad-codec"
        )
    narrow = _bottlenecks(asked)
    only = "bottleneck" in file and parsing.option(argv, "--bottlenecks") is None
    speed = None if asked.link is None else LinkSpeed.from_text(asked.link)
    files = _files(asked)
    if not os.environ.get("JAX_PLATFORMS"):
        # Nothing is computed that would be worth starting a GPU for.
        device.restrict("cpu")
    dataset = load_dataset(config, say)
    data = data_of(config, dataset)
    leakage = None
    if asked.privacy is not None:
        # Matplotlib takes its time, and comes with what reads these.
        from jsplit.analysis.plan_leakage import measured_leakage

        leakage = measured_leakage(path_of(asked.privacy, "--privacy"), config, data)
    whole, number = every_cut(config, dataset, data), cut_index(config)
    looked_at = whole if limited or only else [whole[number - 1]]
    versions = with_bottlenecks(config, data, looked_at, narrow, only=only)
    at_cut = versions[number]
    cuts = [found[0] for found in versions.values() if found] if only else whole
    every = schedules(config.epochs, asked.most_views, asked.local_epochs)
    # Without any, every schedule with the codecs of the run.
    pair = (codecs, grad_codecs) if limited else ([config.codec], [config.grad_codec])
    plan = Plan(
        model=config.model,
        data=data,
        lossless_bytes=lossless_bytes(dataset.train_images),
        codec=config.codec,
        grad_codec=config.grad_codec,
        codecs=codecs,
        cuts=cuts,
        chosen=at_cut[0],
        link=speed,
        leakage=leakage,
        limits=limits,
        best={
            cut.number: first_within(versions[cut.number], every, pair, limits)
            for cut in cuts
        }
        if limited
        else {},
        offers=within(at_cut, every, pair, limits),
    )
    _say_gate(argv, file)
    say(line_of(dataset))
    say(folded(f"source: {dataset.source}"))
    say(
        f"for {counted(config.epochs, 'epoch')}, "
        f"{counted(config.clients, 'client')} and batches of "
        f"{layout_of(config, data.sizes).server_batch}"
    )
    if only:
        say(folded(plan_notes.alone(narrow[0], whole, cuts)))
    _show(plan, asked.rows)
    say(folded(f"note: {CAVEAT}"))
    for note in (
        plan_notes.untrained(plan, config, file),
        plan_notes.slow_messages(plan, speed, len(dataset.test_labels)),
    ):
        if note is not None:
            say(folded(f"note: {note}"))
    _write(plan, files)
    if plan.offers:
        return 0
    made = [offer for cut in at_cut for offer in offers(cut, every, *pair)]
    return complain(plan_notes.nearest(made), 1)


def _default(file: parsing.Given) -> PlanCommand:
    """What the file that `--config` names says, as the plan's own settings."""
    mine = options_of(PlanCommand)
    taken: dict[str, Any] = {name: file[name] for name in file if name in mine}
    if "bottleneck" in file:
        taken["bottlenecks"] = str(file["bottleneck"])
    views = file.get("views", RunConfig.views).count(",") + 1
    return PlanCommand(**taken, most_views=max(views, PlanCommand.most_views))


def _say_gate(argv: Sequence[str], file: parsing.Given) -> None:
    """That a gate in the file decides nothing here, where it names one."""
    gates = {name for choice in GATES.values() for name in options_of(choice)}
    gates -= options_of(PlanCommand).keys()
    found = [name for name in file if name in {"gate", *gates}]
    if found:
        called = parsing.option(argv, "--config")
        say(
            folded(
                f"note: --config {called}: nothing is taken of {' and '.join(found)}; "
                "a plan tries every schedule whose states are known before a run"
            )
        )


def _checked(asked: PlanCommand) -> RunConfig:
    """The config of a run like those that are planned."""
    of_run = options_of(RunConfig)
    shared = [field.name for field in dataclasses.fields(asked) if field.name in of_run]
    config = RunConfig(**{name: getattr(asked, name) for name in shared})
    check(config)
    check_names(config)
    check_ranges(asked)
    return config


def _budget(asked: PlanCommand) -> int | None:
    if asked.budget is None:
        return None
    try:
        return bytes_from(asked.budget)
    except ValueError:
        raise InputError(
            f"--budget must be like 150MB or 1.5GiB, got {asked.budget!r}"
        ) from None


def _codecs(name: str, text: str | None) -> list[str]:
    """The codecs in a list; none where none is given."""
    names = [] if text is None else text.split(",")
    for codec in names:
        if codec not in CODECS:
            raise InputError(unknown(name, codec, CODECS))
    return list(dict.fromkeys(names))


def _usual(own: str) -> list[str]:
    """The usual codecs, and that of the run, which should not be left out.

    But for one that goes by what it answers: it is none beside the others.
    """
    mine = [own] * (CODECS[own].pair is None)
    return list(dict.fromkeys([*USUAL, *mine]))


def _bottlenecks(asked: PlanCommand) -> list[int]:
    if asked.bottlenecks is None:
        return []
    words = asked.bottlenecks.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise InputError(
            f"--bottlenecks must list channels, such as 4,8, got {asked.bottlenecks!r}"
        )
    return sorted({int(word) for word in words}, reverse=True)


def _files(asked: PlanCommand) -> dict[str, Path]:
    """Where to write, looked at before anything is computed."""
    found = {}
    for name in ("json", "csv", "picture"):
        text = getattr(asked, name)
        if text is None:
            continue
        path = path_of(text, flag(name))
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(
                f"{flag(name)} {text}: name a file in a folder that is there"
            )
        if name == "picture" and path.suffix != ".png":
            raise InputError(f"--picture {text}: name a file that ends in .png")
        found[name] = path
    return found


def _show(plan: Plan, rows: int) -> None:
    say(images_line(plan))
    for table in tables_of(plan, rows):
        tables.show(table)


def _write(plan: Plan, files: dict[str, Path]) -> None:
    for name, path in files.items():
        try:
            if name == "json":
                atomic.write_json(path, values_of(plan))
            elif name == "csv":
                atomic.write_text(path, as_csv(lines_of(plan)))
            else:
                # Matplotlib takes its time, and is needed only here.
                from jsplit.analysis.plan_picture import bytes_against_cut

                bytes_against_cut(plan, path)
        except OSError as error:
            raise InputError(f"{flag(name)} {path}: {error.strerror}") from error
    if files:
        say(f"written: {', '.join(map(str, files.values()))}")
