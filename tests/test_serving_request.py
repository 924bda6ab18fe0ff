"""The requests of examples/tf_serving.md match the signatures of an exported model."""

import base64
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_methods import TINY

from ganspect.models.export import Calibration


def tensor(value, spec):
    """What the server makes of a JSON value: bytes of `{"b64": ...}`, numbers of the signature's type."""
    if spec.dtype == tf.string:
        return tf.constant([base64.b64decode(item["b64"]) for item in value])
    return tf.constant(value, dtype=spec.dtype)


@pytest.mark.parametrize("name", [pytest.param("grdnet", marks=pytest.mark.slow), "ganomaly"])
def test_requests_match_the_signatures(name, tmp_path):
    detector = TINY[name].build()
    facts = detector.export(tmp_path / "1", Calibration(1.0, 0.0))
    loaded = tf.saved_model.load(tmp_path / "1")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    files = []
    for image in images:
        Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
        files.append({"b64": base64.b64encode(buffer.getvalue()).decode()})
    requests = {
        "serve_bytes": {"encoded": files},
        "serving_default": {"images": images.tolist()},
        "score": {"images": images.tolist()},
    }
    if facts["roi"]:
        requests["serve_roi"] = {"images": images.tolist(), "regions": np.ones((2, 40, 50), int).tolist()}
    scores = []
    for signature, inputs in requests.items():
        inputs = json.loads(json.dumps(inputs))
        called = loaded.signatures[signature]
        specs = called.structured_input_signature[1]
        assert set(inputs) == set(specs)
        answer = called(**{key: tensor(value, specs[key]) for key, value in inputs.items()})
        assert all(value.shape[0] == 2 for value in answer.values())
        scores.append(answer["score"].numpy())
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-6)
