"""Runs the cells of a paper: checks the data, trains, scores, stores; one cell after the other."""

import dataclasses
import gc
import time
import traceback

import numpy as np

from ganspect.data import arrays as data_arrays
from ganspect.data import check, samples
from ganspect.data.patches import PatchSampler, patch_batch, stack_images
from ganspect.reproduce import figures, scoring
from ganspect.training import callbacks as training_callbacks
from ganspect.training.checkpoint import load_state
from ganspect.training.files import atomic_write, write_json
from ganspect.training.fit import fit
from ganspect.training.run import ConfigMismatch, Run, make_manifest

HELD_OUT_PATCHES = 256  # fixed patches of held-out normals, for the reconstruction error after each epoch


class Interrupted(RuntimeError):
    """A signal ended training; the same command resumes it."""


def check_data(cells, found):
    """Decodes every file that the cells need, before anything is trained.

    Args:
        cells: list of `Cell`.
        found: `{(dataset, category): path}`.

    Returns:
        `(errors, remarks)`: `{(dataset, category): message}` for data that cannot be used, and one text of the rest.
    """
    errors, remarks = {}, []
    for key in dict.fromkeys((cell.subject.dataset, cell.subject.category) for cell in cells):
        try:
            if found[key].suffix == ".npz":
                data_arrays.load_pack(found[key])
                continue
            report = check.check(samples.scan(found[key], *key))
        except samples.DataError as error:
            errors[key] = str(error)
            continue
        if not report.ok:
            errors[key] = report.message()
        elif report.conversions or report.warnings:
            remarks.append(report.message())
    return errors, "\n".join(remarks)


def run_cells(paper, cells, found, errors, runs, console, options):
    """Runs cells in turn; a failure is stored with its traceback and does not stop the others.

    Args:
        paper: the paper's script.
        cells: list of `Cell`.
        found: `{(dataset, category): path}`.
        errors: messages of data that cannot be used.
        runs: the runs folder.
        console: `rich.console.Console`.
        options: namespace with `force`, `only_failed`, `threads`.

    Returns:
        List of `(cell, reason)` of the failed ones.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    failed = []
    for i, cell in enumerate(cells, 1):
        run = Run(cell.folder(runs))
        state = run.status["state"]
        if options.only_failed and state not in ("failed", "diverged"):
            continue
        if options.force and run.path.exists():
            run.restart()
        try:
            key = (cell.subject.dataset, cell.subject.category)
            if key in errors:
                raise samples.DataError(found[key], errors[key])
            run_cell(paper, cell, found[key], run, console, options.threads, f"[{i}/{len(cells)}] {cell.name}")
        except (KeyboardInterrupt, Interrupted) as signal:
            run.set_status("interrupted", message=str(signal) or "interrupted")
            raise Interrupted(str(signal)) from None
        except ConfigMismatch as error:
            failed.append((cell, str(error)))
        except Exception as error:
            state = "diverged" if isinstance(error, training_callbacks.Diverged) else "failed"
            run.set_status(state, message=str(error), traceback=traceback.format_exc())
            failed.append((cell, str(error)))
        gc.collect()
    return failed


def run_cell(paper, cell, path, run, console, threads, title):
    """Trains, scores and stores one cell, continuing from where the run folder stands."""
    import keras

    method = paper.METHODS[cell.method]
    config = method.config(**cell.settings)
    arrays = data_arrays.load_category(path, *_key(cell), channels=config.channels)
    stored = {
        **dataclasses.asdict(config),
        "method": cell.method,
        "dataset": cell.subject.dataset,
        "category": cell.subject.category,
        "protocol": cell.protocol,
        "curve": cell.profile.curve,
        "curve_stride": cell.profile.curve_stride,
        "data": arrays.fingerprint,
    }
    manifest = make_manifest(config.seed, arrays.fingerprint, threads, keras.backend.backend())
    status = run.status
    if status["state"] == "finished" and run.config == stored:
        console.print(f"{title}: finished on {status['updated']}, kept")
        return
    run.open(stored, manifest)
    detector = method.build(config)
    detector.compile()
    kept, held_out = data_arrays.split_held_out(arrays)
    held_out = held_out if len(held_out) else kept
    normals = [arrays.train[i] for i in held_out]
    chosen = kept if cell.protocol == "both" else np.arange(len(arrays.train))
    train(detector, [arrays.train[i] for i in chosen], arrays, normals, cell, run, console, title)
    score(paper, detector, arrays, normals, len(chosen), run, console, title)


def train(detector, images, arrays, normals, cell, run, console, title):
    """Trains from the last checkpoint, if there is one, to the end of the schedule."""
    config = detector.config
    stack, sizes = stack_images(images)
    sampler = PatchSampler(sizes, config.patch_size, config.patches_per_epoch, config.batch_size, config.seed)
    first = load_state(run.checkpoint, detector.state) if run.checkpoint.exists() else 0
    if first:
        console.print(f"{title}: continues after epoch {first} of {config.epochs}")
    run.set_status("running", epoch=first, epochs=config.epochs)
    recorder = training_callbacks.Recorder(
        run, first, sampler.steps, Measurements(detector, arrays, normals, cell.profile, run, sampler.steps, first)
    )
    best = run.path / "checkpoints" / "best.npz"
    early = training_callbacks.EarlyStop(recorder, best) if config.early_stopping else None
    stop = training_callbacks.StopOnSignal()
    bar = training_callbacks.ProgressBar(title, sampler, config.epochs, first, console)
    calls = [recorder, *([early] if early else []), stop, bar]
    start = time.perf_counter()
    try:
        if not (early and early.is_over()):
            fit(detector, stack, sampler, config.epochs, first, calls)
    finally:
        bar.progress.stop()
    if early and best.exists():
        load_state(best, detector.state)
    spent = run.status.get("training_seconds", 0) + time.perf_counter() - start
    run.set_status("trained", training_seconds=round(spent, 1))


class Measurements:
    """What is measured after an epoch: the error on held-out patches and, at some epochs, metrics of the test set.

    The test metrics make the curve against training steps; nothing is chosen by them.
    """

    def __init__(self, detector, arrays, normals, profile, run, steps, first):
        self.detector, self.arrays, self.normals, self.profile, self.run = detector, arrays, normals, profile, run
        self.steps = steps
        epochs, points = detector.config.epochs, profile.curve
        self.epochs = {round(epochs * (i + 1) / points) for i in range(points)} - {epochs}
        self.curve = [row for row in run.read_table("curve.csv") if int(row["epoch"]) <= first]
        stack, sizes = stack_images(normals)
        size = detector.config.patch_size
        row = PatchSampler(sizes, size, HELD_OUT_PATCHES, HELD_OUT_PATCHES, augment=False).draws(0)
        patches = patch_batch(stack, {name: values[0] for name, values in row.items()}, size)
        self.patches = np.asarray(detector.prepare(patches))
        self.reconstruct = detector.compile_inference(detector.reconstruct)

    def __call__(self, epoch):
        if epoch in self.epochs:
            self.add_point(epoch)
        return {"held_out_mae": float(np.mean(np.abs(self.patches - self.reconstruct(self.patches))))}

    def add_point(self, epoch):
        """Scores the test set at `profile.curve_stride` and appends to curve.csv."""
        evidence, _, _ = scoring.score_category(self.detector, self.arrays, self.normals, self.profile.curve_stride)
        found, _ = scoring.measure(self.detector, self.arrays, evidence, self.detector.score_names)
        row = {"epoch": epoch, "step": epoch * self.steps}
        for name, values in found["paper"].items():
            row |= {f"{name}:{m}": values[m] for m in ("pixel_auroc", "pixel_aupr", "image_auroc")}
        self.curve.append(row)
        self.run.write_table("curve.csv", self.curve)


def score(paper, detector, arrays, normals, trained_on, run, console, title):
    """Scores the test set with the last weights and stores scores, metrics, maps and figures."""
    with console.status(f"{title}: scoring {len(arrays.test)} images"):
        evidence, normal_evidence, seconds = scoring.score_category(detector, arrays, normals)
        names = detector.score_names
        found, image_scores = scoring.measure(detector, arrays, evidence, names, intervals=True)
        threshold = scoring.normal_threshold(detector, normal_evidence, names[0])
        columns = {name: image_scores[name] for name in names}
        rows = [
            {"image": image, "label": int(label), "defect": defect, **{n: float(v[i]) for n, v in columns.items()}}
            for i, (image, label, defect) in enumerate(
                zip(arrays.test_names, arrays.labels, arrays.defects, strict=True)
            )
        ]
        run.write_table(f"scores_{detector.config.epochs}.csv", rows)
        write_json(
            run.path / "metrics.json",
            {
                "protocols": found,
                "seconds_per_image": seconds,
                "image_shape": list(arrays.test[0].shape),
                "threshold": dataclasses.asdict(threshold) | {"high": _finite(threshold.high)},
                "train_images": trained_on,
                "all_train_images": len(arrays.train),
                "notes": list(arrays.notes),
            },
        )
        save_maps(detector, arrays, evidence, run)
        figures.draw_run(paper, detector, arrays, evidence, normal_evidence, threshold.value, run)
    run.set_status("finished", message="")
    console.print(f"{title}: done")


def save_maps(detector, arrays, evidence, run):
    """Writes the first score's map of each test image as float16 `[H, W]`, `maps/<image name>.npy`."""
    for name, found in zip(arrays.test_names, evidence, strict=True):
        with atomic_write((run.path / "maps" / name).with_suffix(".npy"), "wb") as file:
            np.save(file, detector.map_from(found).astype("float16"))


def _finite(value):
    return value if np.isfinite(value) else None


def _key(cell):
    return cell.subject.dataset, cell.subject.category
