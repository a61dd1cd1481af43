"""What figures of laws show is what the laws say, and all of it can be read."""

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_fits import MANY, WHATS, example, small, with_laws, without_samples
from matplotlib.colors import to_hex
from matplotlib.text import Text

from monosem.scaling.fits import Fits
from monosem.scaling.law_axes import EndLabel, label_ends, log_ticks, new_figure, ramp, side_by_side, tick_labels
from monosem.scaling.law_figures import draw_fits, law_figures
from monosem.scaling.selection import curve_of

FEW_AND_MANY = [(what, size) for what in ("compute", "latents", "downstream") for size in ("one", "many")]


@cache
def figure_of(what: str, size: str = "some") -> Any:
    return law_figures(*example(what, size))[what]


def texts(figure: Any) -> list[Text]:
    """All words that are drawn: ticks beyond the axes' limits are not."""
    figure.draw_without_rendering()
    hidden: set[Text] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not (axis.axes.axison and low <= tick.get_loc() <= high):
                hidden |= {tick.label1, tick.label2}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text not in hidden]


def lines(axes: Any, **look: Any) -> list[Any]:
    found = axes.get_lines()
    return [line for line in found if all(getattr(line, f"get_{name}")() == is_ for name, is_ in look.items())]


def drawn(axes: Any, marker: str) -> np.ndarray:
    """All points of a mark that are data and no legend's."""
    return np.concatenate([line.get_xydata() for line in lines(axes, marker=marker) if len(line.get_xdata())])


@pytest.mark.parametrize("what", WHATS)
def test_png_and_svg_are_written_and_the_svg_is_the_same_file_again(what: str, tmp_path: Path) -> None:
    fits, rows = example(what)
    names = [what, "joint-extrapolation"] if what == "joint" else [what]
    paths = draw_fits(fits, rows, tmp_path)
    assert paths == [tmp_path / f"{name}{suffix}" for name in names for suffix in (".png", ".svg")]
    first = {path: path.read_bytes() for path in paths}
    draw_fits(fits, rows, tmp_path)
    for path, content in first.items():
        assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml"}[path.suffix]) and len(content) > 10_000
        assert path.suffix == ".png" or path.read_bytes() == content


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_fits(*example("tokens"), tmp_path)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(("what", "size"), [*((what, "some") for what in WHATS), *FEW_AND_MANY])
def test_all_words_stand_on_the_canvas_and_none_on_another(what: str, size: str) -> None:
    for figure in law_figures(*example(what, size)).values():
        boxes = {text: Text.get_window_extent(text) for text in texts(figure)}
        canvas = figure.bbox
        for text, box in boxes.items():
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.width + 1 and box.y1 <= canvas.height + 1
            assert inside, (text.get_text(), box)
        level = {text: box for text, box in boxes.items() if text.get_rotation() == 0}
        for (one, a), (other, b) in itertools.combinations(level.items(), 2):
            overlaps = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
            assert not overlaps, (one.get_text(), other.get_text())


@pytest.mark.parametrize("what", WHATS)
def test_a_few_runs_without_an_extrapolation_are_drawn(what: str) -> None:
    fits, rows = small(what)
    figures = law_figures(with_laws(fits), rows)
    assert list(figures) == [what] and len(texts(figures[what])) > 4


@pytest.mark.parametrize("what", WHATS)
def test_a_law_without_samples_has_no_band(what: str) -> None:
    def bands(fits: Fits) -> int:
        figure = law_figures(fits, rows)[what]
        figure.draw_without_rendering()
        return sum(len(axes.findobj(lambda artist: "FillBetween" in type(artist).__name__)) for axes in figure.axes)

    fits, rows = example(what)
    assert bands(fits) == (0 if what == "joint" else len(fits.laws))
    assert bands(without_samples(fits)) == 0


def test_compute_shows_every_runs_curve_and_the_frontier_in_a_panel_for_each_k() -> None:
    fits, rows = example("compute")
    figure = figure_of("compute")
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == ["k = 2", "k = 4", "k = 8"]
    for axes, k, fitted in zip(panels, (2, 4, 8), fits.laws.values(), strict=True):
        runs = [row for row in rows if row["k"] == k]
        curves = [line for line in axes.get_lines() if line.get_alpha() == 0.55]
        assert len(curves) == len(runs) == 12
        colors = ramp([row["n_latents"] for row in rows])
        for line, run in zip(curves, runs, strict=True):
            curve = curve_of(run)
            assert curve is not None and line.get_color() == colors[run["n_latents"]]
            np.testing.assert_array_equal(line.get_xydata(), np.stack([curve.compute, curve.loss], axis=1))
        assert drawn(axes, ".").tolist() == list(map(list, zip(fitted.points["x"], fitted.points["y"], strict=True)))
        held_out = fitted.extrapolation
        assert held_out is not None and drawn(axes, "s")[:, 1].tolist() == held_out.measured.tolist()
        (law,) = lines(axes, label="L(C), 95%")
        assert law.get_ydata() == pytest.approx(fitted.determined.predict(law.get_xdata()).value)
        (smaller,) = lines(axes, label="law of smaller n")
        assert smaller.get_ydata() == pytest.approx(held_out.law.predict(smaller.get_xdata()).value)
        low, high = axes.get_ylim()
        assert low < min(fitted.points["y"]) and max(fitted.points["y"]) < high


def test_the_irreducible_loss_is_drawn_where_it_is_determined() -> None:
    fits, rows = example("compute", "one")
    best = np.array([1.0, -0.2, math.log(0.3)])
    determined = with_laws(fits, best=lambda _: best, undetermined=lambda _: {})
    unknown = with_laws(fits, best=lambda _: best, undetermined=lambda _: {"irreducible": "anything"})
    shown = [lines(law_figures(each, rows)["compute"].axes[0], label="irreducible") for each in (determined, unknown)]
    assert [line.get_ydata() for line in shown[0]] == [pytest.approx([0.3, 0.3])] and not shown[1]


def test_rates_show_every_run_the_optima_and_the_papers_slope_through_their_middle() -> None:
    fits, rows = example("learning-rate")
    axes = figure_of("learning-rate").axes
    assert len(axes) == 6
    pairs = zip(axes[::2], axes[1::2], strict=True)
    for (left, right), k, fitted in zip(pairs, (8, 16, 32), fits.laws.values(), strict=True):
        runs = {(row["learning_rate"], row["normalized_mse"]) for row in rows if row["k"] == k}
        assert {tuple(point) for point in drawn(left, ".")} == runs and len(runs) == 36
        points = fitted.points
        assert drawn(left, "o").tolist() == list(map(list, zip(points["y"], points["loss"], strict=True)))
        assert drawn(right, "o").tolist() == list(map(list, zip(points["x"], points["y"], strict=True)))
        (slope,) = lines(right, label="slope −½ (paper)")
        x, y = np.log(slope.get_xdata()), np.log(slope.get_ydata())
        assert np.diff(y) / np.diff(x) == pytest.approx(-0.5)
        assert np.interp(np.log(points["x"]).mean(), x, y) == pytest.approx(np.log(points["y"]).mean())


def test_rates_at_which_runs_diverge_do_not_press_the_others_together() -> None:
    fits, rows = example("learning-rate", "one")
    worst = max(row["learning_rate"] for row in rows)
    rows = [{**row, "normalized_mse": 1e6} if row["learning_rate"] == worst else row for row in rows]
    axes = law_figures(fits, rows)["learning-rate"].axes[0]
    (fitted,) = fits.laws.values()
    assert max(fitted.points["loss"]) < axes.get_ylim()[1] <= 3 * max(fitted.points["loss"])


@pytest.mark.parametrize("what", ["tokens", "latents", "subject"])
def test_laws_of_n_show_all_points_all_laws_and_what_is_foretold_of_the_largest(what: str) -> None:
    fits, _ = example(what)
    (axes,) = figure_of(what).axes
    laws = fits.laws.values()
    points = drawn(axes, "o")
    assert sorted(points[:, 1]) == sorted(y for fitted in laws for y in fitted.points["y"])
    curves = [line for line in lines(axes, linestyle="-") if len(line.get_xdata()) == 100]
    for line, fitted in zip(curves, laws, strict=True):
        assert line.get_ydata() == pytest.approx(fitted.determined.predict(line.get_xdata()).value)
    foretold = drawn(axes, "D")
    values = [fitted.extrapolation.predicted.value[0] for fitted in laws if fitted.extrapolation]
    assert foretold[:, 1].tolist() == values and len(values) == len(laws)
    assert (foretold[:, 0] > points[:, 0].max()).all()


def test_seeds_stand_side_by_side_about_their_size() -> None:
    assert side_by_side([8.0, 16.0, 8.0, 32.0], 4.0) == pytest.approx([8 * 4**-0.006, 16, 8 * 4**0.006, 32])
    assert side_by_side([5.0], 1.0) == [5.0]


def test_a_subject_is_named_without_its_owner_and_with_its_size_in_short() -> None:
    shown = {text.get_text() for text in texts(figure_of("subject"))}
    assert {"tiny (3M)", "a-model-of-a-long-name-a… (124M)"} <= shown


def test_isolines_run_where_the_law_has_their_value() -> None:
    fits, _ = example("joint")
    (fitted,) = fits.laws.values()
    left, right = figure_of("joint").axes
    (contours,) = [each for each in right.collections if hasattr(each, "allsegs")]
    assert len(contours.levels) >= 3
    for level, segments in zip(contours.levels, contours.allsegs, strict=True):
        for n, k in np.concatenate(segments)[::10]:
            assert fitted.determined.predict([n], [k]).value[0] == pytest.approx(level, rel=2e-3)
    settings = set(zip(fitted.points["n"], fitted.points["k"], strict=True))
    assert {tuple(point) for point in drawn(right, "o")} == settings and len(settings) == 36
    assert sorted(drawn(left, "o")[:, 1]) == sorted(fitted.points["y"])
    numbers = {float(text.get_text()) for text in right.texts}
    assert numbers and numbers <= set(contours.levels.round(9))


def test_a_joint_law_that_is_flat_has_no_isolines() -> None:
    fits, rows = example("joint")
    flat = with_laws(fits, best=lambda _: np.array([-1.0, 0, 0, 0, -40, 0]), samples=lambda law: law.samples[:0])
    assert not law_figures(flat, rows)["joint"].axes[1].collections


def test_errors_of_the_largest_n_are_shown_in_percent_with_their_intervals() -> None:
    fits, rows = example("joint")
    (fitted,) = fits.laws.values()
    found = fitted.extrapolation
    assert found is not None
    (axes,) = law_figures(fits, rows)["joint-extrapolation"].axes
    bars, marks = axes.collections
    assert marks.get_offsets()[:, 1].tolist() == pytest.approx((100 * found.relative_errors).tolist())
    low, high = (100 * (bound / found.measured - 1) for bound in (found.predicted.low, found.predicted.high))
    assert [[start[1], end[1]] for start, end in bars.get_segments()] == pytest.approx(np.stack([low, high], axis=1))
    assert "n = 8,192" in axes.get_ylabel()


@pytest.mark.parametrize("size", ["one", "many"])
def test_downstream_points_are_coloured_by_k(size: str) -> None:
    _, rows = example("downstream", size)
    (axes,) = figure_of("downstream", size).axes
    colors = ramp([row["k"] for row in rows])
    for k, color in colors.items():
        (line,) = lines(axes, marker="o", color=color)
        expected = [[row["normalized_mse"], row["cross_entropy_increase"]] for row in rows if row["k"] == k]
        assert line.get_xydata().tolist() == expected
    assert len(colors) == (len(MANY) if size == "many" else 6)


def test_runs_without_a_k_are_drawn_alike() -> None:
    fits, rows = example("downstream")
    (fitted,) = fits.laws.values()
    points: Any = {**fitted.points, "k": [None, *fitted.points["k"][1:]]}
    figure = law_figures(fits._replace(laws={"all runs": fitted._replace(points=points)}), rows)["downstream"]
    assert len(drawn(figure.axes[0], "o")) == len(rows) and not figure.legends


def test_colours_grow_lighter_with_the_value_and_differ() -> None:
    colors = ramp([64, 2, 8, 2])
    lightness = [sum(int(color[place : place + 2], 16) for place in (1, 3, 5)) for color in colors.values()]
    assert list(colors) == [2, 8, 64] and lightness == sorted(set(lightness))
    assert all(color == to_hex(color) for color in colors.values())


@pytest.mark.parametrize(
    ("low", "high", "room", "ticks"),
    [
        (0.9, 11.0, 8, [1, 1.5, 2, 3, 5, 7, 10]),
        (0.9, 1100.0, 8, [1, 3, 10, 30, 100, 300, 1000]),
        (1e10, 1e14, 5, [1e10, 1e11, 1e12, 1e13, 1e14]),
        (1e10, 1e14, 3, [1e10, 1e12, 1e14]),
        (0.71, 0.83, 6, [0.72, 0.74, 0.76, 0.78, 0.8, 0.82]),
    ],
)
def test_ticks_are_round_numbers_as_many_as_there_is_room_for(
    low: float, high: float, room: int, ticks: list[float]
) -> None:
    assert log_ticks(low, high, room) == pytest.approx(ticks)


def test_every_axis_has_two_ticks_or_more_inside_it() -> None:
    for low in (3.3e-9, 0.0123, 0.97, 5.5, 7.7e12):
        for factor in (1.02, 1.3, 2.2, 7.0, 40.0, 1e3, 1e5, 1e9):
            for room in (4, 6, 8):
                ticks = log_ticks(low, low * factor, room)
                assert 2 <= len(ticks) <= room + 2, (low, factor, room)
                assert all(low <= tick <= low * factor for tick in ticks)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([1.0, 1.5, 1000.0], ["1", "1.5", "1,000"]),
        ([0.0001, 0.0003], ["0.0001", "0.0003"]),
        ([1e-5, 3e-5, 1e-4], ["10⁻⁵", "3 × 10⁻⁵", "10⁻⁴"]),
        ([5e4, 1e5, 2.5e6], ["5 × 10⁴", "10⁵", "2.5 × 10⁶"]),
        ([1e15, 1e16], ["10¹⁵", "10¹⁶"]),
        ([], []),
    ],
)
def test_ticks_are_labelled_as_numbers_are_read(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


def test_labels_of_curves_that_end_together_stand_apart_and_in_order() -> None:
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], [0, 100])
    label_ends(figure, axes, [EndLabel(str(y), 2, y, "black") for y in (50.0, 50.5, 51.0, 90.0)])
    figure.draw_without_rendering()
    boxes = sorted((Text.get_window_extent(text).y0, text.get_text()) for text in axes.texts)
    assert [text for _, text in boxes] == ["50.0", "50.5", "51.0", "90.0"]
    gaps = np.diff([place for place, _ in boxes])
    height = 7 * figure.dpi / 72
    assert gaps.min() > height and gaps[0] == pytest.approx(gaps[1])
    places = {text.get_text(): text.xyann[1] for text in axes.texts}
    ends = axes.transAxes.inverted().transform(axes.transData.transform([(2, 50.5), (2, 90)]))[:, 1]
    assert [places["50.5"], places["90.0"]] == pytest.approx(ends.tolist())
