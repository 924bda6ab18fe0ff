"""Seconds until the command line answers, and of a command that runs to its end.

    python benchmarks/start_up.py [--rounds 15] [--smoke] [--jobs 2]

`ganspect --help` and a Python that does nothing take turns; medians. With `--smoke` also `ganspect reproduce all
--profile smoke --jobs N --threads 1`, once, into a temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing

GANSPECT = str(Path(sys.executable).with_name("ganspect"))


def main():
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--smoke", action="store_true", help="also the smoke profile of all papers, minutes")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()

    def run(*line):
        return lambda: subprocess.run(line, stdout=subprocess.DEVNULL, check=True)

    ways = {"help": run(GANSPECT, "--help"), "nothing": run(sys.executable, "-c", "")}
    found = timing.interleaved(ways, options.rounds)
    ratio = f"{found['help'] / found['nothing']:.1f}"
    rows = [(f"{found['help']:.3f}", f"{found['nothing']:.3f}", ratio)]
    print(timing.table(("`ganspect --help`, seconds", "`python -c ''`, seconds", "ratio"), rows))
    if options.smoke:
        print("\n" + smoke(options.jobs))


def smoke(jobs):
    """The smoke profile of all papers as a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        line = [GANSPECT, "reproduce", "all", "--profile", "smoke", "--jobs", str(jobs), "--threads", "1"]
        began = time.perf_counter()
        done = subprocess.run([*line, "--runs-dir", folder], stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - began
        finished = len(list(Path(folder).rglob("metrics.json")))
    command = "ganspect " + " ".join(line[1:])
    row = (f"`{command}`", finished, f"{seconds:.0f}", done.returncode)
    return timing.table(("command", "cells finished", "seconds", "exit code"), [row])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
