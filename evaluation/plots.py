"""Figures for reports: colour-blind-safe (Okabe and Ito's palette, perceptually uniform maps), legible 1200 px wide.

Every function returns a `matplotlib.figure.Figure` that no window system and no pyplot state knows of;
`save_figure` writes it.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Patch
from skimage.segmentation import find_boundaries

from ganspect.evaluation import metrics, palette

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")  # fmt: skip
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
FEW = 5  # names of lines that fit into a plot
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = (0, 158, 115), (240, 170, 0), (204, 60, 170)
WIDTH = 12.0  # inches, 1200 px at 100 dpi
MAP_COLOURS = "inferno"
SUBSAMPLE = 500_000
ROC = ("ROC", "false positive rate", "true positive rate")
PR = ("Precision and recall", "recall", "precision")


def save_figure(figure: Figure, path, max_kilobytes: float = 200) -> Path:
    """Write a PNG of limited size, whole or not at all.

    A figure too large in full colour is written with a palette of 256, 128 or 64 colours; if that does not suffice, the
    resolution falls from 100 dpi until it does.

    Args:
        figure: any figure.
        path: where; its folder must exist.
        max_kilobytes: limit, in units of 1000 bytes.

    Returns:
        The path.

    Raises:
        ValueError: if not even 30 dpi fits.
    """
    path, limit, dpi = Path(path), max_kilobytes * 1000, 100.0
    while len(content := _encode(_render(figure, dpi), limit)) > limit:
        if dpi <= 30:
            raise ValueError(f"{path.name}: {len(content) / 1000:.0f} kB at {dpi:.0f} dpi, limit {max_kilobytes} kB")
        dpi = max(30.0, dpi * min(0.95, 0.98 * (limit / len(content)) ** 0.5))  # size grows with the area
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # as of `training.files`
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _render(figure: Figure, dpi: float) -> np.ndarray:
    """uint8 `[H, W, 3]`; the figure's own dpi is left as it was."""
    before, canvas = figure.dpi, FigureCanvasAgg(figure)
    try:
        figure.dpi = dpi
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
    finally:
        figure.dpi = before


def _encode(pixels: np.ndarray, limit: float) -> bytes:
    """PNG bytes with as many colours as fit the limit, at least 64."""
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    content = buffer.getvalue()
    for colours in (256, 128, 64):
        if len(content) <= limit:
            break
        content = palette.encode_indexed(*palette.adaptive_palette(pixels, colours))
    return content


def decision_overlay(image, final_map, mask, threshold: float) -> np.ndarray:
    """A greyed image with its decided pixels coloured by their truth.

    Args:
        image: uint8 `[H, W, C]`, C = 1 or 3, or `[H, W]`.
        final_map: real `[H, W]`; score >= threshold is anomalous.
        mask: `[H, W]`, nonzero = anomalous; None when unknown, then every decided pixel counts as wrong.
        threshold: on the map.

    Returns:
        uint8 `[H, W, 3]`: `TRUE_POSITIVE`, `FALSE_POSITIVE` and `FALSE_NEGATIVE` at 70 % over grey.
    """
    grey = _displayable(image).astype(np.float32)
    grey = grey if grey.ndim == 2 else grey.mean(axis=-1)
    result = np.repeat(grey[..., None], 3, axis=-1)
    called = np.asarray(final_map).astype(np.float64) >= threshold
    truth = np.zeros_like(called) if mask is None else np.asarray(mask) != 0
    for chosen, colour in (
        (called & truth, TRUE_POSITIVE),
        (called & ~truth, FALSE_POSITIVE),
        (~called & truth, FALSE_NEGATIVE),
    ):
        result[chosen] = 0.3 * result[chosen] + 0.7 * np.array(colour, np.float32)
    return np.round(result).astype(np.uint8)


def coloured(values, low: float, high: float) -> np.ndarray:
    """A map in the colours of all maps.

    Args:
        values: real `[H, W]`.
        low, high: values of the darkest and of the brightest colour; what lies beyond is cut.

    Returns:
        uint8 `[H, W, 3]`.
    """
    share = np.clip((np.asarray(values, np.float64) - low) / max(high - low, 1e-12), 0, 1)
    return np.round(colormaps[MAP_COLOURS](share)[..., :3] * 255).astype(np.uint8)


def outlined(image, mask=None, region=None) -> np.ndarray:
    """An image with the outlines of its defect (in the colour of a miss) and of its region of interest (of a hit).

    Args:
        image: uint8 `[H, W, C]`, C = 1 or 3.
        mask, region: bool `[H, W]`, or None.

    Returns:
        uint8 `[H, W, 3]`.
    """
    picture = _displayable(image)
    picture = np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture.copy()
    for area, colour in ((region, TRUE_POSITIVE), (mask, FALSE_NEGATIVE)):
        if area is not None:
            picture[find_boundaries(np.asarray(area, bool), mode="inner")] = colour
    return picture


def anomaly_panel(
    image, reconstruction, residual_map, discriminator_map, final_map, mask, threshold: float, title: str, limits=None
) -> Figure:
    """One image's whole story: input, reconstruction, truth and decision above, the maps behind it below.

    Args:
        image: uint8 `[H, W, C]`.
        reconstruction: uint8 `[H, W, C]`, or None where the method has none.
        residual_map: real `[H, W]`, L_R, or None.
        discriminator_map: real `[H, W]`, L_D, or None.
        final_map: real `[H, W]`.
        mask: `[H, W]`, nonzero = anomalous, or None when unknown.
        threshold: on the final map; drawn on its colour bar.
        title: one line.
        limits: `(low, high)` of the final map's colours, to compare images; by default its own extremes.
    """
    final_map = np.asarray(final_map, np.float64)
    upper = [
        ("input", image),
        ("reconstruction", reconstruction),
        ("ground truth", None if mask is None else np.where(np.asarray(mask) != 0, 255, 0).astype(np.uint8)),
        ("decision", decision_overlay(image, final_map, mask, threshold)),
    ]
    lower = [("residual $L_R$", residual_map), ("discriminator $L_D$", discriminator_map)]
    upper, lower = ([part for part in row if part[1] is not None] for row in (upper, lower))
    columns = 4  # the place after the maps is the legend's
    height, width = final_map.shape
    side = WIDTH / columns
    figure = Figure(figsize=(WIDTH, 2 * (side * min(height / width, 2.0) * 0.9 + 0.3) + 0.4), layout="constrained")
    axes = figure.subplots(2, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes[0], upper, strict=False):
        _show(axis, picture, name)
    for axis, (name, values) in zip(axes[1], lower, strict=False):
        _map(axis, values, name, _robust(values))
    _map(axes[1, len(lower)], final_map, "final map", limits or (final_map.min(), final_map.max()), threshold)
    axes[1, len(lower) + 1].legend(
        handles=_decision_legend(mask is not None),
        title=f"score ≥ {threshold:.4g}",
        loc="center",
        fontsize=12,
        title_fontsize=12,
        frameon=False,
    )
    figure.suptitle(title, fontsize=14)
    return figure


def _decision_legend(truth_known: bool) -> list[Patch]:
    if not truth_known:
        return [Patch(color=_rgb(FALSE_POSITIVE), label="called anomalous")]
    named = ((TRUE_POSITIVE, "detected"), (FALSE_POSITIVE, "false alarm"), (FALSE_NEGATIVE, "missed"))
    return [Patch(color=_rgb(colour), label=name) for colour, name in named]


def _rgb(colour: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in colour)


def _displayable(image) -> np.ndarray:
    """uint8 `[H, W]` or `[H, W, 3]`."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"expected a uint8 image [H, W, C], got {image.dtype} {image.shape}")
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _show(axis: Axes, image, title: str) -> None:
    axis.imshow(_displayable(image), cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=12)


def _robust(values) -> tuple[float, float]:
    """Colour limits that a few extreme pixels do not stretch."""
    low, high = np.quantile(np.asarray(values, np.float64), [0.001, 0.999])
    return float(low), float(high)


def _map(axis: Axes, values, title: str, limits, threshold: float | None = None) -> None:
    low, high = limits
    norm = Normalize(low, high if high > low else low + 1)
    axis.imshow(np.asarray(values), cmap=MAP_COLOURS, norm=norm)
    axis.set_title(title, fontsize=12)
    bar = axis.figure.colorbar(ScalarMappable(norm, MAP_COLOURS), ax=axis, shrink=0.9, pad=0.02, aspect=16)
    bar.ax.tick_params(labelsize=9)
    bar.ax.locator_params(nbins=4)
    if threshold is not None and norm.vmin <= threshold <= norm.vmax:
        bar.ax.axhline(threshold, color="white", linewidth=3)
        bar.ax.axhline(threshold, color=BLACK, linewidth=1.2)


def score_histograms(
    normal_scores, anomalous_scores, title: str, xlabel: str = "anomaly score", threshold=None, log: bool = False
) -> Figure:
    """Densities of the scores of both classes.

    The axis spans the 0.1 % to 99.9 % quantiles of the two classes; what lies outside is counted in its end bins.
    Scores that are not finite are left out, and more than 500 000 of a class are thinned by a fixed random draw.

    Args:
        normal_scores: real, any shape, may be empty.
        anomalous_scores: real, any shape, may be empty.
        title: one line.
        xlabel: one line.
        threshold: drawn where given.
        log: logarithmic density.
    """
    classes = [("normal", _thin(normal_scores), BLUE, "-"), ("anomalous", _thin(anomalous_scores), VERMILION, "--")]
    classes = [part for part in classes if len(part[1])]
    figure = Figure(figsize=(WIDTH * 0.75, 4.5), layout="constrained")
    axis = figure.subplots()
    if classes:
        ends = [np.quantile(scores, [0.001, 0.999]) for _, scores, _, _ in classes]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        high = high if high > low else low + 1
        bins = np.linspace(low, high, 1 + int(np.clip(np.sqrt(min(len(part[1]) for part in classes)) * 2, 10, 100)))
        for name, scores, colour, style in classes:
            density, _ = np.histogram(np.clip(scores, low, high), bins, density=True)
            axis.stairs(density, bins, fill=True, color=colour, alpha=0.25)
            axis.stairs(density, bins, color=colour, linewidth=1.8, linestyle=style, label=name)
        axis.set_xlim(low, high)
    if threshold is not None:
        axis.axvline(threshold, color=BLACK, linestyle=":", linewidth=1.5, label=f"threshold {threshold:.4g}")
    if log:
        axis.set_yscale("log", nonpositive="clip")
    _finish(axis, title, xlabel, "density")
    return figure


def score_scatter(kinds: dict[str, Sequence], title: str, threshold: float | None = None) -> Figure:
    """The score of each image over its number, one colour and marker for each kind of image.

    Args:
        kinds: up to three `{name: scores}`; the colours are those of the AnoGAN and GANomaly study's plots, red for
            training images, pink for normal and sky blue for anomalous test images, in this order.
        title: one line.
        threshold: drawn where given.
    """
    figure = Figure(figsize=(WIDTH, 4.5), layout="constrained")
    axis = figure.subplots()
    styles = zip(("red", "hotpink", "skyblue"), "^os", (3, 2, 1), strict=True)
    for (name, scores), (colour, marker, order) in zip(kinds.items(), styles, strict=False):
        axis.scatter(range(len(scores)), scores, c=colour, marker=marker, s=18, label=name, zorder=order)
    if threshold is not None:
        axis.axhline(threshold, color=BLACK, linestyle=":", linewidth=1.5, label=f"threshold {threshold:.4g}")
    _finish(axis, title, "image", "score")
    return figure


def _thin(scores) -> np.ndarray:
    scores = np.asarray(scores, np.float64).ravel()
    scores = scores[np.isfinite(scores)]
    if len(scores) <= SUBSAMPLE:
        return scores
    return scores[np.random.default_rng(0).integers(0, len(scores), SUBSAMPLE)]


def _finish(axis: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axis.set_title(title, fontsize=14)
    axis.set_xlabel(xlabel, fontsize=12)
    axis.set_ylabel(ylabel, fontsize=12)
    axis.tick_params(labelsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    handles, labels = axis.get_legend_handles_labels()
    if len(handles) > FEW:  # beside the plot, which they would cover
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
        axis.legend(handles, labels, fontsize=9, frameon=False, **place)
    elif handles:
        axis.legend(handles, labels, fontsize=11, frameon=False)


def training_curves(
    history: dict[str, Sequence[float]],
    steps: Sequence[int],
    metric_curves: dict[str, tuple[Sequence[int], Sequence[float]]],
    printed: float | None,
    title: str,
) -> Figure:
    """Losses above, test metrics below, against training steps.

    Long losses are drawn faintly, with their running mean over a fiftieth of the run. The loss axis is logarithmic
    when every value is positive and they span more than a factor of 20, and beyond 1 on both sides of zero when some
    are not and one is above 20 in size.

    Args:
        history: loss name to values at `steps`; values that are not finite leave gaps.
        steps: training steps, ascending.
        metric_curves: metric name to `(steps, values)`; may be empty.
        printed: the paper's value, dashed, or None.
        title: one line.

    Raises:
        ValueError: where a curve and its steps differ in length.
    """
    figure = Figure(figsize=(WIDTH * 0.85, 6.5 if metric_curves else 4), layout="constrained")
    axes = figure.subplots(1 + bool(metric_curves), sharex=True, squeeze=False)[:, 0]
    for index, (name, values) in enumerate(history.items()):
        style = {"color": CYCLE[index % len(CYCLE)], "linestyle": ("-", "--", ":")[index // len(CYCLE) % 3]}
        _loss(axes[0], np.asarray(steps), np.asarray(values, np.float64), name, style)
    values = np.concatenate([np.asarray(values, np.float64) for values in history.values()] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes[0].set_yscale("log")
    elif len(values) and np.abs(values).max() > 20:  # signed losses of unlike sizes: linear up to 1, then logarithmic
        axes[0].set_yscale("symlog", linthresh=1.0)
    _finish(axes[0], title, "" if metric_curves else "training step", "loss")
    if metric_curves:
        for index, (name, (at, values)) in enumerate(metric_curves.items()):
            axes[1].plot(
                at, values, "osD^vPX"[index % 7] + "-", color=CYCLE[index % len(CYCLE)], label=name, markersize=5
            )
        if printed is not None:
            axes[1].axhline(printed, color=BLACK, linestyle="--", linewidth=1.3, label=f"printed {printed:.3g}")
        _finish(axes[1], "", "training step", "on the test set")
    return figure


def _loss(axis: Axes, steps: np.ndarray, values: np.ndarray, name: str, style: dict) -> None:
    if len(steps) != len(values):
        raise ValueError(f"{name}: {len(values)} values at {len(steps)} steps")
    window = max(1, len(values) // 50)
    if window < 4:
        axis.plot(steps, values, **style, linewidth=1.6, label=name)
        return
    axis.plot(steps, values, **style, linewidth=0.6, alpha=0.25)
    kernel, finite = np.ones(window), np.isfinite(values)
    count = np.convolve(finite, kernel, "same")
    total = np.convolve(np.where(finite, values, 0), kernel, "same")
    mean = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    axis.plot(steps, mean, **style, linewidth=1.8, label=name)


def image_grid(images: Sequence, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Images side by side.

    Args:
        images: uint8 `[H, W, C]` each, at least one.
        titles: one each, or None.
        columns: in a row.
    """
    images = [_displayable(image) for image in images]
    if not images or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"{len(images)} images with {len(titles or [])} titles")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    aspect = max(image.shape[0] / image.shape[1] for image in images)
    cell = WIDTH / columns
    figure = Figure(figsize=(WIDTH, rows * (cell * min(aspect, 2.0) + (0.3 if titles else 0))), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        _show(axis, image, titles[index] if titles else "")
    return figure


def roc_pr_curves(curves: dict[str, tuple]) -> Figure:
    """ROC and precision-recall curves side by side, each point exact, with AUROC and average precision.

    Args:
        curves: name to `(labels, scores)`, or `(masks, maps)`, as in `metrics.roc_curve`; with both classes.

    Raises:
        ValueError: where a class is missing.
    """
    lines = {}
    for name, (labels, scores) in curves.items():
        wrong, caught, _ = metrics.roc_curve(labels, scores)
        precision, recall, _ = metrics.precision_recall_curve(labels, scores)
        areas = metrics.image_auroc(labels, scores), metrics.image_ap(labels, scores)
        lines[name] = ((wrong, caught), (recall[1:], precision[1:]), areas)
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, {f"{name}: AUROC {a[0]:.3f}": roc for name, (roc, _, a) in lines.items()}, *ROC)
    _curves(right, {f"{name}: AP {a[1]:.3f}": pr for name, (_, pr, a) in lines.items()}, *PR)
    return figure


def rank_curve(lines: dict[str, tuple], kind: str, title: str = "") -> Figure:
    """ROC or precision-recall curves in one square, its legend below, for a narrow page.

    Args:
        lines: name to `(x, y)`: false and true positive rates, or recalls and precisions.
        kind: "roc" or "pr".
        title: one line; what the curve is by default.
    """
    width, square, above, legend = 4.6, 3.8, 0.4, 0.7 + 0.2 * len(lines)  # inches
    height = above + square + legend
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((1 - (square + 0.1) / width, legend / height, square / width, square / height))
    _curves(axis, lines, *(ROC if kind == "roc" else PR))
    axis.set_title(title or axis.get_title(), fontsize=12)
    axis.get_legend().remove()
    figure.legend(loc="lower left", fontsize=10, frameon=False, borderaxespad=0)
    return figure


def _curves(axis: Axes, lines: dict[str, tuple], title: str, xlabel: str, ylabel: str) -> None:
    for index, (name, (x, y)) in enumerate(lines.items()):
        style = ("-", "--", "-.", ":")[index // len(CYCLE) % 4 if len(lines) > 4 else index]
        axis.plot(x, y, color=CYCLE[index % len(CYCLE)], linestyle=style, linewidth=1.8, label=name)
    if title == ROC[0]:
        axis.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1)
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _finish(axis, title, xlabel, ylabel)


def defect_histograms(scores: dict[str, Sequence], title: str, xlabel: str, threshold: float | None = None) -> Figure:
    """One row for each kind of image: its histogram above its scores, all on one axis.

    Args:
        scores: kind to real `[N]`, "good" first; values that are not finite are left out.
        title: one line.
        xlabel: one line.
        threshold: drawn where given.
    """
    kinds = {kind: _thin(values) for kind, values in scores.items()}
    kinds = {kind: values for kind, values in kinds.items() if len(values)}
    figure = Figure(figsize=(5.6, 1.1 + 0.55 * max(1, len(kinds))), layout="constrained")
    axes = figure.subplots(max(1, len(kinds)), sharex=True, squeeze=False)[:, 0]
    pooled = np.concatenate([*kinds.values(), np.empty(0)])
    low, high = (pooled.min(), pooled.max()) if len(pooled) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1, 41)
    for axis, (kind, values) in zip(axes, kinds.items(), strict=False):
        colour, hatch = (BLUE, None) if kind == "good" else (VERMILION, "////")
        counts, _ = np.histogram(values, bins)
        axis.stairs(counts, bins, fill=True, color=colour, alpha=0.35, hatch=hatch)
        axis.stairs(counts, bins, color=colour, linewidth=1.4)
        axis.plot(values, np.full(len(values), -0.12 * max(1, counts.max())), "|", color=colour, markersize=5)
        axis.set_ylabel(f"{kind}\n{len(values)}", rotation=0, ha="right", va="center", fontsize=9)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        if threshold is not None:
            axis.axvline(threshold, color=BLACK, linestyle=":", linewidth=1.5)
    axes[0].set_title(title, fontsize=11)
    axes[-1].set_xlabel(xlabel + ("" if threshold is None else f" (dotted: threshold {threshold:.4g})"), fontsize=10)
    return figure


def line_panels(panels: Sequence[tuple], xlabel: str, ticks: Sequence[str] | None = None) -> Figure:
    """Panels side by side, one or more lines in each.

    Args:
        panels: `(title, {label: (x, y)})` each; values that are not finite leave gaps.
        xlabel: of every panel.
        ticks: texts at x = 0, 1, 2, ...; by default a numeric axis.
    """
    height = 4.5
    figure = Figure(figsize=(max(WIDTH, 4 * len(panels)), height), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, (label, (x, y)) in enumerate(lines.items()):
            style = "osD^vPX"[index % 7] + ("-", "--", "-.", ":")[index % 4]
            axis.plot(x, y, style, color=CYCLE[index % len(CYCLE)], label=label, markersize=5)
        if ticks is not None:
            axis.set_xticks(range(len(ticks)), ticks)
        _finish(axis, title, xlabel, "")
    return figure
