"""Whether a training step repeats to the bit, and what that costs: ours beside TensorFlow's own sums of gradients.

    python benchmarks/repeatable_steps.py [--seconds 120] [--threads 2]

GANomaly as its authors coded it on 64 pixels, batch 32: one step from equal weights on one batch, again and again, in
turn with gradients added in a fixed order (`models/fixed_order.py`) and as TensorFlow adds them. Printed: how many of
the steps differ from the first of their kind in any bit of any variable, and the ratio of the median times.
"""

import argparse
import contextlib
import os
import statistics
import time


def main():
    """Runs both in turn and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np
    import tensorflow as tf

    from ganspect.models import detector as base
    from ganspect.models.ganomaly import GANomaly, GANomalyConfig

    batch = np.random.default_rng(0).uniform(-1, 1, (32, 64, 64, 3)).astype("float32")
    kinds = {}
    for name in ("fixed order", "TensorFlow's"):
        kept = base.fixed_order
        base.fixed_order = kept if name == "fixed order" else contextlib.nullcontext
        detector = GANomaly(GANomalyConfig(image_size=64, width=options.width))
        detector.compile()
        step = tf.function(detector.step)
        step(tf.constant(batch))
        base.fixed_order = kept
        start = [keras.ops.convert_to_numpy(v).copy() for v in detector.state]
        kinds[name] = {"detector": detector, "step": step, "start": start, "first": None, "times": [], "differ": 0}
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        for name, kind in kinds.items():
            tf.config.optimizer.set_experimental_options({"arithmetic_optimization": name != "fixed order"})
            for v, value in zip(kind["detector"].state, kind["start"], strict=True):
                v.assign(value)
            began = time.perf_counter()
            kind["step"](tf.constant(batch))
            kind["times"].append(time.perf_counter() - began)
            found = [keras.ops.convert_to_numpy(v) for v in kind["detector"].state]
            kind["first"] = kind["first"] or found
            kind["differ"] += any(not np.array_equal(a, b) for a, b in zip(found, kind["first"], strict=True))
    medians = [statistics.median(kind["times"][1:]) for kind in kinds.values()]
    for (name, kind), median in zip(kinds.items(), medians, strict=True):
        print(f"{name}: {kind['differ']} of {len(kind['times']) - 1} steps differ from the first; {median:.3f} s")
    print(f"fixed order / TensorFlow's: {medians[0] / medians[1]:.2f} of the time ({options.threads} threads)")


if __name__ == "__main__":
    main()
