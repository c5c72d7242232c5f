import itertools
import sys

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from jsplit.analysis import plots, run_plots
from jsplit.core.gate_choice import Style
from jsplit.errors import InputError

PLOTS = [run_plots.accuracy_against_bytes, run_plots.loss_by_epoch]


def records(states, first=1, **columns):
    sent = np.cumsum([{"A": 2, "B": 1, "C": 0}[s] * 2**20 for s in states])
    return [
        {
            "epoch": first + i,
            "epochs": len(states),
            "state": state,
            "train_loss": 2.0 / (i + 1),
            "test_loss": 2.5 / (i + 1),
            "test_accuracy": 1 - 1 / (i + 2),
            "paper_bytes": int(sent[i]),
        }
        | {name: values[i] for name, values in columns.items()}
        for i, state in enumerate(states)
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they were when saved, to look into."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def share_of(path, colour):
    wanted = np.array(matplotlib.colors.to_rgb(colour)) * 255
    return (np.abs(pixels(path) - wanted).max(axis=-1) < 6).mean()


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    "run",
    [
        records("A"),
        records("AAABAABCABC"),
        records("AAAB" * 10 + "C" * 160),
        records("ABCC", first=31),
        records("AB", train_loss=[None, float("nan")], test_loss=[None, None]),
        records("AB", test_accuracy=[None, float("inf")], paper_bytes=[0, 0]),
        records("AAA", train_loss=[1.0, 1e30, float("inf")]),
        [{"epoch": 1}, {"epoch": 2}],
    ],
    ids=["one", "twelve", "200", "resumed", "nan", "zero", "diverged", "bare"],
)
def test_any_run_gives_a_picture_and_nothing_else(tmp_path, plot, run):
    plot(run, tmp_path / "picture.png", title="set, model, seed 0")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    height, width, _ = pixels(tmp_path / "picture.png").shape
    assert width > 900 and height > 600


@pytest.mark.parametrize("plot", PLOTS)
def test_states_are_told_by_colour(tmp_path, plot):
    for states in ("AB", "AABC"):
        plot(records(states), tmp_path / "picture.png", title="")
        for state, (colour, _, _) in run_plots.STATES.items():
            seen = share_of(tmp_path / "picture.png", colour) > 1e-5
            assert seen == (state in states)


def test_each_point_is_at_its_bytes_and_accuracy_with_its_states_marker(
    tmp_path, drawn
):
    run_plots.accuracy_against_bytes(
        records("ABCA", test_accuracy=[0.2, 0.3, None, 0.5]),
        tmp_path / "picture.png",
        title="Fashion-MNIST, VGG11, seed 3",
    )
    (axes,) = drawn[0].axes
    points = {s.get_label()[0]: s.get_offsets().tolist() for s in axes.collections}
    assert points == {"A": [[2, 0.2], [5, 0.5]], "B": [[3, 0.3]]}
    assert axes.get_title() == "Fashion-MNIST, VGG11, seed 3"
    assert len({marker for _, marker, _ in run_plots.STATES.values()}) == 4


@pytest.mark.parametrize(("states", "scale"), [("A" * 12, "linear"), ("A" * 60, "log")])
def test_bytes_are_logarithmic_only_over_a_wide_range(tmp_path, drawn, states, scale):
    run_plots.accuracy_against_bytes(records(states), tmp_path / "p.png", title="")
    assert drawn[0].axes[0].get_xscale() == scale


def test_a_run_and_plain_split_learning_are_drawn_in_one_picture(tmp_path, drawn):
    run_plots.both_against_bytes(
        records("ABC", test_accuracy=[0.2, 0.3, 0.4]),
        records("AAA", paper_bytes=[2**22, 2**23, 2**24], test_accuracy=[0.1, None, 1]),
        tmp_path / "picture.png",
        title="t",
    )
    (axes,) = drawn[0].axes
    plain = next(line for line in axes.lines if "plain" in line.get_label())
    assert plain.get_xdata().tolist() == [4, 8, 16]
    assert plain.get_ydata()[[0, 2]].tolist() == [0.1, 1]
    points = {s.get_label()[0]: s.get_offsets().tolist() for s in axes.collections}
    assert points == {"A": [[2, 0.2]], "B": [[3, 0.3]], "C": [[3, 0.4]]}
    said = drawn[0].legends[0].get_title().get_text()
    assert said == (
        "this run: after epoch 3: 40.0%, 3 MiB\n"
        "plain split learning: after epoch 3: 100.0%, 16 MiB"
    )


def test_losses_that_are_not_finite_leave_a_gap_and_a_cross(tmp_path, drawn):
    run = records("AABC", train_loss=[2.0, None, float("nan"), 1.0])
    run_plots.loss_by_epoch(run, tmp_path / "picture.png", title="t")
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    train = lines["train"].get_ydata()
    assert np.isnan(train).tolist() == [False, True, True, False]
    assert lines["train loss not finite"].get_xdata().tolist() == [2, 3]
    assert np.isfinite(lines["test"].get_ydata()).all()


def test_the_strip_lines_up_with_the_epochs(tmp_path, drawn):
    run_plots.loss_by_epoch(records("AABC", first=5), tmp_path / "p.png", title="t")
    axes, strip = drawn[0].axes
    boxes = [(p.get_x(), p.get_width()) for p in strip.patches]
    assert boxes == [(4.5, 2), (6.5, 1), (7.5, 1)]
    assert [text.get_text() for text in strip.texts] == ["A", "B", "C"]
    assert axes.get_xlim() == strip.get_xlim() == (4.5, 8.5)


@pytest.mark.parametrize("plot", PLOTS)
def test_no_records_are_refused(tmp_path, plot):
    with pytest.raises(InputError, match="no epochs"):
        plot([], tmp_path / "picture.png", title="")


@pytest.mark.parametrize("plot", PLOTS)
def test_a_failed_drawing_leaves_the_old_picture(tmp_path, plot, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def half(_, temporary, **__):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError):
        plot(records("AB"), path, title="")
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    assert path.read_bytes() == b"old"


def test_other_formats_by_suffix(tmp_path):
    run_plots.loss_by_epoch(records("AB"), tmp_path / "picture.svg", title="t")
    assert "<svg" in (tmp_path / "picture.svg").read_text()


def test_pyplot_is_not_touched():
    assert "matplotlib.pyplot" not in sys.modules


def test_a_long_title_is_folded_and_not_cut_off():
    title = "fashion_mnist_10k, resnet18 cut 3 (layer1_1), 10 clients, loss gate, s 0"
    folded = run_plots.folded(title)
    assert folded.replace("\n", " ") == title
    assert max(map(len, folded.split("\n"))) <= 68


# Many runs in one picture


def crowd():
    """Thirty settings of which many coincide, every third over a network."""
    style = Style("#D55E00", "o")
    return [
        plots.Point(
            style,
            number % 3 == 0,
            f"loss, kind {number % 4}",
            f"loss {number}, with other settings",
            0.9 - 0.001 * (number // 5),
            0.001,
            10.0 + number // 10,
            3.0,
            1e7 / (1 + number // 10),
        )
        for number in range(30)
    ]


def draw(points, path, drawn):
    """The figure, laid out for its own resolution again."""
    plots.accuracy_against_savings(points, path, title="t", baseline=0.9, loss=0.005)
    drawn[-1].draw_without_rendering()
    return drawn[-1]


def test_numbers_of_points_that_coincide_do_not_overlap(tmp_path, drawn):
    figure = draw(crowd(), tmp_path / "picture.png", drawn)
    for axes in figure.axes:
        boxes = [Text.get_window_extent(label) for label in axes.texts]
        assert [label.get_text() for label in axes.texts] == [
            str(number) for number in range(1, 31)
        ]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        edges = axes.get_window_extent()
        assert all(edges.fully_containsx(x) for box in boxes for x in (box.x0, box.x1))


def test_a_legend_outside_of_the_axes_says_what_each_number_is(tmp_path, drawn):
    figure = draw(crowd(), tmp_path / "picture.png", drawn)
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[:2] == [f"{n}  loss {n - 1}, with other settings" for n in (1, 2)]
    assert said[30:] == ["plain split learning", "0.5 points below", plots.HOLLOW]
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert figure.bbox.fully_containsx(box.x0)
    assert figure.bbox.fully_containsx(box.x1)


def test_networked_runs_are_hollow_and_simulated_ones_are_not(tmp_path, drawn):
    figure = draw(crowd()[:2], tmp_path / "picture.png", drawn)
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_marker() == "o"]
        hollow = [line.get_markerfacecolor() == "none" for line in lines]
        assert hollow == [True, False]
        assert [line.get_linestyle() for line in lines] == ["--", "-"]
    figure = draw(crowd()[1:3], tmp_path / "picture.png", drawn)
    said = {text.get_text() for text in figure.legends[0].get_texts()}
    assert plots.HOLLOW not in said


def test_bytes_stand_beside_what_the_images_take(tmp_path, drawn):
    anchors = [
        plots.Anchor("images, raw", 3e7, broken=False),
        plots.Anchor("images, losslessly compressed", 1.5e7, broken=True),
    ]
    plots.accuracy_against_bytes(
        crowd()[:4],
        tmp_path / "p.png",
        title="t",
        baseline=0.9,
        loss=0.005,
        anchors=anchors,
    )
    (axes,) = drawn[0].axes
    upright = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
    at = {float(line.get_xdata()[0]): line.get_linestyle() for line in upright}
    assert at[3e7 / 2**20] == "-" and at[1.5e7 / 2**20] == "--"
    said = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert said[-2:] == ["images, raw", "images, losslessly compressed"]
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert "10" in ticks and "20" in ticks and "(MiB)" in axes.get_xlabel()


def test_bytes_from_little_to_much_have_numbers_that_do_not_overlap(tmp_path, drawn):
    sent = (5e7, 3e8, 3e9, 8e10, 6e11)
    points = [
        point._replace(sent=count) for point, count in zip(crowd(), sent, strict=False)
    ]
    path = tmp_path / "p.png"
    plots.accuracy_against_bytes(points, path, title="t", baseline=None, loss=0.005)
    drawn[0].draw_without_rendering()
    (axes,) = drawn[0].axes
    edges = axes.get_window_extent()
    boxes = [Text.get_window_extent(label) for label in axes.get_xticklabels()]
    shown = [box for box in boxes if edges.x0 <= box.x0 + box.width / 2 <= edges.x1]
    assert len(shown) > 3
    for one, other in itertools.combinations(shown, 2):
        assert not one.overlaps(other)


def test_the_legend_of_the_states_covers_no_title(tmp_path, drawn):
    rows = [(f"loss 0.05, seed {seed}", "AAB") for seed in range(3)]
    plots.strips(rows, tmp_path / "p.png", title="cnn cut after 1, 1 client, " * 3)
    drawn[0].draw_without_rendering()
    legend = drawn[0].legends[0].get_window_extent()
    assert not legend.overlaps(drawn[0]._suptitle.get_window_extent())
    assert not legend.overlaps(drawn[0].axes[0].get_tightbbox())


def test_states_have_ticks_at_whole_epochs(tmp_path, drawn):
    plots.strips([("loss", "AAB")], tmp_path / "p.png", title="t")
    assert [n for n in drawn[0].axes[0].get_xticks() if 0.5 < n < 3.5] == [1, 2, 3]


def test_no_accuracy_is_beyond_100_percent_or_below_0(tmp_path, drawn):
    few = [crowd()[0]._replace(accuracy=a, deviation=0.2) for a in (0.0, 1.0)]
    draw(few, tmp_path / "many.png", drawn)
    run = records("AAC", test_accuracy=[0.0, 1.0, 1.0])
    run_plots.accuracy_against_bytes(run, tmp_path / "one.png", title="t")
    for axes in (*drawn[0].axes, *drawn[-1].axes):
        assert axes.get_ylim() == (0.0, 1.0)


def test_no_point_lies_below_the_legend_of_a_run(tmp_path, drawn):
    worse = [0.9 - 0.01 * epoch for epoch in range(40)]
    run = records("AAAB" * 5 + "C" * 20, test_accuracy=worse)
    run_plots.accuracy_against_bytes(run, tmp_path / "p.png", title="t")
    drawn[0].draw_without_rendering()
    (legend,) = drawn[0].legends
    assert not legend.get_window_extent().overlaps(drawn[0].axes[0].get_tightbbox())
    assert "after epoch 40: 51.0%, 35 MiB" in legend.get_title().get_text()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_channels_are_shown_and_none_is_taken_for_opacity(
    drawn, tmp_path, channels
):
    images = np.linspace(0, 1, 2 * 4 * 4 * channels).reshape(2, 4, 4, channels)
    plots.reconstructions([("sent", images)], tmp_path / "shown.png", title="a run")
    (shown,) = drawn[0].axes[1].images
    expected = images[1] if channels == 3 else images[1].mean(axis=-1)
    np.testing.assert_allclose(shown.get_array(), expected)
