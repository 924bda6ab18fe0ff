"""Two runs folders cell by cell, or two methods of one: what differs, and whether more than chance.

Each cell that both folders have finished is compared by each metric of its first score. The test is, in this order:

1. Welch's t test over seeds, where both have at least three: it speaks of trainings like these.
2. One seed each, the same test images: DeLong's test for image AUROC, a paired bootstrap over images for the other
   metrics of images and for pixel AUROC and AUPR (from the stored maps, float16). These speak of test images like
   these and of these two trainings, not of other seeds, as the column `test` says.

p values are adjusted for the number of tests (Benjamini and Hochberg 1995): a difference is called significant where
the adjusted one is below 0.05.
"""

import csv
import math
import os
import warnings
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy import stats

from ganspect.evaluation import comparison, metrics
from ganspect.reproduce import collect, gallery, plan, tables
from ganspect.reproduce.scoring import ALL
from ganspect.training.files import begins_with
from ganspect.training.run import Run, write_csv

SIGNIFICANT = 0.05
LEAST_SEEDS = 3
SAME = 1e-12  # a difference of rounding
COLUMNS = (
    *("paper", "method", "dataset", "category", "metric", "protocol", "a", "b", "difference", "low", "high"),
    *("p", "p_adjusted", "verdict", "test", "seeds_a", "seeds_b"),
)
IMAGE = {
    "image_ap": metrics.image_ap,
    "image_f1_max": lambda labels, scores: metrics.f1_max(labels, scores)[0],
    "image_accuracy_oracle": lambda labels, scores: metrics.accuracy_oracle(labels, scores)[0],
    "image_balanced_accuracy_oracle": lambda labels, scores: metrics.balanced_accuracy_oracle(labels, scores)[0],
}
PIXEL = ("pixel_auroc", "pixel_aupr")
DRAWS = 400  # of a bootstrap
RIVAL_KEYS = ("first", "second", "category", "metric")
RIVAL_NUMBERS = ("a", "b", "difference", "low", "high", "p")
RIVAL_COLUMNS = (*RIVAL_KEYS, "epochs", *RIVAL_NUMBERS, "test")


def compare(papers, runs_a, runs_b):
    """Differences b - a of every metric of every cell that both folders have finished.

    Args:
        papers: the papers' scripts.
        runs_a, runs_b: runs folders.

    Returns:
        `(rows, missing)`: list of dicts with `COLUMNS`, and lines on the cells that only one folder has.
    """
    rows, missing = [], []
    for paper in papers:
        both = [_finished(paper, runs) for runs in (runs_a, runs_b)]
        for key in dict.fromkeys([*both[0], *both[1]]):
            if all(key in found for found in both):
                rows += _cell(paper, key, *(found[key] for found in both))
            else:
                where = runs_a if key in both[0] else runs_b
                missing.append(f"{paper.NAME}: {key[0]} {key[1]}/{key[2]}: finished in {where} alone")
    _adjust(rows)
    return rows, missing


def _finished(paper, runs):
    """`{(method, dataset, category, protocol): {seed: Run}}` of the finished cells of a folder."""
    found = {}
    for cell in plan.every_cell(paper, runs):
        run = Run(cell.folder(runs))
        if run.status["state"] == "finished":
            key = (cell.method, cell.subject.dataset, cell.subject.category, cell.protocol)
            found.setdefault(key, {})[cell.seed] = run
    return found


def _cell(paper, key, runs_a, runs_b):
    """The rows of one cell."""
    method, dataset, category, trained = key
    rows, protocols = [], ("paper", "clean") if trained == "both" else ("paper",)
    if trained != "both":
        method += " (all normals)"
    for protocol in protocols:
        values = [{seed: _values(run, protocol) for seed, run in runs.items()} for runs in (runs_a, runs_b)]
        names = [name for name in collect.METRICS if all(name in v for found in values for v in found.values())]
        for name in names:
            sides = [[v[name] for v in found.values() if v[name] is not None] for found in values]
            if not all(sides) or (protocol == "clean" and _same_as_paper(name, runs_a, runs_b)):
                continue
            a, b = (float(np.mean(side)) for side in sides)
            row = {"paper": paper.NAME, "method": method, "dataset": dataset, "category": category, "metric": name}
            row |= {"protocol": protocol, "a": a, "b": b, "difference": b - a}
            row |= {"seeds_a": len(sides[0]), "seeds_b": len(sides[1])}
            rows.append(row | _test(name, protocol, sides, runs_a, runs_b))
    return rows


def _values(run, protocol):
    """The metrics of a run's first score."""
    scores = run.metrics["protocols"][protocol]
    return scores[next(iter(scores))]


def _same_as_paper(name, runs_a, runs_b):
    """Whether the clean protocol only repeats a metric: no test image is left out of it."""
    runs = (*runs_a.values(), *runs_b.values())
    return all(_values(run, "clean").get(name) == _values(run, "paper").get(name) for run in runs)


def _test(name, protocol, sides, runs_a, runs_b):
    """Interval of the difference, p value and the name of the test."""
    if min(map(len, sides)) >= LEAST_SEEDS:
        kind = f"Welch's t over {len(sides[0])} and {len(sides[1])} seeds"
        if max(map(np.ptp, sides)) < SAME:  # no spread to test against
            difference = float(np.mean(sides[1]) - np.mean(sides[0]))
            return _shown(difference, difference, float(abs(difference) < SAME), kind)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # where one side alone has no spread
            found = stats.ttest_ind(sides[1], sides[0], equal_var=False)
        low, high = found.confidence_interval(0.95)
        return _shown(low, high, found.pvalue, kind)
    if max(map(len, sides)) > 1:
        return _shown(test=f"none: {len(sides[0])} and {len(sides[1])} seeds; a test takes 3 of each or more, or one")
    if protocol == "clean":
        return _shown(test="none: fewer than 3 seeds; see the paper protocol")
    a, b = (next(iter(runs.values())) for runs in (runs_a, runs_b))
    return _on_images(name, a, b)


def _shown(low=math.nan, high=math.nan, p=math.nan, test=""):
    return {"low": float(low), "high": float(high), "p": float(p), "test": test}


def _on_images(name, a, b):
    """One seed each: a test over the test images that both scored."""
    if _is_drawn(a) or _is_drawn(b):
        return _shown(test="none: means over draws of the test images")
    names, labels, scores = _common(a, b)
    if not len(names) == len(_scores(a)) == len(_scores(b)):
        return _shown(test="none: other test images")
    found = _tested(name, names, labels, scores, a, b)
    if isinstance(found, str):
        return _shown(test=f"none: {found}")
    return _shown(found.low, found.high, found.p_value, f"{_kind(name)}, one training each")


def _kind(name):
    return "DeLong" if name == "image_auroc" else "paired bootstrap over test images"


def _tested(name, names, labels, scores, a, b):
    """`evaluation.comparison.Comparison` of a metric on these images of two runs, or why there is none."""
    if name == "image_auroc":
        return comparison.delong(labels, *scores)
    if name in IMAGE:
        return comparison.paired_bootstrap(IMAGE[name], labels, *scores, samples=DRAWS)
    if name in PIXEL:
        truth = gallery.load_truth(a)
        if not all(image in truth for image in names):
            return "no stored masks (--rescore stores them)"
        if not all(gallery.map_path(run, image).exists() for run in (a, b) for image in names):
            return "no stored maps (--rescore stores them)"
        masks = [truth[image] for image in names]
        maps = [[gallery.load_map(run, image).astype(np.float32) for image in names] for run in (a, b)]
        if any(values.shape != mask.shape for side in maps for values, mask in zip(side, masks, strict=True)):
            return "maps of other sizes"
        return comparison.paired_bootstrap_of_pixels(masks, *maps, samples=DRAWS)[name]
    return "fewer than 3 seeds"


def _common(a, b):
    """Names, labels and both scores of the images that two runs scored with equal labels."""
    pair = [{row[:2]: row[2] for row in _scores(run)} for run in (a, b)]
    keys = [key for key in pair[0] if key in pair[1]]
    scores = [np.array([side[key] for key in keys]) for side in pair]
    return [key[0] for key in keys], np.array([key[1] for key in keys], int), scores


def rivals(paper, runs):
    """The methods that a paper compares in words (its RIVALS), tested on the images that both scored.

    Of each pair, category and metric: by Welch's t over seeds where both have three, else DeLong's test or a paired
    bootstrap of the first seed of each.

    Args:
        paper: the paper's script.
        runs: the runs folder.

    Returns:
        List of dicts with `RIVAL_COLUMNS`; of the first method a, and how many epochs each was trained.
    """
    found, rows = _finished(paper, runs), []
    testable = {"image_auroc", *IMAGE, *PIXEL}
    wanted = [name for table in paper.TABLES.values() for name in table["metrics"] if name in testable]
    for first, second in getattr(paper, "RIVALS", ()):
        for (method, dataset, category, protocol), by_seed in found.items():
            other = found.get((second, dataset, category, protocol))
            if method == first and other:
                suffix = "" if protocol == "both" else " (all normals)"
                place = {"first": paper.METHODS[first].label + suffix, "second": paper.METHODS[second].label + suffix}
                place["category"] = tables.shown_category(paper, dataset, category)
                trained = (next(iter(runs.values())).epochs_done() for runs in (by_seed, other))
                place["epochs"] = " and ".join(map(str, trained))
                for name in dict.fromkeys(wanted):
                    row = _rivalry(name, by_seed, other)
                    rows += [{**place, "metric": name, **row}] if row else []
    return rows


def with_committed(rows, path):
    """Rows of `rivals` joined with those of a committed file: these stay where no run here gives the same test.

    Args:
        rows: from `rivals`.
        path: a CSV file with `RIVAL_COLUMNS`; may be missing.
    """
    old = {}
    if Path(path).exists():
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                row |= {name: float(row[name] or "nan") for name in RIVAL_NUMBERS}
                old[tuple(row[name] for name in RIVAL_KEYS)] = row
    return list((old | {tuple(row[name] for name in RIVAL_KEYS): row for row in rows}).values())


def _rivalry(name, runs_a, runs_b):
    """A row of `rivals`, or None where nothing can be said: difference of the first over the second."""
    sides = [[_values(run, "paper").get(name) for run in runs.values()] for runs in (runs_a, runs_b)]
    if min(map(len, sides)) >= LEAST_SEEDS and None not in sides[0] + sides[1]:
        a, b = (float(np.mean(side)) for side in sides)
        return {"a": a, "b": b, "difference": a - b, **_test(name, "paper", sides[::-1], runs_b, runs_a)}
    a, b = (next(iter(runs.values())) for runs in (runs_a, runs_b))
    names, labels, scores = _common(a, b)
    if min(np.sum(labels == 0), np.sum(labels == 1), len(labels)) < 2 and name not in PIXEL:
        return None
    found = _tested(name, names, labels, scores[::-1], b, a)
    if isinstance(found, str) or math.isnan(found.difference):
        return None
    kind = f"{_kind(name)}, one training each, {len(names)} images"
    return {
        "a": found.b,
        "b": found.a,
        "difference": found.difference,
        **_shown(found.low, found.high, found.p_value, kind),
    }


def _scores(run):
    """`(image, label, score)` of every test image, by name."""
    score = next(iter(run.metrics["protocols"]["paper"]))
    return sorted((row["image"], int(row["label"]), float(row[score])) for row in run.scores)


def _is_drawn(run):
    scores = run.metrics["protocols"]["paper"]
    return f"{next(iter(scores))}{ALL}" in scores


def _adjust(rows):
    """Adds adjusted p values and verdicts."""
    tested = [row for row in rows if np.isfinite(row["p"])]
    adjusted = stats.false_discovery_control([row["p"] for row in tested]) if tested else []
    for row in rows:
        row["p_adjusted"], row["verdict"] = math.nan, "not tested"
    for row, p in zip(tested, adjusted, strict=True):
        row["p_adjusted"] = float(p)
        better = "B" if (row["difference"] > 0) != row["metric"].startswith(("seconds", "false_alarms")) else "A"
        row["verdict"] = f"{better} better" if p < SIGNIFICANT and row["difference"] else "no difference shown"


def write(papers, runs_a, runs_b, output, console):
    """Prints the comparison and writes all of it as `compare.csv`.

    Args:
        papers: the papers' scripts.
        runs_a, runs_b: runs folders.
        output: folder of the file.
        console: `rich.console.Console`.

    Returns:
        Number of rows.

    Raises:
        FileExistsError: a compare.csv there is something else.
    """
    table = Path(output) / "compare.csv"
    if os.path.lexists(table) and not begins_with(table, ",".join(COLUMNS[:9]).encode()):
        raise FileExistsError(f"{table} is no comparison, nothing was written: move it, or give another --output")
    rows, missing = compare(papers, runs_a, runs_b)
    for line in missing:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not rows:
        return 0
    blank = [{name: "" if value != value else value for name, value in row.items()} for row in rows]
    write_csv(table, blank, COLUMNS)
    console.print(_terminal(rows, runs_a, runs_b))
    tested = sum(row["verdict"] != "not tested" for row in rows)
    significant = sum(row["verdict"].endswith("better") for row in rows)
    text = f"{len(rows)} differences, {tested} tested, {significant} significant (adjusted p below {SIGNIFICANT:g})"
    console.print(f"{text}; all of them: {table}", markup=False, highlight=False, soft_wrap=True)
    return len(rows)


def _terminal(rows, runs_a, runs_b):
    table = Table(title=f"B minus A; A: {runs_a}, B: {runs_b}", title_justify="left")
    for head in ("cell", "metric", "A", "B", "difference", "95 % interval", "p, adjusted", "verdict", "test"):
        table.add_column(head, justify="right" if head in ("A", "B", "difference", "p, adjusted") else "left")
    for row in rows:
        name, cell = row["metric"], f"{row['method']} {row['dataset']}/{row['category']}"
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}" if np.isfinite(row["low"]) else ""
        p = f"{row['p_adjusted']:.3g}" if np.isfinite(row["p_adjusted"]) else ""
        shown = name if row["protocol"] == "paper" else f"{name} ({row['protocol']})"
        sides = (tables.show(row[side], name) for side in "ab")
        table.add_row(cell, shown, *sides, f"{row['difference']:+.3f}", interval, p, row["verdict"], row["test"])
    return table
