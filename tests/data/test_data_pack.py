"""`jsplit pack`: folders of pictures become a data set that trains and is predicted."""

import numpy as np
import pytest
from PIL import Image

from jsplit.cli.main import main
from jsplit.data import load
from jsplit.data.images import load_images
from tests.runs import refused


def draw(path, red, size=(12, 9), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, red if mode == "L" else (red, 20, 30)).save(path)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ten dogs and five cats in colour, each of one shade of its own."""
    monkeypatch.chdir(tmp_path)
    for number in range(15):
        name = "cat" if number < 5 else "dog"
        draw(tmp_path / f"photos/{name}/p{number // 2}_{number}.png", 10 * number)
    (tmp_path / "photos/cat/.hidden.png").write_bytes(b"none")
    (tmp_path / "photos/notes.txt").write_text("not of a class")
    return tmp_path / "photos"


def pack(*words):
    return main(["pack", *map(str, words)])


def known_by(images):
    """Which of the pictures they are, by their shade."""
    return sorted((images[:, 0, 0, 0] // 10).tolist())


def test_folders_of_pictures_become_a_data_set_that_loads(photos, capsys):
    assert pack("photos", "mine.npz", "--image-size", 8) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "12 training images and 3 test images of 8x8x3, 2 classes\n"
        "  0 cat: 4 and 1\n"
        "  1 dog: 8 and 2\n"
        "all of it is in mine.npz; train on it by jsplit run --dataset mine.npz\n"
    )
    assert shown.err == "15 of 15 images cut to the middle and averaged to 8x8\n"
    made = load("mine.npz")
    assert made.class_names == ("cat", "dog") and made.num_classes == 2
    assert made.train_images.shape == (12, 8, 8, 3)
    both = [*known_by(made.train_images), *known_by(made.test_images)]
    assert sorted(both) == list(range(15))
    for images, labels in (
        (made.train_images, made.train_labels),
        (made.test_images, made.test_labels),
    ):
        np.testing.assert_array_equal(labels, images[:, 0, 0, 0] // 10 >= 5)


def test_images_are_those_that_are_predicted_later(photos):
    """What a model learned from a picture is what it sees of it."""
    draw(photos / "cat/wide.png", 250, (40, 16))
    draw(photos / "cat/tiny.png", 240, (3, 3))
    pack("photos", "mine.npz", "--image-size", 8)
    made = load("mine.npz")
    later = load_images([photos], (8, 8, 3), ("cat", "dog")).pixels
    held = np.concatenate([made.train_images, made.test_images])
    assert sorted(held.reshape(len(held), -1).tolist()) == sorted(
        later.reshape(len(later), -1).tolist()
    )


def test_the_same_words_make_the_same_file_and_another_seed_another_test(photos):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pack("photos", f"{name}.npz", "--seed", seed)
    a, b, c = (load(f"{name}.npz") for name in "abc")
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_pictures_of_one_group_are_not_on_both_sides(photos):
    pack("photos", "mine.npz", "--image-size", 8, *("--group-until", "_"))
    made = load("mine.npz")
    train, test = (
        {number // 2 for number in known_by(images)}
        for images in (made.train_images, made.test_images)
    )
    assert train and test and not train & test


def test_a_folder_of_test_pictures_is_taken_whole(photos):
    draw(photos.parent / "later/dog/1.png", 200)
    pack("photos", "mine.npz", "--image-size", 8, "--test", "later")
    made = load("mine.npz")
    assert known_by(made.train_images) == list(range(15))
    assert known_by(made.test_images) == [20] and made.test_labels.tolist() == [1]


def test_a_client_names_all_classes_of_the_run_in_its_order(photos):
    pack("photos", "mine.npz", "--classes", "dog", "eel", "cat")
    made = load("mine.npz")
    assert made.class_names == ("dog", "eel", "cat") and made.num_classes == 3
    assert set(made.train_labels.tolist()) == {0, 2}


def test_gray_pictures_have_one_channel_unless_one_is_in_colour(photos):
    for number in range(4):
        draw(photos.parent / f"gray/{'ab'[number % 2]}/{number}.png", 9, mode="L")
    pack("gray", "gray.npz")
    assert load("gray.npz").image_shape == (32, 32, 1)
    pack("gray", "colour.npz", "--channels", 3)
    assert load("colour.npz").image_shape == (32, 32, 3)
    draw(photos / "cat/gray.png", 9, mode="L")
    pack("photos", "mixed.npz")
    assert load("mixed.npz").image_shape == (32, 32, 3)
    pack("photos", "all-gray.npz", "--channels", 1)
    assert load("all-gray.npz").image_shape == (32, 32, 1)


def test_a_test_image_that_is_also_trained_on_is_said(photos, capsys):
    draw(photos.parent / "later/dog/copy.png", 140)
    pack("photos", "mine.npz", "--test", "later")
    said = capsys.readouterr().err
    assert "1 of 1 test images are also trained on, such as later/dog/copy.png" in said
    assert "which is photos/dog/p7_14.png" in said


def test_what_cannot_be_read_is_refused_by_name_or_left_out_if_asked(photos, capsys):
    (photos / "cat/torn.png").write_bytes(b"\x89PNG torn")
    said = refused(capsys, lambda: pack("photos", "mine.npz"))
    assert "photos/cat/torn.png" in said and "--skip-unreadable" in said
    assert pack("photos", "mine.npz", "--skip-unreadable") == 0
    shown = capsys.readouterr()
    assert "left out: photos/cat/torn.png" in shown.err
    assert len(load("mine.npz").train_labels) == 12


REFUSED = {
    (): "needs a FOLDER and a file OUT",
    ("photos",): "needs a FOLDER and a file OUT",
    ("nowhere", "a.npz"): "nowhere is no folder",
    ("photos/cat", "a.npz"): "no folder in photos/cat holds pictures",
    ("photos", "a.zip"): "OUT a.zip does not end in .npz",
    ("photos", "nowhere/a.npz"): "OUT nowhere/a.npz is in no folder that exists",
    ("photos", "taken.npz"): "OUT taken.npz exists",
    ("photos", "a.npz", "--classes", "cat", "eel"): "holds a folder 'dog', which is "
    "none of the classes (cat, eel)",
    ("photos", "a.npz", "--classes", "cat", "cat"): "names a class twice",
    ("photos", "a.npz", "--classes", "cat", "dog", ""): "'' cannot be the name of",
    ("photos", "a.npz", "--channels", "2"): "--channels is 2",
    ("photos", "a.npz", "--test-share", "1"): "--test-share must be less than 1, got 1",
    ("photos", "a.npz", "--image-size", "3"): "--image-size must be at least 4, got 3",
    ("photos", "a.npz", "--test", "photos", "--test-share", "0.5"): "say two things",
    ("one", "a.npz"): "pictures of one class alone (cat)",
    ("splits", "a.npz"): "name splits/train --test splits/test",
    ("few", "a.npz"): "few leaves no picture to test with",
    ("deep", "a.npz"): "deep/fox/anna/x/1.png lies deeper than deep/fox, so that it",
    ("loose", "a.npz"): "loose/1.png lies in no folder of a class",
    ("photos", "a.npz", "--group-until", ""): "--group-until is empty",
    ("photos", "a.npz", "--group-until", "-"): "has no '-' (--group-until)",
    ("photos", "a.npz", "--group-until", "_", "--test", "one"): "leave one of them out",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_makes_no_data_set_is_refused_with_a_remedy(words, photos, capsys):
    folder = photos.parent
    draw(folder / "one/cat/1.png", 0)
    draw(folder / "few/cat/1.png", 0)
    draw(folder / "few/dog/1.png", 0)
    draw(folder / "splits/train/cat/1.png", 0)
    draw(folder / "splits/test/cat/1.png", 0)
    for path in ("deep/cat/1", "deep/dog/1", "deep/fox/anna/x/1"):
        draw(folder / f"{path}.png", 0)
    for path in ("loose/cat/1", "loose/dog/1", "loose/1"):
        draw(folder / f"{path}.png", 0)
    (folder / "taken.npz").write_bytes(b"")
    assert REFUSED[words] in refused(capsys, lambda: pack(*words))
