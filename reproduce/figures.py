"""The pictures of a run: what a person looks at before believing a number."""

import numpy as np

from ganspect.evaluation import plots
from ganspect.training.run import Run

HISTOGRAM_PIXELS = 400_000  # of each kind, evenly spread over the images


def draw_run(paper, detector, arrays, evidence, normal_evidence, threshold, run):
    """Draws panels of three test images, histograms, a generated image, curves; stored in `<run>/figures`.

    The three panels are the first, the middle and the last anomalous image by name, whatever they look like.

    Args:
        paper: the paper's script.
        detector: calibrated `Detector`.
        arrays: `CategoryArrays`.
        evidence, normal_evidence: of the test images and of the held-out normals.
        threshold: of the map, from held-out normals.
        run: `training.run.Run`.
    """
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    anomalous = [i for i, label in enumerate(arrays.labels) if label]
    if anomalous:
        for i in sorted({anomalous[0], anomalous[len(anomalous) // 2], anomalous[-1]}):
            found, stem = evidence[i], arrays.test_names[i].replace("/", "_").rsplit(".", 1)[0]
            figure = plots.anomaly_panel(
                arrays.test[i],
                to_pixels(found["reconstruction"]),
                found["l_r"],
                found["l_d"],
                detector.map_from(found),
                arrays.masks[i],
                threshold,
                f"{run.path.parent.name} {arrays.test_names[i]}",
            )
            plots.save_figure(figure, folder / f"panel_{stem}.png")
    for name in list(paper.SCORES)[:3]:
        normal, marked = pixels_by_kind(detector, arrays, evidence, name)
        if len(normal) and len(marked):
            figure = plots.score_histograms(normal, marked, f"Pixel scores: {name}", f"{name} score")
            plots.save_figure(figure, folder / f"histogram_{name}.png")
    if hasattr(detector, "sample"):
        height, width = arrays.test[0].shape[:2]
        generated = to_pixels(detector.sample(height - height % 8, width - width % 8))
        figure = plots.image_grid([generated, arrays.train[0]], ["generated", "a training image"], columns=2)
        plots.save_figure(figure, folder / "generated.png")
    draw_curves(paper, run)


def pixels_by_kind(detector, arrays, evidence, name):
    """Scores of normal and of anomalous pixels of the test images, thinned evenly."""
    kinds = ([], [])
    total = sum(image.shape[0] * image.shape[1] for image in arrays.test)
    every = max(1, total // (2 * HISTOGRAM_PIXELS))
    for found, mask, label in zip(evidence, arrays.masks, arrays.labels, strict=True):
        values = detector.map_from(found, name).ravel()[::every]
        marked = np.full(values.shape, bool(label)) if mask is None else mask.ravel()[::every]
        kinds[0].append(values[~marked])
        kinds[1].append(values[marked])
    return np.concatenate(kinds[0]), np.concatenate(kinds[1])


def draw_curves(paper, run: Run):
    """Losses, held-out error and test metrics against training steps, the printed value as a line."""
    from ganspect.reproduce.tables import published

    rows, curve = run.read_table("history.csv"), run.read_table("curve.csv")
    config, found = run.config, run.metrics
    steps = [int(row["step"]) for row in rows]
    skipped = ("epoch", "step", "seconds", "d_real", "d_fake")
    history = {name: [float(row[name]) for row in rows] for name in rows[0] if name not in skipped}
    subject = next(s for s in (*paper.SUBJECTS, *paper.SYNTHETIC) if s.category == config["category"])
    metric = paper.TABLES[subject.table]["metrics"][0]
    metrics = {}
    for name in list(paper.SCORES)[:3]:
        points = [(int(row["step"]), float(row[f"{name}:{metric}"])) for row in curve if row[f"{name}:{metric}"]]
        last = found["protocols"]["paper"][name][metric] if found else None
        points += [(steps[-1], last)] if last is not None else []
        metrics[f"{name} {metric}"] = tuple(map(list, zip(*points, strict=True))) if points else ([], [])
    label = next(iter(paper.SCORES.values()))
    printed = [
        float(line["value"])
        for line in published(paper.NAME)
        if (line["method"], line["category"], line["metric"]) == (label, subject.category, metric)
    ]
    title = f"{label}, {subject.category}"
    figure = plots.training_curves(history, steps, metrics, printed[0] if printed else None, title)
    plots.save_figure(figure, run.path / "figures" / "training.png")


def to_pixels(image):
    """An image in [-1, 1] as uint8."""
    return np.clip(np.rint((image + 1) * 127.5), 0, 255).astype("uint8")
