"""Tables in the terminal, CSV, Markdown and one self-contained HTML page for a paper, from stored runs only."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Table

from ganspect.reproduce import figures, tables
from ganspect.reproduce.cells import SYNTHETIC
from ganspect.training.files import atomic_write
from ganspect.training.run import Run, write_csv

PLOTS = ("training", "histogram", "curve")  # show numbers, not images
SHOWABLE = ("mvtec_ad", SYNTHETIC)
FIGURE_ORDER = ("training", "panel", "generated", "histogram")


def write(paper, cells, runs, console):
    """Rebuilds a paper's results from its run folders and prints its tables.

    Writes `<runs>/<paper>/results.csv`, `tables.md`, `report.html` and, where the script draws across runs, `figures/`.

    Args:
        paper: the paper's script.
        cells: every cell with a run folder.
        runs: the runs folder.
        console: `rich.console.Console`.
    """
    folder = Path(runs) / paper.NAME
    rows = tables.measured(paper, cells, runs)
    joined, claims = tables.joined(paper, rows), tables.claims(paper, rows)
    write_csv(folder / "results.csv", rows, tables.COLUMNS)
    with atomic_write(folder / "tables.md") as file:
        file.write(tables.markdown(paper, joined, claims))
    for cell in cells:
        run = Run(cell.folder(runs))
        if run.status["state"] == "finished":
            figures.draw_curves(paper, run)
    if hasattr(paper, "draw"):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        paper.draw(cells, runs, folder / "figures")
    with atomic_write(folder / "report.html") as file:
        file.write(page(paper, cells, runs, joined, claims))
    for name, lines in joined.items():
        console.print(terminal_table(paper.TABLES[name]["title"], lines))
    for claim, state, evidence in claims:
        console.print(f"claim: {claim}: {state} ({evidence})", markup=False, highlight=False)
    for cell in cells:
        status = Run(cell.folder(runs)).status
        if status["state"] != "finished":
            console.print(f"{cell.name}: {status['state']} {status.get('message', '')}", markup=False)
    console.print(f"report: {folder / 'report.html'}   tables: {folder / 'tables.md'}, results.csv", soft_wrap=True)


def publish(paper, cells, runs, folder):
    """Copies the results that may be committed: rows, tables, and pictures as far as the data's licence allows.

    Curves and histograms of any data; panels and generated images only of MVTec AD and of the synthetic set. Of each
    run, where the script names them (`PUBLISHED`), only pictures whose names start so.

    Args:
        paper, cells, runs: as in `write`, which must have run before.
        folder: where `<paper>.csv`, `<paper>.md` and `figures/` are written.
    """
    folder = Path(folder)
    chosen = getattr(paper, "PUBLISHED", ("",))
    for source, target in (("results.csv", f"{paper.NAME}.csv"), ("tables.md", f"{paper.NAME}.md")):
        _copy(Path(runs) / paper.NAME / source, folder / target)
    for cell in cells:
        for picture in sorted((Run(cell.folder(runs)).path / "figures").glob("*.png")):
            allowed = picture.stem.startswith(PLOTS) or cell.subject.dataset in SHOWABLE
            if allowed and picture.stem.startswith(chosen):
                category = tables.shown_category(paper, cell.subject.dataset, cell.subject.category)
                category = category.replace(" (", "_").replace(")", "")
                name = f"{paper.NAME}_{cell.method}_{category}_seed_{cell.seed}_{picture.name}"
                _copy(picture, folder / "figures" / name)
    showable = all(cell.subject.dataset in SHOWABLE for cell in cells)
    for picture in _across(paper, runs):
        if picture.stem.startswith(PLOTS) or showable:
            _copy(picture, folder / "figures" / f"{paper.NAME}_{picture.name}")
    for numbers in sorted((Path(runs) / paper.NAME / "figures").glob("*.csv")):
        _copy(numbers, folder / f"{paper.NAME}_{numbers.name}")


def _copy(source, target):
    with atomic_write(target, "wb") as file:
        file.write(source.read_bytes())


def terminal_table(title, lines):
    """One table for the terminal; cells that were not run share one line for each reason."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    heads = ("category", "method", "metric", "printed", "paper", "clean", "95 % interval", "verdict")
    names = ("category", "method", "metric", "printed", "paper", "clean", "interval", "verdict")
    for head in heads:
        table.add_column(head, justify="right" if head in ("printed", "paper", "clean") else "left")
    missing = {}
    for x in lines:
        if x["verdict"].startswith("not run"):
            missing.setdefault(x["verdict"], []).append(f"{x['category']} {x['method']} {x['printed']}")
        else:
            table.add_row(*(x[n] for n in names))
    table.caption = "\n".join(f"{why}: {', '.join(cells)}" for why, cells in missing.items()) or None
    return table


def page(paper, cells, runs, joined, claims=()):
    """The HTML page as text: nothing in it is loaded from elsewhere."""
    environment = Environment(loader=PackageLoader("ganspect.reproduce"), autoescape=select_autoescape())
    views = []
    for cell in cells:
        run = Run(cell.folder(runs))
        pictures = sorted((run.path / "figures").glob("*.png"), key=lambda p: (_rank(p.stem), p.stem))
        views.append(
            {
                "name": cell.name,
                "path": str(run.path),
                "status": run.status,
                "manifest": run.manifest,
                "config": run.config,
                "figures": _embedded(pictures),
            }
        )
    template = environment.get_template("report.html")
    shown = []
    for name, lines in joined.items():
        texts, numbers = tables.footnotes(lines)
        shown.append((paper.TABLES[name]["title"], list(zip(lines, numbers, strict=True)), texts))
    across = _embedded(_across(paper, runs))
    return template.render(title=paper.TITLE, tables=shown, claims=claims, across=across, runs=views)


def _across(paper, runs):
    """The pictures that the paper's script drew from several runs."""
    return sorted((Path(runs) / paper.NAME / "figures").glob("*.png"))


def _embedded(pictures):
    return [(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in pictures]


def _rank(stem):
    return next((i for i, start in enumerate(FIGURE_ORDER) if stem.startswith(start)), len(FIGURE_ORDER))
