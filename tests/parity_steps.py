"""Three steps of a tiny FCBiGAN without randomness on the backend of KERAS_BACKEND; prints the losses as JSON.

Run as a script by test_backends.py: argument 1 is a `.npz` file of initial weights and patches. With a second
argument "scores" it also trains one epoch from arrays, calibrates and scores, which must work without TensorFlow.
"""

import dataclasses
import json
import sys

import numpy as np

if __name__ == "__main__":
    if "jax" in sys.argv:
        sys.modules["tensorflow"] = None  # any import of TensorFlow fails

import keras

from ganspect.data.patches import PatchSampler, stack_images
from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig
from ganspect.training.fit import fit

CONFIG = FCBiGANConfig(
    patch_size=16, width=4, latent_size=6, batch_size=4, patches_per_epoch=8, epochs=1, filter_size=8,
    dropout=0.0, latent_dropout=0.0,
)  # fmt: skip


def main(path):
    detector = FCBiGAN(CONFIG)
    detector.compile()
    with np.load(path) as stored:
        for i, v in enumerate(detector.trainable_variables):
            v.assign(stored[f"w{i}"])
        patches, latents = stored["patches"], stored["latents"]
    drawn = iter(latents)
    detector.draw_latents = lambda count: keras.ops.convert_to_tensor(next(drawn))
    losses = [{k: float(v) for k, v in detector.step(x).items()} for x in patches]
    del detector.draw_latents
    images = [np.random.default_rng(i).integers(0, 255, (40, 48, 1)).astype("uint8") for i in range(2)]
    stack, sizes = stack_images(images)
    trained = FCBiGAN(dataclasses.replace(CONFIG, dropout=0.2))
    trained.compile()
    fit(trained, stack, PatchSampler(sizes, 16, 8, 4), 1)
    trained.calibrate(images[:1])
    score = trained.anomaly_score(images[1])
    print(json.dumps({"losses": losses, "score": score, "iterations": int(trained.optimizers["encoder"].iterations)}))


if __name__ == "__main__":
    main(sys.argv[1])
