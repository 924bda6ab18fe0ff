"""The pictures of a run: what a person looks at before believing a number."""

import numpy as np

from ganspect.evaluation import plots
from ganspect.reproduce.scoring import ALL
from ganspect.training.files import atomic_write
from ganspect.training.run import Run

HISTOGRAM_PIXELS = 400_000  # of each kind, evenly spread over the images


def draw_run(paper, detector, arrays, evidence, threshold, run):
    """Draws panels of three test images, histograms, a generated image, curves; stored in `<run>/figures`.

    The three panels are the first, the middle and the last anomalous image by name, whatever they look like.

    Args:
        paper: the paper's script.
        detector: calibrated `Detector`.
        arrays: `CategoryArrays`.
        evidence: of the test images.
        threshold: of the map, from held-out normals.
        run: `training.run.Run`.
    """
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    shown = chosen_images(arrays.labels)
    for i in shown:
        found, stem = evidence[i], arrays.test_names[i].replace("/", "_").rsplit(".", 1)[0]
        figure = plots.anomaly_panel(
            arrays.test[i],
            to_pixels(found["reconstruction"]),
            *(found[name] if name else None for name in detector.panel_maps),
            detector.map_from(found),
            arrays.masks[i],
            threshold,
            f"{run.path.parent.name} {arrays.test_names[i]}",
        )
        plots.save_figure(figure, folder / f"panel_{stem}.png")
    save_reconstructions(arrays, evidence, shown, run)
    method = paper.METHODS[run.config["method"]]
    for name in [name for name in method.of(paper, "scores") if name in detector.score_names][:3]:
        cut = None
        if detector.map_names is None:
            normal, marked = pixels_by_kind(detector, arrays, evidence, name)
        else:
            scores = np.array([detector.score_from(e, name) for e in evidence])
            normal, marked = scores[arrays.labels == 0], scores[arrays.labels == 1]
            cut = run.metrics["image_thresholds"][name]["value"]
        if len(normal) and len(marked):
            what = "Pixel" if detector.map_names is None else "Image"
            figure = plots.score_histograms(normal, marked, f"{what} scores: {name}", f"{name} score", cut)
            plots.save_figure(figure, folder / f"histogram_{name}.png")
    trained = [float(row["score"]) for row in run.read_table("scores_train.csv")]
    if trained:
        scores = np.array([detector.score_from(e) for e in evidence])
        kinds = {"train normal": trained, "test normal": scores[arrays.labels == 0]}
        kinds["anomalous"] = scores[arrays.labels == 1]
        figure = plots.score_scatter(kinds, f"{run.path.parent.name}: {detector.score_names[0]} scores")
        plots.save_figure(figure, folder / "histogram_scatter.png")
        draw_pairs(arrays, evidence, folder / "pairs.png")
    if hasattr(detector, "generated"):
        generated = [to_pixels(image) for image in detector.generated(*arrays.test[0].shape[:2])]
        titles = [*["generated"] * len(generated), "a training image"]
        figure = plots.image_grid([*generated, arrays.train[0]], titles, columns=2 if len(generated) == 1 else 9)
        plots.save_figure(figure, folder / "generated.png")
    draw_curves(paper, run)


def draw_pairs(arrays, evidence, path):
    """Image, reconstruction and residual |x - x'| of two normal and three anomalous test images, as in the study."""
    normal = [i for i, label in enumerate(arrays.labels) if not label]
    images, titles = [], []
    for i in [*sorted({normal[0], normal[-1]} if normal else ()), *chosen_images(arrays.labels)]:
        rebuilt = to_pixels(evidence[i]["reconstruction"])
        difference = np.abs(arrays.test[i].astype("int16") - rebuilt).mean(-1, keepdims=True)
        images += [arrays.test[i], rebuilt, np.clip(np.rint(difference), 0, 255).astype("uint8")]
        titles += [arrays.test_names[i].removeprefix("test/").rsplit(".", 1)[0], "reconstruction", "residual"]
    plots.save_figure(plots.image_grid(images, titles, columns=3), path)


def chosen_images(labels):
    """Indices of the images that pictures show: the first, middle and last anomalous, whatever they look like."""
    anomalous = [i for i, label in enumerate(labels) if label]
    return sorted({anomalous[0], anomalous[len(anomalous) // 2], anomalous[-1]}) if anomalous else []


def save_reconstructions(arrays, evidence, shown, run):
    """Stores the shown images and their reconstructions, for pictures that set several runs side by side."""
    if not shown:
        return
    with atomic_write(run.path / "reconstructions.npz", "wb") as file:
        np.savez_compressed(
            file,
            names=np.array([arrays.test_names[i] for i in shown], dtype=str),
            images=np.stack([arrays.test[i] for i in shown]),
            reconstructions=np.stack([to_pixels(evidence[i]["reconstruction"]) for i in shown]),
        )


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
    """Stores `curve_figure` of a run."""
    (run.path / "figures").mkdir(exist_ok=True)
    plots.save_figure(curve_figure(paper, run), run.path / "figures" / "training.png")


def curve_figure(paper, run: Run):
    """Losses, held-out error and test metrics against training steps, the printed value as a line."""
    from ganspect.reproduce.printed import published

    rows, curve = run.read_table("history.csv"), run.read_table("curve.csv")
    config, found = run.config, run.metrics
    steps = [int(row["step"]) for row in rows]
    skipped = ("epoch", "step", "seconds", "d_real", "d_fake")
    history = {
        name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else ()) if name not in skipped
    }
    place = (config["dataset"], config["category"])
    subject = next(s for s in (*paper.SUBJECTS, *paper.SYNTHETIC) if (s.dataset, s.category) == place)
    metrics, protocols = {}, [found["protocols"][p] for p in ("paper", "clean")] if found else []
    method = paper.METHODS[config["method"]]
    curves = method.of(paper, "curves")(subject)
    for name, metric in curves:
        points = [(int(row["step"]), float(row[f"{name}:{metric}"])) for row in curve if row.get(f"{name}:{metric}")]
        stored = [(protocol.get(name + ALL) or protocol.get(name, {})).get(metric) for protocol in protocols]
        points += [(steps[-1], last) for last in stored if steps and last is not None][:1]
        metrics[f"{name} {metric}"] = tuple(map(list, zip(*points, strict=True))) if points else ([], [])
    label, first = method.label, curves[0][1]
    lines = {(p["method"], p["dataset"], p["category"], p["metric"]): _fraction(p) for p in published(paper.NAME)}
    suffix = method.of(paper, "scores").get(f"{curves[0][0]}{ALL}", "")  # the points are of all test images
    printed = [lines[key] for key in ((label + suffix, *place, first), (label, *place, first)) if key in lines]
    title = f"{label}, {subject.category}"
    return plots.training_curves(history, steps, metrics, printed[0] if printed else None, title)


def _fraction(printed):
    """A printed value as a fraction, or as it stands."""
    return float(printed["value"]) / (100 if printed["unit"] == "percent" else 1)


def to_pixels(image):
    """An image in [-1, 1] as uint8."""
    return np.clip(np.rint((image + 1) * 127.5), 0, 255).astype("uint8")
