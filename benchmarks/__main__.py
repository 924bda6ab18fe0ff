"""Runs every benchmark and writes benchmarks/results.md: `make benchmark`, or `python benchmarks [--only NAME ...]`.

A section is a script and its arguments; what the script prints, Markdown, is what the page shows below the command. To
add one, add a line to `SECTIONS`. `--only` runs the sections whose script or title has such a name and keeps the
others as they stand in the file.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import timing

PAGE = Path(__file__).with_name("results.md")
HEAD = """# Benchmarks

`make benchmark` runs the sections that `benchmarks/__main__.py` lists and writes this page (those beside PyTorch need
`pip install ".[benchmark]"`); others were made by the commands beside them. Each figure is a ratio of medians of ways
that take turns in one process, so that it travels better than seconds do. Beside every section stands what NumPy's
float32 matrix product reached on the machine just before and after it, GFLOP/s: where the two differ, other work was
going on. Of a processor without AVX-512, where TensorFlow by default takes kernels of its own: `results_avx2.md`.
"""
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # flags of /proc/cpuinfo, the widest first


@dataclass(frozen=True)
class Section:
    """One benchmark.

    Args:
        title: of the section.
        script: in this folder, with its arguments.
        text: what is measured, in a sentence or two.
        needs: a module without which it is left out.
        backend: of Keras.
    """

    title: str
    script: str
    text: str = ""
    needs: str = ""
    backend: str = ""

    @property
    def command(self):
        """As one types it."""
        return (f"KERAS_BACKEND={self.backend} " if self.backend else "") + f"python benchmarks/{self.script}"

    def run(self):
        """The section as Markdown, between comments by which it is found again."""
        before = timing.peak()
        line = [sys.executable, str(PAGE.parent / self.script.split()[0]), *shlex.split(self.script)[1:]]
        environment = {**os.environ, **({"KERAS_BACKEND": self.backend} if self.backend else {})}
        done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[1])
        body = done.stdout.strip() if done.returncode == 0 else f"failed with code {done.returncode}"
        peaks = f"matrix product {before:.0f} and {timing.peak():.0f} GFLOP/s"
        facts = f"`{self.command}`, {date.today()}, {machine()}; {peaks}"
        return "\n".join(filter(None, [f"## {self.title}", self.text, facts, "\n" + body]))


SECTIONS = (
    Section("Start of the command line", "start_up.py", "`ganspect --help` beside an empty Python."),
    Section("FCBiGAN: whole image against patch by patch", "dense_map.py --width 32 --rounds 3 --patches 64"),
    Section("Patch pipeline against training", "patch_pipeline.py", "`tf.data` alone against the step that it feeds."),
    Section("`fit` against the bare step", "fit_overhead.py"),
    Section("SavedModel against Keras", "saved_model.py"),
    Section("Decoded once against decoded again", "decoding.py"),
    Section("AnoGAN's search: images together and one at a time", "anogan_search.py --steps 20 --rounds 3"),
    Section("Corruption: in batches and in a loop over samples", "corruption.py"),
    Section("Larger batches", "corruption.py --batch 32 --batches 2"),
    Section("The same on JAX", "corruption.py --batch 32 --batches 2", needs="jax", backend="jax"),
    Section("Steps of GANomaly and CBiGAN", "steps.py --methods ganomaly cbigan_critic --textbook --rounds 5"),
    Section("Kernels of oneDNN and of TensorFlow", "onednn.py --rounds 3", "Whose: see `models/__init__.py`."),
    Section("Steps of GANomaly beside PyTorch", "steps.py --methods ganomaly --torch --rounds 5", needs="torch"),
    Section("Steps of DRAEM", "steps.py --methods draem --textbook --torch --rounds 3", needs="torch"),
    Section("One image a step", "steps.py --methods draem --batch 1 --textbook --torch --rounds 5", needs="torch"),
    Section("Steps of the other methods", "steps.py --methods ganomaly_study anogan cbigan fcbigan fanogan --rounds 3"),
    Section(
        "XLA on TensorFlow",
        "steps.py --methods cbigan_critic ganomaly --batch 16 --xla --rounds 5",
        "What `--xla` does on a CPU; on a GPU it was not measured.",
    ),
    Section(
        "Arithmetic in bfloat16",
        "steps.py --methods ganomaly cbigan_critic fcbigan draem grdnet --precision float32 bfloat16 --textbook "
        "--rounds 3",
        "What `--precision bfloat16` does on a processor that multiplies in it (AVX512_BF16).",
    ),
    Section(
        "The same at a quarter of the width",
        "steps.py --methods draem grdnet fcbigan --width 16 --precision float32 bfloat16 --rounds 5",
        "The width of `ganspect train` and of the quick profile.",
    ),
    Section("Forms of convolutions", "convolutions.py --rounds 3"),
    Section("Steps that repeat", "repeatable_steps.py"),
    Section("Memory", "memory.py --profiles quick"),
    Section(
        "Memory at the papers' sizes",
        "memory.py --profiles paper --cases cbigan/cbigan/pill cbigan/cbigan/grid fcbigan/fcbigan/nanofibres "
        "grdnet/grdnet/pill grdnet/draem/pill grdnet/ganomaly/pill anogan_ganomaly/anogan/casting "
        "anogan_ganomaly/ganomaly/casting",
        "Without f-AnoGAN, whose step of 320 images takes two minutes.",
    ),
    Section("What reaches GRD-Net's autoencoder before its first step", "first_gradients.py"),
    Section("Pixel metrics beside scikit-learn's", "pixel_metrics.py --pixels 10000000 --limit 25", needs="sklearn"),
    Section("Pixel metrics of 10^8 pixels", "pixel_metrics.py --pixels 100000000 --rounds 1", needs="sklearn"),
)


def machine():
    """Processor, its widest vectors and cores."""
    name = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        facts = Path("/proc/cpuinfo").read_text()
        found = re.search(r"model name\s*: (.*)", facts)
        name = found[1] if found else name
        widest = next((name for flag, name in VECTORS.items() if re.search(rf"\b{flag}\b", facts)), "")
        name += f" with {widest}" if widest else ""
    return f"{len(os.sched_getaffinity(0))} cores of {' '.join(name.split())}"


def stored(page):
    """Sections of a page: `{title: Markdown}`."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.strip() for part in parts}


def present(name):
    """Whether a module can be imported."""
    import importlib.util

    return not name or importlib.util.find_spec(name) is not None


def main():
    """Runs the sections and writes the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scripts, without .py, or titles of sections")
    options = parser.parse_args()
    kept = stored(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    for section in SECTIONS:
        names = {section.title, Path(section.script.split()[0]).stem}
        if (options.only and not names & {*options.only}) or not present(section.needs):
            continue
        print(section.command, flush=True)
        kept[section.title] = section.run()
        order = [s.title for s in SECTIONS if s.title in kept]
        others = [title for title in kept if title not in order]
        text = "\n\n".join([HEAD.strip(), *(kept[title] for title in (*order, *others))])
        PAGE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
