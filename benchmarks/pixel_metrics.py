"""Exact pixel metrics beside scikit-learn's: time and peak memory.

    python benchmarks/pixel_metrics.py [--pixels 100000000] [--rounds 3] [--limit 256]

Images of 1000x1000 float32 pixels, 2 % of them anomalous, lie in memory-mapped files. Each measurement is a process
of its own, which reads them once before the clock starts; rounds are interleaved, ratios are of medians. All use one
thread: on a machine shared with other work, the seconds on the processor are the ones to compare, those by the clock
also hold waiting for the disk. Memory is the peak of the process above its start, without the pages of the mapped
files. scikit-learn takes pooled arrays, which it needs in memory. The variant with a limit may hold that many megabytes
of keys and sorts in chunks on disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 1000
KINDS = ("scikit-learn: AUROC, AP", "ours: AUROC, AP", "ours with the limit", "ours: AUPRO", "ours: best F1")


def write(folder, pixels):
    """The maps and masks as `.npy` files."""
    rng, count = np.random.default_rng(0), max(1, pixels // SIDE**2)
    for name, dtype in (("masks", np.uint8), ("maps", np.float32)):
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count, SIDE, SIDE))
    masks, maps = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("masks", "maps"))
    for i in range(count):
        y, x = rng.integers(0, SIDE - 150, 2)
        masks[i, y : y + 142, x : x + 142] = 1  # 2 %
        maps[i] = rng.gamma(2.0, 1.0, (SIDE, SIDE)) + 2.5 * masks[i]


def resident():
    """Resident bytes of this process that are no pages of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


class Watch:
    """The highest anonymous resident size while it runs, looked at every 20 ms."""

    def __enter__(self):
        import threading

        self.highest, self.over = resident(), threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self):
        while not self.over.wait(0.02):
            self.highest = max(self.highest, resident())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def measure(folder, kind, limit):
    """One measurement: seconds by the clock and on the processor, peak bytes above the start, values."""
    masks, maps = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("masks", "maps"))
    if kind.startswith("scikit"):
        from sklearn import metrics as reference

        def work():
            labels, scores = np.asarray(masks).ravel(), np.asarray(maps).ravel()
            return reference.roc_auc_score(labels, scores), reference.average_precision_score(labels, scores)
    else:
        from ganspect.evaluation import metrics

        memory = limit if "limit" in kind else float("inf")
        choose = {"AUPRO": lambda: (metrics.pixel_aupro(masks, maps, memory=memory),)}
        choose["F1"] = lambda: metrics.pixel_f1_max(masks, maps, memory)
        name = next((name for name in choose if name in kind), None)

        def work():
            return choose[name]() if name else metrics.pixel_auroc_aupr(masks, maps, memory)

    sum(float(values[0, 0]) + float(values.sum()) for values in maps)  # into the page cache
    before = resident()
    with Watch() as watch:
        start = time.perf_counter(), time.thread_time()
        values = work()
        seconds = [now - then for now, then in zip((time.perf_counter(), time.thread_time()), start, strict=True)]
    return *seconds, watch.highest - before, [float(value) for value in values]


def main():
    """Runs the rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=10**8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=256, help="megabytes of keys held at a time")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Path(options.one[0]), options.one[1], options.limit * 1e6)))
        return
    found = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.pixels)
        for _ in range(options.rounds):
            for kind in KINDS:
                line = [sys.executable, __file__, "--limit", str(options.limit), "--one", folder, kind]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
                found[kind].append(json.loads(done.stdout))
    report(found, options)


def report(found, options):
    """Prints the medians; times faster on the processor and share of peak memory are to scikit-learn's."""
    clock, processor, memory = (
        {kind: statistics.median(x[i] for x in runs) for kind, runs in found.items()} for i in range(3)
    )
    reference, ours = (found[kind][0][3] for kind in KINDS[:2])
    difference = max(abs(a - b) for kind in KINDS[1:3] for a, b in zip(found[kind][0][3], reference, strict=True))
    print(f"{options.pixels:.3g} pixels, medians of {options.rounds} interleaved rounds")
    print(f"AUROC {ours[0]:.6f}, AP {ours[1]:.6f}")
    print(f"largest difference from scikit-learn {difference:.1e}; limit {options.limit:g} MB\n")
    print("| metric | seconds by the clock | on the processor | times faster | peak memory, MB | share |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        faster = f"{processor[KINDS[0]] / processor[kind]:.1f}"
        share = f"{memory[kind] / memory[KINDS[0]]:.2f}"
        seconds = f"{clock[kind]:.2f} | {processor[kind]:.2f}"
        print(f"| {kind} | {seconds} | {faster} | {memory[kind] / 1e6:.0f} | {share} |")


if __name__ == "__main__":
    main()
