"""Training, pixels and scores of every tiny method on the backend of KERAS_BACKEND; prints what it finds as JSON.

Run as a script by test_backends.py: argument 1 is a `.npz` file of initial weights, argument 2 the backend, the others
are the methods. "jax" blocks TensorFlow, without which training and scoring must work there. Beside the weights it
leaves METHOD.BACKEND.npz, a checkpoint of the training, and METHOD.npy, the image of the score.
"""

import json
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    if "jax" in sys.argv:
        sys.modules["tensorflow"] = None  # any import of TensorFlow fails

import keras
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.training.checkpoint import save_state
from ganspect.training.fit import fit


def starting_weights(detector):
    """Variables that `parity_steps` sets: all but the seeds of the random generators."""
    return [v for v in detector.variables if v.dtype == "float32"]


def fix_draws(detector):
    """Replaces what the detector draws for a batch by numbers that both backends have."""
    config = detector.config
    z = (
        np.random.default_rng(0)
        .standard_normal((config.batch_size, getattr(config, "latent_size", 1)))
        .astype("float32")
    )
    drawn = z[:, None, None] if detector.name == "fcbigan" else z  # one latent for each cell of a patch; AnoGAN
    detector.draw_latents = lambda count: keras.ops.convert_to_tensor(drawn)
    epsilon = np.linspace(0.1, 0.9, config.batch_size, dtype="float32")[:, None]
    both = keras.ops.convert_to_tensor(z), keras.ops.convert_to_tensor(epsilon)
    detector.draw = lambda count: both  # CBiGAN, f-AnoGAN


def losses_without_chance(name, images, stored):
    """Mean losses of the epoch after each step of `fit`, from the stored weights: an epoch of each phase."""
    found = []

    class Record(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            found.append([])

        def on_train_batch_end(self, batch, logs=None):
            found[-1].append({key: float(value) for key, value in logs.items()})

    detector = TINY[name].build(**TINY[name].certain)
    for i, v in enumerate(starting_weights(detector)):
        v.assign(stored[f"{name}/{i}"])
    for optimizer in detector.optimizers.values():
        optimizer.epsilon = 1e-3  # else Adam moves a vanishing gradient by the whole rate, where rounding sends it
    fix_draws(detector)
    detector.loops = True  # as on an accelerator; `training` unrolls the batches of a step, as on a CPU
    stack, sizes = stack_images(TINY[name].training_images(images))
    epochs = len(TINY[name].every_phase)
    fit(detector, stack, TINY[name].sampler(sizes, detector.config), epochs, callbacks=[Record()])
    return found


def training(name, images, folder):
    """An epoch of each phase with the method's own draws, then a calibrated score: what a user of this backend does."""
    detector = TINY[name].build()
    stack, sizes = stack_images(TINY[name].training_images(images))
    sampler = TINY[name].sampler(sizes, detector.config)
    seeds = [detector.noise.state] if hasattr(detector, "noise") else []
    before = [keras.ops.convert_to_numpy(seed) for seed in seeds]
    fit(detector, stack, sampler, len(TINY[name].every_phase))
    detector.calibrate(images[:1])
    save_state(folder / f"{name}.{keras.backend.backend()}.npz", detector.state, len(TINY[name].every_phase))
    np.save(folder / f"{name}.npy", images[1])
    row = {key: values[0] for key, values in sampler.draws(0).items()}
    batch = sampler.batch(keras.ops.convert_to_tensor(stack), row)
    pixels = np.array(batch["corrupted"] if TINY[name].regions else batch, "float64")
    return {
        "score": detector.anomaly_score(images[1]),
        "iterations": [int(optimizer.iterations) for optimizer in detector.optimizers.values()],
        "drawn": any((keras.ops.convert_to_numpy(v) != old).any() for v, old in zip(seeds, before, strict=True)),
        "pixels": [*pixels[:, 3, 5, 0], *pixels.mean((1, 2, 3))],
    }


def main(path, names):
    rng = np.random.default_rng(1)
    found = {}
    with np.load(path) as stored:
        for name in names:
            tiny = TINY[name]
            images = list(rng.integers(0, 255, (2, 64, 64, tiny.config.channels)).astype("uint8"))
            losses = losses_without_chance(name, images, stored)
            found[name] = {"losses": losses, **training(name, images, Path(path).parent)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3:])
