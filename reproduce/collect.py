"""Rows of what runs measured: every value with its verdict and with what trained it.

A paper's script gives METHODS, SUBJECTS, SYNTHETIC, TABLES, SCORES (`{score: suffix of the method's label}`, headline
first) and NOT_RUN (`{printed method: reason}`), and where it has them GROUPS (`{name: (dataset, categories)}`), BEYOND
(metrics that the paper does not print), QUOTED (printed methods that are not ours), MILESTONES (see `milestones`),
LOSSES (`{metric: loss}`, measured on training and on held-out images), PRIVATE (`{table: (dataset, category)}` that is
not to be had, for which ours stand in) and `claims(rows)`.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, fields

from ganspect.evaluation.statistics import seed_interval
from ganspect.evaluation.thresholds import Threshold
from ganspect.reproduce import milestones
from ganspect.reproduce.cells import SOUGHT, SYNTHETIC, departures
from ganspect.reproduce.printed import key_of, printed_lines
from ganspect.reproduce.verdicts import COSTS, Limits, verdict
from ganspect.training.run import Run

COLUMNS = (
    *("table", "method", "epochs", "dataset", "category", "metric", "protocol", "value", "low", "high", "seeds"),
    *("schedule", "model", "data", "verdict", "command", "commit", "hardware", "date", "note"),
)
KEYS = ("table", "method", "epochs", "dataset", "category", "metric")
# That none of the papers prints.
EXTRA = ("image_f1_max", "pixel_aupro_0.30", "pixel_aupimo", "pixel_f1_max", *COSTS)
SEEN = "regions of interest made ("  # a note on a recipe that was chosen with test images in view
METRICS = (
    *("image_auroc", "image_ap", "image_f1_max", "image_accuracy_oracle"),
    *("image_balanced_accuracy_oracle", "image_balanced_accuracy"),
    *("pixel_auroc", "pixel_aupr", "pixel_aupro_0.30", "pixel_aupimo", "pixel_f1_max"),
    *milestones.ROI_METRICS,
)


@dataclass(frozen=True)
class Found:
    """A row and what a mean over categories needs beside it.

    Args:
        row: dict with `COLUMNS`.
        limits: `Limits`.
        by_seed: `{seed: value}`; empty where not known.
        images: number trained on, number of all normal training images.
    """

    row: dict
    limits: Limits
    by_seed: dict
    images: tuple[int, int]


def measured(paper, cells, runs):
    """Rows of every cell that `counted` names, seeds joined, then the means of groups of categories.

    Args:
        paper: the paper's script.
        cells: list of `Cell`.
        runs: the runs folder.

    Returns:
        List of dicts with `COLUMNS`.
    """
    found = by_category(paper, cells, runs)
    return [x.row for x in found + means(paper, found)]


def by_category(paper, cells, runs):
    """The rows of `measured` without the means, as a list of `Found`."""
    stored = {}
    for cell, run in counted(cells, runs):
        stored.setdefault((cell.method, cell.subject, cell.protocol), {})[cell.seed] = run
    trainings = {place: _alike(paper.METHODS[place[0]], by_seed) for place, by_seed in stored.items()}
    found, printed = [], printed_lines(paper)
    for (method, subject, protocol), by_seed in trainings.items():
        protocols = [protocol] if protocol != "both" else ["paper", "clean"]
        if "paper" in protocols and protocol == "both" and (method, subject, "paper") in trainings:
            protocols.remove("paper")  # trained on all normals: that run speaks for the paper's protocol
        for name in protocols:
            rows = _rows(paper, method, subject, name, by_seed, printed)
            left = sorted({*stored[method, subject, protocol]} - {*by_seed})
            for x in rows if left else ():
                x.row["note"] = _texts(x.row["note"], f"seeds of other settings left out: {', '.join(map(str, left))}")
            found += rows
    return found


def _alike(method, by_seed):
    """The runs of the seeds that were trained by the same settings: of most seeds, else of most epochs."""
    groups = {}
    for seed, run in by_seed.items():
        names = {f.name for f in fields(method.config)} | {"data", "drawn", "normals", "protocol", "precision"}
        settings = {name: value for name, value in run.config.items() if name in names - {"seed"}}
        groups.setdefault(json.dumps(settings, sort_keys=True), {})[seed] = run
    return max(groups.values(), key=lambda some: (len(some), max(run.epochs_done() for run in some.values())))


def counted(cells, runs):
    """The cells that give rows, each with its run: `[(Cell, Run)]`.

    They are the finished ones and, where a method has none of a category, those that stopped on the way: with the
    epochs at which they were scored before.
    """
    stored = [(cell, Run(cell.folder(runs))) for cell in cells]
    whole = {(cell.method, cell.subject) for cell, run in stored if run.status["state"] == "finished"}

    def counts(cell, run):
        if (cell.method, cell.subject) in whole:
            return run.status["state"] == "finished"
        return bool(run.scored_before())

    return [(cell, run) for cell, run in stored if counts(cell, run)]


def _rows(paper, method, subject, protocol, by_seed, printed):
    """Rows of one method, category and protocol, of every epoch that it was measured at."""
    ours, first = paper.METHODS[method], next(iter(by_seed.values()))
    views = milestones.views(paper, ours, subject, first.config)
    rows = [row for view in views for row in _view_rows(paper, ours, subject, protocol, by_seed, view, printed)]
    whole = all(run.metrics for run in by_seed.values())
    return rows + (_costs(paper, ours, subject, by_seed, views[0]) if protocol == "paper" and whole else [])


def _view_rows(paper, ours, subject, protocol, by_seed, view, printed):
    """Rows of one view: every score, every metric, then the losses."""
    run = next(iter(by_seed.values()))
    changes = _changes(ours, subject, run, view)
    measured = {seed: run.metrics_at(view.epoch) for seed, run in by_seed.items()}
    measured = {seed: metrics for seed, metrics in measured.items() if metrics}
    if not measured:
        return []
    metrics = next(iter(measured.values()))
    notes = list(dict.fromkeys(text for found in measured.values() for text in found.get("notes", ())))
    runs = {seed: by_seed[seed] for seed in measured}
    common, note = _common(paper, subject, protocol, runs, metrics | {"notes": notes}, changes, view)
    images = metrics["train_images"], metrics["all_train_images"]
    trained = f"trained on {images[0]} of {images[1]} normal images"
    after = f"after {view.epoch} of the {view.milestone} epochs" if 0 < view.epoch < view.milestone else ""
    after = f"after {view.epoch} epochs, more than the table's" if view.longer else after
    after = _texts(after, _stopped(by_seed), _kept(by_seed))
    suffixes = _suffixes(ours.of(paper, "scores"), metrics)
    rows = []
    for label, metric, by_run, first in _values(suffixes, measured, protocol):
        extra, headline = view.listed or metric in milestones.ROI_METRICS, label == next(iter(suffixes.values()))
        if extra and not (headline and _listed(paper, view.tables, metric)):
            continue
        value, low, high, interval = _joined(list(by_run.values()), first, metric)
        table = _table(paper, view.tables, metric)
        row = {**common, "table": table, "method": ours.label + label, "metric": metric}
        row |= {"value": value, "low": low, "high": high, "seeds": len(by_run)}
        beside = bool(ours.beside) and headline
        beside = beside and metric in paper.TABLES[table]["metrics"]
        limits = _limits(ours, run, common, changes, view, beside)
        row["verdict"] = verdict(row, printed.get(key_of(row)), limits)
        seen = any(text.startswith(SEEN) for text in _that_bears_on(ours, metric, note).split("; "))
        if protocol == "clean" and seen:  # test images had a part in it
            continue
        undefined = first["undefined"].get(metric) or first["undefined"].get(metric.split("_")[0])
        undefined = f"undefined: {undefined}" if undefined else ""
        said = _texts(after, trained, interval, undefined, _beyond(paper, metric), _of_method(ours))
        other = printed.get(key_of(row), row)["method"]
        said = _texts(said, f"printed: {other}" if other != row["method"] else "")
        if len(by_run) == 1:
            said = _texts(said, _of_threshold(metrics, label, suffixes, metric), _left_outside(first, metric))
        row["note"] = _texts(said, _that_bears_on(ours, metric, note))
        rows.append(Found(row, limits, by_run, images))
        for other in view.tables:  # that print the same value again
            key = key_of(row | {"table": other})
            if other != table and key in printed:
                again = row | {"table": other, "verdict": verdict(row, printed[key], limits)}
                rows.append(Found(again, limits, by_run, images))
    if protocol == "clean":
        return rows
    return rows + _losses(
        paper, ours, common, by_seed, view, changes, _texts(after, trained, _of_method(ours), note), printed
    )


def _of_method(ours):
    """What a method's rows say of it."""
    return _texts(ours.note, SOUGHT if ours.sought else "")


def _of_threshold(metrics, label, suffixes, metric):
    """How well held-out normals determine the threshold of a metric that is taken at theirs."""
    if metric != "image_balanced_accuracy":
        return ""
    score = next(name for name, suffix in suffixes.items() if suffix == label)
    found = metrics.get("image_thresholds", {}).get(score)
    if not found or "n" not in found:
        return ""
    known = {name: value for name, value in found.items() if value is not None}
    cut = Threshold(**{"low": -math.inf, "high": math.inf, **known})
    return f"threshold {cut.value:.6g}: {cut.note}"


def _left_outside(found, metric):
    """Which images the image metrics inside regions of interest leave out."""
    if not (metric in milestones.ROI_METRICS and metric.startswith("image_")):
        return ""
    reasons = (("images_outside", "with defects wholly outside"), ("images_empty", "with empty regions"))
    left = [f"{found[name]} images {words}" for name, words in reasons if found.get(name)]
    return f"left out: {', '.join(left)}" if left else ""


def _that_bears_on(ours, metric, note):
    """A note without what it says of regions of interest, where neither training nor metric has to do with them."""
    if ours.attends or metric in milestones.ROI_METRICS:
        return note
    return "; ".join(text for text in note.split("; ") if not text.startswith("regions of interest"))


def _stopped(by_seed):
    """How far trainings came that stopped on the way; empty where all are finished."""
    short = [run for run in by_seed.values() if run.status["state"] != "finished"]
    if not short:
        return ""
    return f"a training of {short[0].config['epochs']} epochs, stopped after {min(map(Run.epochs_done, short))}"


def _kept(by_seed):
    """The epochs whose weights early stopping kept; empty without it."""
    found = [(run.status.get("weights_of_epoch"), run.epochs_done()) for run in by_seed.values()]
    return ", ".join(f"weights of epoch {best}, stopped after {done}" for best, done in found if best)


def _changes(ours, subject, run, view):
    """`departures` of a run; those in the number of epochs are the view's share where its tables have milestones."""
    counted = view.milestone and not view.longer
    config = {name: value for name, value in run.config.items() if not (counted and name == "epochs")}
    return departures(ours, subject, config)


def _limits(ours, run, common, changes, view, beside=False):
    """What keeps rows of a run, or of several with equal settings, from being judged."""
    model, *others = changes
    found = Limits(common["data"] != "paper", "", beside, "; ".join(model), *map(bool, others))
    return dataclasses.replace(found, share=view.share, variant=ours.variant_of(run.config))


def _values(suffixes, measured, protocol):
    """Yields (suffix of the label, metric, value of each seed, what the first seed's score has) of every score."""
    for score, suffix in suffixes.items():
        stored = {seed: metrics["protocols"][protocol].get(score) for seed, metrics in measured.items()}
        stored = {seed: values for seed, values in stored.items() if values is not None}
        for metric in METRICS:
            found = {seed: values[metric] for seed, values in stored.items() if metric in values}
            if found:
                yield suffix, metric, found, stored[next(iter(found))]


def _losses(paper, ours, common, by_seed, view, changes, note, printed):
    """Rows of the losses of training and of held-out images after an epoch, in tables that list them."""
    rows = []
    for what, column in getattr(paper, "LOSSES", {}).items():
        for prefix, start in (("train_", ""), ("validation_", "held_out_")):
            metric = prefix + what
            found = {seed: _at_epoch(run, view.epoch, start + column) for seed, run in by_seed.items()}
            found = {seed: value for seed, value in found.items() if value is not None}
            if not found or not _listed(paper, view.tables, metric):
                continue
            value, low, high, interval = _joined(list(found.values()), {}, metric)
            row = {**common, "table": _table(paper, view.tables, metric), "method": ours.label, "metric": metric}
            row |= {"value": value, "low": low, "high": high, "seeds": len(found)}
            limits = _limits(ours, next(iter(by_seed.values())), common, changes, view)
            row["verdict"] = verdict(row, printed.get(key_of(row)), limits)
            row["note"] = _texts(_that_bears_on(ours, metric, note), interval, _beyond(paper, metric))
            rows.append(Found(row, limits, found, (0, 0)))
    return rows


def _at_epoch(run, epoch, column):
    """A number of history.csv, or None."""
    text = next((row.get(column) for row in run.read_table("history.csv") if int(row["epoch"]) == epoch), None)
    return float(text) if text else None


def _suffixes(scores, metrics):
    """`{score: suffix}` as in SCORES, but the headline is the score that the run's own settings chose, its first."""
    default, *others = scores
    chosen = next(iter(metrics["protocols"]["paper"]))
    return {chosen: scores[default]} | {name: scores[name] for name in others if name != chosen}


def _common(paper, subject, protocol, runs, metrics, changes, view):
    """The columns that all rows of a view share, and the remarks on its data; `runs` are those of the seeds."""
    commits = [_commit(metrics if "commit" in metrics else run.manifest) for run in runs.values()]
    manifests = [run.manifest for run in runs.values()]
    data, note = describe_data(subject, metrics)
    trained = _each(m["trained_by"][:12] for m in manifests if m.get("trained_by") not in (None, m["commit"]))
    note = _texts(f"trained by commit {trained}" if trained else "", note)
    private = [getattr(paper, "PRIVATE", {}).get(table) for table in view.tables]
    if private and all(private):
        data = f"{subject.dataset}/{subject.category} in the place of {'/'.join(private[0])}"
    return {
        "epochs": str(view.milestone or ""),
        "dataset": subject.dataset,
        "category": subject.category,
        "protocol": protocol,
        "schedule": f"{view.share:.4g}",
        "model": "; ".join(sum(changes, [])) or "paper",
        "data": data,
        "command": _each(manifest["command"] for manifest in manifests),
        "commit": _each(commits),
        "hardware": _each(map(_hardware, runs.values())),
        "date": max(manifest["date"] for manifest in manifests),
    }, note


def _commit(facts):
    """The commit of the code that a manifest or a set of metrics names, and whether it was changed."""
    return (facts["commit"] or "")[:12] + ("+changes" if facts["dirty"] else "")


def _hardware(run):
    """What trained a run: processor, threads where they were asked for, devices where there were several.

    And what scored it, where that is another processor.
    """
    manifest, scored = run.manifest, ""
    trained = list(dict.fromkeys(_machine(session) for session in run.trained()))
    if trained and manifest["hardware"] not in {session["hardware"] for session in run.trained()}:
        scored = f"; scored on {_machine(manifest)}"
    parts = [" and ".join(trained) or _machine(manifest)]
    parts += [f"training steps in {manifest['precision']}"] if manifest.get("precision") else []
    parts += ["training steps compiled by XLA"] if manifest.get("xla") else []
    return ", ".join(parts) + scored


def _machine(session):
    """Processor, threads and devices of a manifest or of one of its sessions."""
    parts = [session["hardware"]]
    parts += [f"{session['threads']} threads"] if session.get("threads") else []
    parts += [f"{session['devices']} devices"] if session.get("devices", "1") != "1" else []
    return ", ".join(parts)


def _costs(paper, method, subject, by_seed, view):
    """Rows of seconds per image, of the training's seconds and of the number of weights: means over seeds."""
    run = next(iter(by_seed.values()))
    size = "x".join(map(str, run.metrics["image_shape"][1::-1]))
    stride = run.config.get("map_stride")
    stride = f", map at stride {stride}" if stride else ""
    stored = {
        "seconds_per_image": (
            lambda run: run.metrics["seconds_per_image"],
            f"{size} image{stride}; median over the test images",
        ),
        "training_seconds": (lambda run: run.status.get("training_seconds"), "scoring and pictures left out"),
        "parameters": (lambda run: run.metrics.get("parameters"), "trained weights of all networks"),
        "peak_megabytes": (
            lambda run: run.status.get("peak_megabytes"),
            "resident memory of the process that trained and scored",
        ),
    }
    found = []
    for metric, (of, note) in stored.items():
        values = {seed: of(run) for seed, run in by_seed.items()}
        if None not in values.values():
            found.append(_cost(paper, method, subject, metric, values, note, run, view, by_seed))
    return found


def _cost(paper, method, subject, metric, values, note, run, view, by_seed):
    """One row of `_costs`."""
    changes = _changes(method, subject, run, view)
    common, _ = _common(paper, subject, "paper", by_seed, run.metrics, changes, view)
    row = {**common, "table": _table(paper, view.tables, metric), "method": method.label, "metric": metric}
    row |= {"value": sum(values.values()) / len(values), "low": None, "high": None, "seeds": len(values), "verdict": ""}
    row["note"] = _texts(note, _beyond(paper, metric))
    return Found(row, Limits(), values, (0, 0))


def means(paper, found):
    """Unweighted means over the categories of each group that ran, for every method, metric and protocol.

    Only in the tables in which the paper prints such means.

    Args:
        paper: the paper's script.
        found: list of `Found`, from `by_category`.

    Returns:
        List of `Found`.
    """
    groups, names, printed = {}, getattr(paper, "GROUPS", {}), printed_lines(paper)
    grouped = {line["table"] for line in printed.values() if line["category"] in names}
    for x in found:
        row = x.row
        if row["table"] not in grouped:
            continue
        if row["value"] is None or row["metric"].startswith("seconds") or _beyond(paper, row["metric"]):
            continue
        for name, (dataset, categories) in names.items():
            if row["dataset"] == dataset and row["category"] in categories:
                key = (name, row["table"], row["method"], row["metric"], row["protocol"])
                groups.setdefault(key, {})[row["category"]] = x
    out = []
    for (name, *_), members in groups.items():
        every = paper.GROUPS[name][1]
        ran = [category for category in every if category in members]
        counted = f"{len(ran)} of {len(every)} categories"
        mean = _mean([members[category] for category in ran], counted if len(ran) < len(every) else "")
        row = mean.row | {"category": name}
        row["verdict"] = verdict(row, printed.get(key_of(row)), mean.limits)
        trained = f"trained on {mean.images[0]} of {mean.images[1]} normal images"
        interval = "interval over seeds" if row["low"] is not None else ""
        row["note"] = _texts(f"mean of {counted}: {', '.join(ran)}", trained, interval)
        out.append(Found(row, mean.limits, mean.by_seed, mean.images))
    return out


def _mean(members, partial):
    """Categories' rows joined to one, without its category, verdict and note."""
    rows, limits = [x.row for x in members], [x.limits for x in members]
    row = {**rows[0], "value": sum(r["value"] for r in rows) / len(rows), "low": None, "high": None}
    row |= {"seeds": min(r["seeds"] for r in rows), "date": max(r["date"] for r in rows)}
    for name in ("schedule", "command", "commit", "hardware"):
        row[name] = _each(text for r in rows for text in r[name].split("; "))
    for name in ("model", "data"):
        parts = dict.fromkeys(part for r in rows for part in r[name].split("; ") if part != "paper")
        row[name] = "; ".join(parts) or "paper"
    by_seed, seeds = {}, set(members[0].by_seed)
    if len(seeds) >= 3 and all(set(x.by_seed) == seeds for x in members):
        by_seed = {seed: sum(x.by_seed[seed] for x in members) / len(members) for seed in sorted(seeds)}
        _, row["low"], row["high"] = _within(row["metric"], *seed_interval(list(by_seed.values())))
    flags = ("other_data", "other_architecture", "schedule", "losses", "scores", "noise")
    flags = {name: any(getattr(limit, name) for limit in limits) for name in flags}
    flags["model"] = "; ".join(dict.fromkeys(text for x in limits for text in x.model.split("; ") if text))
    share, variant = min(limit.share for limit in limits), next((x.variant for x in limits if x.variant), "")
    joint = Limits(partial=partial, share=share, variant=variant, **flags)
    return Found(row, joint, by_seed, tuple(map(sum, zip(*(x.images for x in members), strict=True))))


def _table(paper, tables, metric):
    """The table that a metric's row belongs to: the first that lists it, else the first of all."""
    return next((name for name in tables if metric in paper.TABLES[name]["metrics"]), tables[0])


def _listed(paper, tables, metric):
    return any(metric in paper.TABLES[name]["metrics"] for name in tables)


def beyond(paper, metric):
    """Whether a metric is one that the paper does not print in any table."""
    return metric in EXTRA or metric in getattr(paper, "BEYOND", ())


def _beyond(paper, metric):
    return "beyond the paper" if beyond(paper, metric) else ""


def _each(texts):
    """Different texts, each once."""
    return _texts(*dict.fromkeys(texts))


def _texts(*texts):
    return "; ".join(text for text in texts if text)


def _joined(values, first, metric):
    """Value, interval and what the interval is, over seeds or, for one seed, over test images."""
    if any(v is None for v in values):
        return None, None, None, ""
    if len(values) > 1:
        mean, low, high = _within(metric, *seed_interval(values))
        single = ", ".join(f"{value:.3g}" for value in values)
        return mean, low, high, f"interval over seeds ({single})"
    low, high = first.get(f"{metric}_low"), first.get(f"{metric}_high")
    kind = first.get("interval", "interval: bootstrap over test images, one seed")
    return values[0], low, high, kind if low is not None else ""


def _within(metric, mean, low, high):
    """Student's interval of a share or an area, cut at 0 and 1, which these cannot leave."""
    if low is None or not metric.startswith(("image_", "pixel_")):
        return mean, low, high
    return mean, max(low, 0.0), min(high, 1.0)


def describe_data(subject, found):
    """`(data, note)`: "paper" or what differs, and the remarks that tables must print."""
    notes = list(found["notes"])
    if subject.dataset == SYNTHETIC:
        return "synthetic set", "; ".join(notes)
    height, width = found.get("source_shape") or found["image_shape"][:2]
    if subject.pixels and (height < subject.pixels[0] or width < subject.pixels[1]):
        notes.insert(0, f"copy of {width}x{height} pixels, the paper's {subject.pixels[1]}x{subject.pixels[0]}")
    other = [n for n in notes if n.startswith(("copy", "substitute"))]
    return "; ".join(other) or "paper", "; ".join(n for n in notes if n not in other)


def failures(paper, cells, runs):
    """Why cells have no value, of those that failed or diverged.

    Returns:
        `{(label of the method and its score, data set, category): "failed (first line of the message)"}`
    """
    found = {}
    for cell in cells:
        status = Run(cell.folder(runs)).status
        if status["state"] in ("failed", "diverged"):
            method, reason = paper.METHODS[cell.method], (status.get("message") or "no message").splitlines()[0]
            for suffix in method.of(paper, "scores").values():
                place = (method.label + suffix, cell.subject.dataset, cell.subject.category)
                found[place] = f"failed ({reason})"
    return found
