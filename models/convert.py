"""An exported SavedModel as an ONNX, a LiteRT (TFLite) and an OpenVINO file, each compared with it before it is kept.

| format | file in the model's folder | made by | compared in |
|---|---|---|---|
| `onnx` | `onnx/model.onnx` | tf2onnx | ONNX Runtime |
| `litert` | `litert/model.tflite` | TensorFlow's TFLite converter | LiteRT's interpreter, else `tf.lite` |
| `openvino` | `openvino/model.xml`, `model.bin` | tf2onnx, then OpenVINO | OpenVINO on the CPU |

All take what `serve_float` takes, `images` float32 `[N, H, W, C]` in [0, 1], and answer with its outputs by name; in
the TFLite file that signature is called `serve_float`. Weights stay float32. OpenVINO computes with 16 bits on
processors that can, unless it is told `INFERENCE_PRECISION_HINT: f32`, as here.

Each conversion runs in a process of its own, so that a converter which aborts takes nothing with it. Before it, the
graph is written with operations that all formats have, see `_REWRITES`; the comparison is with the model as exported.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIGNATURE = "serve_float"
TOLERANCE = 1e-4
FLIPPED = 0.05  # where a pixel rounds to the next level, see `_compare`
OPSET = 18
FILES = {"onnx": ("model.onnx",), "litert": ("model.tflite",), "openvino": ("model.bin", "model.xml")}
FORMATS = tuple(FILES)
_PACKAGES = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": (), "openvino": ("tf2onnx", "onnx", "openvino")}
# what 1 is: the distance from median to threshold, and the range of pixels; less than that is no measure for errors
_UNITS = {"calibrated_score": 1.0, "reconstruction": 1.0}
_AXES = ("batch", "height", "width")


class ConversionError(RuntimeError):
    """A format that could not be made; the message names it and says why in one line."""


@dataclass(frozen=True)
class Converted:
    """A converted file that agreed with the SavedModel.

    Args:
        path: of the file to load.
        error: largest difference of any output, relative to that output's largest absolute value.
        dynamic: which of "batch", "height" and "width" the file leaves open.
        flipped: the same difference in images that the model resizes inside to whole levels, where a runtime may round
            a pixel to the next one; 0.0 where it resizes none.
    """

    path: Path
    error: float
    dynamic: tuple[str, ...]
    flipped: float = 0.0


def convert(model_folder, formats=FORMATS):
    """Converts an exported model; a file is put in its place only when it agrees with the SavedModel.

    A file from an earlier conversion is removed first: what is there after a failure is nothing.

    Args:
        model_folder: what `ganspect export` wrote, with the SavedModel `1` and `metadata.json`.
        formats: of `FORMATS`.

    Returns:
        `{format: Converted}`.

    Raises:
        ConversionError: no exported model, a missing package, an operation that the format lacks, a difference of more
            than `TOLERANCE`.
        ValueError: an unknown format.
    """
    model_folder = Path(model_folder)
    for name in formats:
        if name not in FILES:
            raise ValueError(f"unknown format {name!r}: {', '.join(FORMATS)}")
    for needed in ("1/saved_model.pb", "metadata.json"):
        if not (model_folder / needed).is_file():
            raise ConversionError(f"{model_folder} is no exported model: {needed} is missing")
    for name in formats:
        missing = [package for package in _PACKAGES[name] if not _installed(package)]
        if missing:
            raise ConversionError(f"{name} needs {', '.join(missing)}: pip install '.[export]' in ganspect's folder")
    return {name: _converted(model_folder, name) for name in dict.fromkeys(formats)}


def _installed(package):
    return importlib.util.find_spec(package) is not None


def _converted(model_folder, name):
    """One format: made and compared by another process in a temporary folder, then moved to its place."""
    place = model_folder / name
    for file in reversed(FILES[name]):  # the file that is loaded goes first and comes last
        (place / file).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=model_folder, prefix=f".{name}-") as work:
        command = [sys.executable, "-P", "-m", "ganspect.models.convert", name, str(model_folder), work]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # exact float32
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        try:
            result = json.loads((Path(work) / "result.json").read_text())
        except FileNotFoundError:
            result = {"reason": _death(done)}
        if "reason" in result:
            _remove_empty(place)
            raise ConversionError(f"{name}: {result['reason']}")
        place.mkdir(exist_ok=True)
        for file in FILES[name]:
            os.replace(Path(work) / file, place / file)
    return Converted(place / FILES[name][-1], result["error"], tuple(result["dynamic"]), result["flipped"])


def _remove_empty(folder):
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _death(done):
    """Why a process ended without a result."""
    if done.returncode < 0:
        return f"the converter was ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"the converter failed ({lines[-1].strip()[:300]})"


# What follows runs in the other process.


def _work(name, model_folder, work):
    """Makes and compares one format in the folder `work`; leaves `result.json` there."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(model_folder / "1"))
        original = loaded.signatures[SIGNATURE]
        make, open_file = _MAKERS[name]
        make(_rewritten(original), work)
        run, dynamic = open_file(work / FILES[name][-1])
        metadata = json.loads((model_folder / "metadata.json").read_text())
        error, flipped = _compare(original, run, metadata)
        result = {"error": error, "flipped": flipped, "dynamic": [_AXES[i] for i in range(3) if dynamic[i]]}
    except ConversionError as failure:
        result = {"reason": str(failure)}
    except Exception as failure:
        result = {"reason": _reason(failure)}
    (work / "result.json").write_text(json.dumps(result))


def _reason(failure):
    """One line of an exception, unsupported operations first."""
    text = str(failure)
    missing = re.findall(r"'tf\.(\w+)' op is neither|failed for: (?:[\w.]+\.)?(\w+)", text)
    missing = [tensorflow or other for tensorflow, other in missing]
    if missing:
        return f"unsupported operations: {', '.join(sorted(set(missing)))}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return f"{type(failure).__name__}: {first[:300]}"


def _compare(original, run, metadata):
    """Differences from the SavedModel on random images of two sizes, in batches of one and of three.

    Args:
        original: the SavedModel's signature.
        run: `images -> {output: array}` of the converted file.
        metadata: of the exported model.

    Returns:
        The largest relative difference, and the largest in images that the model resizes: there a value halfway between
        two levels may round up in one runtime and down in another, which is no fault of the conversion.

    Raises:
        ConversionError: a difference of more than `TOLERANCE`, or of more than `FLIPPED` in resized images.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    resized = metadata["image_size"]
    height, width = resized or metadata["smallest"]
    worst = {False: 0.0, True: 0.0}
    for size in ((height, width), (height + 21, width + 38)):
        for batch in (1, 3):
            shape = (batch, *size, metadata["channels"])
            images = rng.integers(0, 256, shape).astype("float32") / 255
            expected = {name: value.numpy() for name, value in original(images=tf.constant(images)).items()}
            rounds = bool(resized) and list(size) != list(resized)
            name, error = _difference(expected, run(images))
            if not error <= (FLIPPED if rounds else TOLERANCE):
                raise ConversionError(f"{name} differs by {error:.2g} of its largest value in images {list(shape)}")
            worst[rounds] = max(worst[rounds], error)
    return worst[False], worst[True]


def _difference(expected, found):
    """The output that differs most and by how much; infinity where shapes or the places of non-finite values differ."""
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ConversionError(f"outputs are missing: {', '.join(missing)}")
    near = np.abs(expected["score"] - expected["threshold"]) <= TOLERANCE * np.abs(expected["score"])
    errors = {}
    for name, value in expected.items():
        value, other = value.astype("float64"), np.asarray(found[name]).astype("float64")
        finite = np.isfinite(value)
        if value.shape != other.shape or not np.array_equal(value[~finite], other[~finite], equal_nan=True):
            errors[name] = float("inf")
        elif name == "label":
            errors[name] = float(np.any((value != other) & ~near))
        else:
            scale = max(np.abs(value[finite]).max(initial=0), _UNITS.get(name, 1e-12))
            distance = np.abs(value[finite] - other[finite]).max(initial=0) / scale
            errors[name] = float(distance) if np.isfinite(distance) else float("inf")
    return max(errors.items(), key=lambda item: item[1])


def _make_onnx(function, work):
    import logging

    import tf2onnx

    missing = []

    class Listen(logging.Handler):
        def emit(self, record):
            if "Unsupported ops" in record.getMessage():
                missing.extend(re.findall(r"'(\w+)'", record.getMessage()))

    logging.getLogger("tf2onnx").addHandler(Listen(logging.ERROR))
    logging.getLogger("tf2onnx.tfonnx").addHandler(Listen(logging.ERROR))
    path = work / "model.onnx"
    tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET, output_path=str(path))
    if missing:
        raise ConversionError(f"unsupported operations: {', '.join(sorted(set(missing)))}")
    return path


def _open_onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def run(batch):
        return dict(zip(names, session.run(names, {images.name: batch}), strict=True))

    return run, [not isinstance(length, int) for length in images.shape]


def _make_litert(function, work):
    import tensorflow as tf

    module = tf.Module()
    module.serve = function
    tf.saved_model.save(module, str(work / "rewritten"), signatures={SIGNATURE: module.serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "rewritten"), signature_keys=[SIGNATURE])
    (work / "model.tflite").write_bytes(converter.convert())


def _open_litert(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter  # loaded when it is asked for: "from tensorflow.lite import" fails in 2.21

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner(SIGNATURE)
    (images,) = interpreter.get_input_details()
    return lambda batch: runner(images=batch), [length == -1 for length in images["shape_signature"]]


def _make_openvino(function, work):
    import openvino

    model = openvino.convert_model(str(_make_onnx(function, work)))
    openvino.save_model(model, str(work / "model.xml"), compress_to_fp16=False)


def _open_openvino(path):
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (images,) = compiled.inputs

    def run(batch):
        answer = compiled({images.any_name: batch})
        return {name: answer[output] for output in compiled.outputs for name in output.names}

    return run, [length.is_dynamic for length in images.partial_shape]


_MAKERS = {
    "onnx": (_make_onnx, _open_onnx),
    "litert": (_make_litert, _open_litert),
    "openvino": (_make_openvino, _open_openvino),
}


def _rewritten(signature):
    """A signature's computation, variables frozen, after `_REWRITES`: a function of the same inputs and outputs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(signature, lower_control_flow=False)
    definition = frozen.graph.as_graph_def()
    feed = frozen.inputs[0].name
    fetches = dict(zip(sorted(signature.structured_outputs), [t.name for t in frozen.outputs], strict=True))
    changed = True
    while changed:  # a shape found by one pass lets the next find more
        definition, changed = _rewrite_once(definition)
    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])
    graph = wrapped.graph
    images = graph.get_tensor_by_name(feed)
    outputs = {name: graph.get_tensor_by_name(tensor) for name, tensor in fetches.items()}
    pruned = wrapped.prune(images, outputs)
    return tf.function(lambda images: pruned(images), input_signature=[tf.TensorSpec(images.shape, name="images")])


def _rewrite_once(definition):
    """The graph with each operation replaced for which `_REWRITES` has an answer, and whether there was one."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
        before = {op.name for op in graph.get_operations()}
        swaps = {}
        for op in graph.get_operations():
            used = op.type in _REWRITES and op.outputs[0].consumers()  # what was replaced before is still there
            new = _REWRITES[op.type](op) if used else None
            if new is not None:
                swaps[op.name] = new.op.name
    definition = graph.as_graph_def()
    for node in definition.node:
        if node.name in before:
            for i, source in enumerate(node.input):
                node.input[i] = swaps.get(source, source)
    return definition, bool(swaps)


def _resize(op):
    """Antialiased bilinear resizing, which no format has, as a product with a matrix of weights for each direction."""
    import tensorflow as tf

    images, size, scale, translation = op.inputs
    kernel = op.get_attr("kernel_type") == b"triangle" and op.get_attr("antialias")
    still = tf.get_static_value(translation)
    if not kernel or still is None or still.any():
        return None

    def weights(axis):
        """`[old, new]`: the part of each old row (column) in each new one."""
        step = 1.0 / scale[axis]
        new = (tf.cast(tf.range(size[axis]), tf.float32) + 0.5) * step - 0.5
        old = tf.cast(tf.range(tf.shape(images)[axis + 1]), tf.float32)
        near = tf.nn.relu(1.0 - tf.abs(old[:, None] - new[None]) / tf.maximum(step, 1.0))
        return near / tf.reduce_sum(near, axis=0, keepdims=True)

    x = tf.transpose(images, [0, 3, 1, 2]) @ weights(1)  # [N, C, H, w]
    x = tf.transpose(x, [0, 1, 3, 2]) @ weights(0)  # [N, C, w, h]
    x = tf.transpose(x, [0, 3, 2, 1])  # [N, h, w, C]
    new = tf.get_static_value(size)
    return x if new is None else tf.reshape(x, [-1, *new, images.shape[-1]])


def _pad(op):
    """Padding by amounts known only when run hides the number of channels; here it is said again."""
    import tensorflow as tf

    (padded,) = op.outputs
    shape = op.inputs[0].shape
    told = any(consumer.type == "Reshape" for consumer in padded.consumers())
    if told or shape.rank != 4 or shape[-1] is None or padded.shape[-1] is not None:
        return None
    return tf.reshape(padded, tf.concat([tf.shape(padded)[:3], shape[-1:]], axis=0))


def _reshape(op):
    """A reshaping by lengths known only when run, the number of channels among them said as a number."""
    import tensorflow as tf

    x, lengths = op.inputs
    channels = op.outputs[0].shape[-1] if op.outputs[0].shape.rank == 4 else None
    last = {"Pack": -1, "ConcatV2": -2}.get(lengths.op.type)
    if channels is None or last is None or lengths.op.inputs[last].op.type == "Const":
        return None
    return tf.reshape(x, tf.concat([lengths[:3], [channels]], axis=0))


def _modulo(op):
    """The remainder of integers as floored division leaves it; tf2onnx's has the dividend's sign."""
    import tensorflow as tf

    x, y = op.inputs
    if not x.dtype.is_integer:
        return None
    return x - y * tf.cast(tf.floor(tf.cast(x, tf.float32) / tf.cast(y, tf.float32)), x.dtype)


def _new_axes(op):
    """`x[..., None]`, which TFLite's converter takes for slicing only in part, as single new axes."""
    import tensorflow as tf

    begin, end, new, ellipsis, shrink = (
        op.get_attr(f"{name}_mask") for name in ("begin", "end", "new_axis", "ellipsis", "shrink_axis")
    )
    items, rank = op.inputs[1].shape[0], op.outputs[0].shape.rank
    if not new or shrink or items is None or rank is None:
        return None
    axes, shift = [], 0
    for i in range(items):
        if ellipsis >> i & 1:
            shift = rank - items
        elif new >> i & 1:
            axes.append(i + shift)
        elif not (begin & end) >> i & 1:
            return None  # it slices as well
    x = op.inputs[0]
    for axis in axes:
        x = tf.expand_dims(x, axis)
    return x


_REWRITES = {
    "ScaleAndTranslate": _resize,
    "MirrorPad": _pad,
    "Pad": _pad,
    "PadV2": _pad,
    "FloorMod": _modulo,
    "Reshape": _reshape,
    "StridedSlice": _new_axes,
}

if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
