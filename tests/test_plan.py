"""`jsplit plan`: its figures are those of runs, and it says what meets a budget."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit.accounting.ledger import Ledger
from jsplit.analysis.plan_values import values_of_traffic
from jsplit.analysis.privacy_report import FORMAT
from jsplit.codecs import USUAL
from jsplit.core.gate_phases import after_local, with_views
from jsplit.data.lossless import lossless_bytes
from jsplit.data.views import views_of
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.config import RunConfig, changed
from jsplit.experiment.link_time import seconds
from jsplit.experiment.offers import Limits, first_within, offers, within
from jsplit.experiment.plan import (
    PlanData,
    coded,
    crossing,
    data_of,
    planned_cut,
)
from jsplit.experiment.schedules import schedules
from jsplit.net.link_simulation import LinkSpeed
from jsplit.typing import STATES
from tests.plans import WORDS, plan_here
from tests.runs import TINY, refused, run_here

SMALL = RunConfig(
    model="cnn",
    cut=2,
    dataset="fashion_mnist_10k",
    image_size=8,
    train_examples=200,
    test_examples=100,
)
DATA = PlanData("ten", (8, 8, 1), 10, 10, (200,))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(SMALL, lambda line: None)


def finish(path, label, **settings):
    """A finished run of one of the schedules; that, and the run's settings."""
    (schedule,) = (one for one in schedules(4, 2, 2) if one.label == label)
    settings |= {"epochs": 4, **schedule.settings}
    words = itertools.chain(
        *((f"--{name.replace('_', '-')}", value) for name, value in settings.items())
    )
    assert run_here(*TINY, "--cut", 2, *words, "--workdir", path) == 0
    return schedule, changed(SMALL, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The folder of a run."""
    path = tmp_path_factory.mktemp("finished") / "run"
    return SimpleNamespace(path=path, facts=finish(path, "freeze 1", codec="bf16"))


def check_ledger(path, facts, dataset):
    schedule, config = facts
    summary = json.loads((path / "summary.json").read_text())
    cut = planned_cut(config, data_of(config, dataset))
    ledger = Ledger.of(cut.costs, schedule.states)
    assert summary["states"] == schedule.states
    counted = dict(summary["bytes"])
    assert counted.pop("total") == ledger.wire_bytes
    assert counted.pop("paper_payload") == ledger.paper_bits // 8
    assert counted == ledger.wire
    assert summary["client_macs"] == ledger.client_macs
    for name in ("communication_reduction", "client_compute_reduction"):
        assert summary[name] == getattr(ledger, name)


def test_a_plans_row_is_what_the_ledger_of_such_a_run_counts(finished, dataset):
    check_ledger(finished.path, finished.facts, dataset)


@pytest.mark.slow
def test_and_so_with_clients_alone_a_bottleneck_and_views(cache, tmp_path, dataset):
    others = {"bottleneck": 4, "clients": 2, "partition": "uneven:1"}
    facts = finish(tmp_path / "run", "alone 2, 2 views", **others)
    assert facts[0].states == "LLBBCC"
    check_ledger(tmp_path / "run", facts, dataset)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cut": 1, "codec": "bf16", "grad_codec": "identity", "batch_size": 64},
        {"clients": 3, "topology": "sequential", "partition": "dirichlet:1"},
        {"bottleneck": 8, "local_epochs": 1, "clients": 2, "partition": "uneven:1"},
    ],
    ids=str,
)
def test_a_cuts_costs_are_those_of_a_simulation(settings, dataset):
    config = changed(SMALL, **settings)
    assert (
        planned_cut(config, data_of(config, dataset)).costs
        == build(config, dataset).simulation.costs
    )


def test_other_codecs_cost_what_a_run_with_them_costs():
    cut = planned_cut(SMALL, DATA)
    for codec, grad_codec in (("identity", "bf16"), ("e4m3", "identity")):
        config = changed(SMALL, codec=codec, grad_codec=grad_codec)
        assert coded(cut, codec, grad_codec) == planned_cut(config, DATA).costs


def test_a_schedule_that_never_learns_alone_is_offered_without_heads():
    """Also where the plan counts them for the schedules that do."""
    shared, data = (
        {"clients": 2, "partition": "uneven:1"},
        DATA._replace(sizes=(150, 50)),
    )
    heads, bare = (
        planned_cut(changed(SMALL, **shared, local_epochs=epochs), data)
        for epochs in (2, 0)
    )
    codecs, every = (["float8"], ["float8"]), schedules(4, 2, 2)
    found = {}
    for schedule in every:
        ((one,), (other,)) = (offers(cut, [schedule], *codecs) for cut in (heads, bare))
        alone = "L" in schedule.states
        found[schedule.label] = one.ledger.wire == other.ledger.wire
        assert found[schedule.label] == (not alone)
        limits = Limits(other.ledger.wire_bytes)
        assert bool(within([heads], [schedule], codecs, limits)) == (not alone)
    assert set(found.values()) == {True, False}
    plan = SimpleNamespace(data=data, lossless_bytes=None, link=LinkSpeed(1e6, 0.01))
    one, other = (values_of_traffic(plan, cut.costs) for cut in (heads, bare))
    assert one == other and one["epoch_a_seconds"] > 0


def test_no_training_is_built_or_compiled_for_a_plan(capsys):
    compiled = []

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert plan_here(*WORDS, "--most-views", 3, "--bottlenecks", 5) == 0
        # Zeros and a key, where no other test has them compiled.
        assert len(compiled) <= 10
        before = len(compiled)
        jax.jit(lambda x: x + 17)(jnp.zeros(17))
        assert len(compiled) > before
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_schedules_states_are_those_of_its_gate():
    every = schedules(epochs=7, most_views=3, local_epochs=2)
    assert {one.states[0] for one in every} == set("ABL")
    for schedule in every:
        config = changed(SMALL, **schedule.settings)
        gate = with_views(config.gate.make(10), len(views_of(config.views)))
        gate = after_local(gate, config.local_epochs)
        losses = jnp.linspace(2.0, 1.0, len(schedule.states))

        def step(now, loss, gate=gate):
            return gate.update(now, loss), now.state

        _, ran = jax.lax.scan(step, gate.init(), losses)
        assert "".join(STATES[state] for state in np.asarray(ran)) == schedule.states
        assert len(schedule.states) == 7 + config.local_epochs


def test_no_schedule_comes_twice_and_a_freeze_has_room_for_its_views():
    for epochs, views in itertools.product((1, 2, 5, 30), (1, 4)):
        every = schedules(epochs, views, local_epochs=3)
        states = [schedule.states for schedule in every]
        assert len(set(states)) == len(states)
        assert all(
            schedule.states.count("B") == len(views_of(schedule.settings["views"]))
            for schedule in every
            if schedule.settings["gate"] == "freeze"
        )


CODEC_NAMES = (USUAL, USUAL)


@pytest.fixture(scope="module")
def at_cut():
    cut = planned_cut(changed(SMALL, local_epochs=2), DATA)
    every = schedules(epochs=12, most_views=2, local_epochs=2)
    return SimpleNamespace(cut=cut, every=every, made=offers(cut, every, *CODEC_NAMES))


@pytest.mark.parametrize(
    "limits",
    [Limits(), Limits(300_000), Limits(None, 20.0), Limits(600_000, 12.0), Limits(1)],
)
def test_what_is_offered_keeps_the_limits_and_nothing_better_is_left_out(
    at_cut, limits
):
    found = within([at_cut.cut], at_cut.every, CODEC_NAMES, limits)
    keys = {(one.schedule.states, one.codec, one.grad_codec) for one in found}
    assert len(keys) == len(found)
    assert all(limits.hold(one.ledger) for one in found)

    def bits(one):
        return one.ledger.costs.payload_bits, one.ledger.costs.grad_payload_bits

    for one in at_cut.made:
        key = one.schedule.states, one.codec, one.grad_codec
        if limits.hold(one.ledger) and key not in keys:
            assert any(
                other.schedule == one.schedule
                and bits(other) != bits(one)
                and all(a >= b for a, b in zip(bits(other), bits(one), strict=True))
                for other in found
            )
    first = first_within([at_cut.cut], at_cut.every, CODEC_NAMES, limits)
    assert first == (found[0] if found else None)
    assert bool(found) == (limits.budget != 1)


def test_the_most_synchronising_come_first(at_cut):
    found = within([at_cut.cut], at_cut.every, CODEC_NAMES, Limits(600_000))
    counts = [
        (one.schedule.states.count("A"), one.schedule.states.count("B"))
        for one in found
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_a_budget_counts_every_byte_and_a_reduction_the_papers(at_cut):
    one = at_cut.made[0]
    assert Limits(one.ledger.wire_bytes).hold(one.ledger)
    assert not Limits(one.ledger.wire_bytes - 1).hold(one.ledger)
    reduction = one.ledger.communication_reduction
    assert Limits(None, reduction).hold(one.ledger)
    assert not Limits(None, 1.001 * reduction).hold(one.ledger)


def test_an_epochs_crossing_leaves_out_what_crosses_once(at_cut):
    costs = at_cut.cut.costs
    found = crossing(costs, "A")
    twice = Ledger.of(costs, "AA")
    once = twice.wire["labels"]["up"]
    assert 2 * (found.up + found.down) == twice.wire_bytes - once and once > 200


def test_clients_side_by_side_share_no_link_and_those_in_turns_wait():
    link = LinkSpeed(bits=1e6, delay=0.01)

    def time_of(states, **settings):
        config = changed(SMALL, **settings)
        sizes = (100,) * config.clients
        return seconds(
            planned_cut(config, DATA._replace(sizes=sizes)).costs, states, link
        )

    alone = time_of("B", batch_size=50)
    parallel = time_of("B", clients=2, batch_size=100)
    # Its client part and labels' heads are the smaller part of what crosses.
    assert alone == pytest.approx(parallel, rel=0.01)
    assert time_of("C") == 0.0
    # An endless rate leaves the waits: the announcement, two ways of each step, and
    # parts that go up and come down again.
    link = LinkSpeed(bits=1e15, delay=1.0)
    turns = {"topology": "sequential", "clients": 2, "batch_size": 50}
    for state, settings, waits in (
        ("A", {"batch_size": 50}, 1 + 2 * 2),
        ("B", {"batch_size": 50}, 2),
        ("A", {"clients": 2, "batch_size": 100}, 1 + 2 * 2 + 2),
        ("A", turns, 2 * (1 + 2 * 2 + 2)),
        ("B", turns, 2 * 2),
        ("AABC", {"batch_size": 50}, 2 * 5 + 2),
    ):
        assert time_of(state, **settings) == pytest.approx(waits, abs=1e-3)


def test_memory_is_of_the_part_and_grows_with_the_batch():
    small, large = (
        planned_cut(changed(SMALL, batch_size=batch), DATA) for batch in (20, 40)
    )
    batch = large.memory - small.memory
    weights = small.memory - batch
    # Activations at the cut at least; weights, their gradients and momentum.
    assert batch >= 20 * 4 * small.costs.values
    assert weights >= 1.5 * small.costs.part_bytes
    assert large.costs.part_bytes == small.costs.part_bytes


def test_a_lossless_sheet_is_smaller_than_the_images(dataset):
    found = lossless_bytes(dataset.train_images)
    assert found is not None and 16 < found < 64
    noise = np.random.default_rng(0).integers(0, 256, (256, 8, 8, 3)).astype(np.uint8)
    assert lossless_bytes(noise) > 0.95 * 192


def test_gradients_that_go_where_values_went_are_planned_for_each_codec():
    cut, (freeze,) = planned_cut(SMALL, DATA), schedules(12, 1, 0)[1:2]
    assert "A" in freeze.states
    made = offers(cut, [freeze], ["top4", "top16"], ["where-sent", "float8"])
    found = {(offer.codec, offer.grad_codec): offer.ledger for offer in made}
    assert set(found) == set(
        itertools.product(["top4", "top16"], ["where-sent", "float8"])
    )
    for (codec, grad_codec), ledger in found.items():
        sent = 200 * freeze.states.count("A") * cut.costs.values
        share = 1 if grad_codec == "float8" else int(codec[3:])
        assert ledger.wire["gradients"]["down"] == sent // share


def test_leakage_is_read_from_attacked_runs_of_the_same_kind(
    finished, capsys, monkeypatch, tmp_path
):
    path = finished.path
    kept = path / "privacy.json"
    figures = {"format": FORMAT, "last": {"inversion": {"ssim": 0.8125}}}
    monkeypatch.chdir(tmp_path)
    try:
        assert "no attacked run" in refused(
            capsys, lambda: plan_here(*WORDS, "--privacy", path)
        )
        kept.write_text(json.dumps(figures))
        target = tmp_path / "plan.json"
        words = ("--privacy", path, "--cut", 2, "--bottlenecks", 4, "--json", target)
        assert plan_here(*WORDS, *words) == 0
        assert "0.812" in capsys.readouterr().out
        plan = json.loads(target.read_text())
        assert [cut["ssim"] for cut in plan["cuts"]] == [None, 0.8125, None]
        of_narrow = {
            one["settings"].get("bottleneck"): one["ssim"] for one in plan["schedules"]
        }
        assert of_narrow == {None: 0.8125, 4: None}
        other = refused(
            capsys,
            lambda: plan_here(*WORDS, "--model", "vgg11", "--privacy", path),
        )
        assert "vgg11" in other and "cnn" in other
    finally:
        kept.unlink(missing_ok=True)
