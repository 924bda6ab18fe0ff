"""The tables of README.md and docs/results.md are those of the committed results; links lead somewhere."""

import re
import urllib.parse
from pathlib import Path

import pytest

from ganspect.reproduce import collect, committed, readme
from ganspect.training.run import write_csv

ROOT = Path(__file__).resolve().parents[1]
PIXELS = ("pixel_auroc", "paper")
TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md")]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(p for f in ("docs", "benchmarks", "examples", "reproduce") for p in (ROOT / f).rglob("*.md")),
]


def test_every_table_is_generated_and_shown_once():
    marked = [found[2] for text in TEXTS for found in readme.MARKED.finditer(text)]
    assert sorted(marked) == sorted([*readme.TABLES, "headline"])
    assert "<!-- table headline -->" in TEXTS[0]
    assert [readme.rewritten(text, ROOT / "reproduce" / "results") for text in TEXTS] == TEXTS


def test_no_other_table_holds_a_measured_value():
    """Tables outside the markers say what commands and methods are, not what was measured."""
    rows = [line for text in TEXTS for line in readme.MARKED.sub("", text).splitlines() if line.startswith("| ")]
    assert rows and not [row for row in rows if "0." in row]


def heads(page):
    """The anchors of a page's headings."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in re.findall(r"(?m)^#+ .*", text)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "mailto")):
            path, _, anchor = urllib.parse.unquote(target).partition("#")
            found = page.parent / path if path else page
            assert found.exists(), target
            assert not anchor or anchor in heads(found), target


def test_a_changed_result_changes_the_table(tmp_path):
    results, shown = ROOT / "reproduce" / "results", {"table": "2", "method": "GRD-Net", "category": "pill"}
    rows = committed.read(results / "grdnet.csv")
    row = next(r for r in rows if shown.items() <= r.items() and (r["metric"], r["protocol"]) == PIXELS)
    row["value"] = 0.4321
    write_csv(tmp_path / "grdnet.csv", rows, collect.COLUMNS)
    (tmp_path / "ablations").symlink_to(results / "ablations")
    assert "0.432" in readme.table("grdnet", tmp_path) and "0.432" not in readme.table("grdnet", results)


def test_a_row_without_results_is_named(tmp_path):
    source = (ROOT / "reproduce" / "results" / "grdnet.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "grdnet.csv").write_text("".join(x for x in source if "DRAEM" not in x), encoding="utf-8")
    (tmp_path / "ablations").symlink_to(ROOT / "reproduce" / "results" / "ablations")
    with pytest.raises(KeyError, match="no row of grdnet for DRAEM, bottle"):
        readme.table("grdnet", tmp_path)
