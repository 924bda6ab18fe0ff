"""Training steps with oneDNN's kernels and with TensorFlow's own, in processes that take turns.

    python benchmarks/onednn.py [--methods ganomaly cbigan_critic] [--rounds 3] [--steps 3]

TensorFlow decides which it takes when it is imported, so each round starts a process of its own for either; the rows
are medians over the rounds of the medians in each process. "ours" are steps as the package makes them, with the forms
of convolutions for the kernels at hand (`models/convolutions.py`); the others (`textbook.py`) are of stock layers.
"by default" is what TensorFlow takes by itself where nobody asks (`TF_ENABLE_ONEDNN_OPTS` unset).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import steps
import timing

KINDS = {"oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "1"}, "TensorFlow's own": {"TF_ENABLE_ONEDNN_OPTS": "0"}, "by default": {}}


def once(name, rounds):
    """Seconds of each kind of step of a method in this process: `{label: median}`."""
    import textbook

    detector = steps.build(name)
    batches = steps.pixels(detector, 1)
    ours = steps.step_of(name, detector)
    runs = {"ours": steps.tensorflow_run(lambda batch: ours(detector.prepare(batch)), batches)}
    for label, other in textbook.STEPS.get(name, {}).items():
        runs[label] = steps.tensorflow_run(lambda batch, f=other: f(detector, detector.prepare(batch)), batches)
    return timing.interleaved(runs, rounds)


def other_process(name, kind, rounds):
    """`once` in a new process with these kernels."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"} | KINDS[kind]
    first = "tensorflow" if kind == "by default" else "ganspect.models"  # so that nobody asks
    code = f"import {first}, json, onednn; print(json.dumps(onednn.once({name!r}, {rounds})))"
    here = {"cwd": Path(__file__).parent, "env": environment | {"TF_CPP_MIN_LOG_LEVEL": "3"}}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, **here)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=steps.CASES, default=["ganomaly", "cbigan_critic"])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="timed steps in each process")
    options = parser.parse_args()
    rows = []
    for name in options.methods:
        found = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind, seconds in found.items():
                seconds.append(other_process(name, kind, options.steps))
        for label in found["oneDNN"][0]:
            each = [float(np.median([one[label] for one in seconds])) for seconds in found.values()]
            rows.append((name, label, *(f"{x:.3g}" for x in each), f"{each[-1] / each[0]:.2f}"))
    print(f"{len(os.sched_getaffinity(0))} threads, medians of {options.rounds} processes of each kind in turn\n")
    print(timing.table(("method", "step", *(f"{kind}, seconds" for kind in KINDS), "default / oneDNN"), rows))


if __name__ == "__main__":
    main()
