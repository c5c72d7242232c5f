"""What a run has trained is there to be used: `load_run`, `jsplit predict`."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jsplit
from jsplit.cli.main import main
from jsplit.errors import InputError
from jsplit.experiment import checkpoint
from jsplit.experiment.build import load_dataset
from jsplit.experiment.halves import variables_in
from jsplit.experiment.workdir import read_workdir
from tests.runs import TINY, compile_once, refused, run_here

EPOCHS = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    path = tmp_path_factory.mktemp("trained") / "run"
    with compile_once(tmp_path_factory.getbasetemp()):
        assert run_here(*TINY, "--epochs", EPOCHS, "--workdir", path) == 0
    return path


@pytest.fixture(scope="module")
def model(run):
    return jsplit.load_run(run)


@pytest.fixture(scope="module")
def dataset(run):
    return load_dataset(read_workdir(run)[1], print)


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def predicted(capsys, *words):
    """What `jsplit predict` says: the predictions, and the remarks about them."""
    assert main(["predict", *map(str, words)]) == 0
    return capsys.readouterr()


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


# The model


def test_a_loaded_run_scores_to_the_digit_as_the_run_did(run, model, dataset):
    summary = json.loads((run / "summary.json").read_text())
    said = model.predict(dataset.test_images, coded=True)
    assert np.mean(said.labels == dataset.test_labels) == summary["test_accuracy"]
    assert model.epochs == EPOCHS


def test_a_loaded_run_says_what_goes_in_and_what_comes_out(model, dataset):
    about = model.description
    assert (about.image_shape, about.num_classes) == ((8, 8, 1), 10)
    assert (about.mean, about.deviation) == jsplit_moments(dataset)
    assert model.class_names == dataset.class_names
    assert about.names[9] == "ankle boot"
    assert about.config.model == "cnn"


def jsplit_moments(dataset):
    pixels = dataset.train_images.astype(np.float64) / 255
    return (
        (pytest.approx(pixels.mean(), rel=1e-6),),
        (pytest.approx(pixels.std(), rel=1e-6),),
    )


def test_a_prediction_depends_on_its_own_image_alone(model, dataset):
    images = dataset.test_images
    together, alone = model.predict(images), model.predict(images[7:8])
    np.testing.assert_allclose(
        together.probabilities[7:8], alone.probabilities, rtol=1e-5
    )
    assert together.labels.shape == (100,)
    np.testing.assert_allclose(together.probabilities.sum(axis=1), 1, rtol=1e-5)
    grayscale = model.predict(images[..., 0])
    np.testing.assert_array_equal(grayscale.probabilities, together.probabilities)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 9, 8, 1), np.uint8), r"uint8 \[2, 9, 8, 1\]; .* \[n, 8, 8, 1\]"),
        (np.zeros((2, 8, 8, 1), np.float32), r"float32 \[2, 8, 8, 1\]"),
        (np.zeros((0, 8, 8, 1), np.uint8), "no images"),
    ],
)
def test_images_that_do_not_fit_are_refused(model, images, said):
    with pytest.raises(InputError, match=said):
        model.predict(images)


@pytest.mark.parametrize("names", [None, list("abcdefghij")])
def test_names_of_classes_in_a_description_are_those_that_are_used(copy, names):
    about = json.loads((copy / "model.json").read_text()) | {"class_names": names}
    (copy / "model.json").write_text(json.dumps(about))
    found = jsplit.load_run(copy).description.names
    assert list(found) == (names or [str(label) for label in range(10)])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*"abcdefghi", ""], r"class_names\[9\] is '', .*; give each class a name"),
        ([*"abcdefghi", 9], r"class_names\[9\] is 9, .*; give each class a name"),
        ([*"abcdefghi", "a"], "class_names are a, b, .*; give each class its own"),
        ("abcdefghij", "class_names 'abcdefghij', which is no list"),
    ],
)
def test_names_of_classes_in_a_description_are_names(copy, names, said):
    about = json.loads((copy / "model.json").read_text()) | {"class_names": names}
    (copy / "model.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=f"model.json.*{said}"):
        jsplit.load_run(copy)


def test_a_run_of_an_earlier_version_is_described_by_its_data_again(model, copy):
    (copy / "model.json").unlink()
    said = []
    again = jsplit.load_run(copy, said.append)
    assert again.description == model.description
    assert "no model.json; reading its data again" in said[0]
    assert not (copy / "model.json").exists()


def test_a_run_of_an_earlier_version_on_data_that_is_gone_is_refused_by_name(copy):
    (copy / "model.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    config["dataset"]["fingerprint"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"{copy} was made before .* on other data"):
        jsplit.load_run(copy)
    config["dataset"] = {"source": "held by the clients"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="its clients hold the data; train it again"):
        jsplit.load_run(copy)
    config["dataset"] = {"source": "gone.npz", "fingerprint": "0" * 64}
    config["config"]["dataset"] = str(copy / "gone.npz")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"{copy} was made before .*gone.npz"):
        jsplit.load_run(copy)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": "jsplit-model-9"}', '["format"]', "too few names"]
)
def test_a_damaged_description_is_refused_with_the_remedy(copy, text):
    if text == "too few names":
        about = json.loads((copy / "model.json").read_text())
        text = json.dumps(about | {"class_names": ["one"]})
    (copy / "model.json").write_text(text)
    with pytest.raises(InputError, match="model.json is no description .* delete it"):
        jsplit.load_run(copy)


def test_a_folder_without_a_run_or_without_a_checkpoint_is_refused(copy, tmp_path):
    with pytest.raises(InputError, match="holds no run; name the folder of one"):
        jsplit.load_run(tmp_path)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(InputError, match="holds nothing trained yet"):
        jsplit.load_run(copy)


def test_a_half_that_is_not_there_is_refused_by_name(copy, run, dataset):
    arrays = checkpoint.read_arrays(run / "checkpoints", EPOCHS)
    server = {
        name: array
        for name, array in arrays.items()
        if name.startswith("['server'].variables")
    }
    kept = {"server": {"variables": variables_in(server, "server")}}
    shutil.rmtree(copy / "checkpoints")
    checkpoint.save(copy / "checkpoints", EPOCHS, kept, {})
    half = jsplit.load_run(copy)
    assert half.client is None and half.server is not None
    with pytest.raises(InputError, match="holds the server's half alone; the client's"):
        half.predict(dataset.test_images)


# jsplit predict


def test_predict_says_of_labelled_images_how_many_are_right(
    run, model, dataset, capsys, tmp_path
):
    file = tmp_path / "some.npz"
    labels = dataset.test_labels[:20]
    np.savez(file, images=dataset.test_images[:20], labels=labels)
    shown = predicted(capsys, run, file)
    rows, expected = rows_of(shown.out), model.predict(dataset.test_images[:20])
    assert [int(row["label"]) for row in rows] == expected.labels.tolist()
    assert [int(row["true_label"]) for row in rows] == labels.tolist()
    right = int(np.sum(expected.labels == labels))
    assert shown.err == f"accuracy {right / 20:.2%}: {right} of 20 images\n"
    assert rows[3]["image"] == f"{file}[3]"
    assert rows[3]["class"] == model.class_names[expected.labels[3]]
    given = [float(rows[3][f"p_{name}"]) for name in model.class_names]
    np.testing.assert_allclose(given, expected.probabilities[3], rtol=1e-5)
    assert float(rows[3]["probability"]) == max(given)


def test_predict_writes_json_to_a_file_that_ends_so_of_folders_named_by_classes(
    run, model, dataset, capsys, tmp_path
):
    folder, out = tmp_path / "in", tmp_path / "said.json"
    for number, label in enumerate(dataset.test_labels[:5]):
        # No folder can have the name of "t-shirt/top", so that its number is taken.
        name = model.class_names[label].replace("t-shirt/top", "0")
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(dataset.test_images[number, ..., 0])
        picture.save(folder / name / f"{number}.png")
    shown = predicted(capsys, run, folder, "--out", out)
    said = json.loads(out.read_text())
    assert shown.out == "" and f"5 predictions in {out}" in shown.err
    rows = said["predictions"]
    numbers = [int(row["image"][-len("0.png")]) for row in rows]
    labels = dataset.test_labels[numbers].tolist()
    assert [row["true_label"] for row in rows] == labels and len(labels) == 5
    right = [row["label"] == row["true_label"] for row in rows]
    assert said["accuracy"] == sum(right) / 5
    assert f"accuracy {sum(right) / 5:.2%}: {sum(right)} of 5 images" in shown.err
    assert all(row["class"] == said["class_names"][row["label"]] for row in rows)
    assert all(len(row["probabilities"]) == 10 for row in rows)


def test_pictures_of_any_size_and_colour_are_fitted_and_that_is_said(
    run, model, dataset, capsys, tmp_path
):
    image = dataset.test_images[0]
    Image.fromarray(image[..., 0]).save(tmp_path / "a_same.png")
    Image.fromarray(image[..., 0].repeat(3, 0).repeat(3, 1)).save(tmp_path / "b.png")
    Image.fromarray(np.repeat(image, 3, axis=-1)).save(tmp_path / "c_colour.png")
    (tmp_path / "notes.txt").write_text("no picture")
    shown = predicted(capsys, run, tmp_path)
    rows, expected = rows_of(shown.out), model.predict(image[None])
    # Averaging what was repeated, and the gray of equal channels, give it back.
    for row in rows:
        assert float(row["probability"]) == pytest.approx(
            expected.probabilities.max(), rel=1e-5
        )
    names = [str(tmp_path / name) for name in ("a_same.png", "b.png", "c_colour.png")]
    assert [row["image"] for row in rows] == names
    assert shown.err.splitlines() == [
        "1 of 3 images averaged to 8x8",
        "1 of 3 images made gray",
    ]
    assert "true_label" not in rows[0]


def test_an_unfinished_run_predicts_and_says_so(copy, dataset, capsys, tmp_path):
    description = json.loads((copy / "model.json").read_text())
    description["config"]["epochs"] = 99
    (copy / "model.json").write_text(json.dumps(description))
    np.savez(tmp_path / "some.npz", images=dataset.test_images[:5])
    shown = predicted(capsys, copy, tmp_path / "some.npz")
    assert shown.err == f"{copy} is not finished: epoch {EPOCHS} of 99\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a RUN and IMAGES"),
        (("{run}",), "needs a RUN and IMAGES"),
        (("{run}", "gone.png"), "gone.png: No such file"),
        (("gone", "some.npz"), "gone holds no run"),
        (("{run}", "one.npz"), "which looks like one image; give [1, 16, 16, 3], or"),
        (("{run}", "some.npz", "--format", "xml"), "'xml' is unknown; choose csv, js"),
        (("{run}", "some.npz", "--out", "no/such"), "--out no/such is no file in a"),
        (("{run}", "some.npz", "--out", "o" * 300), f"--out {'o' * 300}: File name"),
        (
            ("{run}", "labels.npz"),
            "labels[1] is 10, and the model knows the classes 0 to",
        ),
    ],
)
def test_predict_refuses_in_one_line_and_writes_nothing(
    run, words, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez("some.npz", images=images)
    np.savez("one.npz", images=np.zeros((16, 16, 3), np.uint8))
    np.savez("labels.npz", images=images, labels=np.array([3, 10]))
    words = [word.format(run=run) for word in words]
    assert said in refused(capsys, lambda: main(["predict", *words]))
