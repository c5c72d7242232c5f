import os
import resource
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jsplit.errors import InputError, RunError
from jsplit.experiment import checkpoint


@flax.struct.dataclass
class Side:
    params: Any
    opt: Any


class Pair(NamedTuple):
    client: Any
    server: Any


def bits(value, dtype):
    return np.array(value, f"uint{8 * np.dtype(dtype).itemsize}").view(dtype)


def awkward_state():
    """Every dtype and container that a run holds, and the values that casts lose."""
    params = {"conv": {"kernel": jnp.linspace(-1, 1, 24).reshape(2, 3, 4)}}
    side = Side(params, optax.sgd(0.1, momentum=0.9).init(params))
    return {
        "sides": Pair(side, [side, None, ()]),
        "key": jnp.array([7, 2**32 - 1], jnp.uint32),
        "epoch": jnp.int32(-3),
        "codes": jnp.arange(256, dtype=jnp.uint8),
        "nan": jnp.asarray(
            bits([0x7F800001, 0xFFC12345, 0x80000000, 1, 0xFF800000], np.float32)
        ),
        "bf16": jnp.asarray(bits([0x7F81, 0xFFC1, 0x8000, 1], jnp.bfloat16)),
        "f8": jnp.asarray(bits(range(256), jnp.float8_e4m3fn)),
        "flag": jnp.array(True),
        "headers of identity": jnp.zeros((5, 0), jnp.uint8),
        "a/b.c d": jnp.ones(1),
    }


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def small(value):
    return {"w": jnp.full(3, value, jnp.float32)}


def test_state_store_and_meta_come_back_to_the_bit(tmp_path):
    state, store = awkward_state(), {"codes": jnp.arange(60, dtype=jnp.uint8)}
    meta = {"history": [{"loss": 0.1, "state": "A"}], "nan": float("inf"), "none": None}
    checkpoint.save(tmp_path / "new" / "run", 3, state, meta, store=store)
    got = checkpoint.restore(
        tmp_path / "new" / "run", 3, abstract(state), abstract(store)
    )
    assert_same_bits(got[0], state)
    assert got[1] == meta
    assert_same_bits(got[2], store)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got[0]))


def test_numpy_leaves_stay_on_the_host_and_keep_64_bits(tmp_path):
    state = {"x": np.array([1e300, 2**-1074]), "n": np.int64(2**62)}
    checkpoint.save(tmp_path, 1, state, {})
    got, _, _ = checkpoint.restore(tmp_path, 1, state)
    assert_same_bits(got, state)
    assert isinstance(got["x"], np.ndarray)


def test_a_moved_folder_restores(tmp_path):
    checkpoint.save(tmp_path / "here", 1, small(1), {})
    (tmp_path / "here").rename(tmp_path / "there")
    got, _, _ = checkpoint.restore(tmp_path / "there", 1, small(0))
    assert_same_bits(got, small(1))


def test_latest_of_nothing_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "missing") is None
    (tmp_path / "epoch-000004.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoint.latest(tmp_path) is None


def test_two_states_stay_with_only_the_stores_they_need(tmp_path):
    seen = []
    for epoch in range(1, 8):
        store = small(epoch) if epoch in (2, 3, 4) else None
        checkpoint.save(tmp_path, epoch, small(-epoch), {"epoch": epoch}, store=store)
        seen.append(names(tmp_path))
    e = "epoch-00000{}".format
    es = "epoch-00000{}-store-00000{}".format
    s = "store-00000{}".format
    assert seen == [
        [e(1)],
        [e(1), es(2, 2), s(2)],
        [es(2, 2), es(3, 3), s(2), s(3)],
        [es(3, 3), es(4, 4), s(3), s(4)],
        [es(4, 4), es(5, 4), s(4)],
        [es(5, 4), es(6, 4), s(4)],
        [es(6, 4), es(7, 4), s(4)],
    ]
    state, meta, store = checkpoint.restore(tmp_path, 7, small(0), small(0))
    assert_same_bits((state, store), (small(-7), small(4)))
    assert meta == {"epoch": 7}
    assert checkpoint.restore(tmp_path, 7, small(0))[2] is None


def test_without_any_store_none_comes_back(tmp_path):
    checkpoint.save(tmp_path, 1, small(1), {})
    assert checkpoint.restore(tmp_path, 1, small(0), small(0))[2] is None


def test_leftovers_of_torn_saves_go_at_the_next_save_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path, 1, small(1), {}, store=small(1))
    for name in (
        "epoch-000002-store-000001.orbax-checkpoint-tmp",
        "store-000002.orbax-checkpoint-tmp",
        "epoch-000000.old",
        "store-000002",  # Committed, but its state never was.
        "mine.old",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    checkpoint.save(tmp_path, 2, small(2), {})
    assert names(tmp_path) == [
        "epoch-000001-store-000001",
        "epoch-000002-store-000001",
        "mine.old",
        "store-000001",
    ]


@pytest.mark.parametrize("epoch", [4, 5, -1])
def test_an_epoch_that_is_not_new_is_refused(tmp_path, epoch):
    checkpoint.save(tmp_path, 5, small(5), {})
    with pytest.raises(InputError, match=f"epoch {epoch} .*holds epoch 5"):
        checkpoint.save(tmp_path, epoch, small(0), {})
    assert_same_bits(checkpoint.restore(tmp_path, 5, small(0))[0], small(5))


def test_meta_that_is_not_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, small(1), {"x": np.float32(1)}, store=small(1))
    assert names(tmp_path) == []


def test_an_unknown_epoch_names_those_there_are(tmp_path):
    for epoch in (1, 2):
        checkpoint.save(tmp_path, epoch, small(epoch), {})
    with pytest.raises(RunError, match=r"epoch 3 .*\[1, 2\]"):
        checkpoint.restore(tmp_path, 3, small(0))


@pytest.mark.parametrize(
    "like",
    [
        {"w": jnp.zeros(4)},
        {"w": jnp.zeros(3, jnp.bfloat16)},
        {"w": jnp.zeros(3, jnp.int32)},
        {"v": jnp.zeros(3)},
        {"w": jnp.zeros(3), "v": jnp.zeros(3)},
        {},
    ],
    ids=["shape", "dtype", "same size", "name", "more", "less"],
)
def test_a_checkpoint_of_another_shape_is_refused_not_cast(tmp_path, like):
    checkpoint.save(tmp_path, 1, small(1), {})
    with pytest.raises(RunError, match="another run: .*'[vw]'"):
        checkpoint.restore(tmp_path, 1, like)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", ["epoch-000001-store-000001", "store-000001"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_one_line_or_harmless_never_wrong_bits(tmp_path, part, damage):
    value = {"w": jnp.asarray(np.random.default_rng(0).random(3000, np.float32))}
    refused = 0
    checkpoint.save(tmp_path, 1, value, {"epoch": 1}, store=value)
    for path in files(tmp_path / part):
        whole = path.read_bytes()
        if damage == "truncate":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "flip":
            middle = len(whole) // 2
            path.write_bytes(
                whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :]
            )
        else:
            path.unlink()
        try:
            state, meta, store = checkpoint.restore(tmp_path, 1, value, value)
            assert_same_bits((state, store), (value, value))
            assert meta == {"epoch": 1}
        except RunError as error:
            refused += 1
            assert str(tmp_path / part) in str(error) and "delete" in str(error)
            assert "\n" not in str(error)
        path.write_bytes(whole)
    assert refused >= 2
    checkpoint.restore(tmp_path, 1, value, value)


def test_a_store_that_is_gone_is_said(tmp_path):
    checkpoint.save(tmp_path, 1, small(1), {}, store=small(1))
    checkpoint.save(tmp_path, 2, small(2), {})
    (tmp_path / "store-000001").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="store-000001 is damaged") as caught:
        checkpoint.restore(tmp_path, 2, small(0), small(0))
    # A folder that is not there cannot be deleted; those that need it can.
    users = [path.name for path in tmp_path.glob("epoch-*-store-000001")]
    assert len(users) == 2 and all(name in str(caught.value) for name in users)


def test_a_disk_that_refuses_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, small(1), {})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.StandardCheckpointHandler, "save", full)
        patch.setattr(checkpoint.ocp.StandardCheckpointHandler, "async_save", full)
        with pytest.raises(RunError, match="epoch-000002.*No space left.*intact"):
            checkpoint.save(tmp_path, 2, small(2), {})
    assert names(tmp_path) == ["epoch-000001"]
    left = {"epoch-000002.1.new.orbax-checkpoint-tmp"}
    sweep = checkpoint._sweep

    def sweep_too_early(folder):
        """A thread of the failed save makes its folder anew."""
        sweep(folder)
        for name in left:
            (folder / name).mkdir(exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sweep", sweep_too_early)
        checkpoint.save(tmp_path, 2, small(2), {})
    checkpoint.save(tmp_path, 3, small(3), {})
    assert names(tmp_path) == ["epoch-000002", "epoch-000003"]


@pytest.fixture
def small_files():
    """The system refuses to write files beyond 20 kB, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_refused_save_is_one_error_in_the_systems_words_and_leaves_nothing(
    tmp_path, capfd, caplog, small_files
):
    noise = np.random.default_rng(0).normal(size=(4, 10_000))
    large = {str(place): row for place, row in enumerate(noise)}
    with pytest.raises(RunError, match=r"\(File too large\).*there is no earlier one"):
        checkpoint.save(tmp_path, 1, large, {}, store=small(1))
    assert names(tmp_path) == []
    checkpoint.save(tmp_path, 1, small(1), {})
    with pytest.raises(RunError, match=r"\(File too large\).*epoch 1 is intact"):
        checkpoint.save(tmp_path, 2, large, {})
    assert names(tmp_path) == ["epoch-000001"]
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_no_thread_outlives_a_save(tmp_path):
    before = set(threading.enumerate())
    checkpoint.save(tmp_path, 1, small(1), {}, store=small(1))
    checkpoint.restore(tmp_path, 1, small(0), small(0))
    assert set(threading.enumerate()) <= before


SAVER = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from jsplit.experiment import checkpoint

def save_epochs(folder, epochs):
    done = checkpoint.latest(folder) or 0
    for epoch in range(done + 1, done + epochs + 1):
        tree = {str(i): np.full(50_000, epoch, np.int32) for i in range(4)}
        store = {"s": np.full(200_000, epoch % 256, np.uint8)}
        store = store if epoch % 3 == 1 else None
        checkpoint.save(folder, epoch, tree, {"epoch": epoch}, store=store)
        os.write(1, b"%d\\n" % epoch)
"""

# Forks before any thread is there, so that each victim spares the second of imports.
KILLER = (
    SAVER
    + """
for line in sys.stdin:
    if not (pid := os.fork()):
        save_epochs(Path(sys.argv[1]), 1000)
    time.sleep(float(line))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.write(1, b"killed\\n")
"""
)


def program(text, folder):
    return subprocess.Popen(
        [sys.executable, "-c", text, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_program_that_saves_says_nothing_and_ends(tmp_path):
    process = program(SAVER + "save_epochs(Path(sys.argv[1]), 2)", tmp_path)
    assert process.communicate(timeout=60) == ("1\n2\n", "")
    assert process.returncode == 0


@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    like = {str(i): np.zeros(50_000, np.int32) for i in range(4)}
    store_like = {"s": np.zeros(200_000, np.uint8)}
    finished, torn, patience = 0, 0, 1.0
    with program(KILLER, tmp_path) as killer:
        for delay in np.random.default_rng(0).uniform(0.1, 0.5, 20):
            print(delay * patience, file=killer.stdin, flush=True)
            while (line := killer.stdout.readline().strip()) != "killed":
                finished = int(line)
            torn += bool([n for n in names(tmp_path) if n.endswith(("tmp", "old"))])
            newest = checkpoint.latest(tmp_path) or 0
            assert newest in (finished, finished + 1)
            if not newest:  # A slow machine, which gets nowhere in that time.
                patience *= 1.5
            if finished := newest:
                state, meta, store = checkpoint.restore(
                    tmp_path, newest, like, store_like
                )
                assert meta == {"epoch": newest}
                assert all((leaf == newest).all() for leaf in state.values())
                assert (store["s"] == ((newest - 1) // 3 * 3 + 1) % 256).all()
        killer.stdin.close()
    assert finished > 3 and torn > 3  # It was in the middle of saves.


def test_a_leftover_that_is_still_written_to_goes_all_the_same(tmp_path, monkeypatch):
    leftover = tmp_path / "epoch-000002.orbax-checkpoint-tmp"
    leftover.mkdir()
    remove, refusals = checkpoint.shutil.rmtree, [OSError(39, "not empty")] * 3

    def busy(path):
        if refusals:
            raise refusals.pop()
        remove(path)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", busy)
    checkpoint.save(tmp_path, 1, small(1), {})
    assert names(tmp_path) == ["epoch-000001"]
