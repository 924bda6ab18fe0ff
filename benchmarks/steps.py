"""Seconds and share of the machine's peak of one training step of every method at its paper's sizes.

    [KERAS_BACKEND=jax] python benchmarks/steps.py [--methods ganomaly draem] [--batch 8] [--rounds 5] [--torch]
        [--precision float32 bfloat16] [--steps 50] [--xla]

Steps as `training.fit` runs them: one graph a step on TensorFlow; on JAX many steps in one compiled call
(`jax.lax.scan`) on an accelerator, one on a CPU. Batches are of random pixels and are on the device already. With
`--torch` the PyTorch versions of GANomaly, DRAEM and GRD-Net (`torch_networks.py`) take turns with ours on the same
device; GANomaly also in its authors' order of work; with `--textbook`, on TensorFlow, steps as tutorials and CBiGAN's
author write them (`textbook.py`); with `--xla`, there too, ours compiled by XLA. Medians of interleaved rounds.
"cbigan_critic" is a batch for D alone. Precisions take turns too, each with a peak of its own; `--textbook` and
`--xla` are of float32.

GFLOP are those that our step needs by textbook convolutions, counted by XLA before it optimises (JAX must be installed;
a process of its own counts where the backend is TensorFlow); all rows are judged by this number. With fewer
(`convolution_winograd`) a share of the peak may exceed one. The peak is of a square matrix product in the same
precision, measured in the same rounds. TensorFlow is not needed with the JAX backend.
"""

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import time

import numpy as np

# Module, class, settings beside the paper's, phase. A step of CBiGAN is 6 batches, of f-AnoGAN 5 for D and one for G.
CASES = {
    "ganomaly": ("ganomaly", "GANomaly", {}, None),
    "ganomaly_study": ("ganomaly", "GANomaly", "study", None),
    "anogan": ("anogan", "AnoGAN", {}, None),
    "cbigan_critic": ("cbigan", "CBiGAN", dict(critic_steps=1), None),
    "cbigan": ("cbigan", "CBiGAN", {}, None),
    "cbigan_textures": ("cbigan", "CBiGAN", dict(image_size=512, patch_size=64), None),
    "cbigan_wide": ("cbigan", "CBiGAN", "wide", None),
    "fcbigan": ("fcbigan", "FCBiGAN", {}, None),
    "fanogan": ("fanogan", "FAnoGAN", {}, "gan"),
    "fanogan_encoder": ("fanogan", "FAnoGAN", {}, "encoder"),
    "draem": ("draem", "DRAEM", {}, None),
    "grdnet": ("grdnet", "GRDNet", {}, None),
}
TORCH = {
    "ganomaly": {"PyTorch": ("GANomalyStep", {}), "PyTorch, official order": ("GANomalyStep", {"order": "official"})},
    "draem": {"PyTorch": ("DRAEMStep", {})},
    "grdnet": {"PyTorch": ("GRDNetStep", {})},
}


def build(name, batch=None, width=None):
    """A compiled detector of one of `CASES`, in its phase."""
    module, kind, settings, phase = CASES[name]
    module = importlib.import_module(f"ganspect.models.{module}")
    settings = module.PRESETS[settings] if isinstance(settings, str) else settings
    changed = {"batch_size": batch, "width": width}
    settings = dict(settings) | {key: value for key, value in changed.items() if value}
    detector = getattr(module, kind)(getattr(module, f"{kind}Config")(**settings))
    detector.compile()
    detector.phase = phase or detector.phase
    return detector


def our_critic(detector, images):
    """The part of `CBiGAN.step` that trains D on one batch, of a detector with `critic_steps` 1.

    Without the moving average of G and E, once a cycle, which is not in the author's step beside it either.
    """
    parts = iter((True, False))
    detector.each = lambda fn, batches: type(detector).each(detector, fn, batches) if next(parts) else {}
    detector.average_weights = lambda: None
    try:
        return detector.step(images)
    finally:
        del detector.each, detector.average_weights


def step_of(name, detector, precision="float32"):
    """One training step of a case, as `Detector` makes it in a precision: batch to losses."""
    from ganspect.models.precision import computing_in

    step = functools.partial(our_critic, detector) if name == "cbigan_critic" else detector.step

    def run(batch):
        with computing_in(detector, precision):
            return step(detector.prepare(batch))

    return run


def images_of(detector):
    """How many images one step takes."""
    return getattr(detector.config, "images_per_step", detector.config.batch_size)


def pixels(detector, steps):
    """What `prepare` takes, for several steps: uint8 `[steps, images, p, p, C]`, or a dict with masks of 0 and 1."""
    c, rng = detector.config, np.random.default_rng(0)
    shape = (steps, images_of(detector), c.patch_size, c.patch_size)
    images = rng.integers(0, 256, (*shape, c.channels), dtype="uint8")
    if not hasattr(detector, "segmentation"):
        return images
    mask, roi = (rng.random((2, *shape, 1)) < 0.3).astype("uint8")
    return {"images": images, "corrupted": images * (1 - mask), "mask": mask, "roi": roi}


def tensorflow_run(step, batches, xla=False):
    """A function that makes one step for each of the batches, compiled as `model.fit` compiles; any step of a batch."""
    import tensorflow as tf

    graph = tf.function(step, jit_compile=xla)
    count = len(next(iter(batches.values())) if isinstance(batches, dict) else batches)
    parts = [tf.nest.map_structure(lambda x, i=i: tf.constant(x[i]), batches) for i in range(count)]

    def run():
        found = [graph(part) for part in parts]
        return {name: float(value) for name, value in found[-1].items()}

    return run


def jax_step(name, detector, precision="float32"):
    """`(values of the state, prepared batch) -> (new values, losses)`, pure."""
    import keras

    def one_step(values, batch):
        with keras.StatelessScope(state_mapping=list(zip(detector.state, values, strict=True))) as scope:
            losses = step_of(name, detector, precision)(batch)
        return [scope.get_current_value(v) for v in detector.state], losses

    return one_step


def jax_run(name, detector, batches, precision):
    """A function that makes one step for each of the batches in one compiled call."""
    import jax

    scan = jax.jit(
        lambda values, parts: jax.lax.scan(jax_step(name, detector, precision), values, parts), donate_argnums=0
    )
    batches = jax.tree.map(jax.numpy.asarray, batches)
    state = [[jax.numpy.array(v.value) for v in detector.state]]

    def run():
        state[0], losses = scan(state[0], batches)
        return {name: float(np.asarray(values)[-1]) for name, values in losses.items()}

    return run


def torch_run(kind, settings, detector, batches, precision, options):
    """The same of a PyTorch step, on prepared batches."""
    import torch
    import torch_networks

    cuda = torch.cuda.is_available() and options.device != "cpu"
    device, layout = "cuda" if cuda else "cpu", options.torch_layout == "channels_last"
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA does
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    step = getattr(torch_networks, kind)(detector.config, device=device, channels_last=layout, dtype=dtype, **settings)
    scale = (lambda x: x / 255.0) if isinstance(batches, dict) else (lambda x: x / 127.5 - 1.0)
    count = len(next(iter(batches.values())) if isinstance(batches, dict) else batches)

    def prepared(i):
        if not isinstance(batches, dict):
            return scale(batches[i].astype("float32"))
        return {
            k: v[i].astype("float32") / (255.0 if k in ("images", "corrupted") else 1.0) for k, v in batches.items()
        }

    parts = [torch_networks.images_first(prepared(i), device, layout) for i in range(count)]

    def run():
        for part in parts:
            found = step.step(part)
        return {name: float(value) for name, value in found.items()}  # waits for the device

    return run


def peak_run(dtype):
    """`(GFLOP, function that multiplies two square matrices)` of a type on the backend in use."""
    import keras

    accelerated = on_accelerator()
    size, times = (8192, 20) if accelerated else (3072, 1)
    square = np.random.default_rng(0).normal(size=(size, size)).astype("float32")
    if keras.backend.backend() == "jax":
        import jax

        square = jax.numpy.asarray(square, dtype)
        product = jax.jit(lambda a, b: jax.numpy.matmul(a, b))
        last = lambda x: x.block_until_ready()  # noqa: E731
    else:
        import tensorflow as tf

        square = tf.cast(tf.constant(square), dtype)
        product = tf.function(lambda a, b: tf.linalg.matmul(a, b))
        last = lambda x: x[0, 0].numpy()  # noqa: E731

    def run():
        for _ in range(times):
            found = product(square, square)
        last(found)

    return 2e-9 * size**3 * times, run


def on_accelerator():
    """Whether the backend in use trains on one."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def gflop(name, options):
    """Starts to count what a step of a case needs, by XLA; the function that it gives has the number, None if none.

    XLA counts on a CPU alone: a process of its own where that is not what trains here, while an accelerator is timed.
    """
    import keras

    if keras.backend.backend() == "jax" and not on_accelerator():
        return lambda: counted(name, build(name, options.batch, options.width))
    command = [sys.executable, __file__, "--count", "--methods", name]
    command += [part for key in ("batch", "width") if (v := getattr(options, key)) for part in (f"--{key}", str(v))]
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}

    def start():
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    early = start() if on_accelerator() else None

    def finish():
        process = early or start()
        printed = process.communicate()[0]
        return json.loads(printed) if process.returncode == 0 else None

    return finish


def counted(name, detector):
    """GFLOP of a step of a detector on the JAX backend."""
    import jax

    detector.loops = False  # the body of a loop counts once, however often it runs
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), pixels(detector, 1))
    values = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in detector.state]
    analysis = jax.jit(jax_step(name, detector)).lower(values, shapes).cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"]) / 1e9


def _textbook():
    """`benchmarks/textbook.py`, which needs TensorFlow."""
    import textbook

    return textbook


def medians(runs, rounds):
    """Seconds of each function, `{name: (median, first call)}`, interleaved."""
    first = {}
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        first[name] = time.perf_counter() - start
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: (float(np.median(values)), first[name]) for name, values in seconds.items()}


def measured(name, options):
    """Rows of the table for one case."""
    import keras

    steps = options.steps or (50 if on_accelerator() else 1)
    needs = gflop(name, options)
    detector = build(name, options.batch, options.width)
    batches = pixels(detector, steps)
    on_jax, runs, work = keras.backend.backend() == "jax", {}, {}
    for precision in options.precision:
        mark = "" if precision == "float32" else f", {precision}"
        if on_jax:
            runs[f"ours{mark}"] = jax_run(name, detector, batches, precision)
        else:
            runs[f"ours{mark}"] = tensorflow_run(step_of(name, detector, precision), batches)
        for label, (kind, settings) in TORCH.get(name, {}).items() if options.torch else ():
            runs[label + mark] = torch_run(kind, settings, detector, batches, precision, options)
        work[f"peak{mark}"], runs[f"peak{mark}"] = peak_run(precision)
    if "float32" in options.precision and not on_jax:
        others = _textbook().STEPS.get(name, {}) if options.textbook else {}
        for label, other in others.items():
            runs[label] = tensorflow_run(lambda batch, f=other: f(detector, detector.prepare(batch)), batches)
        if options.xla:
            runs["ours, XLA"] = tensorflow_run(step_of(name, detector), batches, xla=True)
    found = medians(runs, options.rounds)
    peaks = {label: work[label] / found.pop(label)[0] for label in work}
    needed = needs()
    rows = []
    for label, (seconds, first) in found.items():
        each = seconds / steps
        peak = peaks["peak, bfloat16" if label.endswith(", bfloat16") else "peak"]
        rate = f"{needed:.1f} | {needed / each:.0f} | {needed / each / peak:.2f}" if needed else "- | - | -"
        count = detector.config.batch_size if name == "cbigan_critic" else images_of(detector)
        rows.append(
            f"| {name} | {label} | {count} | {each:.4g} | {count / each:.4g} | {rate} | {peak:.0f} | {first:.1f} |"
        )
    return rows


def main():
    """Prints a Markdown table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, help="images of a batch, in place of the paper's")
    parser.add_argument("--width", type=int, help="of the networks, in place of the paper's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="in a timed call; default 50 on an accelerator, 1 on a CPU")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--torch", action="store_true", help="PyTorch's steps in turn with ours")
    parser.add_argument("--textbook", action="store_true", help="tutorials' and authors' orders of work, on TensorFlow")
    parser.add_argument("--xla", action="store_true", help="our steps compiled by XLA too, on TensorFlow")
    parser.add_argument("--torch-layout", choices=("channels_first", "channels_last"), default="channels_first")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--count", action="store_true", help="print the GFLOP of one method's step and stop")
    options = parser.parse_args()
    from ganspect import models  # noqa: F401 - before TensorFlow is imported

    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"] = "", "cpu"
    import keras

    if options.count:
        print(gflop(options.methods[0], options)())
        return
    precisions = " and ".join(options.precision)
    print(f"{keras.backend.backend()}, {precisions}, {options.threads} threads, {device_name()}; medians of ", end="")
    print(f"{options.rounds} interleaved rounds\n")
    print("| method | step | images | seconds | images/s | GFLOP | GFLOP/s | share of peak | peak | first call, s |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.methods:
        print("\n".join(measured(name, options)), flush=True)
        keras.backend.clear_session()


@functools.cache
def device_name():
    """Of the first device that the backend uses."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU") if found else "CPU"


if __name__ == "__main__":
    main()
