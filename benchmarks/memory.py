"""Peak resident memory of a training and of scoring, each method at its paper's sizes and at the `quick` profile's.

    python benchmarks/memory.py [--cases grdnet/grdnet/pill ...] [--profiles smoke quick paper] [--images 200]

Each case is a process of its own: it builds the method as a cell of the profile does, trains two steps through
`training.fit` on random images of the category's number and size, scores one batch of images and says the most memory
that it ever held (`ru_maxrss`), beside what TensorFlow takes before anything is built. The paper's AnoGAN searches for
two steps instead of 500, which hold no more.

Unless cases are named, the last rows train FCBiGAN on images of 200 and of 800 MB, in memory and with
`GANSPECT_IMAGE_MEMORY=50`, on disk. Of a mapped file the kernel keeps in memory what there is room for and takes it
back when others need it: these rows say what it cannot take back (`RssAnon` of Linux), the most at the end of a step.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys

import timing

CASES = (
    "cbigan/cbigan/pill",
    "cbigan/cbigan/grid",
    "fcbigan/fcbigan/nanofibres",
    "fcbigan/f-anogan/grid",
    "grdnet/grdnet/pill",
    "grdnet/draem/pill",
    "grdnet/ganomaly/pill",
    "anogan_ganomaly/anogan/casting",
    "anogan_ganomaly/ganomaly/casting",
)
SYNTHETIC = {"pill": "object", "grid": "weave", "nanofibres": "fibres", "casting": "disc"}  # of the smoke profile
SIDES = {"nanofibres": (696, 1024), "grid": (1024, 1024), "casting": (300, 300)}
COUNTS = {"nanofibres": 5}
SMOKE = (5, (128, 128))


def cell_of(case, profile):
    """The method, its config and the sizes of its category's images."""
    paper_name, name, category = case.split("/")
    paper = importlib.import_module(f"ganspect.reproduce.{paper_name}")
    category = SYNTHETIC[category] if profile == "smoke" else category
    subject = next(s for s in (*paper.SUBJECTS, *paper.SYNTHETIC) if s.category == category)
    method, plan = paper.METHODS[name], paper.PROFILES[profile][name]
    reduced = plan.settings(subject) if callable(plan.settings) else plan.settings
    settings = {"channels": subject.channels, **method.settings_for(subject), **reduced}
    fields = method.config.__dataclass_fields__
    settings |= {"search_steps": 2} if "search_steps" in fields else {}
    return method, method.config(**settings)


def held():
    """The most memory that this process has held, MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB; bytes on macOS
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def kept_back():
    """What this process holds that no file backs, MB; Linux alone says so."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1000


def trained(method, config, images, scored=True):
    """MB held before, after two steps, after one batch of scores; and without what files back, in a step."""
    import keras
    import tensorflow as tf  # noqa: F401

    from ganspect.data.patches import stack_images
    from ganspect.reproduce.runner import training_images
    from ganspect.training.fit import fit

    class Stop(keras.callbacks.Callback):
        anonymous = 0

        def on_train_batch_end(self, batch, logs=None):
            self.anonymous = max(self.anonymous, kept_back() if sys.platform == "linux" else 0)
            self.model.stop_training = batch >= 1

    before = held()
    detector = method.build(config)
    detector.compile()
    arrays, stop = argparse.Namespace(train=images, train_rois=None), Stop()
    stack, sizes = stack_images(training_images(method, arrays, range(len(images))))
    fit(detector, stack, method.sampler(config, sizes), 1, 0, [stop])
    after = held()
    if scored:
        detector.calibrate(images[:2])
        for found in detector.evidences(images[: detector.at_once]):
            detector.score_from(found)
    return before, after, held(), stop.anonymous


def random_images(count, shape):
    """Yields uint8 images of noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 256, shape, dtype="uint8")


def one(case, profile, images):
    """A row of one case, measured in this process."""
    method, config = cell_of(case, profile)
    category = case.rpartition("/")[2]
    count, shape = (COUNTS.get(category, images), SIDES.get(category, (256, 256)))
    if profile == "smoke":
        count, shape = SMOKE
    size = getattr(config, "image_size", 0)
    shape = (size, size) if size else shape
    *found, _ = trained(method, config, list(random_images(count, (*shape, config.channels))))
    return [case, profile, f"{count} of {shape[1]}x{shape[0]}x{config.channels}", *(f"{mb:.0f}" for mb in found)]


def beyond(megabytes):
    """A row of FCBiGAN at the quick profile on so much of images; read as a category is, on disk where they must."""
    from ganspect.data.on_disk import VARIABLE, Shelf

    method, config = cell_of("fcbigan/fcbigan/nanofibres", "quick")
    shelf, count = Shelf(), megabytes // 5
    images = [shelf.put(image) for image in random_images(count, (2000, 2500, 1))]
    limit, anonymous = os.environ.get(VARIABLE), trained(method, config, images, scored=False)[-1]
    return [f"{count} of 2500x2000x1, {megabytes} MB", f"{limit} MB" if limit else "a quarter", f"{anonymous:.0f}"]


def measured(*arguments, **environment):
    """What a process of its own finds: a row, or None where it failed."""
    line = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(line, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main():
    """Prints one or two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", metavar="PAPER/METHOD/CATEGORY", help="all, and larger images, if none")
    parser.add_argument("--profiles", nargs="+", default=("smoke", "quick", "paper"))
    parser.add_argument("--images", type=int, default=200, help="of MVTec AD and casting")
    parser.add_argument("--one", nargs="+", help="one row, as JSON: CASE PROFILE IMAGES, or MEGABYTES")
    options = parser.parse_args()
    if options.one:
        row = beyond(int(options.one[0])) if len(options.one) == 1 else one(*options.one[:2], int(options.one[2]))
        print(json.dumps(row))
        return
    pairs = [(case, profile) for case in options.cases or CASES for profile in options.profiles]
    rows = [measured(*pair, options.images) or [*pair, "failed", "", "", ""] for pair in pairs]
    head = ("method", "profile", "training images", "before, MB", "trained, MB", "scored, MB")
    print(timing.table(head, rows))
    if options.cases:
        return
    rows = [measured(size, **limit) for size in (200, 800) for limit in ({}, {"GANSPECT_IMAGE_MEMORY": "50"})]
    print("\n" + timing.table(("training images", "GANSPECT_IMAGE_MEMORY", "held in a step, MB"), rows))


if __name__ == "__main__":
    main()
