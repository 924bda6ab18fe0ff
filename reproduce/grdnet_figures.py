"""Pictures of GRD-Net and DRAEM: corruption and repair in training, maps and regions of test images (Figures 8, 10)."""

import numpy as np

from ganspect.evaluation import plots
from ganspect.reproduce.figures import chosen_images, to_pixels
from ganspect.training.run import Run

EXAMPLES = 4  # of corrupted images


def draw_run(detector, arrays, evidence, batch, run):
    """Stores `corruption.png` and `maps.png` among a run's figures.

    Args:
        detector: trained `SegmentingDetector`.
        arrays: `CategoryArrays`.
        evidence: of the test images.
        batch: the fixed batch of held-out images.
        run: `training.run.Run`.
    """
    plots.save_figure(corruption(detector, batch), run.path / "figures" / "corruption.png")
    figure = maps(detector, arrays, evidence)
    if figure:
        plots.save_figure(figure, run.path / "figures" / "maps.png")


def corruption(detector, batch):
    """Held-out images: clean, corrupted, the mask inside the region, repaired, the map."""
    marked = np.flatnonzero(batch["mask"].sum(axis=(1, 2, 3)))[:EXAMPLES]
    marked = marked if len(marked) else np.arange(1)
    found = detector.compile_inference(detector.pixel_scores)(batch["corrupted"][marked])
    images, titles = [], []
    for i, index in enumerate(marked):
        clean, corrupted, target = batch["images"][index], batch["corrupted"][index], batch["mask"][index]
        images += [as_pixels(clean), as_pixels(corrupted), as_pixels(target * batch["roi"][index])]
        images += [as_pixels(found["reconstruction"][i])]
        titles += ["held-out image", "corrupted", "target", "reconstruction"]
        for name in detector.score_names[:1]:
            high = 1.0 if name == "anomaly" else float(found[name].max())
            images.append(plots.coloured(found[name][i], 0.0, high))
            titles.append("A" if name == "anomaly" else name)
    return plots.image_grid(images, titles, columns=len(images) // len(marked))


def maps(detector, arrays, evidence):
    """Test images: input, reconstruction, map, smoothed map, outlines of the mask and of the region of interest.

    Of one normal image, and of the first, middle and last anomalous one by name; maps of one scale.
    """
    normal = [i for i, label in enumerate(arrays.labels) if not label][:1]
    shown, name = [*normal, *chosen_images(arrays.labels)], detector.score_names[0]
    if not shown:
        return None
    high = max(float(evidence[i][name].max()) for i in shown)
    images, titles = [], []
    for i in shown:
        found = evidence[i]
        region = arrays.rois[i] if arrays.rois else None
        images += [arrays.test[i], to_pixels(found["reconstruction"]), plots.coloured(found[name], 0.0, high)]
        images += [plots.coloured(found[f"{name}, smoothed"], 0.0, high)]
        images += [plots.outlined(arrays.test[i], arrays.masks[i], region)]
        title = arrays.test_names[i].removeprefix("test/").rsplit(".", 1)[0]
        titles += [title, "reconstruction", "map", "smoothed", "mask and region" if region is not None else "mask"]
    return plots.image_grid(images, titles, columns=5)


def as_pixels(image):
    """An image `[H, W, C]` in [0, 1] as uint8."""
    return np.clip(np.rint(image * 255), 0, 255).astype("uint8")


def draw_bottlenecks(cells, runs, folder):
    """The same test images rebuilt through the convolutional and the dense bottleneck, for each category with both."""
    found = {}
    for cell in cells:
        run = Run(cell.folder(runs))
        path = run.path / "reconstructions.npz"
        if cell.method in ("grdnet", "grdnet-dense") and run.status["state"] == "finished" and path.exists():
            place = (cell.subject.dataset, cell.subject.category)
            found.setdefault(place, {}).setdefault(cell.method, path)
    for (dataset, category), paths in found.items():
        if len(paths) < 2:
            continue
        stored = []
        for method in ("grdnet", "grdnet-dense"):
            with np.load(paths[method], allow_pickle=False) as file:
                stored.append({name: file[name] for name in file.files})
        images, titles = [], []
        for i, query in enumerate(stored[0]["images"]):
            images += [query, stored[0]["reconstructions"][i], stored[1]["reconstructions"][i]]
            title = str(stored[0]["names"][i]).removeprefix("test/").rsplit(".", 1)[0]
            titles += [title, "convolutional", "dense"]
        plots.save_figure(plots.image_grid(images, titles, columns=6), folder / f"bottlenecks_{dataset}_{category}.png")
