"""What `training.fit` adds to the steps that it runs: seconds of an epoch beside those of the bare compiled step.

    python benchmarks/fit_overhead.py [--width 4] [--steps 10] [--rounds 4]

FCBiGAN on 48-pixel patches, batch 32, a step of some 200 ms at the default width on two quiet cores. An epoch under
`fit` has all that trainings have: the sampler's draws, `tf.data`, running means, the callbacks of a run with its
checkpoint and history. The bare step is called as often on one batch that is there already. Both run the same graph
alike; rounds take turns; medians.
"""

import argparse
import tempfile
from pathlib import Path

import timing


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()

    import tensorflow as tf

    from ganspect.training.callbacks import ProgressReport, Recorder, StopOnSignal
    from ganspect.training.fit import fit
    from ganspect.training.grid import Channel
    from ganspect.training.run import Run

    detector, stack, sampler = timing.fcbigan(options.width, options.steps)
    config = detector.config
    batch = detector.prepare(sampler.batch(stack, {name: values[0] for name, values in sampler.draws(0).items()}))
    step, epochs = tf.function(detector.step, autograph=False), 0

    def bare():
        for _ in range(options.steps):
            found = step(batch)
        return float(found["d_loss"])

    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))

        def whole(count):
            nonlocal epochs
            calls = [Recorder(run, epochs, sampler.steps), StopOnSignal(run.checkpoint, sampler.steps)]
            fit(detector, stack, sampler, epochs + count, epochs, [*calls, ProgressReport(Channel(), sampler, 10**6)])
            epochs += count

        long, short = options.rounds + 1, 1
        found = timing.interleaved({"long": lambda: whole(long), "short": lambda: whole(short), "bare": bare}, 3)
    epoch = (found["long"] - found["short"]) / (long - short)  # without what a call of `fit` costs: its graph above all
    seconds = [found["bare"] / options.steps, epoch / options.steps]
    row = [f"{1000 * value:.0f}" for value in seconds]
    row += [f"{seconds[1] / seconds[0]:.3f}", f"{found['short'] - epoch:.1f}"]
    print(f"width {options.width}, batch {config.batch_size}, {options.steps} steps an epoch\n")
    print(timing.table(("bare step, ms", "step under `fit`, ms", "ratio", "a call of `fit` besides, seconds"), [row]))


if __name__ == "__main__":
    main()
