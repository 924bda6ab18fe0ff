"""Committed results joined with those of the runs here: what was measured on another machine stays.

A cell is a method on a category of a data set. Its committed rows stay, byte for byte, as long as none of its runs
here gives rows (`collect.counted`), or those that do were stopped before the epochs that the rows reach; else they are
replaced by the rows of the runs here, whatever their scores, metrics and protocols. Rows of a number of epochs that the
paper prints (35, 100) stay where all trainings here end before it, unless those here give such a row, of a reduced
schedule, and the one there is of no more epochs.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ganspect.reproduce import collect, verdicts

NUMBERS = {"value": float, "low": float, "high": float, "seeds": int}
POINT = ("category", "alpha", "lambda")  # columns that tell the points of a curve across runs apart


@dataclass(frozen=True)
class Joined:
    """Rows of both, and what became of the committed ones.

    Args:
        rows: list of dicts with `collect.COLUMNS`: cells in the script's order, then the means of groups.
        kept: `{(method, dataset, category): number of rows}` of cells of which no run here gives rows.
        longer: the same of cells whose trainings here were stopped before the epochs of the committed rows, or end
            before that number of epochs.
        replaced: the same of cells with one.
        dropped: `{label, place and table: number of rows}` of what the script does not have.
    """

    rows: list
    kept: dict
    longer: dict
    replaced: dict
    dropped: dict

    def remarks(self):
        """Lines for the terminal; empty where nothing was committed."""
        lines = []
        for what, found in (
            ("kept, as no run of theirs here is finished or was scored", self.kept),
            ("kept, as those here have fewer epochs", self.longer),
            ("replaced by the runs here", self.replaced),
        ):
            if found:
                lines.append(f"{sum(found.values())} rows of {len(found)} cells {what}: {_by_method(found)}")
        for what, count in self.dropped.items():
            lines.append(f"{count} rows dropped, as the script does not have them: {what}")
        return lines


def join(paper, cells, runs, path):
    """Rows of a committed CSV file joined with those of the runs here.

    Means over groups are made anew from the rows of both, with an interval over seeds only where every seed's value is
    known; those that no run here changes stay.

    Args:
        paper: the paper's script.
        cells: every cell with a run folder.
        runs: the runs folder.
        path: the committed file; may be missing.

    Returns:
        `Joined`.
    """
    known = methods_by_label(paper)
    rows = read(path)
    here, stopped = _reached(cells, runs)
    outdone = _outdone(stopped, rows, known)
    cells = [cell for cell in cells if place(cell) not in outdone]
    here = {where: epochs for where, epochs in here.items() if where not in outdone}
    kept, longer, replaced, dropped, old = {}, {}, {}, {}, {}
    fresh, members = {_key(x.row): x for x in collect.by_category(paper, cells, runs)}, []
    for row in rows:
        cell = (known.get(row["method"]), row["dataset"], row["category"])
        if not _is_known(paper, row, known):
            what = f"{row['method']}, {row['dataset']}/{row['category']}, table {row['table']}"
            dropped[what] = dropped.get(what, 0) + 1
        elif _is_mean(paper, row):
            old[_key(row)] = row
        elif cell in here and here[cell] >= (_epochs(row) if _key(row) in fresh else float(row["epochs"] or 0)):
            replaced[cell] = replaced.get(cell, 0) + 1
        else:
            which = longer if cell in outdone or cell in here else kept
            which[cell] = which.get(cell, 0) + 1
            members.append(as_found(row))
            fresh.pop(_key(row), None)
    members = [*fresh.values(), *members]
    order = _order(paper)
    members.sort(key=lambda x: order[known[x.row["method"]], x.row["dataset"], x.row["category"]])
    means = [_unchanged(paper, x.row, old, known, here) or x.row for x in collect.means(paper, members)]
    return Joined([x.row for x in members] + means, kept, longer, replaced, dropped)


def read(path):
    """Rows of a results file with their numbers as numbers, blank ones as None; none where there is no file."""
    if not Path(path).exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = [{name: line.get(name) or "" for name in collect.COLUMNS} for line in csv.DictReader(file)]
    return [row | {name: kind(row[name]) if row[name] else None for name, kind in NUMBERS.items()} for row in rows]


def as_found(row):
    """A committed row with what a mean needs beside it, as far as the row says it: no values of single seeds."""
    images = re.search(r"trained on (\d+) of (\d+) normal images", row["note"])
    return collect.Found(
        row, verdicts.Limits.read(row["verdict"]), {}, tuple(map(int, images.groups())) if images else (0, 0)
    )


def methods_by_label(paper):
    """`{label with the suffix of a score: name of the method}`, as rows have it."""
    return {
        m.label + suffix: name for name, m in paper.METHODS.items() for suffix in ("", *m.of(paper, "scores").values())
    }


def loses_points(new, old):
    """Whether a curve's old CSV file has points that the new one lacks."""
    if not Path(old).exists():
        return False
    points = []
    for path in (new, old):
        with open(path, encoding="utf-8", newline="") as file:
            points.append({tuple(row.get(name) for name in POINT) for row in csv.DictReader(file)})
    return bool(points[1] - points[0])


def place(cell):
    """Where a cell's rows stand: (method, dataset, category)."""
    return cell.method, cell.subject.dataset, cell.subject.category


def _reached(cells, runs):
    """`({place: most epochs}, {place: fewest})` of the trainings here that give rows: of all, and of those stopped."""
    most, stopped = {}, {}
    for cell, run in collect.counted(cells, runs):
        where, epochs = place(cell), run.epochs_done()
        most[where] = max(epochs, most.get(where, 0))
        if run.status["state"] != "finished":
            stopped[where] = min(epochs, stopped.get(where, math.inf))
    return most, stopped


def _outdone(stopped, rows, known):
    """`place` of the stopped trainings here whose committed rows are of more epochs."""
    reached = [((known.get(row["method"]), row["dataset"], row["category"]), _epochs(row)) for row in rows]
    return {where for where, epochs in reached if epochs > stopped.get(where, math.inf)}


def _epochs(row):
    """The epochs of the training that a row is of, as far as the row says it; else 0."""
    stopped = re.search(r"a training of \d+ epochs, stopped after (\d+)", row["note"])
    shares = [float(share) for share in row["schedule"].split("; ") if share]
    return int(stopped[1]) if stopped else float(row["epochs"] or 0) * max(shares, default=0)


def _unchanged(paper, mean, old, known, here):
    """The committed row of a mean, where it is of the same categories and none of them has a run here; else None."""
    row, (dataset, categories) = old.get(_key(mean)), paper.GROUPS[mean["category"]]
    fresh = any((known[mean["method"]], dataset, category) in here for category in categories)
    return None if row is None or fresh or _counted(row) != _counted(mean) else row


def _counted(mean):
    """The part of a mean's note that names its categories."""
    return mean["note"].split("; ")[0]


def _is_mean(paper, row):
    """Whether a row is of a group of categories."""
    return getattr(paper, "GROUPS", {}).get(row["category"], ("",))[0] == row["dataset"]


def _is_known(paper, row, known):
    """Whether the script has a row's method, place and table."""
    place = (row["dataset"], row["category"])
    subjects = {(s.dataset, s.category) for s in (*paper.SUBJECTS, *paper.SYNTHETIC)}
    return row["method"] in known and row["table"] in paper.TABLES and (place in subjects or _is_mean(paper, row))


def _order(paper):
    """`{(method, dataset, category): rank}` in the order in which `collect.measured` has the cells."""
    subjects = (*paper.SUBJECTS, *paper.SYNTHETIC)
    every = [(method, s.dataset, s.category) for s in subjects for method in paper.METHODS]
    return {cell: i for i, cell in enumerate(every)}


def _key(row):
    return tuple(row[name] for name in (*collect.KEYS, "protocol"))


def _by_method(cells):
    """Cells as text: `method set/category, set/category; method ...`."""
    found = {}
    for method, dataset, category in cells:
        found.setdefault(method, []).append(f"{dataset}/{category}")
    return "; ".join(f"{method} {', '.join(places)}" for method, places in found.items())
