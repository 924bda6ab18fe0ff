"""The SavedModel of a trained detector: everything that an answer needs is inside, nothing of this project is.

Endpoints, each for batches of any length; H and W are free (methods that see squares resize inside, and their maps
back):

| endpoint | takes |
|---|---|
| `serving_default` | `images`: uint8 `[N, H, W, C]` |
| `serve_float` | `images`: float32 `[N, H, W, C]` in [0, 1] |
| `serve_bytes` | `encoded`: string `[N]`, PNG or JPEG files of one size, as TensorFlow decodes them |
| `score` | `images`: uint8 `[N, H, W, C]`; answers with the score alone |
| `serve_roi` | `images`: uint8 `[N, H, W, C]`, `regions`: uint8 `[N, H, W]`, not 0 in the region of interest |

They answer with `score` `[N]`, `calibrated_score` `[N]` (0 at the median of held-out normal images, 1 at the
threshold, linear), `label` int32 `[N]` (1: the score reaches the threshold or is no number), `threshold` `[N]`,
`anomaly_map` `[N, H, W]` and `reconstruction` `[N, H, W, C]` in [0, 1]. `serve_roi` is there where the score is the
maximum of a map; of an empty region it is -inf.

TensorFlow's decoding is that of `ganspect.data` for opaque gray and RGB PNG files; JPEGs differ by a level here and
there. It does not turn files as their EXIF tag says, drops transparency instead of laying it on black, and reads CMYK
in its own way: the pixels of such files belong to `serving_default`.
"""

from dataclasses import dataclass

import keras
from keras import ops

from ganspect.models import maps

ENDPOINTS = ("serving_default", "serve_float", "serve_bytes", "score", "serve_roi")


@dataclass(frozen=True)
class Calibration:
    """What an exported model knows of normal images that training did not see.

    Args:
        threshold: an image is anomalous from this score on.
        median: score of a typical normal image.
    """

    threshold: float
    median: float


def export(detector, path, calibration):
    """Writes the SavedModel; needs TensorFlow.

    Args:
        detector: trained and calibrated `Detector`.
        path: folder to write.
        calibration: `Calibration`.

    Returns:
        What metadata of the model says: `{"image_size", "smallest", "tiling", "roi", "reconstruction", "channels",
        "endpoints"}`.

    Raises:
        ValueError: the method cannot be exported with its settings.
        RuntimeError: the backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "models are exported by TensorFlow: set KERAS_BACKEND=tensorflow, the checkpoints are the same"
        )
    import tensorflow as tf

    channels, size = detector.config.channels, detector.input_size
    graph = _Graph(detector, calibration)

    def spec(dtype, *shape, name):
        return tf.TensorSpec(shape, dtype, name=name)

    images = spec(tf.uint8, None, None, None, channels, name="images")
    floats = spec(tf.float32, None, None, None, channels, name="images")
    # The networks are traced and stored once, in a function that every endpoint calls.
    whole = tf.function(graph.whole, input_signature=[floats], autograph=False).get_concrete_function()
    found = whole.structured_outputs
    takes_regions = "peaks" in found

    def answer(images):
        return {name: value for name, value in whole(images).items() if name != "peaks"}

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serving_default", lambda images: answer(ops.cast(images, "float32")), [images])
    archive.add_endpoint("serve_float", lambda images: answer(images * 255.0), [floats])
    encoded = [spec(tf.string, None, name="encoded")]
    archive.add_endpoint("serve_bytes", lambda encoded: answer(graph.decoded(encoded)), encoded)
    archive.add_endpoint("score", lambda images: {"score": whole(ops.cast(images, "float32"))["score"]}, [images])
    if takes_regions:

        def serve_roi(images, regions):
            return graph.inside(whole(ops.cast(images, "float32")), regions)

        archive.add_endpoint("serve_roi", serve_roi, [images, spec(tf.uint8, None, None, None, name="regions")])
    archive.write_out(str(path), verbose=False)
    return {
        "channels": channels,
        "image_size": [size, size] if size else None,
        "smallest": [1, 1] if size else [getattr(detector, "smallest", detector.config.patch_size)] * 2,
        "tiling": None if size else detector.tiling,
        "roi": takes_regions,
        "reconstruction": "reconstruction" in found,
        "endpoints": [name for name in ENDPOINTS if name != "serve_roi" or takes_regions],
    }


class _Graph:
    """The computation of the endpoints.

    Args:
        detector, calibration: as of `export`.
    """

    def __init__(self, detector, calibration):
        self.detector, self.size = detector, detector.input_size
        self.threshold = float(calibration.threshold)
        self.median = float(calibration.median)

    def whole(self, images):
        """Images in 0..255 `[N, H, W, C]` to what an endpoint returns, and "peaks" where the method has them."""
        shape = ops.shape(images)
        height, width = shape[1], shape[2]
        if self.size:  # whole levels, as of resized files
            square = (self.size, self.size)
            images = ops.round(maps.resized(images, square, antialias=True))
            images = ops.reshape(ops.clip(images, 0.0, 255.0), (-1, *square, self.detector.config.channels))
        found = self.detector.answer(images)
        heat, rebuilt = found["anomaly_map"][..., None], found.get("reconstruction")
        if self.size:
            heat = maps.resized(heat, (height, width))
            rebuilt = None if rebuilt is None else maps.resized(rebuilt, (height, width))
        out = {**self.judged(found["score"]), "anomaly_map": heat[..., 0]}
        if rebuilt is not None:
            out["reconstruction"] = ops.clip((rebuilt + 1) / 2, 0.0, 1.0)
        return out | ({"peaks": found["peaks"]} if "peaks" in found else {})

    def judged(self, score):
        """What follows from the scores `[N]`."""
        return {
            "score": score,
            "calibrated_score": (score - self.median) / max(self.threshold - self.median, 1e-12),
            "label": 1 - ops.cast(score < self.threshold, "int32"),
            "threshold": self.threshold * ops.ones_like(score),
        }

    def inside(self, found, regions):
        """What `whole` gives, judged by the peaks inside regions `[N, H, W]`."""
        peaks = found.pop("peaks")
        if self.size:
            square = (self.size, self.size)
            regions = maps.resized(ops.cast(regions, "float32")[..., None], square, "nearest")[..., 0]
        return {**found, **self.judged(ops.max(ops.where(regions > 0, peaks, float("-inf")), axis=(1, 2)))}

    def decoded(self, encoded):
        """PNG or JPEG files `[N]` of one size to images in 0..255 `[N, H, W, C]`."""
        import tensorflow as tf

        channels = self.detector.config.channels

        def one(data):
            image = tf.io.decode_image(data, channels=channels, expand_animations=False)
            return tf.ensure_shape(image, (None, None, channels))

        images = tf.map_fn(one, encoded, fn_output_signature=tf.TensorSpec((None, None, channels), tf.uint8))
        return ops.cast(images, "float32")
