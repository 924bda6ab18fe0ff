"""Small SavedModels with the endpoints and metadata of exported detectors, made without any detector.

`local`: a pixel's anomaly is its deviation from the mean of its 5 x 5 surroundings, smoothed over 3 x 3 (so it depends
on pixels 3 away), times a pattern that repeats every 4 pixels (so tiles must begin at multiples of 4). `resized` sees
16 x 16 pixels. Both fail for an image whose first pixel is `FAILS`.
"""

import json

import numpy as np

THRESHOLD, MEDIAN, FAILS = 12.0, 2.0, 13
CONTEXT, ALIGNMENT = 3, 4


def make(folder, resized=False, channels=1, **metadata):
    """Writes a model folder; returns it."""
    import tensorflow as tf

    def means(x, size):
        pad = size // 2
        return tf.nn.avg_pool2d(tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]], "SYMMETRIC"), size, 1, "VALID")

    def local(x):
        gray = tf.reduce_mean(x, axis=-1, keepdims=True)
        heat = means(tf.abs(gray - means(gray, 5)), 3)[..., 0]
        row, column = (1 + 0.1 * tf.cast(tf.range(tf.shape(heat)[i]) % ALIGNMENT, tf.float32) for i in (1, 2))
        return heat * row[:, None] * column

    def answer(images, regions=None):
        x = tf.cast(images, tf.float32)
        with tf.control_dependencies([tf.debugging.assert_none_equal(x[:, 0, 0, 0], float(FAILS))]):
            size = tf.shape(x)[1:3]
        small = tf.image.resize(x, (16, 16)) if resized else x
        heat = local(small)
        inside = heat
        if regions is not None:
            if resized:
                regions = tf.image.resize(regions[..., None], (16, 16), "nearest")[..., 0]
            inside = tf.where(regions > 0, heat, -np.inf)
        score = tf.reduce_max(inside, axis=(1, 2))
        return {
            "score": score,
            "calibrated_score": (score - MEDIAN) / (THRESHOLD - MEDIAN),
            "label": tf.cast(score >= THRESHOLD, tf.int32),
            "threshold": tf.ones_like(score) * THRESHOLD,
            "anomaly_map": tf.image.resize(heat[..., None], size)[..., 0] if resized else heat,
        }

    images = tf.TensorSpec([None, None, None, channels], tf.uint8, name="images")
    regions = tf.TensorSpec([None, None, None], tf.uint8, name="regions")
    module = tf.Module()
    signatures = {
        "serving_default": tf.function(lambda images: answer(images), input_signature=[images]),
        "serve_roi": tf.function(answer, input_signature=[images, regions]),
    }
    module.kept = list(signatures.values())
    tf.saved_model.save(module, str(folder / "1"), signatures)
    facts = {
        "format": 1,
        "method": "plain",
        "label": "Plain",
        "channels": channels,
        "image_size": [16, 16] if resized else None,
        "smallest": [1, 1] if resized else [8, 8],
        "tiling": None if resized else {"context": CONTEXT, "alignment": ALIGNMENT},
        "roi": True,
        "threshold": THRESHOLD,
        "pixel_threshold": THRESHOLD,
        "calibration": {"median": MEDIAN, "threshold": THRESHOLD},
    }
    (folder / "metadata.json").write_text(json.dumps(facts | metadata))
    return folder
