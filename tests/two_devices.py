"""Trains tiny methods on one device and on two virtual ones, in a process of its own; prints what it finds as JSON.

Methods with a U-Net in float64 and for two steps: in float32 one of this size enlarges rounding, on one device as on
two, to 0.2 of what its weights move.

python two_devices.py FOLDER [METHOD ...]
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras.src import backend
from tiny_methods import TINY

from ganspect.data.patches import stack_images
from ganspect.models import optimizers
from ganspect.models.detector import Detector
from ganspect.models.devices import over_devices, synchronised
from ganspect.training.checkpoint import load_state, save_state
from ganspect.training.devices import ONE, Devices
from ganspect.training.fit import fit

TWO = Devices.parse("cpu:2")
RATES = {"grdnet": 1e-3, "draem": 1e-5}  # in float64, an epoch of one batch: DRAEM enlarges rounding from step to step
LARGER = {"fcbigan": 6.0, "cbigan": 1.3, "fanogan": 1.3, "anogan": 2.0, "ganomaly": 4.0}  # or outputs all but vanish


def main(folder, names):
    """`{method: what compared finds}`; of no method, "masks" of `dropped` and "weights" of `simple_step`."""
    if set(names) & set(RATES):
        keras.config.set_floatx("float64")
        usual = backend.result_type  # what BatchNormalization computes in; on JAX float32 whatever it is asked for
        backend.result_type = lambda *kinds: "float64" if "float64" in kinds else usual(*kinds)
    if keras.backend.backend() == "tensorflow":
        TWO.scope()  # before anything starts the backend
    else:
        TWO.mesh()
    found = {name: compared(name, folder / f"{name}.npz") for name in names}
    if not names:
        found |= {"masks": dropped(), "weights": simple_step()}
    print(json.dumps(found))


def compared(name, checkpoint):
    """One epoch of each phase on one device and on two, the latter also with a checkpoint between.

    U-Nets train on batches of four: of two, the statistics of their coarsest level, one pixel an image, are those of
    two numbers.

    Returns:
        `{"losses": [{name: mean of the last epoch}, ...], "moved": {network: how far a weight of it went, at most},
        "apart": {network: how far one is, at most, from that on two}, "resumed": whether the resumed one equals it to
        the bit}`; beside the networks "statistics" is all that is not learned.
    """
    tiny = TINY[name]
    rng = np.random.default_rng(0)
    textures = [rng.integers(0, 256, (64, 64, 1), dtype="uint8") for _ in range(3)]
    stack, sizes = stack_images(tiny.training_images(tiny.photographs(textures)))
    last = len(tiny.every_phase) + 1
    losses = []
    optimizers.Adam = keras.optimizers.RMSprop = lambda *a, **k: keras.optimizers.SGD(RATES.get(name, 0.02))

    def trained(devices, parts):
        for start, end in parts:
            with devices.scope():
                detector = tiny.build(**tiny.certain, **({"batch_size": 4} if tiny.regions else {}))
            for v in detector.variables:
                if "kernel" in v.path:
                    v.assign(LARGER.get(name, 1.0) * v)
            before = grouped(detector, tiny.networks)
            if start:
                load_state(checkpoint, detector.state)
            rows = []
            keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, rows=rows: rows.append(dict(logs)))
            sampler = tiny.sampler(sizes, detector.config)
            if name in RATES:
                sampler = dataclasses.replace(sampler, count=sampler.batch_size)
            fit(detector, stack, sampler, end, start, [keep], devices)
            save_state(checkpoint, detector.state, end)
        losses.append({key: float(value) for key, value in rows[-1].items()})
        return before, grouped(detector, tiny.networks)

    before, one = trained(ONE, [(0, last)])
    _, two = trained(TWO, [(0, last)])
    _, again = trained(TWO, [(0, 1), (1, last)])
    return {
        "losses": losses[:2],
        "moved": farthest(before, one),
        "apart": farthest(one, two),
        "resumed": not any(farthest(two, again).values()) and losses[1] == losses[2],
    }


def grouped(detector, names):
    """`{network: its learned variables, "statistics": all else}`."""
    networks = {name: getattr(detector, name).trainable_variables for name in names}
    learned = {id(v) for variables in networks.values() for v in variables}
    networks["statistics"] = [v for v in detector.variables if id(v) not in learned]
    return {
        name: [keras.ops.convert_to_numpy(v) for v in variables] for name, variables in networks.items() if variables
    }


def farthest(first, second):
    """`{group: the largest difference}`."""
    return {
        name: max(float(np.abs(b - a).max()) for a, b in zip(first[name], second[name], strict=True)) for name in first
    }


class Simple(Detector):
    """One layer with BatchNorm that learns the batch's mean image and noise, and no more."""

    loss_names = ("loss",)

    def __init__(self):
        super().__init__(name="simple")
        keras.utils.set_random_seed(0)
        self.noise = keras.random.SeedGenerator(0)
        norm = keras.layers.BatchNormalization()
        self.network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), norm, keras.layers.Dense(3)])
        self.built = True
        self.finish_compile({"network": (keras.optimizers.SGD(0.5), [self.network])})

    def step(self, images):
        noise = self.drawn(keras.random.normal, images.shape[0], 3)
        target = over_devices(keras.ops.mean(images, axis=0))

        def loss():
            found = self.network(images, training=True) - noise - target
            return {"loss": keras.ops.mean(found**2)}

        return self.minimise(loss, {"loss": ([self.network], self.optimizers["network"])})


def simple_step():
    """All variables of `Simple` after two steps on one device, on two, and on two whose BatchNorm sees its own rows."""
    import tensorflow as tf

    images = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")
    ends = []
    for devices, together in ((ONE, True), (TWO, True), (TWO, False)):
        with devices.scope():
            model = Simple()
        strategy, count = model.distribute_strategy, devices.count
        parts = strategy.experimental_distribute_values_from_function(
            lambda context, count=count: images[context.replica_id_in_sync_group :: count]
        )
        step = tf.function(lambda model=model, strategy=strategy, parts=parts: strategy.run(model.step, (parts,)))
        with synchronised(model, count if together else 1):
            step(), step()
        ends.append(np.concatenate([values.ravel() for values in numbers(model)]).tolist())
    return ends


def numbers(detector):
    return [keras.ops.convert_to_numpy(v) for v in detector.variables]


def dropped():
    """What two devices keep of ones in one step: `[device, unit]`."""
    import tensorflow as tf

    with TWO.scope():
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5, seed=1)])
    step = tf.function(lambda: model(tf.ones((1, 64)), training=True))
    with synchronised(model, TWO.count):
        kept = model.distribute_strategy.run(step)
    return [values.numpy()[0].tolist() for values in kept.values]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
