"""Runs one cell of a paper: trains, scores, stores; and checks the data of many before anything is trained."""

import dataclasses
import math
import resource
import sys

import numpy as np

from ganspect.data import arrays as data_arrays
from ganspect.data import check, regions, samples
from ganspect.data.known import OFFICIAL_COUNTS
from ganspect.data.patches import at_hand, stack_images
from ganspect.evaluation import health, thresholds
from ganspect.models.precision import FULL, remark
from ganspect.reproduce import figures, gallery, milestones, scoring, shared
from ganspect.reproduce.cells import departure_texts
from ganspect.reproduce.collect import METRICS
from ganspect.training import callbacks as training_callbacks
from ganspect.training.checkpoint import Position, load_state, position_of
from ganspect.training.files import atomic_write, write_json
from ganspect.training.fit import fit
from ganspect.training.run import make_manifest

EXAMINED = 32  # held-out images that a discriminator's health is measured on
AGAIN = " (found before: --only-failed goes on from its last checkpoint, --force starts anew)"


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
                pack = data_arrays.load_pack(found[key])
                for name, images in (("training", pack.train), ("test", pack.test)):
                    if not len(images):
                        errors[key] = f"{found[key]}: no {name} image in this pack"
                continue
            category = samples.scan(found[key], *key)
            report = check.check(category)
        except samples.DataError as error:
            errors[key] = str(error)
            continue
        if not report.ok:
            errors[key] = report.message()
        elif not category.test:
            errors[key] = f"{found[key]}: no test image, nothing to measure; `ganspect train` needs none"
        elif report.conversions or report.warnings:
            remarks.append(report.message())
    return errors, "\n".join(remarks)


def run_cell(paper, cell, path, run, channel, options, title):
    """Trains, scores and stores one cell, continuing from where the run folder stands.

    A finished one is kept, or with `options.rescore` scored again from its last checkpoint; so is one that diverged,
    unless `options.only_failed` or `options.force`: it would diverge again. A new one that another paper has finished
    with the same settings is copied from there, unless `options.force` asks for its training.

    Args:
        paper, cell: the paper's script and its `Cell`.
        path: of the category's data.
        run: `training.run.Run`.
        channel: `training.grid.Channel`.
        options: with `force`, `only_failed`, `rescore`, `no_export`, `threads`, `devices`, `precision`, `xla`,
            `checkpoint_every`.
        title: of its lines.

    Returns:
        "finished" or "kept".

    Raises:
        ConfigMismatch: the run folder was started with other settings.
        Diverged: now, or before.
        KeyboardInterrupt: SIGINT or SIGTERM came; the same command goes on.
        NoDevices, ValueError: there are too few devices, or a batch does not divide between them.
    """
    import keras

    method = paper.METHODS[cell.method]
    config = method.config(**cell.settings)
    arrays = _arrays_of(paper, cell, path, config)
    arithmetic = {"precision": options.precision} if options.precision != FULL else {}
    arithmetic |= {"xla": True} if options.xla and keras.backend.backend() == "tensorflow" else {}
    stored = _settings_of(cell, config, arrays) | arithmetic
    manifest = make_manifest(config.seed, arrays.fingerprint, options.threads, keras.backend.backend(), options.devices)
    made = {"commit": manifest["commit"], "dirty": manifest["dirty"]}
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    origin = None if options.force else shared.copy_finished(paper, cell, run, stored, defaults)
    known, status = run.matches(stored, defaults), run.status
    finished = known and status["state"] == "finished"
    damage = run.damage() if finished else ""
    if "metrics.json" in damage:
        channel.say(f"{title}: {damage}: scored again from the last checkpoint")
    elif finished and not options.rescore:
        channel.say(f"{title}: finished on {status['updated']}, {'copied from ' + origin if origin else 'kept'}")
        return "kept"
    if known and status["state"] == "diverged" and not (options.force or options.only_failed):
        reason = status.get("message", "").removesuffix(AGAIN)
        raise training_callbacks.Diverged(reason + AGAIN)
    copied = known and not finished and "copied_from" in run.manifest and _is_trained(run, config)
    if copied:
        channel.say(f"{title}: training copied from {run.manifest['copied_from']}")
    if not finished and not copied and (line := remark(options.precision)):
        channel.say(f"{title}: {line}")
    manifest |= arithmetic | (_trained_then(run, finished) if finished or copied else {})
    for line in run.open(stored, manifest, defaults, position_of(run.checkpoint)):
        channel.say(f"{title}: {line}")
    with options.devices.scope():
        detector = method.build(config)
        detector.precision, detector.xla = options.precision, bool(arithmetic.get("xla"))
        detector.compile()
    kept, _ = data_arrays.split_held_out(arrays)
    chosen = kept if cell.protocol == "both" else np.arange(len(arrays.train))
    facts = {
        "parameters": sum(math.prod(v.shape) for v in detector.trainable_variables),
        "train_images": len(chosen),
        **made,
        "source_shape": data_arrays.smallest_image(path, *_key(cell), _size_of(config)),
    }
    measurements = _measurements(paper, cell, detector, arrays, facts, run)
    images = training_images(method, arrays, chosen)
    train(method, detector, images, measurements, run, channel, title, options.devices, options.checkpoint_every)
    shown = thinned(chosen, cell.profile.train) if cell.profile.train else ()
    score(paper, detector, measurements.arrays, measurements, shown, run, channel, title, not options.no_export)
    return "finished"


def _size_of(config):
    """The side that whole images are resized to, or patches come from; None: images as they are."""
    return getattr(config, "image_size", None) or None


def _arrays_of(paper, cell, path, config):
    """The images of a cell, with regions of interest where the script has a recipe for them."""
    arrays = data_arrays.load_category(path, *_key(cell), channels=config.channels, size=_size_of(config))
    recipe = getattr(paper, "REGIONS", {}).get(_key(cell))
    return regions.add_regions(arrays, recipe) if recipe else arrays


def _settings_of(cell, config, arrays):
    """What a run folder stores as its settings, precision and compiler aside."""
    return {
        **dataclasses.asdict(config),
        "method": cell.method,
        "dataset": cell.subject.dataset,
        "category": cell.subject.category,
        "protocol": cell.protocol,
        "curve": cell.profile.curve,
        "curve_stride": cell.profile.curve_stride,
        **{name: value for name, value in _shares(cell.profile).items() if value},
        "data": arrays.fingerprint,
    }


def _trained_then(run, finished):
    """What a manifest keeps of the training of a run that is only scored now: code and data of the scores are today's.

    Of a finished run the command as well: it is the one that trained; that of a copied training was another's.
    """
    names = ("hardware", "threads", "devices", "date", "backend", "copied_from")
    kept = {name: run.manifest[name] for name in (*names, *["command"] * finished) if name in run.manifest}
    first = run.manifest.get("trained_by", run.manifest["commit"]) if finished else run.manifest["commit"]
    return kept | {"trained_by": first}


def _measurements(paper, cell, detector, arrays, facts, run):
    """`Measurements` of a cell: the test images that its profile draws, the held-out normals that it takes."""
    method = paper.METHODS[cell.method]
    kept, held_out = data_arrays.split_held_out(arrays)
    held_out = held_out if len(held_out) else kept
    arrays = dataclasses.replace(arrays, notes=(*arrays.notes, *_not_the_papers(method, cell.subject, arrays)))
    if cell.profile.drawn:
        arrays = data_arrays.draw_test(arrays, *cell.profile.drawn)
    scored = thinned(held_out, cell.profile.normals)
    if len(scored) < len(held_out):
        note = f"thresholds from {len(scored)} of {len(held_out)} held-out normals"
        arrays = dataclasses.replace(arrays, notes=(*arrays.notes, note))
    normals = [arrays.train[i] for i in scored]
    normal_regions = [arrays.train_rois[i] for i in scored] if arrays.train_rois else None
    images = training_images(method, arrays, scored)
    return Measurements(paper, cell, detector, arrays, normals, images, facts, run, normal_regions)


def _is_trained(run, config):
    """Whether a run's last checkpoint is that of the end of its schedule."""
    return position_of(run.checkpoint)[0] >= config.epochs or run.status["state"] == "trained"


def _not_the_papers(method, subject, arrays):
    """Notes on what keeps a category from being the paper's data: other numbers of images, no regions of interest."""
    notes, labels = [], list(arrays.labels)
    official = OFFICIAL_COUNTS.get((subject.dataset, subject.category))
    counts = (len(arrays.train), labels.count(0), labels.count(1))
    if official and counts != official and not any(note.startswith("substitute") for note in arrays.notes):
        here, there = (" + ".join(map(str, some)) for some in (counts, official))
        notes.append(f"copy of {here} training, normal and anomalous test images, officially {there}")
    if method.attends and not arrays.train_rois:
        notes.append("substitute for regions of interest: the whole image")
    return notes


def training_images(method, arrays, indices):
    """The training images of these indices, where the method has it with the region of interest as a last channel."""
    images = [arrays.train[i] for i in indices]
    if not method.regions:
        return images
    seen = [arrays.train_rois[i] for i in indices] if method.attends and arrays.train_rois else None
    return regions.with_regions(images, seen)


def thinned(indices, count):
    """At most so many of the indices, evenly spread; all of them where `count` is 0."""
    if not count or len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]


def _shares(profile):
    """What a profile scores only a part of, as a run's config has it: nothing is 0 or empty."""
    return {"drawn": list(profile.drawn), "normals": profile.normals}


def train(method, detector, images, measurements, run, channel, title, devices, every=1):
    """Trains from the last checkpoint, if there is one, to the end of the schedule, on these `Devices`.

    A checkpoint is written after every so many epochs, and after the last.
    """
    config = detector.config
    stack, sizes = stack_images(images)
    sampler = method.sampler(config, sizes)
    start = load_state(run.checkpoint, detector.state) if run.checkpoint.exists() else Position()
    finished = run.status["state"] == "finished"  # it is only scored again, and stays finished whatever comes
    if start != Position() and not finished:
        channel.say(f"{title}: continues after {start} of {config.epochs}")
    if not finished:
        run.set_status("running", epoch=start.epoch, epochs=config.epochs)
    measurements.start(start.epoch, sampler.steps)
    recorder = training_callbacks.Recorder(run, start.epoch, sampler.steps, measurements, every)
    best = run.path / "checkpoints" / "best.npz"
    early = training_callbacks.EarlyStop(recorder, best) if getattr(config, "early_stopping", False) else None
    rates = training_callbacks.RateSchedule(recorder) if hasattr(detector, "rates") else None
    stop = training_callbacks.StopOnSignal(run.checkpoint, sampler.steps)
    progress = training_callbacks.ProgressReport(channel, sampler, config.epochs)
    count = getattr(config, "statistics_batches", 0)
    renew = training_callbacks.RenewStatistics(detector, stack, sampler, count) if count else None
    calls = [*([renew] if renew else []), recorder, *(call for call in (early, rates) if call), stop, progress]
    try:
        if not (early and early.is_over()):
            fit(detector, stack, sampler, config.epochs, start, calls, devices)
    finally:  # an interrupted part counts as well
        stop.on_train_end()
        parts = run.status.get("part_seconds", 0) + recorder.unfinished()
        done = {"epoch": position_of(run.checkpoint)[0], "peak_megabytes": peak_megabytes(run)}
        if not finished:
            spent = parts + sum(float(row["seconds"]) for row in recorder.rows)
            run.set_status(run.status["state"], training_seconds=round(spent, 1), part_seconds=round(parts, 1), **done)
    kept = {}
    if early and best.exists():
        kept = {"weights_of_epoch": load_state(best, detector.state).epoch}
    if not finished:
        run.set_status("trained", **kept)


class HeldOut:
    """What is measured after an epoch on held-out normals: errors, losses, the health of the discriminator.

    Args:
        method: `cells.Method`.
        detector: compiled `Detector`.
        images: held-out images as the method trains on them (`training_images`).
    """

    def __init__(self, method, detector, images):
        self.detector = detector
        stack, sizes = stack_images(images)
        self.batch = self.reconstruct = self.losses = self.examine = None
        if hasattr(detector, "reconstruct") or hasattr(detector, "examine"):
            sampler = method.sampler(detector.config, sizes, held_out=True)
            row = {name: values[0] for name, values in sampler.draws(0).items()}
            batch = detector.prepare(sampler.batch(*at_hand(stack, row)))
            if hasattr(detector, "examine"):
                self.examine = detector.compile_inference(detector.examine)
                self.examined = (
                    {name: np.asarray(values)[:EXAMINED] for name, values in batch.items()}
                    if isinstance(batch, dict)
                    else np.asarray(batch)[:EXAMINED]
                )
        if hasattr(detector, "reconstruct"):
            if hasattr(detector, "held_out_losses"):
                self.batch = {name: np.asarray(values) for name, values in batch.items()}
                self.losses = detector.compile_inference(detector.held_out_losses)
            else:
                self.batch = np.asarray(batch)
                self.reconstruct = detector.compile_inference(detector.reconstruct)

    def start(self, first, steps):
        """A training begins, or is resumed after `first` epochs of so many steps."""

    def __call__(self, epoch):
        """`{column of history.csv: value}` after an epoch."""
        return self.held_out() | self.health()

    def held_out(self):
        """Mean absolute errors of fixed held-out patches in [-1, 1] and of fixed latents, where the method has them.

        Of a method with losses of its own for them: those, and its learning rate.
        """
        found = {}
        if self.reconstruct:
            found["held_out_mae"] = float(np.mean(np.abs(self.batch - self.reconstruct(self.batch))))
        if self.losses:
            found = {f"held_out_{name}": float(value) for name, value in self.losses(self.batch).items()}
        if hasattr(self.detector, "rates"):
            import keras

            rate = next(iter(self.detector.optimizers.values())).learning_rate
            found["rate"] = float(keras.ops.convert_to_numpy(rate))  # of several devices: no number by itself
        if hasattr(self.detector, "latent_error"):
            found["latent_mae"] = self.detector.latent_error()
        return found

    def health(self):
        """`evaluation.health.indicators` of held-out normals, where the method has a discriminator."""
        return health.indicators(**self.examine(self.examined)) if self.examine else {}


class Measurements(HeldOut):
    """What is measured after an epoch: errors on held-out normals and, at some epochs, metrics of the test set.

    The test metrics make the curve against training steps and, at the epochs at which the paper prints values, rows of
    its tables; nothing is chosen by them.

    Args:
        paper, cell, detector, arrays, run: of the training.
        normals: held-out normal images, uint8 `[H, W, C]`.
        held_out: the same as the method trains on them (`training_images`).
        facts: stored with every set of metrics.
        normal_regions: regions of interest of `normals`, where there are any.
    """

    def __init__(self, paper, cell, detector, arrays, normals, held_out, facts, run, normal_regions=None):
        method, profile = paper.METHODS[cell.method], cell.profile
        super().__init__(method, detector, held_out)
        self.arrays, self.normals, self.profile, self.run = arrays, normals, profile, run
        self.draws = None if profile.drawn else getattr(paper, "DRAWS", None)
        self.facts, self.normal_regions = facts, normal_regions
        self.metrics = tuple(dict.fromkeys(m for t in paper.TABLES.values() for m in t["metrics"] if m in METRICS))
        epochs, points = detector.config.epochs, profile.curve
        self.epochs = {round(epochs * (i + 1) / points) for i in range(points)} - {epochs}
        self.milestones = milestones.to_score(paper, method, cell.subject, epochs)

    def start(self, first, steps):
        """Keeps the points of the finished epochs of a resumed training."""
        self.steps = steps
        self.curve = [row for row in self.run.read_table("curve.csv") if int(row["epoch"]) <= first]

    def __call__(self, epoch):
        if epoch in self.milestones:
            self.store(*scoring.score_category(self.detector, self.arrays, self.normals), epoch)
        if epoch in self.epochs:
            self.add_point(epoch)
        return super().__call__(epoch)

    def add_point(self, epoch):
        """Scores the test set at `profile.curve_stride` and appends to curve.csv."""
        stride, names = self.profile.curve_stride, self.detector.score_names
        evidence, normals, _ = scoring.score_category(self.detector, self.arrays, self.normals, stride)
        found, _, _ = scoring.measure(self.detector, self.arrays, evidence, normals, names)
        row = {"epoch": epoch, "step": epoch * self.steps}
        for name in names:
            both = {**found["clean"][name], **found["paper"][name]}
            row |= {f"{name}:{m}": both.get(m) for m in (*self.metrics, "image_auroc")}
        self.curve.append(row)
        self.run.write_table("curve.csv", self.curve)

    def store(self, evidence, normal_evidence, seconds, epoch):
        """Measures the test set after an epoch and stores its scores and metrics; returns the threshold of a pixel."""
        detector, arrays, names = self.detector, self.arrays, self.detector.score_names
        found, image_scores, cuts = scoring.measure(
            detector,
            arrays,
            evidence,
            normal_evidence,
            names,
            intervals=True,
            draws=self.draws,
            normal_regions=self.normal_regions,
        )
        threshold = scoring.normal_threshold(detector, normal_evidence, names[0])
        rows = [
            {"image": image, "label": int(label), "defect": defect}
            | {name: float(image_scores[name][i]) for name in names}
            for i, (image, label, defect) in enumerate(
                zip(arrays.test_names, arrays.labels, arrays.defects, strict=True)
            )
        ]
        self.run.write_table(f"scores_{epoch}.csv", rows)
        write_json(
            self.run.metrics_path(epoch if epoch < detector.config.epochs else None),
            {
                "protocols": found,
                "seconds_per_image": seconds,
                "image_shape": list(arrays.test[0].shape),
                "threshold": {
                    "value": threshold.value,
                    "n": threshold.n,
                },  # of a pixel; pixels are no independent draws
                "image_thresholds": {name: _plain(cut) for name, cut in cuts.items()},
                "held_out": self.held_out(),
                **self.facts,
                "all_train_images": len(arrays.train),
                "notes": [*arrays.notes, *self.run.remarks()],
            },
        )
        return threshold


def score(paper, detector, arrays, measurements, shown, run, channel, title, exports=True):
    """Scores the test set with the last weights and stores scores, metrics, maps, figures and the model.

    `shown` are the training images to score for pictures.
    """
    count = len(arrays.test)
    evidence, normal_evidence, seconds = scoring.score_category(
        detector,
        arrays,
        measurements.normals,
        report=lambda done: channel.update(1.0, f"scored {done} of {count} images"),
    )
    if len(shown):
        rows = [
            {"image": arrays.train_names[i], "score": detector.score_from(found)}
            for i, found in zip(shown, detector.evidences([arrays.train[i] for i in shown]), strict=True)
        ]
        run.write_table("scores_train.csv", rows)
    threshold = measurements.store(evidence, normal_evidence, seconds, detector.config.epochs)
    save_maps(detector, arrays, evidence, run)
    gallery.save(detector, arrays, evidence, run)
    channel.update(1.0, "draws pictures")
    figures.draw_run(paper, detector, arrays, evidence, threshold.value, run)
    if hasattr(paper, "draw_run"):
        paper.draw_run(detector, arrays, evidence, measurements.batch, run)
    if exports:
        channel.update(1.0, "exports the model")
        export(paper, detector, normal_evidence, run, channel, title)
    run.set_status("finished", message="", traceback="", peak_megabytes=peak_megabytes(run))
    channel.say(f"{title}: done")


def peak_megabytes(run):
    """The most memory that this process, or one that trained the run before, has held, MB."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB; bytes on macOS
    held = held / 1e6 if sys.platform == "darwin" else held * 1024 / 1e6
    return round(max(held, run.status.get("peak_megabytes", 0)))


def export(paper, detector, normal_evidence, run, channel, title):
    """Writes the SavedModel with its metadata and card to `<run>/export`; says why where that cannot be."""
    from ganspect.reproduce import model_folder

    config, manifest, found, name = run.config, run.manifest, run.metrics, detector.score_names[0]
    method, place = paper.METHODS[config["method"]], (config["dataset"], config["category"])
    subject = next(s for s in (*paper.SUBJECTS, *paper.SYNTHETIC) if (s.dataset, s.category) == place)
    scores = [detector.score_from(one) for one in normal_evidence]
    peaks = [float(detector.map_from(one, scoring.map_name(detector)).max()) for one in normal_evidence]
    calibration = model_folder.from_normals(scores, peaks, thresholds.normal_quantile(scores))
    if config["protocol"] == "paper":  # no image was held out
        by = calibration["chosen_by"].replace("held-out normal images", "normal images that it was trained on")
        calibration |= {"chosen_by": by, "expected_rate": None, "rate_bound": None}
    metadata = {
        "method": config["method"],
        "label": method.label,
        "trained_on": found["train_images"],
        "trained_for": f"{paper.NAME}, {config['dataset']}/{config['category']}",
        "config": {f.name: config[f.name] for f in dataclasses.fields(method.config)},
        "departures": departure_texts(method, config, subject),
        **{key: manifest[key] for key in model_folder.ORIGIN},
        "command": manifest["command"],
        "evaluation": _evaluation(run, name, calibration["threshold"]),
    }
    try:
        model_folder.write(run.path / "export", detector, calibration, metadata)
    except model_folder.NotExported as error:
        channel.say(f"{title}: no model exported: {error}")


def _evaluation(run, name, cut):
    """What the card of an exported model says of the test set, by the clean protocol."""
    found = run.metrics["protocols"]["clean"]
    found = found.get(name + scoring.ALL, found[name])
    rows = run.scores
    called = {kind: [float(row[name]) >= cut for row in rows if int(row["label"]) == kind] for kind in (0, 1)}
    out = {"normal": len(called[0]), "anomalous": len(called[1])}
    out |= {"false_alarms": sum(called[0]), "caught": sum(called[1])}
    wanted = ("image_auroc", "image_auroc_low", "image_auroc_high", "image_ap", "image_balanced_accuracy")
    wanted += ("pixel_auroc", "pixel_aupr", "pixel_aupro_0.30")
    return out | {metric: found[metric] for metric in wanted if found.get(metric) is not None}


def save_maps(detector, arrays, evidence, run):
    """Writes the first score's map of each test image as float16 `[H, W]`, `maps/<image name>.npy`."""
    for name, found in zip(arrays.test_names, evidence, strict=True):
        with atomic_write((run.path / "maps" / name).with_suffix(".npy"), "wb") as file:
            np.save(file, detector.map_from(found).astype("float16"))


def _plain(threshold):
    """A `Threshold` for JSON, which has no infinity."""
    return {k: v if np.isfinite(v) else None for k, v in dataclasses.asdict(threshold).items()}


def _key(cell):
    return cell.subject.dataset, cell.subject.category
