"""The README's tables are those of the committed results."""

from pathlib import Path

import pytest

from ganspect.reproduce import collect, committed, readme
from ganspect.training.run import write_csv

ROOT = Path(__file__).resolve().parents[1]
PIXELS = ("pixel_auroc", "paper")
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_table_is_generated_and_in_the_readme():
    marked = [found[2] for found in readme.MARKED.finditer(TEXT)]
    assert sorted(marked) == sorted([*readme.TABLES, "headline"])
    assert readme.rewritten(TEXT, ROOT / "reproduce" / "results") == TEXT


def test_no_other_table_holds_a_measured_value():
    """Tables outside the markers say what commands and methods are, not what was measured."""
    outside = readme.MARKED.sub("", TEXT)
    rows = [line for line in outside.splitlines() if line.startswith("| ")]
    assert rows and not [row for row in rows if "0." in row]


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
