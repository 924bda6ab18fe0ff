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


def test_the_readme_example_runs(real_data, tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    code = code.replace("DATA_ROOT", str(real_data))
    small = code.replace("width=16, epochs=15", "width=4, epochs=1, patches_per_epoch=64, map_stride=8")
    assert small != code
    names = {}
    monkeypatch.chdir(tmp_path)
    exec(small, names)
    assert (tmp_path / "model/1/saved_model.pb").exists()
    assert names["heat"].shape == (696, 1024) and np.isfinite(names["heat"]).all()


def test_cbigans_recipes_on_mvtec(real_data):
    """A tile of rotated grid patches has no empty corner; a pill is seen whole; one cycle of each trains and scores."""
    import dataclasses

    from ganspect.data.patches import stack_images
    from ganspect.models.cbigan import CBiGAN, CBiGANConfig
    from ganspect.reproduce import cbigan

    for name in ("grid", "pill"):
        subject = next(s for s in cbigan.SUBJECTS if s.category == name)
        config = CBiGANConfig(**subject.settings, width=1, batch_size=4, cycles_per_epoch=1, critic_steps=1)
        arrays = load_category(real_data / "mvtec_ad" / name, channels=3, size=config.image_size)
        kept, held_out = split_held_out(arrays)
        assert len(held_out) == {"grid": 24, "pill": 27}[name]
        stack, sizes = stack_images([arrays.train[i] for i in kept])
        many = cbigan.sampler(dataclasses.replace(config, batch_size=32), sizes)
        images = np.array(many.batch(stack, {key: values[0] for key, values in many.draws(0).items()}))
        assert images.shape == (64, config.patch_size, config.patch_size, 3)
        if name == "grid":  # no pixel of these images is black; an empty corner would be
            assert min(image.min() for image in arrays.train) > 0 and images.min() > 0
        detector = CBiGAN(config)
        detector.compile()
        losses = detector.step(detector.prepare(images[:8]))
        assert all(np.isfinite(float(value)) for value in losses.values())
        assert np.isfinite(detector.anomaly_score(arrays.test[0]))


def test_casting_is_the_studys(real_data):
    """The counts, the 64 repeated test normals, and what one draw of 100 + 100 and its clean part leave."""
    from ganspect.data.arrays import draw_test

    arrays = load_category(real_data / "casting" / "casting_data", channels=1, size=128)
    assert (len(arrays.train), int((arrays.labels == 0).sum()), int((arrays.labels == 1).sum())) == (2875, 262, 453)
    assert len(arrays.duplicates) == 64 and all(name.startswith("test/ok_front/") for name in arrays.duplicates)
    drawn = draw_test(arrays, 100, 100)
    assert [int((drawn.labels == k).sum()) for k in (0, 1)] == [100, 100]
    assert "one draw of 100 + 100 of the 262 + 453 test images" in drawn.notes
    kept, held_out = split_held_out(arrays)
    assert (len(kept), len(held_out)) == (2587, 288)
    assert {image.shape for image in arrays.test} == {(128, 128, 1)}
