"""What `training.fit` adds to the steps that it runs: seconds of an epoch beside those of the bare compiled step.

    python benchmarks/fit_overhead.py [--width 16] [--steps 40] [--rounds 5]

FCBiGAN on 48-pixel patches, batch 32, a step of about 0.2 s at the default width on two cores with AVX-512. An epoch
under `fit` has all that trainings have: the sampler's draws, `tf.data`, running means, the callbacks of a run with its
checkpoint and history. After each, inside the same call of `fit`, the bare step is called as often on one batch that
is there already. The first turn, with the tracing of both, is not timed; medians.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import timing


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    import keras
    import tensorflow as tf

    from ganspect.training.callbacks import ProgressReport, Recorder, StopOnSignal
    from ganspect.training.fit import fit
    from ganspect.training.grid import Channel
    from ganspect.training.run import Run

    detector, stack, sampler = timing.fcbigan(options.width, options.steps)
    config = detector.config
    batch = detector.prepare(sampler.batch(stack, {name: values[0] for name, values in sampler.draws(0).items()}))
    step = tf.function(detector.step, autograph=False)
    seconds = {"fit": [], "bare": []}

    class Turns(keras.callbacks.Callback):
        """Times an epoch, and after it as many bare steps."""

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds["fit"].append(time.perf_counter() - self.start)
            start = time.perf_counter()
            for _ in range(options.steps):
                found = step(batch)
            float(found["d_loss"])
            seconds["bare"].append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        calls = [Recorder(run, 0, sampler.steps), StopOnSignal(run.checkpoint, sampler.steps)]
        calls += [ProgressReport(Channel(), sampler, 10**6), Turns()]
        fit(detector, stack, sampler, options.rounds + 1, 0, calls)
    bare, epoch = (float(np.median(seconds[name][1:])) / options.steps for name in ("bare", "fit"))
    row = [f"{1000 * bare:.0f}", f"{1000 * epoch:.0f}", f"{epoch / bare:.3f}"]
    print(f"width {options.width}, batch {config.batch_size}, {options.steps} steps an epoch\n")
    print(timing.table(("bare step, ms", "step under `fit`, ms", "ratio"), [row]))


if __name__ == "__main__":
    main()
