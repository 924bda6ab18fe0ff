"""Indicators of a GAN's health against values known beforehand."""

import numpy as np
import pytest

from ganspect.evaluation.health import LAST, indicators, warnings


def test_indicators_of_a_known_batch():
    images = np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1, 1) * np.ones((3, 2, 2, 1))
    found = indicators(np.array([3.0, 2.0, 0.5]), np.array([1.0, 0.0, -1.0]), images, images / 4)
    assert found == pytest.approx({"d_auroc": 8 / 9, "diversity": 0.25})
    assert indicators(np.zeros(3), np.zeros(3), images, np.ones_like(images)) == {"d_auroc": 0.5, "diversity": 0.0}


def test_diversity_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    images, made = rng.normal(size=(7, 4, 5, 3)), rng.normal(size=(7, 4, 5, 3)) * 2
    pairs = [(i, j) for i in range(7) for j in range(i)]
    ratio = [np.mean([np.abs(x[i] - x[j]).mean() for i, j in pairs]) for x in (made, images)]
    found = indicators(np.zeros(7), np.ones(7), images, made)
    assert found["diversity"] == pytest.approx(ratio[0] / ratio[1]) and found["d_auroc"] == 0.0


def test_what_is_not_defined_is_left_out():
    one = np.zeros((1, 2, 2, 1))
    assert indicators(np.array([np.nan]), np.zeros(1), one, one) == {}
    assert indicators(np.zeros(2), np.ones(2), np.ones((2, 2, 2, 1)), np.zeros((2, 2, 2, 1))) == {"d_auroc": 0.0}


def test_warnings_need_several_epochs_that_agree():
    well = {"epoch": "1", "d_auroc": "0.8", "diversity": "0.9"}
    bad = {"epoch": "2", "d_auroc": "0.995", "diversity": "0.02"}
    assert warnings([]) == warnings([{"epoch": "1"}]) == warnings([well] * 9) == []
    assert warnings([bad] * (LAST - 1)) == []
    assert warnings([bad] * LAST + [well]) == warnings([bad] * (LAST - 1) + [{"epoch": "9"}]) == []
    both = warnings([well] * 3 + [bad] * LAST)
    assert len(both) == 2 and "discriminator tells all" in both[0] and "mode collapse" in both[1] and "0.020" in both[1]
    assert len(warnings([{**bad, "diversity": ""}] * LAST)) == 1
