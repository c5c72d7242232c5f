"""A mesh of devices computes what one device does.

Virtual CPU devices are set before JAX starts, so every mesh here is in a process of
its own. The tolerances: sums in another order change float32 parameters by some 1e-6
in these runs. 8-bit codes make more of it, in any run: on one device, a change of 1e-7
in the first weights tips a code or two, and those the largest value of a pool or the
sign before a ReLU. After eight steps it had changed the client's momentum, of up to
0.6, by 0.03 to 0.4; a mesh of 8, by 0.1. A search of the format on one shard would
hide in that, so 8 bits are compared where sums are exact, and after one step.
"""

import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from jsplit.errors import InputError
from jsplit.runtime.sharding import make_placement
from tests.mesh.runs import IDENTITY, SECONDS, TINY, arrays_of, assert_same, on_mesh
from tests.runs import ROOT, run_here

CASES = {
    "one client": (),
    "four clients": ("--clients", "4", "--partition", "uneven:1"),
}


@pytest.mark.parametrize(
    "case", [pytest.param("one client", marks=pytest.mark.slow), "four clients"]
)
def test_a_mesh_of_8_ends_as_one_device_does(
    case, one_device, devices, cache, tmp_path
):
    flags = (*CASES[case], *IDENTITY)
    devices(8)
    on_mesh(*TINY, *flags, "--mesh", "--workdir", tmp_path / "run", cache=cache)
    assert_same(tmp_path / "run", one_device(*flags), parameters=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 4])
def test_in_8_bits_a_mesh_of_8_ends_with_the_bits_of_one_device_where_sums_are_exact(
    clients, devices
):
    devices(8)
    done = subprocess.run(
        [sys.executable, "-m", "tests.exact", str(clients)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    one, mesh = json.loads(done.stdout)
    assert mesh == one


def places(codes):
    """Where 8-bit floats lie in the order of their values; both zeros at 0."""
    codes = codes.astype(int)
    return np.where(codes < 128, codes, 128 - codes)


@pytest.mark.slow
def test_one_step_of_a_network_in_8_bits_on_a_mesh_of_8_changes_few_codes_by_one(
    one_device, devices, cache, tmp_path
):
    """As a change of 1e-7 in the first weights does: two codes, parameters by 7e-5."""
    flags = ("--train-examples", "64", "--epochs", "1")
    devices(8)
    on_mesh(*TINY, *flags, "--mesh", "--workdir", tmp_path / "run", cache=cache)
    arrays, wanted = arrays_of(tmp_path / "run"), arrays_of(one_device(*flags))
    header, payload = (
        ".store.examples.packets.header",
        ".store.examples.packets.payload",
    )
    np.testing.assert_array_equal(arrays[header], wanted[header])
    apart = np.abs(places(arrays[payload]) - places(wanted[payload]))
    assert apart.max() <= 1 and apart.sum() <= 8  # Of 16384.
    for name in arrays:
        if ".variables" in name:
            np.testing.assert_allclose(
                arrays[name], wanted[name], atol=2e-4, err_msg=name
            )


def cut_back(path, to):
    """A copy of a run as it was when it was killed after epoch 5, in state C."""
    shutil.copytree(path, to)
    (to / "summary.json").unlink()
    [last] = (to / "checkpoints").glob("epoch-000006*")
    shutil.rmtree(last)
    return to


READ = """
import sys, zlib
from pathlib import Path
import jax, numpy as np
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.workdir import read_workdir
from jsplit.experiment.train import resume
folder, config, _ = read_workdir(Path(sys.argv[1]))
assert jax.device_count() == 4 and config.mesh
state = resume(build(config, load_dataset(config, print)), folder).state
assert len(state.store.examples.packets.payload.sharding.device_set) == 4
for leaf in jax.tree.leaves(state):
    print("crc", zlib.crc32(np.asarray(leaf).tobytes()))
"""


@pytest.mark.slow
def test_a_checkpoint_of_8_devices_goes_on_on_1_and_on_4_and_back(
    one_device, devices, cache, tmp_path
):
    devices(8)
    whole = tmp_path / "whole"
    on_mesh(*TINY, *IDENTITY, "--mesh", "--workdir", whole, cache=cache)
    killed = cut_back(whole, tmp_path / "killed")

    on_one = Path(shutil.copytree(killed, tmp_path / "on one"))
    assert run_here("--resume", "--no-mesh", "--workdir", on_one) == 0
    assert_same(on_one, one_device(*IDENTITY), parameters=2e-5)

    devices(4)
    saved = [str(zlib.crc32(leaf.tobytes())) for leaf in arrays_of(killed).values()]
    done = subprocess.run(
        [sys.executable, "-c", READ, str(killed)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"crc (\d+)", done.stdout) == saved, "restored bits"
    on_mesh("--resume", "--workdir", killed, cache=cache)
    assert_same(killed, one_device(*IDENTITY), parameters=2e-5)

    back = cut_back(one_device(*IDENTITY), tmp_path / "back")
    on_mesh("--resume", "--mesh", "--workdir", back, cache=cache)
    assert_same(back, one_device(*IDENTITY), parameters=2e-5)


COMPILE = """
import json, sys
import jax, numpy as np
from jsplit.experiment.build import build, load_dataset
from jsplit.experiment.config import RunConfig
config = RunConfig(**json.loads(sys.argv[1]))
simulation = build(config, load_dataset(config, lambda line: None)).simulation
print("whole", simulation.state.store.examples.packets.payload.nbytes)
for shard in simulation.state.store.examples.packets.payload.addressable_shards:
    print("part", shard.data.nbytes)
program = simulation.program.run.lower(
    simulation.state, simulation.shards, simulation.test, simulation.key,
    np.ones(1, np.float32), np.ones(1, bool),
).compile()
print(program.as_text())
"""


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 4])
def test_no_device_ever_gets_the_whole_store(clients, devices):
    devices(8)
    config = {
        **{"model": "cnn", "dataset": "fashion_mnist_10k", "image_size": 8},
        **{"train_examples": 1000, "test_examples": 100, "batch_size": 64},
        **{"clients": clients, "mesh": True},
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    [whole] = map(int, re.findall(r"^whole (\d+)$", done.stdout, re.M))
    assert re.findall(r"^part (\d+)$", done.stdout, re.M) == [str(whole // 8)] * 8
    moved = re.findall(
        r"= (\w+)\[([\d,]*)\]\S* "
        r"(all-gather|all-to-all|all-reduce|collective-permute)\(",
        done.stdout,
    )
    sizes = {
        (kind, dtype, shape): np.prod([int(n) for n in shape.split(",") if n])
        * {"u8": 1, "pred": 1}.get(dtype, 4)
        for dtype, shape, kind in moved
    }
    assert any(kind == "all-reduce" for kind, _, _ in sizes), "gradients"
    # One server batch of codes is what a step of C moves; the store holds 16.
    for what, size in sizes.items():
        if what[1] == "u8":
            assert size <= whole / 15, what
        if what[0] == "all-gather":
            assert size <= whole / 15, what


@pytest.mark.parametrize(
    "members, batch, count, problem",
    [
        (3, 8, 8, "8 devices cannot share 3 clients"),
        (12, 8, 8, "8 devices cannot share 12 clients"),
        (1, 100, 8, "take a batch size that gives each a multiple of 8"),
        (2, 50, 8, "take a batch size that gives each a multiple of 4"),
    ],
)
def test_what_cannot_be_shared_equally_is_refused(members, batch, count, problem):
    with pytest.raises(InputError, match=problem):
        make_placement(members, batch, [None] * count)
