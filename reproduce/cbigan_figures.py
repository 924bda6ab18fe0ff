"""CBiGAN's pictures across runs: the alpha study, the sweep of lambda, and reconstructions side by side."""

import numpy as np

from ganspect.evaluation import plots
from ganspect.models.cbigan import WEIGHTS
from ganspect.training.run import Run, write_csv


def draw(cells, runs, folder):
    """Draws what the finished runs allow; runs of different schedules or sizes never share a picture.

    Args:
        cells: every cell with a run folder.
        runs: the runs folder.
        folder: where `curve_alpha_*`, `curve_lambda_*` (PNG and CSV) and `comparison_*` go.
    """
    groups = {}
    for cell in cells:
        run = Run(cell.folder(runs))
        if run.status["state"] == "finished" and cell.protocol == "both" and "alpha" in run.config:  # CBiGAN's alone
            groups.setdefault(cell.subject.category, []).append((cell, run))
    for category, members in groups.items():
        alike = [(cell, run) for cell, run in members if _budget(run) == _budget(members[0][1])]
        draw_lambda(category, alike, folder)
        draw_alpha(category, alike, folder)
        draw_comparison(category, alike, folder)


def _budget(run):
    """All settings but the seed and what makes a run a point of the alpha study."""
    skipped = ("alpha", "method", "seed")
    return {name: value for name, value in run.config.items() if name not in skipped}


def draw_lambda(category, members, folder):
    """Image AUROC against lambda, the mean over seeds, one line for each alpha: 0 is L_R alone, 1 is L_fD alone."""
    lines, rows = {}, []
    for alpha, runs in by_alpha(members).items():
        values = [
            _mean(run.metrics["protocols"]["paper"][f"lambda_{w}"]["image_auroc"] for run in runs) for w in WEIGHTS
        ]
        lines[f"alpha {alpha:g}"] = (WEIGHTS, values)
        rows += [
            {"category": category, "alpha": alpha, "lambda": w, "image_auroc": v, "seeds": len(runs)}
            for w, v in zip(WEIGHTS, values, strict=True)
        ]
    figure = plots.line_panels([(f"{category}: image AUROC", lines)], "lambda (0: $L_R$, 1: $L_{fD}$)")
    plots.save_figure(figure, folder / f"curve_lambda_{category}.png")
    write_csv(folder / f"curve_lambda_{category}.csv", rows)


def draw_alpha(category, members, folder):
    """Image AUROC, reconstruction error and latent error against alpha, means over seeds; at least two alphas."""
    found = by_alpha(members)
    if len(found) < 2:
        return
    rows = []
    for alpha, runs in found.items():
        row = {"category": category, "alpha": alpha, "seeds": len(runs)}
        row["image_auroc"] = _mean(run.metrics["protocols"]["paper"]["lambda_0.1"]["image_auroc"] for run in runs)
        rows.append(
            row | {n: _mean(run.metrics["held_out"][n] for run in runs) for n in ("held_out_mae", "latent_mae")}
        )
    titles = {
        "image_auroc": f"{category}: image AUROC",
        "held_out_mae": "mean |x - G(E(x))|, held-out normals",
        "latent_mae": "mean |z - E(G(z))|, drawn latents",
    }
    panels = [(title, {"": (range(len(rows)), [row[name] for row in rows])}) for name, title in titles.items()]
    figure = plots.line_panels(panels, "alpha", [f"{row['alpha']:g}" for row in rows])
    plots.save_figure(figure, folder / f"curve_alpha_{category}.png")
    write_csv(folder / f"curve_alpha_{category}.csv", rows)


def by_alpha(members):
    """`{alpha: runs}`, ascending; one run for each seed."""
    found = {}
    for _, run in members:
        found.setdefault(run.config["alpha"], {})[run.config["seed"]] = run
    return {alpha: list(found[alpha].values()) for alpha in sorted(found)}


def draw_comparison(category, members, folder):
    """The poster's picture: query, then reconstruction and difference at alpha 0, at the default and at 1."""
    first = {}
    for cell, run in sorted(members, key=lambda pair: pair[1].config["seed"]):
        first.setdefault(cell.method, run)
    parts = {}
    for name in ("bigan", "cbigan", "autoencoder"):
        path = first[name].path / "reconstructions.npz" if name in first else None
        if path is None or not path.exists():
            return
        with np.load(path, allow_pickle=False) as stored:
            parts[name] = {key: stored[key] for key in stored.files}
    images, titles = [], []
    for i, query in enumerate(parts["cbigan"]["images"]):
        images.append(query)
        titles.append(str(parts["cbigan"]["names"][i]).removeprefix("test/").rsplit(".", 1)[0])
        for name, label in (("bigan", "BiGAN"), ("cbigan", "CBiGAN"), ("autoencoder", "autoencoder")):
            rebuilt = parts[name]["reconstructions"][i]
            difference = np.abs(query.astype("int16") - rebuilt).mean(-1, keepdims=True)
            images += [rebuilt, np.clip(np.rint(difference), 0, 255).astype("uint8")]
            titles += [f"alpha {first[name].config['alpha']:g}: {label}", "difference"]
    figure = plots.image_grid(images, titles, columns=7)
    plots.save_figure(figure, folder / f"comparison_{category}.png")


def _mean(values):
    """Mean of numbers, NaN where one is undefined."""
    return float(np.mean([np.nan if value is None else value for value in values]))
