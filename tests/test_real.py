"""On the real images: NanoTWICE as the thesis used it, and the README's example as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

from ganspect.data.arrays import load_category, split_held_out

pytestmark = pytest.mark.real


def test_nanotwice_is_the_papers(real_data):
    arrays = load_category(real_data / "nanotwice")
    assert arrays.channels == 1 and len(arrays.train) == 5 and len(arrays.test) == 40
    assert {i.shape for i in (*arrays.train, *arrays.test)} == {(696, 1024, 1)}  # 700-row normals are cropped
    kept, held_out = split_held_out(arrays)
    assert [Path(arrays.train_names[i]).stem for i in held_out] == ["ITIA1145"] and len(kept) == 4
    shares = [mask.mean() for mask in arrays.masks]
    assert min(shares) == pytest.approx(0.0024, abs=1e-4) and max(shares) == pytest.approx(0.0985, abs=1e-4)
    assert (arrays.labels == 1).all()


def test_the_readme_example_runs(real_data):
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    code = code.replace("DATA_ROOT", str(real_data))
    small = code.replace("width=16, epochs=15", "width=4, epochs=1, patches_per_epoch=64, map_stride=8")
    assert small != code
    names = {}
    exec(small, names)
    assert names["heat"].shape == (696, 1024) and np.isfinite(names["heat"]).all()
