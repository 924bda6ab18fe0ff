"""Synthetic categories that stand in for sets that are not at hand."""

from types import SimpleNamespace

import pytest

from ganspect.data.samples import DataError, find_categories, scan
from ganspect.reproduce import plan

SUBJECTS = (SimpleNamespace(dataset="casting", category="casting"), SimpleNamespace(dataset="cloud", category="cloud"))
PAPER = SimpleNamespace(STAND_INS={("cloud", "cloud"): "cloud"}, SUBJECTS=SUBJECTS)
PLAIN = SimpleNamespace(SUBJECTS=SUBJECTS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(plan, "SYNTHETIC_SIZE", 32)


def test_a_missing_set_is_stood_in_for_once(tmp_path):
    found = {("casting", "casting"): tmp_path}
    both = plan.add_stand_ins([PAPER, PLAIN, PAPER], found, tmp_path / "runs")
    place = tmp_path / "runs/synthetic-data/synthetic/cloud"
    assert both == {("casting", "casting"): tmp_path, ("synthetic", "cloud"): place}
    assert found == {("casting", "casting"): tmp_path}
    assert [child.name for child in place.parent.iterdir()] == ["cloud"]
    category = scan(place, "synthetic", "cloud")
    assert len(category.train) == 24 and sum(s.label for s in category.test) == 18 and len(category.test) == 26
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert plan.add_stand_ins([PAPER], found, tmp_path / "runs") == both
    assert plan.find_data(None, tmp_path / "runs") == find_categories(place.parent)  # shares what is there
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == stamps
    (place / "train/good/000.png").write_bytes(b"x")
    with pytest.raises(DataError, match="was changed"):
        plan.add_stand_ins([PAPER], found, tmp_path / "runs")


@pytest.mark.parametrize(
    "found", [{("cloud", "cloud"): "real"}, {("synthetic", "cloud"): "own"}, {("mvtec_ad", "pill"): "of no use"}]
)
def test_nothing_is_written_where_nothing_is_missing(tmp_path, found):
    assert plan.add_stand_ins([PAPER], found, tmp_path / "runs") == found
    assert plan.add_stand_ins([PLAIN], {}, tmp_path / "runs") == {}
    assert not (tmp_path / "runs").exists()
