"""The HTML page of a paper: one file that loads nothing from elsewhere and stays below a limit of size.

Everything on it comes from the run folders. Curves and histograms are drawn as SVG; pictures are embedded in order of
their worth, as many as fit, and the page says how many stayed in the run folders.
"""

import base64
import importlib.metadata
import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from markdown_it import MarkdownIt

from ganspect.evaluation import health, plots
from ganspect.evaluation.vector import as_svg, page_colours
from ganspect.reproduce import collect, committed, figures, formats, tables
from ganspect.reproduce.model_card import card_of
from ganspect.reproduce.scoring import ALL
from ganspect.training.files import read_json
from ganspect.training.run import Run

MEGABYTES = 9.5  # of a page
DRAWN = ("training", "histogram_")  # pictures that the page has as SVG, or as histograms by defect
ORDER = ("panel", "maps", "corruption", "pairs", "generated", "histogram")
GALLERY_SHARE = 0.6  # of the room for pictures


def environment():
    """The templates' environment."""
    return Environment(
        loader=PackageLoader("ganspect.reproduce"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )


def page(paper, cells, runs, joined, claims=(), rivals=()):
    """The HTML page as text.

    Args:
        paper: the paper's script.
        cells: every cell with a run folder.
        runs: the runs folder.
        joined: from `tables.joined`.
        claims: from `tables.claims`.
        rivals: from `compare.rivals`.
    """
    with page_colours():
        views = [run_view(paper, cell, runs) for cell in cells]
        places = categories(views)
    for view in views:
        view["title"] = view["label"] + (f", seed {view['seed']}" if view["several"] else "")
    content = {
        "title": paper.TITLE,
        "name": paper.NAME,
        "version": importlib.metadata.version("ganspect"),
        "tables": [table_view(paper, name, lines, views) for name, lines in joined.items()],
        "claims": claims,
        "legend": tables.LEGEND,
        "tested": formats.TESTED,
        "rivals": [formats.rival(row) for row in rivals],
        "across": [{"name": _words(p.stem), "path": p} for p in across(paper, runs)],
        "categories": places,
        "cards": cards(cell.method for cell in cells),
        "commands": list(dict.fromkeys(v["manifest"].get("command", "") for v in views if v["manifest"])),
        "verdicts": verdict_counts(joined),
    }
    template = environment().get_template("report.html")
    room = int(MEGABYTES * 1e6) - len(template.render(content).encode())
    room += trim(views, -room)
    embed(content["across"], views, room)
    return template.render(content)


def across(paper, runs):
    """The pictures that the paper's script drew from several runs."""
    return sorted((Path(runs) / paper.NAME / "figures").glob("*.png"))


def verdict_counts(joined):
    """`{first words of a verdict: number of cells}` over the cells of all tables that have one."""
    counts = {}
    for lines in joined.values():
        for line in lines:
            if line["verdict"] and line["printed"]:
                kind = line["verdict"].split(",")[0].split(" (")[0]
                counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def table_view(paper, name, lines, views):
    """A table of `tables.joined` with notes and links to the runs of each cell."""
    texts, numbers = formats.footnotes(lines)
    known = committed.methods_by_label(paper)
    groups = getattr(paper, "GROUPS", {})
    rows = []
    for line, number in zip(lines, numbers, strict=True):
        dataset, members = groups.get(line["place"], (line["dataset"], (line["place"],)))
        measured = line["paper"] or line["clean"]
        linked = [
            v
            for v in views
            if measured
            and v["method"] == known.get(line["label"])
            and v["dataset"] == dataset
            and v["category"] in members
        ]
        rows.append({**line, "number": number, "runs": linked, "kind": badge(line["verdict"])})
    return {"id": f"table-{name}", "title": paper.TABLES[name]["title"], "rows": rows, "notes": texts}


def badge(verdict):
    """The class of a verdict's badge, which the style sheet gives a sign and a colour."""
    first = verdict.split(",")[0].split(" (")[0].split(" with ")[0]
    if first in ("reproduced", "close", "differs", "failed", "quoted", "not run"):
        return first.replace(" ", "-")
    return "limited" if first else ""


def run_view(paper, cell, runs):
    """What the page shows of one run."""
    run = Run(cell.folder(runs))
    method, config = paper.METHODS[cell.method], run.config
    place = tables.shown_category(paper, cell.subject.dataset, cell.subject.category)
    view = {
        "id": "run-" + "-".join(run.path.relative_to(Path(runs) / paper.NAME).parts).replace(".", "_"),
        "name": cell.name,
        "method": cell.method,
        "label": method.label + (" (all normals)" if cell.protocol == "paper" else ""),
        "dataset": cell.subject.dataset,
        "category": cell.subject.category,
        "place": place,
        "seed": cell.seed,
        "several": False,
        "path": run.path.relative_to(Path(runs) / paper.NAME).as_posix(),
        "status": run.status,
        "manifest": run.manifest,
        "config": config,
        "warnings": health.warnings(run.read_table("history.csv")),
        "exported": (run.path / "export" / "metadata.json").exists(),
        "gallery": [],
        "figures": [],
        "drawings": [],
        "metrics": [],
        "defects": [],
        "left_out": 0,
    }
    if run.status["state"] != "finished":
        return view
    score = next(iter(run.metrics["protocols"]["paper"]))
    view |= {"score": score, "metrics": metric_rows(run, score), "defects": defect_rows(run, score)}
    view["curves"] = read_json(run.path / "curves.json", {})
    view["drawings"] = drawings(paper, run, score, f"{method.label}, {place}")
    gallery = read_json(run.path / "gallery.json", {"images": []})
    view["gallery"] = [{**shown, "path": run.path / shown["file"]} for shown in gallery["images"]]
    paths = sorted((run.path / "figures").glob("*.png"), key=lambda p: (_rank(p.stem), p.stem))
    view["figures"] = [{"name": _words(p.stem), "path": p} for p in paths if not _is_drawn(p.stem)]
    return view


def _is_drawn(stem):
    return stem.startswith(DRAWN) and stem != "histogram_scatter"


def metric_rows(run, score):
    """The run's metrics by both protocols as texts: `[{"metric", "paper", "clean", "interval"}]`."""
    found = {}
    for protocol in ("paper",) if run.config.get("protocol") == "paper" else ("paper", "clean"):
        scores = run.metrics["protocols"][protocol]
        for metric, value in scores.get(score, {}).items():
            if metric in collect.METRICS:
                found.setdefault(metric, {"metric": metric})[protocol] = tables.show(value, metric)
                low, high = (scores[score].get(f"{metric}_{end}") for end in ("low", "high"))
                if low is not None and "interval" not in found[metric]:
                    found[metric]["interval"] = f"{tables.show(low, metric)} to {tables.show(high, metric)}"
    return [found[metric] for metric in collect.METRICS if metric in found]


def defect_rows(run, score):
    """The run's metrics by kind of image, as texts, of all test images."""
    scores = run.metrics["protocols"]["paper"]
    kinds = scores.get(f"{score}{ALL}", scores[score]).get("by_defect", {})
    rows = []
    for kind, found in kinds.items():
        texts = {
            m: tables.show(found[m], m) for m in ("image_auroc", "image_ap", "pixel_auroc", "pixel_aupr") if m in found
        }
        rows.append({"kind": kind, "images": found["images"], "called": found["called"], **texts})
    return rows


def drawings(paper, run, score, title):
    """Training curves and score histograms by defect as SVG: `[(caption, svg)]`."""
    out, by_kind = [], {}
    if run.read_table("history.csv"):
        figure = figures.curve_figure(paper, run)
        figure.set_size_inches(6, 5)
        out.append(("Losses and metrics of the test set against training steps", as_svg(figure, f"{title}: training")))
    for row in run.scores:
        by_kind.setdefault(row["defect"], []).append(float(row[score]))
    if by_kind:
        by_kind = dict(sorted(by_kind.items(), key=lambda item: (item[0] != "good", item[0])))
        cut = run.metrics.get("image_thresholds", {}).get(score, {}).get("value")
        figure = plots.defect_histograms(by_kind, "Scores of the test images by kind", f"{score} score", cut)
        out.append(("Histograms by defect type", as_svg(figure, f"{title}: scores by defect type")))
    return out


def categories(views):
    """The runs by category: `[{"id", "name", "drawings", "runs"}]`, with the curves of all methods in one picture."""
    found = {}
    for view in views:
        found.setdefault((view["dataset"], view["category"]), []).append(view)
    out = []
    for (dataset, category), runs in found.items():
        for view in runs:
            view["several"] = sum(other["label"] == view["label"] for other in runs) > 1
        name = runs[0]["place"]
        out.append(
            {
                "id": f"category-{dataset}-{category}",
                "name": name,
                "drawings": _category_curves(runs, name),
                "runs": runs,
            }
        )
    return out


def _category_curves(runs, name):
    """ROC and precision-recall curves of a category's runs, of images and of pixels: `[(caption, svg)]`."""
    out = []
    for unit in ("image", "pixel"):
        for kind, caption in (("roc", "ROC"), ("pr", "precision and recall")):
            lines = {}
            for view in runs:
                curve = view.get("curves", {}).get(unit)
                label = view["label"] + (f", seed {view['seed']}" if view["several"] else "")
                if curve:
                    lines[label] = curve[kind]
            if lines:
                text = f"{name}: {caption}, {unit}s"
                title = f"{caption[0].upper()}{caption[1:]}, {unit}s"
                out.append((title, as_svg(plots.rank_curve(lines, kind, title), text)))
    return out


def cards(methods):
    """The methods' cards as HTML: `[{"name", "html"}]`, without pictures, links as text."""
    folder, out = files("ganspect.cards"), {}
    for method in methods:
        name = card_of(method)
        source = folder / f"{name}.md"
        if name in out or not source.is_file():
            continue
        renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
        out[name] = renderer.render(_plain(source.read_text(encoding="utf-8")))
    return [{"name": name, "html": html} for name, html in sorted(out.items())]


def _plain(markdown):
    """Markdown without pictures, and with the text of links in their place; headings two levels lower."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", markdown)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return re.sub(r"^(#+ )", r"##\1", text, flags=re.MULTILINE)


def trim(views, excess):
    """Takes drawings out of the last runs until so many bytes are saved, and returns how many were."""
    saved = 0
    for view in reversed(views):
        if saved >= excess:
            break
        saved += sum(len(drawing.encode()) for _, drawing in view["drawings"])
        view["left_out"] += len(view["drawings"])
        view["drawings"] = []
    return saved


def embed(shared, views, room):
    """Embeds pictures as far as there is room: those across runs, then galleries, then the runs' other figures.

    Args:
        shared: `[{"name", "path"}]`, across runs.
        views: from `run_view`; pictures that do not fit are taken out of them and counted in `left_out`.
        room: bytes.
    """
    room = _take([shared], room)
    share = int(room * GALLERY_SHARE) if any(view["figures"] for view in views) else room
    left = _take([view["gallery"] for view in views], share)
    _take([view["figures"] for view in views], room - share + left)
    for view in views:
        for part in ("gallery", "figures"):
            view["left_out"] += sum("data" not in shown for shown in view[part])
            view[part] = [shown for shown in view[part] if "data" in shown]
    shared[:] = [shown for shown in shared if "data" in shown]


def _take(lists, room):
    """Embeds the first picture of every list, then the second, and so on, while they fit; returns the room left."""
    for turn in range(max(map(len, lists), default=0)):
        for pictures in lists:
            if turn < len(pictures) and pictures[turn]["path"].exists():
                path = pictures[turn]["path"]
                data = base64.b64encode(path.read_bytes()).decode()
                kind = "webp" if path.suffix == ".webp" else "png"
                cost = len(data) + 300
                if cost <= room:
                    pictures[turn]["data"] = f"data:image/{kind};base64,{data}"
                    room -= cost
    return room


def _words(stem):
    return stem.replace("_", " ")


def _rank(stem):
    return next((i for i, start in enumerate(ORDER) if stem.startswith(start)), len(ORDER))
