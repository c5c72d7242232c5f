"""Images to predict: read, refused with a remedy, and fitted to a model."""

import numpy as np
import pytest
from PIL import Image

from jsplit.data.images import load_images
from jsplit.errors import InputError

COLOUR, GRAY = (4, 4, 3), (4, 4, 1)


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
    loaded = load_images([file], COLOUR, 6)
    np.testing.assert_array_equal(loaded.pixels, pixels)
    np.testing.assert_array_equal(loaded.labels, np.arange(6))
    assert loaded.names[5] == f"{file}[5]"
    expected = [f"{file}: test_images alone are taken"] * (images == "test_images")
    assert list(loaded.notes) == expected


def test_an_npz_of_one_array_needs_no_names(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", pixels)
    loaded = load_images([tmp_path / "a.npz"], COLOUR, 6)
    np.testing.assert_array_equal(loaded.pixels, pixels)
    assert loaded.labels is None


def test_gray_images_are_repeated_for_a_model_of_colour(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels[..., 0])
    loaded = load_images([file], COLOUR, 6)
    np.testing.assert_array_equal(loaded.pixels, np.repeat(pixels[..., :1], 3, -1))
    assert loaded.notes == ("6 of 6 images gray repeated in 3 channels",)


def test_colour_becomes_gray_as_pillow_does_it(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels)
    loaded = load_images([file], GRAY, 6)
    expected = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in pixels])
    difference = loaded.pixels[..., 0].astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert loaded.notes == ("6 of 6 images made gray",)


def test_a_picture_of_other_proportions_gives_its_centre(tmp_path):
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    loaded = load_images([tmp_path / "wide.png"], COLOUR, 6)
    assert np.all(loaded.pixels == 200)
    (note,) = loaded.notes
    assert note == (
        "1 of 1 image averaged to 4x4 from the largest centred part of these "
        "proportions"
    )


def test_a_smaller_picture_is_padded_with_black(tmp_path):
    Image.fromarray(np.full((2, 2, 3), 90, np.uint8)).save(tmp_path / "small.png")
    loaded = load_images([tmp_path / "small.png"], COLOUR, 6)
    assert np.all(loaded.pixels[0, 1:3, 1:3] == 90)
    assert loaded.pixels.sum() == 2 * 2 * 3 * 90
    assert loaded.notes == ("1 of 1 image padded with black to 4x4",)


def test_the_rotation_of_a_camera_is_heeded(tmp_path, pixels):
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(pixels[0]).save(tmp_path / "a.png", exif=turned)
    loaded = load_images([tmp_path / "a.png"], COLOUR, 6)
    np.testing.assert_array_equal(loaded.pixels[0], pixels[0, ::-1, ::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("shape", [GRAY, COLOUR])
def test_every_kind_of_picture_of_8_bits_is_taken(tmp_path, pixels, mode, shape):
    ending = "tif" if mode == "CMYK" else "png"
    file = tmp_path / f"a.{ending}"
    Image.fromarray(pixels[0]).convert(mode).save(file)
    assert load_images([file], shape, 6).pixels.shape == (1, *shape)


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
        ("text.npz", "is no .npz of plain arrays .* write it with numpy.savez"),
        ("floats.npz", r"images is float64 \[6, 4, 4, 3\]; give uint8"),
        ("flat.npz", r"images is uint8 \[6, 3\]; give uint8"),
        ("first.npz", r"4 channels; put the channels last, 1 or 3 of them"),
        ("other.npz", "holds a, b; call its images `images`"),
        ("short.npz", r"labels is int64 \[5\]; give an integer an image, \[6\]"),
        ("real.npz", r"labels is float64 \[6\]"),
        ("negative.npz", "labels holds -1, and the model knows the classes 0 to 5"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, pixels, name, said):
    path = tmp_path / name
    _write(path, name, pixels)
    with pytest.raises(InputError, match=said) as refusal:
        load_images([path], COLOUR, 6)
    assert str(path) in str(refusal.value)


def test_an_npz_stands_alone(tmp_path, pixels):
    file = saved(tmp_path / "a.npz", images=pixels)
    with pytest.raises(InputError, match="stands beside other files"):
        load_images([file, tmp_path / "b.png"], COLOUR, 6)
