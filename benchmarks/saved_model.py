"""An exported SavedModel against the Keras model that it was made of: seconds an image, in turn.

    python benchmarks/saved_model.py [--rounds 20]

GANomaly as its authors coded it (64 pixels, batches of 8) and FCBiGAN at width 16 on one 696x1024 image. Keras is
`answer`, the computation of the endpoint, as one compiled function. The SavedModel is loaded with plain
`tf.saved_model.load`. Medians, and how far the scores are apart.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import timing


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()

    from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig
    from ganspect.models.ganomaly import GANomaly, GANomalyConfig

    rng, rows = np.random.default_rng(0), []
    cases = {
        "GANomaly, 8 images of 64x64": (GANomaly(GANomalyConfig(image_size=64, channels=3)), (8, 64, 64, 3)),
        "FCBiGAN at width 16, one image of 696x1024": (FCBiGAN(FCBiGANConfig(width=16)), (1, 696, 1024, 1)),
    }
    for name, (detector, shape) in cases.items():
        images = rng.integers(0, 256, shape, dtype="uint8")
        rows.append((name, *compared(detector, images, options.rounds if shape[0] > 1 else 3)))
    print(timing.table(("model", "Keras, seconds", "SavedModel, seconds", "ratio", "scores apart, relative"), rows))


def compared(detector, images, rounds):
    """Both medians, their ratio and the difference, as texts."""
    import tensorflow as tf
    from keras import ops

    from ganspect.models.export import Calibration

    detector.compile()
    detector.calibrate([image for image in images])
    keras_own = detector.compile_inference(lambda x: detector.answer(ops.cast(x, "float32")))
    with tempfile.TemporaryDirectory() as folder:
        detector.export(Path(folder) / "1", Calibration(1.0, 0.0))
        loaded = tf.saved_model.load(str(Path(folder) / "1"))
        endpoint, given = loaded.signatures["serving_default"], tf.constant(images)
        ways = {
            "keras": lambda: keras_own(images),
            "saved": lambda: {k: np.asarray(v) for k, v in endpoint(images=given).items()},
        }
        found = timing.interleaved(ways, rounds)
        ours, theirs = (ways[way]()["score"] for way in ways)
    apart = float(np.max(np.abs(ours - theirs) / np.abs(ours)))
    return f"{found['keras']:.4f}", f"{found['saved']:.4f}", f"{found['saved'] / found['keras']:.2f}", f"{apart:.0e}"


if __name__ == "__main__":
    main()
