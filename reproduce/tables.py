"""A paper's tables: printed lines and our rows side by side, and whether its claims hold."""

import math

from ganspect.reproduce import milestones
from ganspect.reproduce.cells import SYNTHETIC
from ganspect.reproduce.collect import METRICS, beyond
from ganspect.reproduce.printed import also_printed, headline, key_of, printed_lines, published

PROVENANCE = {
    "[q]": ("quoted", "quoted by the paper from elsewhere"),
    "[r]": ("rerun", "of another method, run by the paper's authors"),
    "[d]": ("digitised", "read off a figure of the paper"),
}

LEGEND = "Printed values: " + "; ".join(f"{mark} {text}" for mark, (_, text) in PROVENANCE.items())
LEGEND += "; without a mark: reported by the paper of its own method."


def joined(paper, rows, failed=()):
    """The paper's tables: printed cells and ours side by side.

    Args:
        paper: the paper's script.
        rows: from `measured`.
        failed: from `failures`; the verdicts of printed cells without a row.

    Returns:
        `{table: list of dicts}` with text fields: category, method, metric, printed, paper, clean, interval, verdict,
        seeds, budget, note; and for links and choices label, dataset, place (the category's own name), beyond (whether
        the paper prints no such metric).
    """
    ours, beside = {}, printed_lines(paper)
    for row in rows:
        ours.setdefault(key_of(row), {})[row["protocol"]] = row
    tables = {name: [] for name in paper.TABLES}
    for line in published(paper.NAME):
        key = key_of(line)
        tables[line["table"]].append(_line(paper, line, ours.pop(key, {}), key, dict(failed)))
    for key, found in ours.items():
        if any(row["value"] is not None for row in found.values()):
            tables[key[0]].append(_line(paper, beside.get(key), found, key))
    subjects = (*paper.SUBJECTS, *paper.SYNTHETIC)
    names = (*getattr(paper, "GROUPS", ()), *(shown_category(paper, s.dataset, s.category) for s in subjects))
    for name, lines in tables.items():
        metrics = (*paper.TABLES[name]["metrics"], *METRICS)
        orders = (("category", _ranks(names)), ("metric", _ranks(metrics)), ("label", _ranks(_labels(paper, name))))
        lines.sort(key=lambda x: [order.get(x[what], len(order)) for what, order in orders])  # noqa: B023
    return {name: lines for name, lines in tables.items() if lines}


def shown_category(paper, dataset, category):
    """A category's name, marked where a synthetic one has the name of a real one."""
    real = {s.category for s in paper.SUBJECTS}
    return f"{category} ({SYNTHETIC})" if dataset == SYNTHETIC and category in real else category


def _labels(paper, table):
    """Every label in a table's order: printed ones, each followed by those beside it, then the rest of ours."""
    labels = []
    for name in dict.fromkeys(line["method"] for line in published(paper.NAME) if line["table"] == table):
        labels += [name, *(headline(paper, m) for m in paper.METHODS.values() if m.beside == name)]
        labels += [
            label for m in paper.METHODS.values() for label, also in also_printed(paper, m).items() if also == name
        ]
    return labels + [m.label + suffix for m in paper.METHODS.values() for suffix in m.of(paper, "scores").values()]


def _ranks(names):
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _line(paper, printed, found, key, failed=None):
    """One line of a printed table."""
    table, dataset, category, method, metric, epochs = key
    any_row = found.get("paper") or found.get("clean")
    several = len(milestones.of_paper(paper).get(table, ())) > 1
    shown = f"{method}, {epochs} epochs" if several else method
    text = {"category": shown_category(paper, dataset, category), "method": shown, "metric": metric, "note": ""}
    text |= {
        "label": method,
        "dataset": dataset,
        "place": category,
        "beyond": printed is None and beyond(paper, metric),
    }
    text["printed"] = _printed_text(printed) + _mark(printed) if printed else ""
    if printed and printed["method"] != method:
        text["printed"] += f" ({printed['method']})"
    for protocol in ("paper", "clean"):
        text[protocol] = show(found[protocol]["value"], metric) if protocol in found else ""
    if any_row is None:
        verdict = (failed or {}).get((method, dataset, category)) or _without_run(paper, printed)
        return text | {"verdict": verdict, "interval": "", "seeds": "", "budget": ""}
    low, high = any_row["low"], any_row["high"]
    text["interval"] = f"{show(low, metric)} to {show(high, metric)}" if low is not None else ""
    text["seeds"] = str(any_row["seeds"])
    text["verdict"] = any_row["verdict"]
    shares = ", ".join(f"{100 * float(share):.3g} %" for share in any_row["schedule"].split("; "))
    text["budget"] = f"{shares} of the schedule; {any_row['model']}"
    data = "" if any_row["data"] == "paper" else any_row["data"]
    text["note"] = "; ".join(x for x in (data, any_row["note"]) if x)
    return text


def _printed_text(printed):
    """A printed value with the digits that it has, as a fraction where the paper prints percent."""
    value, relation = printed["value"], printed["relation"].removeprefix("=")
    if printed["unit"] == "percent":
        value = f"{float(value) / 100:.{2 + len(value.partition('.')[2])}f}"
    return relation + value


def _mark(printed):
    """Where a printed value is from, as `PROVENANCE` says it; empty for what a paper reports of its own method."""
    return next((f" {mark}" for mark in PROVENANCE if printed["provenance"].startswith(PROVENANCE[mark][0])), "")


def _without_run(paper, printed):
    """Verdict of a printed line that nothing was measured for."""
    method = printed["method"]
    if (printed["dataset"], printed["category"]) in getattr(paper, "PRIVATE", {}).values():
        return "not run (private data)"
    if method in paper.NOT_RUN:
        return f"not run ({paper.NOT_RUN[method]})"
    if method in {m.label + suffix for m in paper.METHODS.values() for suffix in m.of(paper, "scores").values()}:
        return "not run (no finished run here)"
    quoted = method in getattr(paper, "QUOTED", ()) or printed["provenance"].startswith("quoted")
    return "quoted" if quoted else "not run (method not built)"


def claims(paper, rows):
    """What the paper claims of its numbers and whether ours bear it out.

    Args:
        paper: the paper's script.
        rows: from `measured`.

    Returns:
        List of `(claim, state, evidence)`, empty if the script states none; the states are "holds", "does not hold",
        "undecided" (the intervals of both sides overlap) and "not checked".
    """
    states = {True: "holds", False: "does not hold", "undecided": "undecided", None: "not checked"}
    check = getattr(paper, "claims", None)
    return [(claim, states[held], evidence) for claim, held, evidence in check(rows)] if check else []


def show(value, metric):
    """A number as tables print it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "undefined"
    if metric.endswith("_loss"):
        return f"{value:.3g}"
    if metric == "training_seconds":
        return f"{value / 60:.1f} min"
    if metric == "peak_megabytes":
        return f"{value / 1000:.1f} GB"
    if metric == "parameters":
        return f"{value / 1e6:.2f} M"
    return f"{value:.2f} s" if metric.startswith("seconds") else f"{value:.3f}"
