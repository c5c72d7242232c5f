"""Images to predict: read, refused with a remedy, and fitted to a model."""

import numpy as np
import pytest
from PIL import Image

from jsplit.data.images import load_images
from jsplit.errors import InputError

COLOUR, GRAY = (4, 4, 3), (4, 4, 1)
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("x", "y"), ("test_images", "test_labels")],
)
def test_an_npz_is_taken_as_it_is_where_it_fits(tmp_path, pixels, images, labels):
    file = saved(tmp_path / "a.npz", **{images: pixels, labels: np.arange(6)})
    loaded = load_images([file], COLOUR, CLASSES)
    np.testing.assert_array_equal(loaded.pixels, pixels)
    np.testing.assert_array_equal(loaded.labels, np.arange(6))
    assert loaded.names[5] == f"{file}[5]"
    expected = [f"{file}: test_images alone are taken"] * (images == "test_images")
    assert list(loaded.notes) == expected


def test_an_npz_of_one_array_needs_no_names(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", pixels)
    loaded = load_images([tmp_path / "a.npz"], COLOUR, CLASSES)
    np.testing.assert_array_equal(loaded.pixels, pixels)
    assert loaded.labels is None


def test_gray_images_are_repeated_for_a_model_of_colour(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels[..., 0])
    loaded = load_images([file], COLOUR, CLASSES)
    np.testing.assert_array_equal(loaded.pixels, np.repeat(pixels[..., :1], 3, -1))
    assert loaded.notes == ("6 of 6 images gray repeated in 3 channels",)


def test_a_stack_of_images_as_narrow_as_a_models_is_no_single_one(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels[:, :, :, :1].reshape(6, 8, 2))
    stack = saved(tmp_path / "b.npz", images=np.zeros((9, 8, 3), np.uint8))
    assert len(load_images([file], (8, 2, 1), CLASSES).pixels) == 6
    assert len(load_images([stack], (8, 3, 1), CLASSES).pixels) == 9
    with pytest.raises(InputError, match="is 9 gray images of 8x3"):
        load_images([stack], (8, 8, 1), CLASSES)


def test_colour_becomes_gray_as_pillow_does_it(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels)
    loaded = load_images([file], GRAY, CLASSES)
    expected = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in pixels])
    difference = loaded.pixels[..., 0].astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert loaded.notes == ("6 of 6 images made gray",)


def test_a_picture_of_other_proportions_gives_its_centre(tmp_path):
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    loaded = load_images([tmp_path / "wide.png"], COLOUR, CLASSES)
    assert np.all(loaded.pixels == 200)
    (note,) = loaded.notes
    assert note == "1 of 1 image cut to the middle and averaged to 4x4"


def test_a_smaller_picture_is_padded_with_black(tmp_path):
    Image.fromarray(np.full((2, 2, 3), 90, np.uint8)).save(tmp_path / "small.png")
    loaded = load_images([tmp_path / "small.png"], COLOUR, CLASSES)
    assert np.all(loaded.pixels[0, 1:3, 1:3] == 90)
    assert loaded.pixels.sum() == 2 * 2 * 3 * 90
    assert loaded.notes == ("1 of 1 image padded with black to 4x4",)


def test_the_rotation_of_a_camera_is_heeded(tmp_path, pixels):
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(pixels[0]).save(tmp_path / "a.png", exif=turned)
    loaded = load_images([tmp_path / "a.png"], COLOUR, CLASSES)
    np.testing.assert_array_equal(loaded.pixels[0], pixels[0, ::-1, ::-1])


def test_a_picture_that_is_padded_alone_is_not_said_to_be_cut(tmp_path):
    for name, size in (("a", (2, 3)), ("b", (2, 6))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    assert load_images([tmp_path], COLOUR, CLASSES).notes == (
        "1 of 2 images padded with black to 4x4",
        "1 of 2 images cut to the middle and padded with black to 4x4",
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("shape", [GRAY, COLOUR])
def test_every_kind_of_picture_of_8_bits_is_taken(tmp_path, pixels, mode, shape):
    ending = "tif" if mode == "CMYK" else "png"
    file = tmp_path / f"a.{ending}"
    Image.fromarray(pixels[0]).convert(mode).save(file)
    assert load_images([file], shape, CLASSES).pixels.shape == (1, *shape)


def in_class_folders(folder, pixels, *names):
    """A picture for each name, such as `ant/0.png`, in a folder."""
    for image, name in zip(pixels, names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def test_folders_called_as_classes_or_their_numbers_say_labels(tmp_path, pixels):
    names = ("fox/a.png", "ant/b.png", "ant/a.PNG", "2/a.png", ".trash/a.png")
    folder = in_class_folders(tmp_path / "in", pixels, *names)
    (folder / "empty").mkdir()
    loaded = load_images([folder], COLOUR, CLASSES)
    assert loaded.names == tuple(
        str(folder / name)
        for name in ("2/a.png", "ant/a.PNG", "ant/b.png", "fox/a.png")
    )
    assert loaded.labels.tolist() == [2, 0, 0, 5]
    np.testing.assert_array_equal(loaded.pixels, pixels[[3, 2, 1, 0]])
    again = load_images([folder / "ant"], COLOUR, CLASSES)
    assert again.labels is None and len(again.names) == 2


def test_hidden_files_in_folders_are_no_pictures(tmp_path, pixels):
    names = "ant/a.png", "bee/b.png"
    folder = in_class_folders(tmp_path / "in", pixels, *names)
    for hidden in ("._c.png", "ant/._a.png", "bee/.b.png"):
        (folder / hidden).write_bytes(b"\0\5\26\7")
    loaded = load_images([folder], COLOUR, CLASSES)
    assert loaded.names == tuple(str(folder / name) for name in names)
    assert loaded.labels.tolist() == [0, 1] and loaded.notes == ()
    alone = load_images([folder / "ant"], COLOUR, CLASSES)
    assert alone.names == (str(folder / "ant/a.png"),)


def test_the_number_of_a_class_is_no_name_where_classes_are_called_by_numbers(
    tmp_path, pixels
):
    folder = in_class_folders(tmp_path / "in", pixels, "7/a.png")
    assert load_images([folder], COLOUR, ("3", "7")).labels.tolist() == [1]
    in_class_folders(folder, pixels, "1/a.png")
    with pytest.raises(InputError, match=r"a folder '1', .* no such class \(3, 7\)"):
        load_images([folder], COLOUR, ("3", "7"))


def test_where_classes_have_no_names_it_is_said_how_to_give_them(tmp_path, pixels):
    folder = in_class_folders(tmp_path / "in", pixels, "cat/a.png")
    with pytest.raises(InputError) as refusal:
        load_images([folder], COLOUR, ("0", "1", "2"), named=False)
    said = str(refusal.value)
    assert f"{folder} holds a folder 'cat', and the model knows its classes by" in said
    assert "by numbers alone (0, 1, 2), as in a server's folder; write class_na" in said
    (folder / "cat").rename(folder / "2")
    labels = load_images([folder], COLOUR, ("0", "1", "2"), named=False).labels
    assert labels.tolist() == [2]


def test_a_folder_of_pictures_leaves_folders_in_it_out_and_says_so(tmp_path, pixels):
    folder = in_class_folders(tmp_path / "in", pixels, "a.png", "old/b.png")
    loaded = load_images([folder], COLOUR, CLASSES)
    assert loaded.names == (str(folder / "a.png"),) and loaded.labels is None
    assert loaded.notes == (f"{folder}: its folders, old, are left out",)


def test_folders_that_say_no_labels_are_refused_with_what_to_pass(tmp_path, pixels):
    folder = in_class_folders(tmp_path / "in", pixels, "ant/a.png", "cats/a.png")
    with pytest.raises(InputError) as refusal:
        load_images([folder], COLOUR, CLASSES)
    assert str(refusal.value) == (
        f"{folder} holds a folder 'cats', and the model has no such class (ant, bee, "
        f"cat, dog, eel, fox); call the folders of {folder} as the classes are, or "
        f"name the pictures instead ({folder}/*/*)"
    )
    (folder / "cats").rename(folder / "cat")
    with pytest.raises(InputError, match="some pictures lie in folders of classes"):
        load_images([folder, folder / "cat"], COLOUR, CLASSES)


def _write(path, name, pixels):
    if name == "text.png":
        path.write_text("no picture")
    elif name == "torn.png":
        Image.fromarray(pixels[0].repeat(50, 0)).save(path)
        path.write_bytes(path.read_bytes()[:90])
    elif name == "deep.png":
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path)
    elif name == "empty":
        path.mkdir()
    elif name == "text.npz":
        path.write_text("no archive")
    elif name == "floats.npz":
        np.savez(path, images=pixels / 255)
    elif name == "none.npz":
        np.savez(path, images=np.zeros((0, 4, 4, 3), np.uint8))
    elif name == "high.npz":
        np.savez(path, images=pixels, labels=np.arange(6) + 1)
    elif name == "flat.npz":
        np.savez(path, images=pixels[:, 0, 0])
    elif name == "first.npz":
        np.savez(path, images=pixels.transpose(0, 3, 1, 2))
    elif name == "other.npz":
        np.savez(path, a=pixels, b=pixels)
    elif name == "short.npz":
        np.savez(path, images=pixels, labels=np.arange(5))
    elif name == "real.npz":
        np.savez(path, images=pixels, labels=np.arange(6.0))
    elif name == "objects.npz":
        np.savez(path, images=pixels, labels=np.array([*range(5), None]))
    elif name == "two.npz":
        np.savez(path, images=pixels, x_test=pixels)
    elif name == "one.npz":
        np.savez(path, images=pixels.repeat(4, 1).repeat(4, 2)[0])
    elif name == "negative.npz":
        np.savez(path, images=pixels, labels=np.arange(6) - 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text.png", "it is no picture that Pillow reads; name pictures"),
        ("torn.png", "; name pictures or one .npz|save the picture anew"),
        ("deep.png", "mode 'I;16'; save it with 8 bits a channel"),
        ("empty", "a folder with no pictures"),
        ("gone.png", "No such file or directory"),
        ("text.npz", "it is no .npz archive of numpy; write it with numpy.savez"),
        ("floats.npz", r"images is float64 \[6, 4, 4, 3\]; give uint8"),
        ("none.npz", "images holds no images; give at least one"),
        ("high.npz", r"labels\[5\] is 6, and .* 0 to 5; give the .*, or no labels, wh"),
        ("flat.npz", r"images is uint8 \[6, 3\]; give uint8"),
        ("first.npz", r"4 channels; put the channels last, 1 or 3 of them"),
        ("other.npz", "holds a, b; call its images `images`"),
        ("short.npz", r"labels is int64 \[5\]; give an integer an image, \[6\]"),
        ("real.npz", r"labels is float64 \[6\]"),
        ("objects.npz", r"labels holds Python objects .* by labels.astype\(int\)"),
        ("two.npz", r"holds images and x_test, .*; leave but one of them in it"),
        (
            "one.npz",
            r"looks like one image; give \[1, 16, 16, 3\], or \[16, 16, 3, 1\]",
        ),
        ("negative.npz", r"labels\[0\] is -1, and the model knows the classes 0 to 5"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, pixels, name, said):
    path = tmp_path / name
    _write(path, name, pixels)
    with pytest.raises(InputError, match=said) as refusal:
        load_images([path], COLOUR, CLASSES)
    assert str(path) in str(refusal.value)


def test_one_image_with_its_channels_first_is_not_read_as_three_gray_ones(
    tmp_path, pixels
):
    gray = pixels.repeat(4, 1).repeat(4, 2)[:3, ..., 0]
    alone = saved(tmp_path / "alone.npz", images=gray)
    with pytest.raises(InputError, match=r"channels first; give \[1, 16, 16, 3\], or"):
        load_images([alone], COLOUR, CLASSES)
    # Three labels say that there are three, and a gray model has no such images.
    labelled = saved(tmp_path / "three.npz", images=gray, labels=np.arange(3))
    assert len(load_images([labelled], COLOUR, CLASSES).pixels) == 3
    assert len(load_images([alone], (16, 16, 1), CLASSES).pixels) == 3
    two = saved(tmp_path / "two.npz", images=gray[:2])
    assert len(load_images([two], COLOUR, CLASSES).pixels) == 2


def test_an_npz_stands_alone(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels)
    with pytest.raises(InputError, match="stands beside other files"):
        load_images([file, tmp_path / "b.png"], COLOUR, CLASSES)
