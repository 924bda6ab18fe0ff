"""Decoding once and keeping the pixels, as trainings do, against decoding in every pass: images per second.

    python benchmarks/decoding.py [--images 12] [--size 1024] [--rounds 3]

Grayscale PNG files with structure and noise, resized to 128 pixels, through `data.pipeline.image_dataset`, batches of
4: a pass of the decoded images that are kept (`cache=True`) and one that decodes. Medians of interleaved rounds.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import timing
from PIL import Image

PASSES = {"kept": 50, "decoded": 1}  # in a round, so that starting a pipeline is a small part


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from ganspect.data.pipeline import image_dataset
    from ganspect.data.samples import scan

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "set" / "part" / "train" / "good"
        place.mkdir(parents=True)
        wave = np.sin(np.arange(options.size) / 9)
        for i in range(options.images):
            pixels = 128 + 60 * wave[:, None] * wave + rng.normal(0, 8, (options.size, options.size))
            Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(place / f"{i:03d}.png")
        test = place.parents[1] / "test" / "good"
        test.mkdir(parents=True)
        Image.fromarray(np.zeros((options.size, options.size), "uint8")).save(test / "000.png")
        samples = [s for s in scan(place.parents[1]).samples if s.split == "train"]
        ways = {}
        for name, cache in (("kept", True), ("decoded", False)):
            dataset = image_dataset(samples, 1, 128, 4, cache=cache).repeat(PASSES[name])
            ways[name] = lambda dataset=dataset: sum(len(part["label"]) for part in dataset)
        found = timing.interleaved(ways, options.rounds)
    rates = [options.images * PASSES[name] / found[name] for name in ("kept", "decoded")]
    print(f"{options.images} PNG files of {options.size}x{options.size} pixels, resized to 128\n")
    row = [f"{rate:.0f}" for rate in rates] + [f"{rates[0] / rates[1]:.0f}"]
    print(timing.table(("kept, images/s", "decoded, images/s", "ratio"), [row]))


if __name__ == "__main__":
    main()
