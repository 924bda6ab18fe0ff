"""Run folders of a paper as a training leaves them, with made-up scores: what a report can be made of in a second."""

from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

from ganspect.evaluation import plots
from ganspect.reproduce import cbigan, gallery, plan, scoring
from ganspect.reproduce.cbigan_figures import WEIGHTS
from ganspect.reproduce.cells import Cell, Profile
from ganspect.training.files import write_json
from ganspect.training.run import Run

SIZE, DEFECTS = 24, ("good", "scratch", "dent")


class Scores:
    """Stands for a calibrated detector whose maps are given."""

    score_names = map_names = ("lambda_0.1", *(f"lambda_{w}" for w in WEIGHTS if w != 0.1))

    def map_from(self, evidence, name=None):
        return evidence["map"]

    def score_from(self, evidence, name=None):
        return float(evidence["map"].max())


def made_set(seed=0, each=6):
    """`CategoryArrays`-like test images of three kinds, with masks."""
    rng = np.random.default_rng(seed)
    images, masks, defects = [], [], []
    for kind in DEFECTS:
        for i in range(each):
            image = rng.integers(90, 140, (SIZE, SIZE, 3)).astype("uint8")
            mask = np.zeros((SIZE, SIZE), bool)
            if kind != "good":
                mask[4 + i : 9 + i, 6:15] = True
                image[mask] += 60
            images, masks, defects = [*images, image], [*masks, mask], [*defects, kind]
    names = [f"test/{kind}/{i % each:03d}.png" for i, kind in enumerate(defects)]
    labels = np.array([int(kind != "good") for kind in defects])
    return SimpleNamespace(
        test=images, masks=masks, defects=defects, labels=labels, test_names=names, duplicates=(), rois=None
    )


def store(runs, method="cbigan", category="weave", seed=0, skill=1.0, shown=True):
    """Writes a finished run of CBiGAN's paper; `skill` is how far its maps rise on defects."""
    subject = next(s for s in (*cbigan.SUBJECTS, *cbigan.SYNTHETIC) if s.category == category)
    run = Run(Cell("cbigan", method, subject, seed, Profile(), {}).folder(runs))
    arrays, rng = made_set(), np.random.default_rng([seed, len(method), round(100 * skill)])
    evidence = [{"map": (rng.random(mask.shape) + skill * mask).astype("float32")} for mask in arrays.masks]
    normals = [{"map": rng.random((SIZE, SIZE)).astype("float32")} for _ in range(20)]
    name = Scores.score_names[0]
    found, scores, cuts = scoring.measure(
        Scores(), arrays, evidence, normals, Scores.score_names, intervals=True, samples=100
    )
    config = {
        **vars(cbigan.METHODS[method].config()),
        "method": method,
        "dataset": subject.dataset,
        "category": category,
    }
    write_json(run.path / "config.json", config | {"epochs": 4})
    command = f"ganspect reproduce cbigan --methods {method} --categories {category}"
    write_json(
        run.path / "manifest.json",
        {"commit": "0" * 40, "dirty": False, "versions": {"keras": "3"}, "hardware": "a machine", "threads": 1}
        | {"seed": seed, "command": command, "data_fingerprint": "f" * 64, "date": "2026-01-01"},
    )
    cut = {name: {"value": cuts[name].value}}
    facts = {"train_images": 40, "all_train_images": 60, "notes": [], "image_shape": [SIZE, SIZE, 3]}
    write_json(
        run.metrics_path(),
        facts | {"protocols": found, "seconds_per_image": 0.1, "image_thresholds": cut, "held_out": {}},
    )
    rows = zip(arrays.test_names, arrays.labels, arrays.defects, scores[name], strict=True)
    run.write_table(
        "scores_4.csv",
        [{"image": n, "label": int(y), "defect": d, name: float(s)} for n, y, d, s in rows],
    )
    history = [{"epoch": i, "step": 10 * i, "d_loss": 1 / i, "eg_loss": 0.1 * i, "seconds": 1.0} for i in range(1, 5)]
    run.write_table("history.csv", history)
    run.write_table("curve.csv", [{"epoch": 2, "step": 20, f"{name}:image_auroc": 0.6}])
    for image, one in zip(arrays.test_names, evidence, strict=True):
        place = (run.path / "maps" / image).with_suffix(".npy")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, one["map"].astype("float16"))
    (run.path / "figures").mkdir(exist_ok=True)
    if shown:
        gallery.save(Scores(), arrays, evidence, run)
        plots.save_figure(plots.image_grid(arrays.test[:3]), run.path / "figures" / "generated.png")
        plots.save_figure(Figure(figsize=(2, 2)), run.path / "figures" / "training.png")
    run.set_status("finished", message="", traceback="", training_seconds=1.0)
    return run


def cells(runs):
    """Every cell of the runs folder."""
    return plan.every_cell(cbigan, runs)
