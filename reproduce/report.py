"""Tables in the terminal, CSV, Markdown, LaTeX, a page for a paper and an index of pages, from stored runs only."""

import importlib.metadata
from pathlib import Path

from rich.table import Table

from ganspect.evaluation import health
from ganspect.reproduce import collect, committed, compare, figures, formats, page, tables
from ganspect.reproduce.cells import SYNTHETIC
from ganspect.training.files import atomic_write
from ganspect.training.run import Run, write_csv

PLOTS = ("training", "histogram", "curve")  # show numbers, not images
SHOWABLE = ("mvtec_ad", SYNTHETIC)
FILES = ("report.html", "tables.md", "tables.csv", "tables.tex", "results.csv")


def write(paper, cells, runs, console):
    """Rebuilds a paper's results from its run folders and prints its tables.

    Writes `<runs>/<paper>/results.csv` (a row for each measured value), `tables.md`, `tables.csv`, `tables.tex`
    (printed beside measured), `report.html` and, where the script draws across runs, `figures/`.

    Args:
        paper: the paper's script.
        cells: every cell with a run folder.
        runs: the runs folder.
        console: `rich.console.Console`.
    """
    folder = Path(runs) / paper.NAME
    rows = collect.measured(paper, cells, runs)
    joined, claims = tables.joined(paper, rows, collect.failures(paper, cells, runs)), tables.claims(paper, rows)
    write_csv(folder / "results.csv", rows, collect.COLUMNS)
    write_csv(folder / "tables.csv", formats.as_csv(joined))
    rivals = compare.rivals(paper, runs)
    markdown = formats.markdown(paper, joined, claims, rivals)
    for name, text in (("md", markdown), ("tex", formats.latex(paper, joined))):
        with atomic_write(folder / f"tables.{name}") as file:
            file.write(text)
    for _, run in collect.counted(cells, runs):
        figures.draw_curves(paper, run)
    if hasattr(paper, "draw"):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        paper.draw(cells, runs, folder / "figures")
    with atomic_write(folder / "report.html") as file:
        file.write(page.page(paper, cells, runs, joined, claims, rivals))
    for name, lines in joined.items():
        console.print(terminal_table(paper.TABLES[name]["title"], lines))
    for claim, state, evidence in claims:
        console.print(f"claim: {claim}: {state} ({evidence})", markup=False, highlight=False)
    for cell in cells:
        status = Run(cell.folder(runs)).status
        if status["state"] != "finished":
            console.print(f"{cell.name}: {status['state']} {status.get('message', '')}", markup=False)
        for warning in health.warnings(Run(cell.folder(runs)).read_table("history.csv")):
            console.print(f"{cell.name}: {warning}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}   tables: {folder / 'tables.md'}, .csv, .tex", soft_wrap=True)


def write_index(papers, runs):
    """Writes `<runs>/index.html`, which leads to the pages of those papers that have one.

    Args:
        papers: the papers' scripts.
        runs: the runs folder.
    """
    from ganspect.reproduce import plan

    entries = []
    for paper in papers:
        folder = Path(runs) / paper.NAME
        if not (folder / "report.html").exists():
            continue
        cells = plan.every_cell(paper, runs)
        states = [Run(cell.folder(runs)).status["state"] for cell in cells]
        rows, failed = collect.measured(paper, cells, runs), collect.failures(paper, cells, runs)
        joined = tables.joined(paper, rows, failed)
        entries.append(
            {
                "name": paper.NAME,
                "title": paper.TITLE,
                "runs": len(states),
                "finished": states.count("finished"),
                "unfinished": {state: states.count(state) for state in dict.fromkeys(states) if state != "finished"},
                "verdicts": page.verdict_counts(joined),
                "files": [name for name in FILES[1:] if (folder / name).exists()],
            }
        )
    template = page.environment().get_template("index.html")
    with atomic_write(Path(runs) / "index.html") as file:
        file.write(template.render(papers=entries, version=importlib.metadata.version("ganspect")))


def publish(paper, cells, runs, folder, console):
    """Copies the results that may be committed: rows, tables, and pictures as far as the data's licence allows.

    Rows there of cells without a scored run here, or with a stopped one of fewer epochs, stay (see `committed.join`),
    and the tables are made of all rows; their pictures stay too, as do curves across runs that would lose points.

    The tests of `compare.rivals` are in `<paper>_rivals.csv` and on the page.

    Curves (their numbers and the losses of each epoch too, in `curves/`) and histograms of any data; panels and
    generated images only of MVTec AD and of the synthetic set. Of each run, where the script names them (`PUBLISHED`),
    only pictures whose names start so.

    Args:
        paper, cells, runs: as in `write`, which must have run before.
        folder: where `<paper>.csv`, `<paper>.md` and `figures/` are written.
        console: `rich.console.Console`, told what was kept.
    """
    folder = Path(folder)
    both = committed.join(paper, cells, runs, folder / f"{paper.NAME}.csv")
    write_csv(folder / f"{paper.NAME}.csv", both.rows, collect.COLUMNS)
    tested = folder / f"{paper.NAME}_rivals.csv"
    rivals = compare.with_committed(compare.rivals(paper, runs), tested)
    if rivals:
        write_csv(tested, rivals, compare.RIVAL_COLUMNS)
    text = formats.markdown(paper, tables.joined(paper, both.rows), tables.claims(paper, both.rows), rivals)
    with atomic_write(folder / f"{paper.NAME}.md") as file:
        file.write(text)
    for line in both.remarks():
        console.print(f"{folder / paper.NAME}.csv: {line}", markup=False, highlight=False, soft_wrap=True)
    ours = [cell for cell in cells if committed.place(cell) not in both.longer]
    _copy_pictures(paper, ours, runs, folder)
    _copy_curves(paper, ours, runs, folder)
    _copy_across(paper, cells, runs, folder, console)


def _copy_curves(paper, cells, runs, folder):
    """The test metrics of each run against training steps and the losses of its epochs, in full."""
    for cell, run in collect.counted(cells, runs):
        name = f"{paper.NAME}_{_method_of(cell)}_{_place_of(paper, cell)}_seed_{cell.seed}"
        for source, target in (("curve.csv", f"{name}.csv"), ("history.csv", f"{name}_history.csv")):
            if (run.path / source).exists():
                (folder / "curves").mkdir(parents=True, exist_ok=True)
                _copy(run.path / source, folder / "curves" / target)


def _method_of(cell):
    """A cell's method as file names have it."""
    return cell.method + ("-all-normals" if cell.protocol == "paper" else "")


def _place_of(paper, cell):
    """A cell's category as file names have it."""
    return tables.shown_category(paper, cell.subject.dataset, cell.subject.category).replace(" (", "_").replace(")", "")


def _copy_pictures(paper, cells, runs, folder):
    """The pictures of each run that may be shown."""
    chosen = getattr(paper, "PUBLISHED", ("",))
    for cell in cells:
        for picture in sorted((Run(cell.folder(runs)).path / "figures").glob("*.png")):
            allowed = picture.stem.startswith(PLOTS) or cell.subject.dataset in SHOWABLE
            if allowed and picture.stem.startswith(chosen):
                name = f"{paper.NAME}_{_method_of(cell)}_{_place_of(paper, cell)}_seed_{cell.seed}_{picture.name}"
                _copy(picture, folder / "figures" / name)


def _copy_across(paper, cells, runs, folder, console):
    """The pictures and numbers that the paper's script drew from several runs, where they lose no committed point."""
    showable, stay = all(cell.subject.dataset in SHOWABLE for cell in cells), set()
    for numbers in sorted((Path(runs) / paper.NAME / "figures").glob("*.csv")):
        target = folder / f"{paper.NAME}_{numbers.name}"
        if committed.loses_points(numbers, target):
            stay.add(numbers.stem)
            console.print(f"{target}: kept: it has points without a run here", markup=False, soft_wrap=True)
        else:
            _copy(numbers, target)
    for picture in page.across(paper, runs):
        if picture.stem not in stay and (picture.stem.startswith(PLOTS) or showable):
            _copy(picture, folder / "figures" / f"{paper.NAME}_{picture.name}")


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
