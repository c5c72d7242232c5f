"""Each benchmark at its smallest size: that it runs and writes what it promises."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    clients,
    codec,
    fuzz,
    kills,
    link,
    lossless,
    lossy_images,
    lowerings,
    measure,
    network,
    poolings,
    profile,
    run200,
    start,
    step,
)
from benchmarks.workload import images, transform
from jsplit.models import MODELS, Chain
from tests.runs import compile_once

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """Compiled once, by this process and by those that it starts."""
    with compile_once(tmp_path_factory.mktemp("cache")) as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
            patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            patch.setenv("JAX_PLATFORMS", "cpu")
            yield


@pytest.fixture
def torch():
    """On one thread: Torch's wait for one another, for ever if others compute."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: the extra bench")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path):
    """Runs a benchmark on the small network, once, and reads what it wrote."""

    def run(benchmark, *flags):
        out = tmp_path / "out.json"
        shared = ("--models", "cnn", "--rounds", "1", "--out", str(out))
        benchmark.main([*shared, *map(str, flags)])
        record = json.loads(out.read_text())
        environment = record["environment"]
        assert environment["backend"] == "cpu" and environment["versions"]["jax"]
        assert record["settings"]["rounds"] == 1
        return record["models"]["cnn"] if "models" in record else record

    return run


def check_spread(found):
    assert found["min"] <= found["median"] <= found["max"] and found["min"] > 0


@pytest.mark.parametrize("padding", [(), ("--padded",)])
def test_step(run, padding, torch):
    found = run(step, "--batch", 4, "--steps", 2, "--no-compile", *padding)
    for pair in ("torch/A", "unsplit/A", "C/server", "unsplit/B"):
        check_spread(found["ratios"][pair])
    sides = {"A", "B", "C", "unsplit", "server", "torch"}
    assert set(found["images_per_second"]) == sides == set(found["seconds"])
    assert found["parameters"] == 28_506
    # The same weights: about the loss of a blind guess on every side.
    assert set(found["first_losses"]) == {"A", "unsplit", "server", "torch"}
    assert all(1 < loss < 6 for loss in found["first_losses"].values())


def test_step_needs_a_loop(run):
    with pytest.raises(SystemExit):
        run(step, "--steps", 1)


def test_codec(run):
    shape = ("--batch", 4, "--tensors", 2, "--steps", 2)
    found = run(codec, *shape, "--codec", "bits4-channel")
    for kind in ("activations", "gradients"):
        check_spread(found[kind]["ratios"]["both/copy"])
        assert found[kind]["shape"] == [1, 4, 16, 16, 16]
        speeds = found[kind]["gigabytes_per_second"]
        assert set(speeds) == {"encode", "decode", "both", "copy"}
    assert found["share_of_step"]["share"]["median"] < 1


def test_clients(run):
    found = run(clients, "--clients", 1, "--examples", 8, "--batch", 4)
    assert set(found) == {"parallel 1", "sequential 1"}
    for side in found.values():
        check_spread(side["ratio"])
        assert side["memory"]["peak_rss"] >= side["memory"]["rss"] > 10**8
        assert side["layout"] == {"steps": 2, "server_batch": 4, "client_batch": 4}


def test_start(run):
    found = run(start, "--batch", 4, "--steps", 2, "--caches", "none")
    assert set(found["none"]) == {*start.STAGES, "run.py"}
    for seconds in found["none"].values():
        check_spread(seconds)


def test_run200(run):
    sizes = ("--epochs", 12, "--chunk", 6, "--examples", 8, "--batch", 4)
    found = run(run200, *sizes)
    (once,) = found["runs"]
    assert once["states"] == {"gated": "ABABABABABCC", "always A": "A" * 12}
    assert len(once["memory"]["gated"]) == len(once["seconds"]["gated"]) == 2
    check_spread(found["ratio"])


def test_profile(run):
    found = run(profile, "--batch", 4, "--steps", 2)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    assert sum(found["by_kind"].values()) == pytest.approx(1)
    functions = {row["function"] for row in found["rows"]}
    assert {"client_forward", "client_backward", "server_step_with_reply"} <= functions
    assert {"Conv", "Norm", "encode", "decode", "optimizer"} <= set(found["by_kind"])
    passes = {row["pass"] for row in found["rows"] if "Conv" in row["part"]}
    assert passes == {"forward", "backward"}


@pytest.mark.parametrize(
    ("traced", "place"),
    [
        ("jit(server_step)/transpose(jvp(Chain))/fc/Dense_0/dot_general", 2),
        ("jit(server_step)/jvp(Chain)/fc/Dense_0/jit(relu)/max", 1),
        ("while/body/jit(client_forward)/encode/jit(clip)/max", 3),
        ("while/body/jit(_shuffle)/jit(sort)/sort", 0),
    ],
)
def test_an_operation_is_booked_where_it_was_traced(traced, place):
    places = (
        ("epoch", "", ""),
        ("server_step", "fc/Dense_0", "forward"),
        ("server_step", "fc/Dense_0", "backward"),
        ("client_forward", "encode", ""),
    )
    assert profile.place_of("jit(run)/" + traced) == places[place]


def test_what_runs_inside_an_operation_is_not_counted_twice():
    # A loop of 10 with two operations inside, one of them with another; then one alone.
    events = [(0, -10, "a"), (1, -3, "b"), (2, -1, "c"), (5, -2, "b"), (10, -4, "d")]
    own = list(profile._own(events))
    assert sorted(own) == [("a", 5), ("b", 2), ("b", 2), ("c", 1), ("d", 4)]


def test_lossless(run):
    found = run(lossless, "--batch", 16)
    for kind in ("activations", "gradients"):
        size = found["sizes"][kind]
        assert 0 < size["over_entropy"] <= 1.05
        assert set(size["forms"]) <= {"zstd", "frequencies"}
    check_spread(found["share_of_step"])


def test_lossy_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    colours = np.repeat(rng.integers(0, 256, (30, 1, 1, 3), np.uint8), 16, 1)
    pictures = np.repeat(colours, 16, 2)
    labels = np.arange(30) % 3
    arrays = {"test_images": pictures[:9], "test_labels": labels[:9]}
    source, out = tmp_path / "set.npz", tmp_path / "new" / "jpeg.npz"
    np.savez(source, train_images=pictures, train_labels=labels, **arrays)
    words = [str(source), "--train-examples", "30", "--out", str(out)]
    lossy_images.main(words)
    left, size = lossy_images.as_jpeg(pictures, 92)
    assert f"30 images as JPEG 92: {size:,} bytes" in capsys.readouterr().out
    made = np.load(out)
    order = np.argsort(made["train_labels"], kind="stable")
    assert made["train_labels"][order].tolist() == sorted(labels.tolist())
    np.testing.assert_array_equal(made["test_images"], pictures[:9])
    # Of plain colours nearly all is left, and of neighbours in the sheet nothing comes.
    assert 0 < np.abs(left.astype(int) - pictures).max() < 8
    gray = tmp_path / "gray.npz"
    arrays["test_images"] = pictures[:9, ..., :1]
    np.savez(gray, train_images=pictures[..., :1], train_labels=labels, **arrays)
    for wrong, said in (
        ([str(gray), *words[1:]], "has images of 1 channel; 3 are needed"),
        ([str(tmp_path / "none.npz"), *words[1:]], "none.npz"),
        ([*words, "--quality", "0"], "--quality: invalid choice: 0"),
        (
            [*words, "--train-examples", "0"],
            "must be a whole number of at least 1, got 0",
        ),
        ([*words[:-1], str(tmp_path)], "not a file that can be written"),
    ):
        with pytest.raises(SystemExit) as left_with:
            lossy_images.main(wrong)
        assert left_with.value.code == 2
        assert said in capsys.readouterr().err


def test_fuzz(run):
    found = run(fuzz, "--messages", 2000, "--live", 30)
    assert found["reader"]["messages"] == 2000
    assert found["reader"]["came_of_it"]["MALFORMED"] > 200
    assert found["server"]["messages"] == 30 and found["server"]["honest_run_unchanged"]


@pytest.mark.parametrize(
    "pair", [("--examples", 0), ("--batch", -1), ("--rounds", "x")]
)
def test_a_count_that_is_none_is_refused_in_a_line(run, capsys, pair):
    with pytest.raises(SystemExit):
        run(clients, *pair)
    assert (
        f"{pair[0]}: must be a whole number of at least 1, got {pair[1]}"
        in capsys.readouterr().err
    )


def test_a_file_that_cannot_be_written_is_refused_before_measuring(tmp_path, capsys):
    for out in (tmp_path, tmp_path / "file" / "out.json"):
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit):
            step.main(["--out", str(out)])
        assert f"--out {out}" in capsys.readouterr().err


def test_lowerings(run, monkeypatch):
    monkeypatch.setattr(lowerings, "SMALL", lowerings.SMALL[-3:-2])
    found = run(lowerings, "--batch", 1)["shapes"]
    # Three convolutions of two sizes of image, the first of one channel or three.
    assert len(found) == 9
    assert set(found[-1]["milliseconds"]) == {"im2col", "winograd", "dense", "native"}
    for row in found:
        assert row["chosen"] in row["milliseconds"]
        assert row["chosen_over_fastest"] >= 1
        for spread in row["milliseconds"].values():
            check_spread(spread)


def test_lowerings_of_whole_steps(run):
    found = run(lowerings, "--whole", "--batch", 2)
    check_spread(found["ratio"])
    assert set(found["seconds_a_step"]) == {"winograd", "im2col"}


def test_poolings(run):
    found = run(poolings, "--batch", 1)["shapes"]
    assert [(row["edge"], row["channels"]) for row in found] == [
        (28, 16),
        (14, 32),
        (7, 64),
        (32, 16),
        (16, 32),
        (8, 64),
    ]
    for row in found:
        check_spread(row["native/slices"])


def test_network(run):
    found = run(network, "--examples", 256, "--epochs", 3)
    for pair in ("process/network", "simulation/network"):
        check_spread(found["ratios"][pair])
    assert 0 < found["socket"]["framing_share"] < 0.1


def test_kills(run):
    found = run(kills, "--kills", 2)
    assert found["unchanged"] == found["kills"] >= 2
    assert all(run["code"] == 0 and run["same"] for run in found["runs"])


def test_link(run):
    found = run(
        link, "--link", "1gbit/1ms", "--train", 128, "--test", 50, "--epochs", 3
    )
    for way in ("plain", "float8", "gated"):
        (once,) = found[way]
        assert once["bytes"] > 0 and len(once["states"]) == 3
        assert 0 < once["test_accuracy"] < 1
    assert found["float8"][0]["bytes"] < found["plain"][0]["bytes"] / 3


def test_scheduled_gate_follows_its_states_and_keeps_the_last():
    gate = run200.scheduled_gate("ABCAC")
    held = gate.init()
    states = []
    for _ in range(7):
        states.append(int(held.state))
        held = gate.update(held, jnp.float32(1))
    assert states == [0, 1, 2, 0, 2, 2, 2]
    with pytest.raises(ValueError, match="begin with A"):
        run200.scheduled_gate("BA")


@pytest.mark.parametrize("name", ["cnn", "vgg11", "resnet18"])
def test_torch_is_the_same_function(name, torch):
    from benchmarks import torch_loop

    dataset = images(4)
    chain = Chain(MODELS[name](10))
    x = jnp.asarray(transform(dataset).evaluate(dataset.train_images))
    shapes = jax.eval_shape(chain.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = 0.1 if len(leaf.shape) == 1 else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        values = rng.normal(size=leaf.shape) * scale
        fixed = {"mean": 0.0, "var": 1.0}.get(path[-1].key)
        return np.full(leaf.shape, fixed if fixed is not None else values, np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    variables["params"] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1 if path[-1].key == "scale" else leaf,
        variables["params"],
    )
    expected = jax.jit(chain.apply)(variables, x)
    loop = torch_loop.Loop(name, 1, dataset, variables)
    np.testing.assert_allclose(loop.logits(4), expected, rtol=1e-3, atol=1e-3)


def test_every_side_is_timed_once_a_round_and_none_is_always_first():
    called = []
    sides = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = measure.interleave(sides, 3)
    assert called == list("abcbcacab")
    assert {len(times) for times in seconds.values()} == {3}


def test_a_ratio_is_taken_within_a_round():
    found = measure.ratio({"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]}, "a", "b")
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [1.0, 2.0, 3.0]}
