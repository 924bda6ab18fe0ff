"""The values that a paper prints, and how their lines find ours."""

import csv
from importlib.resources import files


def published(paper_name):
    """The printed values of a paper: list of dicts, text as printed."""
    with (files("ganspect.reproduce") / "published" / f"{paper_name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def printed_lines(paper):
    """`{key: printed line}` with keys of `key_of`, also by the labels and the data that stand beside printed ones."""
    lines, ours = {}, paper.METHODS.values()
    for line in published(paper.NAME):
        besides = (headline(paper, method) for method in ours if method.beside == line["method"])
        again = (
            label
            for method in ours
            for label, printed in also_printed(paper, method).items()
            if printed == line["method"]
        )
        for label in (line["method"], *besides, *again):
            lines[key_of(line | {"method": label})] = line
        if getattr(paper, "PRIVATE", {}).get(line["table"]) == (line["dataset"], line["category"]):
            for subject in (*paper.SUBJECTS, *paper.SYNTHETIC):
                lines[key_of(line | {"dataset": subject.dataset, "category": subject.category})] = line
    return lines


def key_of(row):
    """What a printed line and a row of ours have in common."""
    return tuple(row[name] for name in ("table", "dataset", "category", "method", "metric", "epochs"))


def headline(paper, method):
    """The label of a method's first score."""
    return method.label + next(iter(method.of(paper, "scores").values()))


def also_printed(paper, method):
    """`{label of ours: printed method}` of every score of a method that is a printed one as well."""
    return {method.label + s: method.also + s for s in method.of(paper, "scores").values()} if method.also else {}
