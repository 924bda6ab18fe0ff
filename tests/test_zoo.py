"""The models of examples/zoo load without this project and score the synthetic set as their metadata say."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ganspect.data.arrays import load_category
from ganspect.data.synthetic import make
from ganspect.evaluation import metrics
from ganspect.reproduce.model_card import card

ZOO = Path(__file__).resolve().parents[1] / "examples" / "zoo"
MODELS = {"fcbigan": "fibres", "f-anogan": "weave", "draem": "object", "grdnet": "object"} | dict.fromkeys(
    ("cbigan", "ganomaly", "anogan"), "disc"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("zoo"), sorted({*MODELS.values()}))


def test_every_method_has_a_model():
    found = {path.parent.name for path in ZOO.glob("*/metadata.json")}
    assert found == {*MODELS}
    text = (ZOO / "README.md").read_text(encoding="utf-8")
    for name in MODELS:
        evaluation = json.loads((ZOO / name / "metadata.json").read_text(encoding="utf-8"))["evaluation"]
        row = next(line for line in text.splitlines() if f"]({name}) |" in line)
        assert f"| {evaluation['image_auroc']:.3f} |" in row and f"{evaluation['caught']} of" in row


@pytest.mark.parametrize("name", MODELS)
def test_a_card_is_that_of_its_metadata(name):
    known = json.loads((ZOO / name / "metadata.json").read_text(encoding="utf-8"))
    assert (ZOO / name / "README.md").read_text(encoding="utf-8") == card(known)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "anogan")) for n in MODELS])
def test_a_model_scores_as_it_says(name, root):
    known = json.loads((ZOO / name / "metadata.json").read_text(encoding="utf-8"))
    size = known["image_size"] and tuple(known["image_size"])  # as `evaluate` resizes them, with Pillow
    arrays = load_category(root / MODELS[name], channels=known["channels"], size=size or None)
    model = tf.saved_model.load(ZOO / name / "1")
    key, inputs = "serving_default", {"images": tf.constant(np.stack(arrays.test))}
    if known["regions"]:
        key, inputs = "serve_roi", inputs | {"regions": tf.constant(np.stack(arrays.rois).astype("uint8"))}
    answer = model.signatures[key](**inputs)
    scores, called = answer["score"].numpy(), answer["label"].numpy().astype(bool)
    evaluation = known["evaluation"]
    assert metrics.image_auroc(arrays.labels, scores) == pytest.approx(evaluation["image_auroc"], abs=0.006)  # a pair
    counts = [int(called[arrays.labels == label].sum()) for label in (1, 0)]
    assert counts == [evaluation["caught"], evaluation["false_alarms"]]
    height, width = size or arrays.test[0].shape[:2]
    broken = model.signatures["serve_float"](images=tf.fill((1, height, width, known["channels"]), np.nan))
    assert np.isnan(broken["score"].numpy()).all() and broken["label"].numpy().tolist() == [1]
