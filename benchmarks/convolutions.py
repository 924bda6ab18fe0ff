"""Which form of a convolution's gradients is the fastest, for every shape that a method trains (TensorFlow, CPU).

    python benchmarks/convolutions.py [--methods ganomaly draem] [--batch 8] [--rounds 5]

Times y, dL/dx (also the transposed convolution) and dL/dw in TensorFlow's own form and in those of
`models/convolutions.py` that fit the shape, interleaved; the least of the rounds, in milliseconds. "<" marks the form
that a training takes (`chosen`, `convolution_few.forms`); the rules were read off this table.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import steps


def shapes_of(detector):
    """Distinct convolutions of a detector's networks: (kernel, stride, padding, size of x, inputs, outputs, of y)."""
    import keras
    from keras import layers

    networks = [part for part in detector._flatten_layers() if isinstance(part, keras.Model) and part is not detector]
    every = [(network.name, layer) for network in networks for layer in network.layers]
    found = {}
    for network, layer in every:
        if not isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose)):
            continue
        size = detector.config.patch_size
        node = layer._inbound_nodes[-1]
        wide, narrow = node.input_tensors[0].shape[1:3], node.output_tensors[0].shape[1:3]
        if isinstance(layer, layers.Conv2DTranspose):
            wide, narrow = narrow, wide
        inputs, outputs = layer.kernel.shape[2:]
        if None in (*wide, *narrow):
            wide, narrow = sizes_by_name(network, layer, size)
        found[layer.kernel_size, layer.strides[0], layer.padding.upper(), wide, inputs, outputs, narrow] = layer.name
    return found


def sizes_by_name(network, layer, size):
    """Of the networks that take any size: the level is in the name of the layer."""
    digits = "".join(c for c in layer.name.split("_")[0] if c.isdigit())
    level = int(digits or 1)
    if layer.name.startswith("enlarge") or layer.name.startswith("up"):
        level = size // 2 ** (level - 1) if network == "segmentation" else size // 2 ** (4 - level)
    else:
        level = size // 2 ** (level - 1)
    return (level, level), (level, level)


def least(runs, rounds):
    """Milliseconds of each function: the least of interleaved rounds."""
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(values) for name, values in seconds.items()}


def main():
    """Prints a Markdown table, a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=steps.CASES, default=["ganomaly", "cbigan", "draem"])
    parser.add_argument("--batch", type=int, help="images of a batch, in place of the paper's")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| method | layer | kernel, stride | x | y | GFLOP | y(x, w) | dL/dx | dL/dw |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.methods:
        detector = steps.build(name, options.batch)
        for shape, layer in shapes_of(detector).items():
            print(f"| {name} | {layer} | {row(shape, detector.config.batch_size, options.rounds)} |", flush=True)


def row(shape, batch, rounds):
    """The cells of a shape: times of y, of each form of dL/dx and of each of dL/dw."""
    import tensorflow as tf

    from ganspect.models import convolution_few, convolutions
    from ganspect.models.convolutions import TO_IMAGES, TO_KERNEL, TO_SLOPES

    side, stride, padding, wide, inputs, outputs, narrow = shape
    wide, rng = tuple(wide), np.random.default_rng(0)
    x, w, g = (
        tf.constant(rng.standard_normal(s, "float32"))
        for s in ((batch, *wide, inputs), (*side, inputs, outputs), (batch, *narrow, outputs))
    )
    whole = ["whole"] if padding == "VALID" and side == wide else []
    fewer = ["winograd"] if 2 <= -(-max(side) // stride) <= 3 else []
    odd = stride == side[0] % 2 == side[1] % 2 == 1 and wide == tuple(narrow) and wide[1] % 4 == 0
    odd = odd and max(inputs, outputs) <= 8
    few = [*(["strips"] if odd and side[1] > 1 else []), *(["fours"] if odd and side == (1, 1) else [])]
    forms = {
        "x": ["stock", *few, *(["turned"] if stride == 1 else ["phases", "columns"]), *whole, *fewer],
        "w": ["stock", "windows", *(few if side == (1, 1) else []), *(["rows"] if stride == 1 else []), *whole, *fewer],
    }
    runs = {}
    for k in ["stock", *few, *(["patches"] if stride == 2 else []), *fewer]:
        graph = tf.function(lambda x, w, k=k: TO_SLOPES[k](x, w, stride, padding))
        runs["y", k] = lambda graph=graph: graph(x, w)
    for k in forms["x"]:
        graph = tf.function(lambda g, w, k=k: TO_IMAGES[k](g, w, wide, stride, padding))
        runs["x", k] = lambda graph=graph: graph(g, w)
    for k in forms["w"]:
        graph = tf.function(lambda x, g, k=k: TO_KERNEL[k](x, g, w.shape, stride, padding))
        runs["w", k] = lambda graph=graph: graph(x, g)
    times = least(runs, rounds)
    mine = dict(zip("xw", convolutions.chosen(g.shape, w.shape, wide, stride, padding), strict=True))
    mine["y"] = convolutions.chosen_for_slopes(x.shape, w.shape, stride, padding)
    if convolutions.kernels() == "onednn" and (taken := convolution_few.forms(x.shape, w.shape, stride, padding)):
        mine = dict(zip("xwy", taken, strict=True))
    cells = {
        c: ", ".join(f"{k} {ms:.1f}{'<' if k == mine.get(c) else ''}" for (a, k), ms in times.items() if a == c)
        for c in "yxw"
    }
    work = 2e-9 * batch * np.prod(narrow) * np.prod(w.shape)
    sizes = " | ".join(f"{size[0]}x{size[1]}x{n}" for size, n in ((wide, inputs), (narrow, outputs)))
    return f"{side[0]}x{side[1]}, {stride} | {sizes} | {work:.2f} | {cells['y']} | {cells['x']} | {cells['w']}"


if __name__ == "__main__":
    main()
