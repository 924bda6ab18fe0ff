"""Figures: written whole, small enough, the right pixels coloured."""

import numpy as np
import pytest
from matplotlib.image import imread
from skimage.io import imread as read_colours

from ganspect.evaluation import palette, plots


def noise(height=96, width=96, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def test_overlay_colours_each_decision():
    mask = np.array([[1, 1, 0, 0]])
    scores = np.array([[2.0, 0.0, 2.0, 0.0]])
    drawn = plots.decision_overlay(np.full((1, 4, 3), 100, np.uint8), scores, mask, 2.0)
    for pixel, colour in zip(
        drawn[0], (plots.TRUE_POSITIVE, plots.FALSE_NEGATIVE, plots.FALSE_POSITIVE, None), strict=True
    ):
        expected = [100] * 3 if colour is None else np.round(30 + 0.7 * np.array(colour))
        np.testing.assert_array_equal(pixel, expected)
    unknown = plots.decision_overlay(np.zeros((1, 4), np.uint8), scores, None, 2.0)
    assert (unknown.any(axis=-1) == [[True, False, True, False]]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_panel_with_and_without_its_parts(tmp_path, channels):
    image, final = noise(channels=channels), np.random.default_rng(1).normal(size=(96, 96))
    mask = np.zeros((96, 96), bool)
    mask[20:40, 30:60] = True
    whole = plots.anomaly_panel(image, image, final**2, np.abs(final), final, mask, 1.5, "all", limits=(-2, 4))
    assert [axis.get_title() for axis in whole.axes[:4]] == ["input", "reconstruction", "ground truth", "decision"]
    bare = plots.anomaly_panel(image, None, None, None, np.zeros((96, 96)), None, 1.0, "constant map only")
    for figure in (whole, bare):
        path = plots.save_figure(figure, tmp_path / "panel.png")
        assert path.stat().st_size <= 200_000
        assert imread(path).shape[1] >= 900  # noise is the worst case
    assert [file.name for file in tmp_path.iterdir()] == ["panel.png"]


def test_size_limit_and_whole_writes(tmp_path):
    figure = plots.image_grid([noise(seed=seed) for seed in range(6)], None, 3)
    path = plots.save_figure(figure, tmp_path / "grid.png", max_kilobytes=100)
    assert path.stat().st_size <= 100_000
    before = path.read_bytes()
    with pytest.raises(ValueError, match="grid.png: .* kB at 30 dpi"):
        plots.save_figure(figure, path, max_kilobytes=1)
    with pytest.raises(FileNotFoundError):
        plots.save_figure(figure, tmp_path / "absent" / "grid.png")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    assert figure.dpi == 100


def test_palette_keeps_colours(tmp_path):
    few = np.array([[255, 255, 255], [0, 0, 0], [0, 114, 178], [213, 94, 0]], np.uint8)
    pixels = few[np.random.default_rng(2).integers(0, 4, (40, 50))]
    table, indices = palette.adaptive_palette(pixels, 256)
    np.testing.assert_array_equal(table[indices], pixels)
    (tmp_path / "few.png").write_bytes(palette.encode_indexed(table, indices))
    np.testing.assert_array_equal(read_colours(tmp_path / "few.png")[..., :3], pixels)
    ramp = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (30, 1, 3))
    table, indices = palette.adaptive_palette(ramp, 16)
    assert len(table) == 16 and np.abs(table[indices].astype(int) - ramp).max() <= 16


def test_histograms_of_many_few_and_no_scores(tmp_path):
    generator = np.random.default_rng(3)
    many = generator.normal(size=2_000_000)
    many[:2] = 1e30, np.inf
    figure = plots.score_histograms(many, generator.normal(3, 1, 30), "scores", "score", threshold=2.0)
    low, high = figure.axes[0].get_xlim()
    assert -5 < low < high < 8
    plots.save_figure(figure, tmp_path / "many.png")
    for normal, anomalous in (([], [1.0, 2.0]), ([0.5] * 5, [0.5]), ([], [])):
        plots.save_figure(plots.score_histograms(normal, anomalous, "few", log=True), tmp_path / "few.png")


def test_training_curves(tmp_path):
    steps = np.arange(0, 5000, 10)
    history = {"discriminator": 0.25 + 0 * steps, "reconstruction": np.exp(-steps / 800.0)}
    history["reconstruction"][7] = np.nan
    figure = plots.training_curves(history, steps, {"pixel AUROC": ([0, 4990], [0.5, 0.9])}, 0.95, "FCBiGAN")
    assert figure.axes[0].get_yscale() == "log"
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["pixel AUROC", "printed 0.95"]
    plots.save_figure(figure, tmp_path / "curves.png")
    critic = plots.training_curves({"critic": [-1.0, 2.0]}, [0, 1], {}, None, "critic")
    assert critic.axes[0].get_yscale() == "linear" and len(critic.axes) == 1
    plots.save_figure(plots.training_curves({}, [], {}, None, "nothing yet"), tmp_path / "empty.png")
    with pytest.raises(ValueError, match="critic: 2 values at 3 steps"):
        plots.training_curves({"critic": [1.0, 2.0]}, [0, 1, 2], {}, None, "")


def test_curves_and_grid(tmp_path):
    generator = np.random.default_rng(4)
    labels = generator.random(2000) < 0.2
    figure = plots.roc_pr_curves({"one": (labels, labels + generator.normal(size=2000)), "two": (labels, labels)})
    assert "two: AUROC 1.000" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    plots.save_figure(figure, tmp_path / "roc.png")
    plots.save_figure(plots.image_grid([noise(32, 64, 1)] * 3, ["a", "b", "c"], columns=2), tmp_path / "grid.png")
    with pytest.raises(ValueError, match="3 images with 1 titles"):
        plots.image_grid([noise()] * 3, ["a"])
    with pytest.raises(ValueError, match="uint8"):
        plots.image_grid([noise() / 255])


def test_line_panels_and_signed_losses(tmp_path):
    panels = [
        ("one", {"a": ((0, 1, 2), (0.5, np.nan, 0.7)), "b": ((0, 1, 2), (1, 2, 3))}),
        ("two", {"": ((0, 1), (1, 2))}),
    ]
    figure = plots.line_panels(panels, "alpha", ["0", "1e-5", "1"])
    assert [axis.get_title() for axis in figure.axes] == ["one", "two"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "1e-5", "1"]
    assert len(figure.axes[0].lines) == 2 and figure.axes[1].get_legend() is None
    assert plots.save_figure(figure, tmp_path / "p.png").stat().st_size <= 200_000
    with pytest.raises(ValueError):
        plots.line_panels([("one", {"a": ((0, 1), (1,))})], "x")
    scales = [
        plots.training_curves({"a": values}, (1, 2), {}, None, "t").axes[0].get_yscale()
        for values in ((-9.0, 3000.0), (-9.0, 3.0), (1.0, 3000.0))
    ]
    assert scales == ["symlog", "linear", "log"]


def test_maps_are_coloured_between_their_limits():
    colours = plots.coloured(np.array([[-1.0, 0.0], [0.5, 2.0]]), 0.0, 1.0)
    assert colours.shape == (2, 2, 3) and colours.dtype == np.uint8
    assert np.array_equal(colours[0, 0], colours[0, 1])  # below the lowest
    assert colours[0, 1].sum() < colours[1, 0].sum() < colours[1, 1].sum()
    assert np.array_equal(plots.coloured(np.ones((1, 1)), 1.0, 1.0), plots.coloured(np.zeros((1, 1)), 0.0, 1.0))


def test_outlines_lie_on_the_inner_border_of_mask_and_region():
    image = np.full((12, 12, 1), 100, np.uint8)
    region, mask = np.zeros((2, 12, 12), bool)
    region[1:11, 1:11], mask[4:8, 4:8] = True, True
    picture = plots.outlined(image, mask, region)
    assert tuple(picture[1, 5]) == plots.TRUE_POSITIVE and tuple(picture[4, 5]) == plots.FALSE_NEGATIVE
    assert tuple(picture[2, 5]) == tuple(picture[5, 5]) == tuple(picture[0, 0]) == (100, 100, 100)
    assert np.array_equal(plots.outlined(image), np.full((12, 12, 3), 100)) and image.max() == 100  # not written into


def test_svg_keeps_every_text_and_takes_the_page_colours():
    import re
    from xml.etree import ElementTree

    from ganspect.evaluation.vector import as_svg, page_colours

    with page_colours():
        lines = {"a <b> & c": ([0, 0.25, 1], [0, 0.875, 1]), "other": ([0, 1], [0, 1])}
        figure = plots.rank_curve(lines, "roc", "ROC, 0.12345")
        figure.axes[0].set_xticks([0.125, 0.625], ["0.125", "0.625"])
        svg = as_svg(figure, 'curves of "x"')
        assert svg == as_svg(figure, 'curves of "x"')
    tree = ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    texts = [node.text for node in tree.iter() if node.tag.endswith("}text")]
    assert {"0.125", "0.625", "ROC, 0.12345", "a <b> & c", "other", "false positive rate"} <= set(texts)
    assert tree.get("aria-label") == 'curves of "x"' and tree.get("viewBox")
    assert "currentColor" in svg and not re.search(r"#(010203|000000|ffffff)", svg)


def test_histograms_by_defect_have_a_row_for_each_kind():
    rng = np.random.default_rng(0)
    scores = {"good": rng.normal(size=30), "crack": rng.normal(2, 1, 9), "none": np.array([np.nan])}
    figure = plots.defect_histograms(scores, "scores", "score", 1.5)
    assert [axis.get_ylabel() for axis in figure.axes] == ["good\n30", "crack\n9"]
    assert "threshold 1.5" in figure.axes[-1].get_xlabel()
    assert len(plots.defect_histograms({}, "scores", "score").axes) == 1
