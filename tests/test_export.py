"""What `jsplit export` writes is read by others, and computes the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy
from flax import serialization

import jsplit
from jsplit.cli.main import main
from jsplit.errors import InputError
from jsplit.experiment import checkpoint, weights
from jsplit.experiment import export as exporting
from jsplit.experiment.config import RunConfig
from jsplit.experiment.description import ModelDescription, write_description
from jsplit.experiment.initial import read_named
from jsplit.experiment.trained import SIDES, TrainedModel, parts_of
from tests.runs import refused

SHAPE = (8, 8, 3)
CONFIG = RunConfig(model="cnn", image_size=8, epochs=3)
ABOUT = ModelDescription(CONFIG, SHAPE, 5, tuple("abcde"), (0.4,) * 3, (0.2,) * 3)


def trained_folder(path: Path, sides=SIDES, about=ABOUT, seed=0) -> Path:
    """The folder of a run that has trained some sides, with weights at random."""
    path.mkdir()
    write_description(path, about)
    empty = TrainedModel(path, 0, about, None, None)
    shapes = ((1, *about.image_shape), empty.smashed.shape)
    draw = np.random.default_rng(seed)
    state = {}
    for side, part, shape in zip(SIDES, parts_of(about), shapes, strict=True):
        like = jax.eval_shape(part.init, jax.random.key(0), np.zeros(shape, np.float32))
        # Positive, because a variance is.
        variables = jax.tree.map(
            lambda leaf: draw.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), like
        )
        if side in sides:
            state[side] = {"variables": variables}
    checkpoint.save(path / "checkpoints", 3, state, {})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_folder(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def out(run):
    assert main(["export", str(run), str(run.parent / "out")]) == 0
    return run.parent / "out"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, *SHAPE), dtype=np.uint8)


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from jax import export

def load(name):
    path = Path(sys.argv[1], f"{name}.jaxexport")
    return export.deserialize(bytearray(path.read_bytes()))

images = np.load(sys.argv[2])
joined, client, server = map(load, ("joined", "client", "server"))
assert set(joined.platforms) == {"cpu", "cuda", "rocm", "tpu"}
np.savez(
    sys.argv[3],
    joined=joined.call(images),
    one=joined.call(images[:1]),
    halves=server.call(client.call(images)),
)
assert not [name for name in sys.modules if name.startswith("jsplit")]
"""


def test_a_program_runs_without_jsplit_on_batches_of_any_length(
    run, out, images, tmp_path
):
    np.save(tmp_path / "images.npy", images)
    files = (out, tmp_path / "images.npy", tmp_path / "said.npz")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, files)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    expected = np.asarray(jsplit.load_run(run).logits(images))
    with np.load(tmp_path / "said.npz") as said:
        for name, count in (("joined", 3), ("one", 1), ("halves", 3)):
            np.testing.assert_allclose(said[name], expected[:count], rtol=1e-4)


@pytest.mark.parametrize("part", ["joined", "client", "server"])
def test_every_format_holds_the_same_weights_to_the_bit(run, out, part):
    model = jsplit.load_run(run)
    halves = {side: model.half(side).variables for side in SIDES}
    halves["joined"] = weights.merged(*halves.values())
    expected = weights.named(halves[part])
    restored = ocp.StandardCheckpointer().restore((out / f"{part}.orbax").absolute())
    msgpack = serialization.msgpack_restore((out / f"{part}.msgpack").read_bytes())
    arrays = safetensors.numpy.load_file(out / f"{part}.safetensors")
    for found in (weights.named(restored), weights.named(msgpack), arrays):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    assert "params.conv1.Conv_0.kernel" in arrays or part == "server"


def test_safetensors_say_what_goes_in_and_what_comes_out(out):
    with safetensors.safe_open(out / "client.safetensors", "numpy") as file:
        about = json.loads(file.metadata()["jsplit"])
    assert about["part"] == "client" and about["epochs"] == 3
    assert about["input"] == {"shape": list(SHAPE), "dtype": "uint8"}
    assert about["normalization"]["mean"] == [0.4] * 3
    assert about["class_names"] == list("abcde")
    whole = json.loads((out / "model.json").read_text())
    assert whole.items() <= about.items()


@pytest.mark.parametrize("side", SIDES)
def test_a_folder_of_one_half_exports_that_half(side, tmp_path, capsys):
    run = trained_folder(tmp_path / "run", sides=(side,))
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(f"{side} after epoch 3 in ")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    endings = ("jaxexport", "msgpack", "orbax", "safetensors")
    expected = {f"{side}.{ending}" for ending in endings}
    assert files == {"README.md", "model.json", *expected}
    other = next(name for name in SIDES if name != side)
    assert f"the {other}'s half is not here" in (tmp_path / "out/README.md").read_text()


def test_an_export_that_fails_leaves_nothing(run, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "serialized", full)
    said = refused(capsys, lambda: main(["export", str(run), "out"]))
    assert "out: No space left on device; name another folder" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a RUN and a folder OUT"),
        (("{run}",), "needs a RUN and a folder OUT"),
        (("gone", "out"), "gone holds no run"),
        (("{run}", "full"), "full is there already; name a folder that is not"),
        (("{run}", "file"), "file is there already"),
        (("{run}", "file/out"), "file/out: Not a directory"),
    ],
)
def test_export_refuses_in_one_line_and_writes_nothing(
    run, words, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    for file in ("full/mine", "file"):
        (tmp_path / file).write_text("mine")
    words = [word.format(run=run) for word in words]
    assert said in refused(capsys, lambda: main(["export", *words]))


@pytest.mark.parametrize("kept", ["joined", "client", "server"])
def test_an_export_is_no_run_to_predict_with(out, kept, tmp_path, capsys, monkeypatch):
    """Whole or of one half; the pictures are not spoken of."""
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(out, tmp_path / "export")
    if kept != "joined":
        for path in copy.glob("*.*"):
            if path.name.startswith(tuple({"joined", *SIDES} - {kept})):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = refused(capsys, lambda: main(["predict", str(copy), "wide.png"]))
    assert f"{copy} is what jsplit export made of a run; name the run's" in said
    assert said == refused(capsys, lambda: main(["export", str(copy), "again"]))


@pytest.mark.parametrize("kept", ["joined", "client", "server"])
def test_an_export_is_no_run_to_begin_with_and_its_file_is_named(out, kept, tmp_path):
    copy = shutil.copytree(out, tmp_path / "export")
    for name in {"joined", *SIDES} - {kept} if kept != "joined" else ():
        (copy / f"{name}.safetensors").unlink()
    with pytest.raises(InputError) as refusal:
        read_named(str(copy))
    told = str(refusal.value).split("name the file in it, ")[1].split()
    assert told[:2] == ["--init", f"{copy / kept}.safetensors"]
    assert told[2:] == ([] if kept == "joined" else ["--init-part", kept])
    assert read_named(told[1])
