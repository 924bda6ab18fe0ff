"""What is measured of a scored test set, and what a run stores for its report."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from stored_runs import Scores, made_set, store

from ganspect.evaluation import statistics, thresholds
from ganspect.reproduce import gallery, scoring

NAME = Scores.score_names[0]


@pytest.fixture(scope="module")
def measured():
    arrays, rng = made_set(), np.random.default_rng(3)
    arrays.duplicates = (arrays.test_names[0],)
    maps = [(rng.random(mask.shape) + 0.03 * mask).astype("float32") for mask in arrays.masks]
    normals = [{"map": rng.random((24, 24)).astype("float32")} for _ in range(20)]
    evidence = [{"map": values} for values in maps]
    return arrays, maps, scoring.measure(Scores(), arrays, evidence, normals, [NAME], intervals=True, samples=200)


def test_each_defect_is_measured_against_all_normal_images(measured):
    arrays, maps, (found, scores, cuts) = measured
    kinds = found["paper"][NAME]["by_defect"]
    assert list(kinds) == ["good", "dent", "scratch"]
    some = [i for i, kind in enumerate(arrays.defects) if kind in ("good", "dent")]
    expected = roc_auc_score(arrays.labels[some], scores[NAME][some])
    assert kinds["dent"]["image_auroc"] == pytest.approx(expected)
    pixels = [np.concatenate([np.ravel(values[i]) for i in some]) for values in (arrays.masks, maps)]
    assert kinds["dent"]["pixel_auroc"] == pytest.approx(roc_auc_score(*pixels))
    called = scores[NAME] >= cuts[NAME].value
    assert kinds["scratch"]["called"] == sum(called[i] for i, kind in enumerate(arrays.defects) if kind == "scratch")
    assert set(kinds["good"]) == {"images", "called"} and kinds["good"]["images"] == 6
    assert found["clean"][NAME]["by_defect"]["good"]["images"] == 5  # one repeats a training image


def test_thresholds_chosen_on_the_made_set_are_of_the_paper_protocol_alone(measured):
    arrays, maps, (found, scores, cuts) = measured
    paper, clean = found["paper"][NAME], found["clean"][NAME]
    best = max(f1_score(arrays.labels, scores[NAME] >= cut) for cut in scores[NAME])
    assert paper["image_f1_max"] == pytest.approx(best)
    oracles = {"image_f1_max", "pixel_f1_max", "image_accuracy_oracle", "image_balanced_accuracy_oracle"}
    assert oracles <= set(paper) and not oracles & set(clean)
    assert "image_balanced_accuracy" in clean and "image_balanced_accuracy" not in paper
    assert 0 < paper["pixel_aupro_0.30"] < 1


def test_every_metric_of_images_has_an_interval(measured):
    _, _, (found, _, _) = measured
    for protocol, metrics in found.items():
        for name in scoring.image_metrics(0.0):
            if metrics[NAME].get(name) is not None:
                low, high = (metrics[NAME][f"{name}_{end}"] for end in ("low", "high"))
                assert low <= metrics[NAME][name] <= high or "oracle" in name or "f1" in name, (protocol, name)
                assert low < high


def test_a_bootstrap_of_any_metric_is_that_of_the_auroc():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    scores = rng.normal(size=200) + labels
    ours = statistics.bootstrap_metric(labels, scores, roc_auc_score, samples=1000)
    assert ours == pytest.approx(statistics.bootstrap_image_auroc(labels, scores), abs=0.01)
    one_class = statistics.bootstrap_metric(np.ones(9), np.arange(9.0), lambda y, s: float("nan"), samples=5)
    assert np.isnan(one_class).all()


def test_masks_come_back_whatever_their_sizes(tmp_path):
    run = store(tmp_path)
    arrays = made_set()
    arrays.masks = [mask[: 20 - i % 3] for i, mask in enumerate(arrays.masks)]
    gallery.save_truth(arrays, run)
    truth = gallery.load_truth(run)
    assert list(truth) == arrays.test_names
    for mask, stored in zip(arrays.masks, truth.values(), strict=True):
        np.testing.assert_array_equal(mask, stored, strict=True)
    (run.path / "truth.npz").unlink()
    arrays.masks[3] = None
    gallery.save_truth(arrays, run)
    assert gallery.load_truth(run) == {}


def test_curves_end_at_the_corners_and_give_the_area():
    rng = np.random.default_rng(1)
    labels = (rng.random(80) < 0.4).astype(int)
    scores = rng.normal(size=80) + labels
    curve = gallery.curves(labels, scores, [None] * 80, None)
    x, y = curve["image"]["roc"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and "pixel" not in curve
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert gallery.curves(np.zeros(3), np.arange(3.0), [None] * 3, None) == {}


def test_the_rate_above_a_threshold_is_the_conformal_one():
    scores = np.arange(19.0)
    chosen = thresholds.rate_threshold(scores, 0.2)
    assert thresholds.rates_above(scores, chosen.value) == pytest.approx((chosen.expected, chosen.bound))
    assert thresholds.rates_above(scores, -1.0) == (1.0, 1.0)
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2000, 41))
    above = [draw[40] >= np.quantile(draw[:40], 0.95) for draw in draws]
    expected = np.mean([thresholds.rates_above(draw[:40], np.quantile(draw[:40], 0.95))[0] for draw in draws])
    assert np.mean(above) <= expected + 0.015


class Counting(Scores):
    """Scores an image by how many were scored before it, as a search that goes on from image to image might."""

    at_once, continues = 1, True

    def calibrate(self, images, stride=None):
        self.count = 0

    def evidences(self, images, stride=None):
        first, self.count = self.count, self.count + len(images)
        return [{"map": np.full((24, 24), first + i, "float32")} for i in range(len(images))]

    def evidence(self, image, stride=None):
        return self.evidences([image], stride)[0]


def test_held_out_normals_are_scored_before_test_images_where_scores_go_on():
    """No test image moves the clean threshold; normal test images come before anomalous ones, as in the notebook."""
    arrays, normals = made_set(), [np.zeros((24, 24, 3), np.uint8)] * 4
    evidence, of_normals, _ = scoring.score_category(Counting(), arrays, normals)
    assert [one["map"][0, 0] for one in of_normals] == [0, 1, 2, 3]
    place = np.array([one["map"][0, 0] for one in evidence]) - len(normals)
    assert sorted(place) == list(range(len(arrays.test)))
    assert place[arrays.labels == 0].max() < place[arrays.labels == 1].min()
    assert np.all(np.diff(place[arrays.labels == 0]) == 1)
