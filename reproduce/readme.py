"""The tables of README.md and docs/results.md, made from the committed results and written between their markers.

    python -m ganspect.reproduce.readme README.md docs/results.md --results reproduce/results

A table stands between `<!-- table NAME -->` and `<!-- end -->`; `TABLES` says what it holds. Nothing else of the files
is touched. Every measured cell shows both protocols, where both measure it.
"""

import argparse
import functools
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ganspect.reproduce import committed, tables
from ganspect.reproduce.cli import PAPERS
from ganspect.training.files import atomic_write

MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
AUROC = ("image AUROC", "image_auroc", "image_auroc")
PIXEL = ("pixel AUROC", "pixel_auroc", "pixel_auroc")
AUPR = ("pixel AUPR", "pixel_aupr", "pixel_aupr")
SECONDS = ("seconds per image", "seconds_per_image", None)
BALANCED = ("balanced accuracy", "image_balanced_accuracy_oracle", "image_balanced_accuracy")
ACCURACY = ("accuracy, best threshold", "image_accuracy_oracle", None)


@dataclass(frozen=True)
class ReadmeTable:
    """One table.

    Args:
        paper: name of the paper.
        metrics: `(title, metric of the paper protocol, metric of the clean one or None)` each, side by side.
        rows: `(category, label of the method, tables)` each, the metrics' tables in order; with `(folder, label to
            show)` behind them where the row is of other results, in that folder of `ablations`.
    """

    paper: str
    metrics: tuple
    rows: tuple


CBIGAN = ("CBiGAN", "CBiGAN at alpha 0 (BiGAN)", "CBiGAN at alpha 1 (autoencoder)")
CBIGAN_TABLES = ("auroc", "balanced-accuracy")
CBIGAN_120 = ("CBiGAN", "cbigan_120_epochs", "CBiGAN, ten times as long")
AUTOENCODER_120 = (CBIGAN[2], CBIGAN_120[1], f"{CBIGAN[2]}, ten times as long")
LONGER = {"pill": (CBIGAN_120, AUTOENCODER_120)}
GRAY = "GRD-Net, gray noise"
GRAY_64 = ("grdnet_gray_full_width", f"{GRAY}, full width")
DRAEM_16 = ("grdnet_width_16_200", "DRAEM, width 16")
EARLY = (("GRD-Net",), ("GRD-Net, Perlin colours",), ("DRAEM",))  # trained for 35 epochs or more at full width
BOTH = ("pill", "bottle")
TABLES = {
    "cbigan": ReadmeTable(
        "cbigan",
        (AUROC, BALANCED),
        tuple(
            (category, label, CBIGAN_TABLES, *other)
            for category in ("textures", "objects", "overall", "grid", "bottle", "pill")
            for label, *other in (*((label,) for label in CBIGAN), *LONGER.get(category, (CBIGAN_120,)))
        ),
    ),
    "cbigan-others": ReadmeTable(
        "cbigan",
        (AUROC, BALANCED),
        (
            *((category, "GANomaly", CBIGAN_TABLES) for category in ("grid", "bottle", "pill")),
            *((category, "f-AnoGAN", ("f-anogan",) * 2) for category in ("grid", "bottle", "pill")),
        ),
    ),
    "fcbigan": ReadmeTable(
        "fcbigan",
        (PIXEL, AUPR, SECONDS),
        (
            *(
                ("nanofibres", "FCBiGAN" + of + score, ("1",) * 3)
                for of in (", latents averaged", "")
                for score in ("", ", L_R alone", ", L_D alone")
            ),
            *(("grid", label, ("2",) * 3) for label in ("FCBiGAN", "FCBiGAN, L_R alone", "f-AnoGAN")),
        ),
    ),
    "anogan_ganomaly": ReadmeTable(
        "anogan_ganomaly",
        (AUROC, ACCURACY),
        (
            ("casting", "GANomaly as in the notebook", ("figures",) * 2),
            ("casting", "GANomaly as in the notebook (full test set)", ("figures",) * 2),
            ("casting", "GANomaly", ("figures",) * 2),
            ("casting", "GANomaly (full test set)", ("figures",) * 2),
            ("casting", "AnoGAN", ("figures",) * 2),
            ("casting", "GANomaly, G_E twice", ("figures",) * 2),
            ("casting", "GANomaly, residual alone", ("figures",) * 2),
            ("casting", "GANomaly, grayscale", ("colour",) * 2),
        ),
    ),
    **{
        name: ReadmeTable(
            "grdnet",
            (AUROC, PIXEL),
            tuple((category, label, (of,) * 2, *other) for category, labels in some for label, *other in labels),
        )
        for name, of, some in (
            ("grdnet", "2", tuple((category, (*EARLY, (GRAY, *GRAY_64), (GRAY,))) for category in BOTH)),
            ("grdnet-35", "3", tuple((category, (*EARLY, (GRAY,))) for category in BOTH)),
            ("grdnet-200", "5", (("pill", (("GRD-Net",), ("DRAEM",))),)),
        )
    },
    "grdnet-100": ReadmeTable(
        "grdnet",
        (AUROC, PIXEL),
        tuple(
            (category, label, ("4",) * 2, *other)
            for category, label, *other in (
                ("pill", "GRD-Net"),
                ("pill", GRAY),
                ("pill", GRAY, "grdnet_gray_statistics", f"{GRAY}, statistics measured anew"),
                ("pill", "DRAEM", *DRAEM_16),
                ("pill", "DRAEM", "draem_statistics", "DRAEM, width 16, statistics measured anew"),
                ("pill", "DRAEM"),
                ("bottle", GRAY, "grdnet_gray_statistics", f"{GRAY}, statistics measured anew"),
                ("bottle", "DRAEM"),
            )
        ),
    ),
    "grdnet-others": ReadmeTable(
        "grdnet",
        (AUROC, PIXEL),
        (
            *(("pill", f"GRD-Net loss case {case}", ("7",) * 2) for case in (1, 2, 3, 4)),
            ("pill", "GANomaly", ("5",) * 2),
            ("bottle", "GANomaly", ("5",) * 2),
        ),
    ),
}

# Rows of the first table of all: study, paper, its table, category, label of the method, the data as shown, metric, and
# folder and label as in `ReadmeTable.rows` where there are such.
AS_IN_NOTEBOOK = "GANomaly as in the notebook"
HEADLINES = (
    ("CBiGAN (ICPR 2020)", "cbigan", "auroc", "objects", "CBiGAN", "pill, bottle", AUROC, CBIGAN_120[1], "CBiGAN"),
    ("CBiGAN (ICPR 2020)", "cbigan", "auroc", "textures", "CBiGAN", "grid", AUROC, CBIGAN_120[1], "CBiGAN"),
    ("FCBiGAN (thesis, 2021)", "fcbigan", "1", "nanofibres", "FCBiGAN", "nanofibres", PIXEL),
    ("FCBiGAN (thesis, 2021)", "fcbigan", "1", "nanofibres", "FCBiGAN, latents averaged", "nanofibres", PIXEL),
    ("AnoGAN, GANomaly (2022)", "anogan_ganomaly", "figures", "casting", AS_IN_NOTEBOOK, "casting", AUROC),
    ("AnoGAN, GANomaly (2022)", "anogan_ganomaly", "figures", "casting", "GANomaly", "casting", AUROC),
    ("AnoGAN, GANomaly (2022)", "anogan_ganomaly", "figures", "casting", "AnoGAN", "casting", AUROC),
    *(
        ("GRD-Net (IJIS 2023)", "grdnet", of, "pill", label, f"pill, {epochs} epochs", metric, *other)
        for of, epochs, rows in (
            ("2", 10, (*EARLY, (GRAY, *GRAY_64))),
            ("4", 100, (("GRD-Net",), (GRAY,), ("DRAEM", *DRAEM_16))),
        )
        for metric in (AUROC, PIXEL)
        for label, *other in rows
    ),
    *(
        ("GRD-Net (IJIS 2023)", "grdnet", "5", "pill", label, "pill, 200 epochs", AUROC)
        for label in ("GRD-Net", "DRAEM", "GANomaly")
    ),
)


@functools.cache
def lines_of(paper, results, folder=""):
    """`{(table, category, label, metric): line}` of a paper's committed results, lines as `tables.joined` has them."""
    script = importlib.import_module(PAPERS[paper])
    path = Path(results) / "ablations" / folder if folder else Path(results)
    joined = tables.joined(script, committed.read(path / f"{paper}.csv"))
    return {(of, x["place"], x["label"], x["metric"]): x for of, some in joined.items() for x in some}


def headline_table(results):
    """One row for each of `HEADLINES`, of the paper protocol, with the share of its schedule that was trained.

    Raises:
        KeyError: as `table`.
    """
    heads = ("study", "method", "data", "metric", "printed", "ours", "trained", "verdict")
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for study, paper, of, category, label, data, (title, metric, _), *other in HEADLINES:
        folder, shown = other or ("", label)
        line = lines_of(paper, results, folder).get((of, category, label, metric))
        if line is None or not line["paper"]:
            raise KeyError(f"{results}: no row of {paper} for {label}, {category}, table {of}")
        share = line["budget"].partition(" of the schedule")[0]
        cells = [study, shown, data, title, *_cells(line, None)[:2], share, line["verdict"]]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def table(name, results):
    """One table as Markdown.

    Args:
        name: of `TABLES`, or "headline".
        results: folder of the committed CSV files.

    Raises:
        KeyError: a row that the committed results do not have, so that no row is lost unnoticed.
    """
    if name == "headline":
        return headline_table(results)
    spec = TABLES[name]
    heads = [
        f"{title}: {what}"
        for title, _, clean in spec.metrics
        for what in ("printed", "paper", "clean")[: 3 if clean else 2]
    ]
    out = ["| " + " | ".join(["category", "method", *heads, "verdict"]) + " |", "|" + "---|" * (len(heads) + 3)]
    for category, label, where, *other in spec.rows:
        folder, shown = other or ("", label)
        lines = lines_of(spec.paper, results, folder)
        cells, verdicts = [], []
        for (_, paper_metric, clean_metric), of in zip(spec.metrics, where, strict=True):
            found = lines.get((of, category, label, paper_metric))
            clean = lines.get((of, category, label, clean_metric))
            cells += _cells(found, clean)[: 3 if clean_metric else 2]
            verdicts += [found["verdict"]] if found and found["paper"] else []
        if not any(cells):
            raise KeyError(f"{results}: no row of {spec.paper} for {label}, {category}, tables {', '.join(where)}")
        out.append(
            "| " + " | ".join([category, shown, *cells, "; ".join(dict.fromkeys(filter(None, verdicts)))]) + " |"
        )
    return "\n".join(out) + "\n"


def _cells(found, clean):
    """Printed value, ours with interval and number of seeds, where there are several, ours by the clean protocol."""
    if found is None:
        return ["", "", clean["clean"] if clean else ""]
    known = [found["interval"], f"{found['seeds']} seeds" if found["paper"] and int(found["seeds"]) > 1 else ""]
    beside = f" ({'; '.join(filter(None, known))})" if any(known) else ""
    return [found["printed"], found["paper"] + beside, clean["clean"] if clean else ""]


def rewritten(text, results):
    """A text with every table between markers made anew.

    Raises:
        KeyError: a marker names no table, or see `table`.
    """
    return MARKED.sub(lambda found: found[1] + table(found[2], results) + found[3], text)


def main(arguments=None):
    """Rewrites files; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--results", type=Path, default=Path("reproduce/results"))
    options = parser.parse_args(arguments)
    for path in options.files:
        text = rewritten(path.read_text(encoding="utf-8"), options.results)
        with atomic_write(path) as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
