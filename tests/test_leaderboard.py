"""The leaderboard: what is committed, the best first, beside the literature."""

import re
from pathlib import Path

from ganspect.reproduce import collect, leaderboard

ROOT = Path(leaderboard.__file__).parents[1]


def test_the_committed_page_is_that_of_the_committed_results():
    assert (ROOT / "docs/leaderboard.md").read_text(encoding="utf-8") == leaderboard.page(ROOT / "reproduce/results")


def test_rows_are_first_scores_in_order_with_their_budget(tmp_path):
    columns = ",".join(collect.COLUMNS)
    rows = [
        "2,DRAEM,10,mvtec_ad,pill,image_auroc,clean,0.7,,,1,1,width 16,paper,,c,1,here,,",
        "3,DRAEM,35,mvtec_ad,pill,image_auroc,clean,0.8,,,1,1,paper,paper,,c,1,here,,",
        "3,DRAEM,35,mvtec_ad,pill,image_auroc,paper,0.9,,,1,1,paper,paper,,c,1,here,,",
        "3,DRAEM,35,mvtec_ad,pill,training_seconds,paper,90,,,1,1,paper,paper,,c,1,here,,",
        '3,"DRAEM, residual alone",35,mvtec_ad,pill,image_auroc,clean,0.99,,,1,1,paper,paper,,c,1,here,,',
        "2,GRD-Net,10,mvtec_ad,pill,image_auroc,clean,0.85,,,3,1,paper,copy,,c,1,there,,",
        '2,"GRD-Net, gray noise",10,mvtec_ad,pill,image_auroc,clean,0.6,,,1,1,paper,paper,other noise,c,1,h,,',
        "2,GRD-Net,10,synthetic,object,image_auroc,clean,1.0,,,3,1,paper,paper,,c,1,there,,",
    ]
    (tmp_path / "grdnet.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    text = leaderboard.page(tmp_path)
    found = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "method" not in line]
    names = ["| GRD-Net, 10 epochs", "| DRAEM, 35 epochs", "| GRD-Net, gray noise, 10 epochs"]
    assert [line[0] for line in found] == names and found[2][-2].startswith("other noise; looked for because")
    assert found[1][2:] == ["0.900 / 0.800", "", "", "", "1.5 min", "", "1", "1", "", "here |"]
    assert found[0][2] == " / 0.850" and found[0][-2] == "copy"
    assert re.search(r"DRAEM, pixel AUROC, 0\.976 \(DRAEM\)", text)  # as printed for pill
