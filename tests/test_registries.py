"""A gate, codec or model is one entry: with a line in its registry it works everywhere.

The toys are a line each in the registries, and nothing else in the package knows them.
"""

import json
import re
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import pytest
from matplotlib.figure import Figure

from jsplit.analysis.gate_styles import style_of
from jsplit.analysis.privacy.view import ended, private
from jsplit.cli import main as cli
from jsplit.codecs import CODECS, bf16
from jsplit.core.gate import Gate, GateState, always_gate, freeze_gate
from jsplit.core.gate_choice import GateChoice, RunFacts
from jsplit.core.gates import GATES, LossGate
from jsplit.core.option import Option, options_of
from jsplit.errors import InputError, RunError
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.canonical import canonical
from jsplit.experiment.config import (
    RunConfig,
    all_options,
    changed,
    check,
    check_choices,
    flat,
    from_mapping,
)
from jsplit.experiment.plan import PlanData, planned_cut
from jsplit.experiment.workdir import RunFolder, read_workdir
from jsplit.models import MODELS, Model, cnn
from jsplit.net.config import ServeConfig
from jsplit.net.setup import prepare_server
from jsplit.net.summary import summarize
from jsplit.runtime.atomic import write_json
from jsplit.testing import TINY_RUN, run_in_process
from jsplit.typing import OFFLINE, SYNC
from tests.runs import run_here

pytestmark = pytest.mark.usefixtures("cache")


@dataclass(frozen=True)
class ToyGate(GateChoice):
    """The freezing gate by another name."""

    name = "toy"
    stop: Annotated[
        int, Option("Number of epochs of A.", least=1, most=9, traced=True)
    ] = 2
    mode: Annotated[str, Option("Nothing.", choices=("slow", "fast"))] = "slow"

    def make(self, classes: int) -> Gate:
        """The gate itself."""
        return freeze_gate(self.stop)


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(GATES, "toy", ToyGate)
    monkeypatch.setitem(CODECS, "toy", bf16()._replace(name="toy"))
    monkeypatch.setitem(MODELS, "toy", Model("toy", cnn, usual_cut=2))


DATA = {
    "dataset": "fashion_mnist_10k",
    "image_size": 8,
    "train_examples": 200,
    "test_examples": 100,
    "batch_size": 40,
    "model": "toy",
    "epochs": 4,
}
TOYS = {"gate": "toy", "codec": "toy", "grad_codec": "toy"}
SWEEP = """\
[[grid]]
gate = "toy"
stop = [1, 2]
codec = "toy"
grad_codec = "toy"

[[grid]]
gate = "always"
codec = "identity"
grad_codec = "identity"
"""


def summary_of(path):
    return json.loads((path / "summary.json").read_text())


def networked(config, path):
    """A networked run's folder, as `jsplit serve` leaves it."""
    run, _ = run_in_process(config, path)
    folder = RunFolder(path / "server")
    dataset = {"source": "held by the clients"}
    record = {"format": "jsplit-run-1", "config": flat(config), "dataset": dataset}
    write_json(folder.config, record)
    write_json(folder.summary, summarize(config, run))
    return folder.path


@pytest.mark.slow
def test_toys_run_are_swept_reported_and_drawn_on_one_machine_and_over_a_network(
    toys, tmp_path, monkeypatch, capsys
):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *args, **how: (
            figures.append(figure),
            save(figure, *args, **how),
        ),
    )
    lines = [f"{name} = {json.dumps(value)}" for name, value in DATA.items()]
    file, runs = tmp_path / "toys.toml", tmp_path / "runs"
    file.write_text("\n".join(["[settings]", *lines, SWEEP]))
    assert cli.main(["sweep", str(file), "--folder", str(runs)]) == 0
    names = [path.parent.name for path in runs.glob("*/summary.json")]
    assert len(names) == 3
    # One run more by `jsplit run`, and one over a network.
    words = [f"--{name.replace('_', '-')}={value}" for name, value in DATA.items()]
    toy = ("--gate", "toy", "--stop", "3", "--codec", "toy", "--grad-codec", "toy")
    assert run_here(*words, *toy, "--workdir", runs / "alone") == 0
    out = capsys.readouterr().out
    assert "toy cut after block 2 (conv2)" in out and "toy gate, toy up" in out
    config = changed(RunConfig(), **DATA, **TOYS, stop=2)
    over = networked(config, runs / "net")
    assert summary_of(runs / "alone")["states"] == "AAAB"
    assert summary_of(over)["states"] == "AABC"

    # The same entries for what both kinds of run have.
    assert summary_of(over).keys() == summary_of(runs / "alone").keys()
    assert summary_of(runs / "alone")["network"] is None
    crossed = summary_of(over)["network"]
    kinds = [ways for ways in crossed["counted"].values() if isinstance(ways, dict)]
    assert crossed["counted"]["total"] == sum(sum(ways.values()) for ways in kinds) > 0
    assert {"evaluation", "handshake"} <= crossed["counted"].keys()
    assert set(map(tuple, map(dict.values, crossed["difference"].values()))) == {(0, 0)}

    figures.clear()
    assert cli.main(["report", str(runs)]) == 0
    text = (runs / "report" / "report.md").read_text()
    coded = "toy up, toy down"
    for label in (
        *(f"toy {stop}, {coded}" for stop in (1, 2, 3)),
        f"toy 2, {coded}, networked",
        "always, float32",
    ):
        assert f"| {label} | 1 |" in text
    assert "1 of the runs went over a network" in text
    assert f"| toy 2, {coded}, networked, seed 0 |" in text
    (legend,) = figures[0].legends
    shown = {text.get_text().split("  ")[-1] for text in legend.get_texts()}
    assert {f"toy {stop}, {coded}" for stop in (1, 2, 3)} <= shown
    assert {"always, float32", f"toy 2, {coded}, networked"} <= shown

    # What the server saw of it is decoded by the toy codec.
    folder, kept, _ = read_workdir(runs / "alone")
    run = ended(build(kept, load_dataset(kept, print)), folder)
    assert kept.gate == ToyGate(3) and private(run, run.client, 3).smashed.any()
    assert cli.main(["privacy", str(over)]) == 2
    assert "is the server's folder of a networked run" in capsys.readouterr().err


def test_help_and_refusals_know_the_toys(toys, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        run_here("--help")
    out = capsys.readouterr().out
    unfolded = re.sub(r"[\s│]", "", out)
    for choices in (GATES, CODECS, MODELS):
        assert f"{{{','.join(choices)}}}" in unfolded
    assert "--stop INT" in out and "Number of epochs of A. Only with --gate toy." in out
    for flags, said in {
        "--gate toi": "unknown; choose always, loss, periodic, freeze, budget, toy",
        "--gate toy --stop 0": "--stop must be at least 1, got 0",
        "--gate toy --mode sly": "--mode 'sly' is unknown; choose slow, fast",
        "--stop 3": "--stop is for --gate toy, and this is --gate loss",
        "--gate toy --threshold 1": "--threshold is for --gate loss, and this is",
    }.items():
        assert run_here(*flags.split(), "--workdir", tmp_path / "w") == 2
        assert said in capsys.readouterr().err


# Of every entry


ROWS = ("always", "loss", "periodic", "freeze", "budget", "toy")
NEEDED = {"budget": {"reduction": 20.0}}
"""Of gates that need a setting, one that is enough."""
INSTEAD = {"budget", "loss_budget", "against"}
"""Settings that stand in place of one that is needed; other tests know them."""
RUN = RunFacts(
    classes=10,
    epochs=30,
    new_views=False,
    costs=planned_cut(
        RunConfig(model="cnn"), PlanData("data", (8, 8, 1), 10, 10, (200,))
    ).costs,
)


@pytest.fixture(params=ROWS)
def gate(request, toys):
    return GATES[request.param]


def test_a_server_refuses_a_gate_that_starts_as_none_can(toys, monkeypatch):
    def starts_in_c(self, classes):
        return always_gate()._replace(init=lambda: GateState(jnp.int32(2), ()))

    monkeypatch.setattr(ToyGate, "make", starts_in_c)
    config = RunConfig(model="toy", gate=ToyGate())
    with pytest.raises(ValueError, match="must start in A or B, .* got C"):
        prepare_server(config, (8, 8, 1), 10, [200])


def test_every_gate_is_a_row_of_these_tests(toys):
    assert list(GATES) == list(ROWS)


def usual(gate, **settings):
    """The gate with its usual settings, but for some."""
    return gate(**{**NEEDED.get(gate.name, {}), **settings})


def others_of(gate):
    """The gate with each of its settings at another value than the usual."""
    for name, known in options_of(gate).items():
        before = getattr(usual(gate), known.field)
        if known.choices is not None:
            value = next(name for name in known.choices if name != known.default)
        elif name in INSTEAD:
            continue
        else:
            value = before / 2 if known.option.below else before + 1
        yield name, known, usual(gate, **{known.field: value})


def test_a_gate_goes_to_plain_values_and_back(gate):
    for one in (usual(gate), *(other for _, _, other in others_of(gate))):
        config = RunConfig(gate=one)
        assert from_mapping(flat(config), "") == config
        check(config)
        check_choices(config)
        assert canonical(config).gate == one.canonical()


def test_settings_of_gates_have_names_of_their_own(gate):
    others = [options_of(RunConfig), *map(options_of, GATES.values())]
    for name in options_of(gate):
        assert sum(name in known for known in others) == 1
        assert name in all_options()


def test_another_setting_is_another_label_and_only_the_number_leaves_the_line(gate):
    labels = [usual(gate).label(), *(other.label() for _, _, other in others_of(gate))]
    assert len(set(labels)) == len(labels)
    assert all(label.startswith(gate.name) for label in labels)
    kinds = [other.kind() for _, _, other in others_of(gate)]
    assert kinds[:1] in ([], [gate.name]) and len(set(kinds)) == len(kinds)


def test_every_gate_is_drawn_in_a_style_of_its_own(toys, monkeypatch):
    for number in range(30):
        name = f"other {number}"
        monkeypatch.setitem(GATES, name, type(name, (ToyGate,), {"name": name}))
    styles = [style_of(gate) for gate in GATES.values()]
    assert len(set(styles)) == len(GATES) == 36
    assert len({style.colour for style in styles[-31:]}) == 5
    assert styles[0] == GATES["always"].style and GATES["toy"].style is None
    # The same again, and whatever comes after it.
    toy = style_of(ToyGate)
    for name in list(GATES)[6:]:
        monkeypatch.delitem(GATES, name)
    assert style_of(ToyGate) == toy
    monkeypatch.delitem(GATES, "toy")
    with pytest.raises(ValueError, match="ToyGate has no style and is not in GATES"):
        style_of(ToyGate)


def test_a_gates_traced_settings_change_no_program(gate):
    def program(chosen):
        made = chosen.make_for(RUN)
        return str(jax.make_jaxpr(made.update)(made.init(), jnp.float32(1)))

    for name, known, other in others_of(gate):
        if known.option.traced:
            assert program(other) == program(usual(gate)), name


def test_a_gate_says_whether_it_leaves_a(gate):
    made = usual(gate).make_for(RUN)
    state, states = made.init(), []
    for _ in range(30):
        states.append(int(state.state))
        state = made.update(state, jnp.float32(2.3))
    assert states[0] == 0 and any(states) == gate.leaves_a


def test_a_bad_setting_of_a_gate_is_named_by_its_flag(gate):
    for name, known in options_of(gate).items():
        if known.choices is not None:
            bad = usual(gate, **{known.field: "none such"})
            with pytest.raises(InputError, match=f"--{name.replace('_', '-')} "):
                check_choices(RunConfig(gate=bad))
        elif known.option.least is not None:
            bad = usual(gate, **{known.field: known.option.least - 1})
            with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must"):
                check(RunConfig(gate=bad))


# What the loss gate compares


@pytest.mark.parametrize("changes", [{}, {"mixup": 1.0}, {"views": "augmented"}])
def test_no_other_setting_switches_the_reference(changes):
    assert changed(RunConfig(), **changes).gate == LossGate(reference="decision")


def test_a_loss_gate_that_says_the_same_otherwise_keeps_every_other_setting():
    @dataclass(frozen=True)
    class Longer(LossGate):
        stop: Annotated[int, Option("Epochs.", least=1)] = 2

    said = Longer(0.3, "drop", "previous", warmup=1, stop=5)
    assert said.canonical() == Longer(0.3, "drop", "previous", warmup=0, stop=5)
    assert Longer(warmup=2, stop=5).canonical() == Longer(warmup=2, stop=5)


def test_a_label_says_settings_of_every_type():
    @dataclass(frozen=True)
    class Mixed(ToyGate):
        stop: Annotated[int, Option("Epochs.", least=1)] = 2
        limit: Annotated[float | None, Option("A limit.")] = 5.0
        sure: Annotated[bool, Option("A choice.")] = False

    assert Mixed(3).label() == "toy 3"
    assert Mixed(3, limit=None, sure=True).label() == "toy 3, no limit, sure"
    assert Mixed(3, mode="fast", limit=0.5).label() == "toy 3, fast, limit 0.5"


@dataclass(frozen=True)
class LateGate(GateChoice):
    """In A for twelve epochs, which is longer than gates are tried for, then in C."""

    name = "late"

    def make(self, classes: int) -> Gate:
        """The gate itself."""

        def update(state: GateState, loss: jax.Array) -> GateState:
            epoch = state.memory + 1
            return GateState(jnp.where(epoch < 12, SYNC, OFFLINE), epoch)

        return Gate(lambda: GateState(jnp.int32(SYNC), jnp.int32(0)), update)


def test_a_server_ends_where_a_gate_gives_c_straight_after_a(monkeypatch, tmp_path):
    monkeypatch.setitem(GATES, "late", LateGate)
    config = changed(TINY_RUN, gate="late", epochs=14)
    with pytest.raises(RunError, match="got C without one for epoch 13: what is stor"):
        run_in_process(config, tmp_path, ServeConfig(linger=0))
    lines = (tmp_path / "server" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["A"] * 12
