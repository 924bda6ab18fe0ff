"""AnoGAN's latent search: images per second searched together and one at a time, interleaved in one run.

    python benchmarks/anogan_search.py [--batch 32] [--steps 20] [--rounds 3] [--single 2]

The study's networks for casting images (128 pixels, grayscale), untrained: the arithmetic does not depend on weights.
Both ways run the same compiled search; the losses they find are compared. "By Keras' layers": one at a time without the
forms of `models/convolutions.py`, as a search written from the paper would run.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def main():
    """Runs the rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single", type=int, default=2, help="images searched one at a time in a round")
    options = parser.parse_args()

    from ganspect.models.anogan import AnoGAN, AnoGANConfig

    detector = AnoGAN(AnoGANConfig(search_steps=options.steps, search_batch=options.batch))
    detector.compile()
    images = list(np.random.default_rng(0).integers(0, 256, (options.batch, 128, 128, 1)).astype("uint8"))
    plain = detector.compile_inference(lambda x: detector.search(detector.prepare(x)))
    together, alone = detector.evidences(images), [detector.evidence(images[0])]  # compiles both
    plain(images[0][None])
    rates = {"batched": [], "single": [], "plain": []}
    for _ in range(options.rounds):
        start = time.perf_counter()
        together = detector.evidences(images)
        rates["batched"].append(options.batch / (time.perf_counter() - start))
        start = time.perf_counter()
        alone = [detector.evidence(image) for image in images[: options.single]]
        rates["single"].append(options.single / (time.perf_counter() - start))
        start = time.perf_counter()
        for image in images[: options.single]:
            plain(image[None])
        rates["plain"].append(options.single / (time.perf_counter() - start))
    worst = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(alone, together, strict=False))
    batched, single, by_keras = (float(np.median(rates[name])) for name in ("batched", "single", "plain"))
    print(
        f"{options.steps} steps, medians of {options.rounds} interleaved rounds; losses differ by {worst:.1e} at most\n"
    )
    print(f"| {options.batch} together, images/s | one at a time | ratio | one at a time by Keras' layers | ratio |")
    print("|---|---|---|---|---|")
    print(f"| {batched:.3g} | {single:.3g} | {batched / single:.2f} | {by_keras:.3g} | {batched / by_keras:.2f} |")


if __name__ == "__main__":
    main()
