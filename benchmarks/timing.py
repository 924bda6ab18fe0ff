"""What the benchmarks share: rounds in turn, the machine's peak."""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from ganspect import models  # noqa: F401 - before TensorFlow is imported


def interleaved(ways, rounds, clock=time.perf_counter):
    """Median seconds of each way, all of them taking turns after one call each that is not timed.

    Args:
        ways: `{name: function without arguments}`; it must wait for its own result.
        rounds: calls of each.
        clock: seconds.

    Returns:
        `{name: seconds}`.
    """
    seconds = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(rounds):
        for name, run in ways.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def peak(side=2048, rounds=5):
    """GFLOP/s of NumPy's float32 product of two square matrices, the median of a few."""
    left, right = np.random.default_rng(0).normal(size=(2, side, side)).astype("float32")
    return 2 * side**3 / interleaved({"peak": lambda: left @ right}, rounds)["peak"] / 1e9


def table(head, rows):
    """A Markdown table of texts."""
    return "\n".join(["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)])


def fcbigan(width, steps):
    """FCBiGAN on random images as many and as large as NanoTWICE's.

    Returns:
        `(compiled detector, stack of images, sampler of so many batches an epoch)`.
    """
    from ganspect.data.patches import PatchSampler, stack_images
    from ganspect.models.fcbigan import FCBiGAN, FCBiGANConfig

    detector = FCBiGAN(FCBiGANConfig(width=width))
    detector.compile()
    c = detector.config
    stack, sizes = stack_images(
        [np.random.default_rng(i).integers(0, 256, (696, 1024, 1)).astype("uint8") for i in range(5)]
    )
    return detector, stack, PatchSampler(sizes, c.patch_size, c.batch_size * steps, c.batch_size)
