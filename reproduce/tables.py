"""Measured rows, the printed values beside them, and the verdict of each pair."""

import csv
import math
from importlib.resources import files

from ganspect.evaluation.statistics import seed_interval
from ganspect.reproduce.cells import SYNTHETIC, departures
from ganspect.training.run import Run

COLUMNS = (
    *("table", "method", "epochs", "dataset", "category", "metric", "protocol", "value", "low", "high", "seeds"),
    *("schedule", "model", "data", "verdict", "command", "commit", "hardware", "date", "note"),
)
KEYS = ("table", "method", "epochs", "dataset", "category", "metric")
SHARES = ("pixel_aupr", "image_ap", "loss")  # judged by relative difference
METRICS = ("pixel_auroc", "pixel_aupr", "image_auroc", "image_ap")


def published(paper_name):
    """The printed values of a paper: list of dicts, text as printed."""
    with (files("ganspect.reproduce") / "published" / f"{paper_name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def agreement(metric, value, printed, low=None, high=None, seeds=1):
    """Verdict of a measurement whose data, network and schedule are the paper's.

    Args:
        metric: name; areas and accuracies are compared by difference, AUPR, AP and losses by ratio.
        value, printed: floats in the same unit.
        low, high: 95 % interval over seeds, if there are at least three.
        seeds: number of seeds.

    Returns:
        "reproduced", "close" or "differs".
    """
    distance = abs(value - printed)
    near, far = 0.02, 0.05
    if metric in SHARES:
        distance, near, far = distance / abs(printed), 0.20, 0.50
    inside = seeds >= 3 and low is not None and low <= printed <= high and (high - low) / 2 <= 0.03
    if distance <= near + 1e-9 or inside:
        return "reproduced"
    return "close" if distance <= far + 1e-9 else "differs"


def verdict(row, printed, model, schedule, losses, scores, share, other_data):
    """Verdict of one measured row.

    Args:
        row: measured row with `metric`, `value`, `low`, `high`, `seeds`.
        printed: row of the printed values, or None.
        model, schedule, losses, scores: departures of the network, the schedule, the losses and the scores, as texts.
        share: of the paper's schedule.
        other_data: whether the data are not the paper's.

    Returns:
        Text, empty for seconds and where nothing is printed.
    """
    if row["value"] is None or row["metric"].startswith("seconds"):
        return ""
    limits = ["reduced model"] if model else []
    if share < 1 or schedule:
        limits.append(f"reduced schedule ({share:.3g})" if share < 1 else "other schedule")
    if losses:
        limits.append("other losses")
    if scores:
        limits.append("other scoring")
    if other_data:
        limits.insert(0, "other data")
    if limits:
        return ", ".join(limits)
    if printed is None:
        return ""
    scale = 100 if printed["unit"] == "percent" else 1
    target = float(printed["value"]) / scale
    found = agreement(row["metric"], row["value"], target, row["low"], row["high"], row["seeds"])
    return "close" if found == "reproduced" and printed["provenance"] == "digitised" else found


def measured(paper, cells, runs):
    """Rows of every finished cell, seeds joined.

    Args:
        paper: the paper's script.
        cells: list of `Cell`.
        runs: the runs folder.

    Returns:
        List of dicts with `COLUMNS`.
    """
    groups = {}
    for cell in cells:
        run = Run(cell.folder(runs))
        if run.status["state"] == "finished":
            groups.setdefault((cell.method, cell.subject, cell.protocol), []).append((cell, run))
    rows = []
    for (method, subject, protocol), members in groups.items():
        protocols = [protocol] if protocol != "both" else ["paper", "clean"]
        if "paper" in protocols and protocol == "both" and (method, subject, "paper") in groups:
            protocols.remove("paper")  # trained on all normals: that run speaks for the paper's protocol
        for name in protocols:
            rows += _rows(paper, method, subject, name, [run for _, run in members])
    return rows


def _rows(paper, method, subject, protocol, members):
    """Rows of one method, category and protocol: every score, every metric."""
    run = members[0]
    manifest, config, found = run.manifest, run.config, run.metrics
    changes = departures(paper.METHODS[method], config)
    share = paper.schedule_share(config)
    data, note = describe_data(subject, found)
    trained = f"trained on {found['train_images']} of {found['all_train_images']} normal images"
    common = {
        "table": subject.table,
        "epochs": "",
        "dataset": subject.dataset,
        "category": subject.category,
        "protocol": protocol,
        "seeds": len(members),
        "schedule": f"{share:.4g}",
        "model": "; ".join(sum(changes, [])) or "paper",
        "data": data,
        "command": manifest["command"],
        "commit": (manifest["commit"] or "")[:12] + ("+changes" if manifest["dirty"] else ""),
        "hardware": manifest["hardware"] + (f", {manifest['threads']} threads" if manifest["threads"] else ""),
        "date": manifest["date"],
    }
    lines = {(line["table"], line["method"], line["category"], line["metric"]): line for line in published(paper.NAME)}
    rows = []
    for score, label in paper.SCORES.items():
        scores = [member.metrics["protocols"][protocol][score] for member in members]
        for metric in METRICS:
            value, low, high, interval = _joined([s.get(metric) for s in scores], scores[0], metric)
            row = {**common, "method": label, "metric": metric, "value": value, "low": low, "high": high}
            printed = lines.get((subject.table, label, subject.category, metric))
            row["verdict"] = verdict(row, printed, *changes, share, data != "paper")
            reason = scores[0]["undefined"].get(metric.split("_")[0], "")
            row["note"] = "; ".join(x for x in (trained, interval, f"undefined: {reason}" if reason else "", note) if x)
            rows.append(row)
    if protocol == "paper":
        seconds = [member.metrics["seconds_per_image"] for member in members]
        size = "x".join(map(str, found["image_shape"][1::-1]))
        rows.append(
            {**common, "method": paper.METHODS[method].label, "metric": "seconds_per_image"}
            | {"value": sum(seconds) / len(seconds), "low": None, "high": None, "verdict": ""}
            | {"note": f"{size} image, D's map at stride {config.get('map_stride', 1)}; median over the test images"}
        )
    return rows


def _joined(values, first, metric):
    """Value, interval and what the interval is, over seeds or, for one seed, over test images."""
    if any(v is None for v in values):
        return None, None, None, ""
    if len(values) > 1:
        mean, low, high = seed_interval(values)
        return mean, low, high, "interval over seeds"
    low, high = first.get(f"{metric}_low"), first.get(f"{metric}_high")
    return values[0], low, high, "interval: bootstrap over test images, one seed" if low is not None else ""


def describe_data(subject, found):
    """`(data, note)`: "paper" or what differs, and the remarks that tables must print."""
    notes = list(found["notes"])
    if subject.dataset == SYNTHETIC:
        return "synthetic set", "; ".join(notes)
    height, width = found["image_shape"][:2]
    if subject.pixels and (height < subject.pixels[0] or width < subject.pixels[1]):
        notes.insert(0, f"copy of {width}x{height} pixels, the paper's {subject.pixels[1]}x{subject.pixels[0]}")
    other = [n for n in notes if n.startswith(("copy", "substitute", "resized"))]
    return "; ".join(other) or "paper", "; ".join(n for n in notes if n not in other)


def joined(paper, rows):
    """The paper's tables: printed cells and ours side by side.

    Args:
        paper: the paper's script.
        rows: from `measured`.

    Returns:
        `{table: list of dicts}` with text fields: category, method, metric, printed, paper, clean, interval, verdict,
        budget, note.
    """
    ours = {}
    for row in rows:
        key = (row["table"], row["dataset"], row["category"], row["method"], row["metric"])
        ours.setdefault(key, {})[row["protocol"]] = row
    tables = {name: [] for name in paper.TABLES}
    for line in published(paper.NAME):
        key = (line["table"], line["dataset"], line["category"], line["method"], line["metric"])
        tables[line["table"]].append(_line(paper, line, ours.pop(key, {}), key))
    for key, found in ours.items():
        if any(row["value"] is not None for row in found.values()):
            tables[key[0]].append(_line(paper, None, found, key))
    order = {s.category: i for i, s in enumerate((*paper.SUBJECTS, *paper.SYNTHETIC))}
    labels = [line["method"] for line in published(paper.NAME)] + list(paper.SCORES.values())
    for name, lines in tables.items():
        first = paper.TABLES[name]["metrics"]
        rank = {m: i for i, m in enumerate(dict.fromkeys((*first, *METRICS)))}
        lines.sort(key=lambda x: (order[x["category"]], rank.get(x["metric"], 99), labels.index(x["method"])))
    return tables


def _line(paper, printed, found, key):
    """One line of a printed table."""
    table, dataset, category, method, metric = key
    any_row = found.get("paper") or found.get("clean")
    text = {"category": category, "method": method, "metric": metric, "note": ""}
    text["printed"] = printed["value"] if printed else ""
    for protocol in ("paper", "clean"):
        text[protocol] = show(found[protocol]["value"], metric) if protocol in found else ""
    if any_row is None:
        quoted = printed["provenance"].startswith("quoted") and method not in paper.NOT_RUN
        reason = paper.NOT_RUN.get(method, "no data at hand")
        return text | {"verdict": "quoted" if quoted else f"not run ({reason})", "interval": "", "budget": ""}
    low, high = any_row["low"], any_row["high"]
    text["interval"] = f"{show(low, metric)} to {show(high, metric)}" if low is not None else ""
    text["verdict"] = any_row["verdict"]
    text["budget"] = f"{100 * float(any_row['schedule']):.3g} % of the schedule; {any_row['model']}"
    data = "" if any_row["data"] == "paper" else any_row["data"]
    text["note"] = "; ".join(x for x in (data, any_row["note"]) if x)
    return text


def show(value, metric):
    """A number as tables print it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "undefined"
    return f"{value:.2f} s" if metric.startswith("seconds") else f"{value:.3f}"


def footnotes(lines):
    """What was reduced and remarked, each text once.

    Args:
        lines: one table of `joined`.

    Returns:
        `(texts, numbers)`: the texts in order, and for each line the number of its text from 1, or "".
    """
    texts = ["; ".join(x for x in (line["budget"], line["note"]) if x) for line in lines]
    unique = list(dict.fromkeys(text for text in texts if text))
    return unique, [unique.index(text) + 1 if text else "" for text in texts]


def markdown(paper, tables):
    """The joined tables as Markdown."""
    out = [f"# {paper.TITLE}", ""]
    heads = (
        "category",
        "method",
        "metric",
        "printed",
        "ours, paper protocol",
        "ours, clean",
        "95 % interval",
        "verdict",
    )
    names = ("category", "method", "metric", "printed", "paper", "clean", "interval", "verdict")
    for name, lines in tables.items():
        texts, numbers = footnotes(lines)
        out += [f"## {paper.TABLES[name]['title']}", "", "| " + " | ".join((*heads, "note")) + " |"]
        out.append("|" + "---|" * (len(heads) + 1))
        out += [
            "| " + " | ".join([*(line[n] for n in names), f"({k})" if k else ""]) + " |"
            for line, k in zip(lines, numbers, strict=True)
        ]
        out += ["", *(f"({k}) {text}  " for k, text in enumerate(texts, 1)), ""]
    return "\n".join(out)
