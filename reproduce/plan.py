"""Which data are at hand, which cells a command means, and what they will cost."""

import dataclasses
import functools
import json
import os
import shutil
import sys
from pathlib import Path

from ganspect.data import samples, synthetic
from ganspect.reproduce.cells import Cell, Profile, Subject, expand
from ganspect.training.run import Run

SYNTHETIC_SIZE = 128
SIZES = ("width", "image_size", "patch_size", "batch_size")  # settings that memory depends on


def find_data(data_root, runs):
    """`{(dataset, category): path}` below a data root, or of the synthetic set, which is written below the runs.

    Raises:
        DataError: no such folder.
    """
    if data_root is None:
        data_root = synthetic.make(Path(runs) / "synthetic-data", size=SYNTHETIC_SIZE)
    return samples.find_categories(data_root)


def add_stand_ins(papers, found, runs, categories=None):
    """The data at hand, and a synthetic category for every set that a paper may replace by one and that is not there.

    Only for papers of which some data are at hand. A paper names them as `STAND_INS = {(dataset, category): synthetic
    category}`. They are written where `find_data` writes the synthetic set, in the same size, so that both share them;
    what is there already is left alone.

    Args:
        papers: the papers' modules.
        found: `{(dataset, category): path}` as `find_data` returns it; not changed.
        runs: folder of runs.
        categories: only these, where given.

    Raises:
        DataError: a stand-in was changed since it was written.
    """
    papers = [paper for paper in papers if any((s.dataset, s.category) in found for s in paper.SUBJECTS)]
    pairs = [pair for paper in papers for pair in getattr(paper, "STAND_INS", {}).items()]
    pairs = [pair for pair in pairs if not categories or pair[1] in categories]
    missing = {name: None for key, name in pairs if key not in found and ("synthetic", name) not in found}
    if not missing:
        return dict(found)
    root = synthetic.make(Path(runs) / "synthetic-data", tuple(missing), size=SYNTHETIC_SIZE)
    return {**found, **{("synthetic", name): root / name for name in missing}}


def cells_of(papers, profile, found, options):
    """`{paper's script: its cells that the options choose}`; see `cells.expand`.

    Of several papers, a method, category or table has to be of one of them only.

    Raises:
        ValueError: a name that none of them has, a wrong override, or settings that a method refuses.
    """
    names_of = {
        "methods": lambda paper: list(paper.METHODS),
        "categories": lambda paper: [s.category for s in (*paper.SUBJECTS, *paper.SYNTHETIC)],
        "tables": lambda paper: list(paper.TABLES),
        "set": lambda paper: [f.name for m in paper.METHODS.values() for f in dataclasses.fields(m.config)],
    }
    chosen = {}
    for paper in papers:
        asked = {}
        for option, names in names_of.items():
            own, every = names(paper), [name for other in papers for name in names(other)]
            given = getattr(options, option) or ()
            # What no paper has is left in: `expand` says so.
            asked[option] = [x for x in given if (name := x.partition("=")[0]) in own or name not in every]
        if any(getattr(options, option) and not asked[option] for option in ("methods", "categories", "tables")):
            chosen[paper] = []
            continue
        overrides = asked.pop("set")
        cells = expand(paper, profile, found, seeds=options.seeds, overrides=overrides, **asked)
        if options.curve is not None:
            cells = [dataclasses.replace(c, profile=dataclasses.replace(c.profile, curve=options.curve)) for c in cells]
        chosen[paper] = cells
    return chosen


def nothing_to_run(papers, found, profile, options):
    """Why no cell can run: data that are not at hand, where to get them; every bad file; methods of other profiles."""
    from ganspect.data.commands import check_text, source_lines

    absent = not_in_profile(papers, profile, options.methods or ())
    if options.methods and len(absent) == len(options.methods):
        return f"no cell can run: {says(absent, profile)}"
    lines = []
    asked = [s for p in papers for s in p.SUBJECTS if not options.categories or s.category in options.categories]
    place = options.data_root or "the built-in synthetic set (no --data-root was given)"
    wanted = ", ".join(f"{s.dataset}/{s.category}" for s in asked) or "the categories"
    text = f"no cell can run: {place} holds none of {wanted} that the options choose"
    lines.append(text + ("; found: " + ", ".join("/".join(key) for key in found) if found else ""))
    for dataset in dict.fromkeys(s.dataset for s in asked if (s.dataset, s.category) not in found):
        lines += source_lines(dataset)
    if options.data_root is not None:
        lines += [message for message, code in map(check_text, found.values()) if code]
    return "\n".join(lines)


def not_in_profile(papers, profile, methods):
    """Those of the methods asked for that a profile does not train."""
    known = {name for paper in papers for name in paper.PROFILES[profile]}
    return [name for name in methods if name not in known]


def says(absent, profile):
    """`not_in_profile` as a line."""
    return f"profile {profile} does not train {', '.join(absent)}"


def describe(chosen, profile, found, runs, jobs=1):
    """The plan as text: each cell, its share and departures, what is stored of it, time, disk and memory.

    Args:
        chosen: `{paper's script: list of Cell}`.
        profile: its name.
        found: `{(dataset, category): path}`.
        runs: the runs folder.
        jobs: cells at once.
    """
    from ganspect.reproduce.cells import departures

    lines, minutes, disk, memory, smaller = [f"profile {profile}"], 0.0, 0, [0.0], {}
    for paper, cells in chosen.items():
        lines.append(paper.TITLE)
        for cell in cells:
            method = paper.METHODS[cell.method]
            config = method.config(**cell.settings)
            changes = sum(departures(method, cell.subject, vars(config)), [])
            share = method.of(paper, "schedule_share")(vars(config))
            changed = "; ".join(changes) or "as published"
            sizes = f"{config.epochs} epochs, width {config.width}, {config.patch_size} px"
            left = minutes_left(paper, cell, runs)
            minutes += left
            disk += method.of(paper, "checkpoint_megabytes")(config) if left else 0
            memory.append(_gigabytes(cell, runs))
            smaller |= {} if _has_run(cell, runs) else dict.fromkeys(_other_sizes(*_settings(paper, cell)))
            unlike = _unlike(*_settings(paper, cell))
            time = _about(left) + (f" at the profile's {', '.join(unlike)}" if unlike else "")
            stored = standing(cell, runs)
            lines.append(f"  {cell.name}: {100 * share:.3g} % of the schedule ({sizes}), {changed}; {stored}, {time}")
        if others := _at_hand_besides(paper, cells, found):
            lines.append(f"  not chosen, at hand: {', '.join(others)} (--categories)")
    cores = len(os.sched_getaffinity(0))
    side = f", {jobs} cells at once" if jobs > 1 else ""
    room = _room(disk, runs, sum(sorted(memory)[-jobs:]), smaller)
    lines.append(f"  {_about(minutes / jobs)} (here: {cores} cores{side}), {room}")
    return "\n".join(lines)


def _room(megabytes, folder, gigabytes, sizes):
    """Disk and memory in words; memory as measured with sizes, texts, where they are others."""
    free, measured = _free(folder) / 1e9, f" (measured with {', '.join(sizes)})" if sizes else ""
    return f"{megabytes:.0f} MB of checkpoints ({free:.0f} GB free), about {gigabytes:.1f} GB of memory{measured}"


def _other_sizes(settings, measured):
    """Sizes of the measured settings that are others, as texts."""
    return [f"{name} {measured[name]}" for name in SIZES if settings.get(name) != measured.get(name)]


def room_of(paper, name, config, checkpoints, folder):
    """Disk and memory, in words, of a training on data of no table; memory as the method's `quick` profile takes it.

    Args:
        paper: the script that has the method.
        name: of the method there.
        config: its settings.
        checkpoints: how many files of its state are kept.
        folder: where they are written.
    """
    method, profile = paper.METHODS[name], paper.PROFILES["quick"][name]
    subject, given = Subject("", "", (), config.channels), dataclasses.asdict(config)
    settings, measured = _settings(paper, Cell(paper.NAME, name, subject, config.seed, profile, given))
    megabytes = checkpoints * method.of(paper, "checkpoint_megabytes")(config)
    return _room(megabytes, folder, profile.gigabytes, _other_sizes(settings, measured))


def _at_hand_besides(paper, cells, found):
    """The paper's categories at hand that no cell is of."""
    chosen = {(cell.subject.dataset, cell.subject.category) for cell in cells}
    return [
        s.category for s in paper.SUBJECTS if (s.dataset, s.category) in found and (s.dataset, s.category) not in chosen
    ]


def _has_run(cell, runs):
    """Whether a run of the cell has said how much memory it takes."""
    return bool(Run(cell.folder(runs)).status.get("peak_megabytes"))


def _gigabytes(cell, runs):
    """About how much memory a cell takes: what its run has taken, else what the profile says."""
    stored = Run(cell.folder(runs)).status.get("peak_megabytes")
    return stored / 1000 if stored else cell.profile.gigabytes


def standing(cell, runs):
    """What is stored of a cell, as text."""
    run = Run(cell.folder(runs))
    status = run.status
    if status["state"] in ("new", "finished"):
        return {"new": "new", "finished": "finished"}[status["state"]]
    reached = f" after epoch {status['epoch']} of {status['epochs']}" if "epochs" in status else ""
    return status["state"] + reached


def minutes_left(paper, cell, runs):
    """About how many minutes a cell still takes: by the epochs that runs here have measured, else by the profile.

    A run of the cell's own counts, or else one of the same method and settings; seed, category and the number of epochs
    may be others. The profile's minutes are of its own settings: of these only the epochs are reckoned with.
    """
    run = Run(cell.folder(runs))
    status = run.status
    if status["state"] == "finished":
        return 0.0
    settings, own = _settings(paper, cell)
    epochs, done = settings.get("epochs"), status.get("epoch", 0)
    for other in [run, *(Run(p.parent) for p in sorted(run.path.parents[1].glob("*/seed_*/history.csv")))]:
        rows = other.read_table("history.csv")
        if rows and epochs and not _unlike(settings, other.config):
            mean = sum(float(row["seconds"]) for row in rows) / len(rows)
            rest = max(0.0, cell.profile.minutes - mean * own["epochs"] / 60)  # scoring and pictures
            return mean * max(0, epochs - done) / 60 + rest
    return cell.profile.minutes * (epochs / own["epochs"] if epochs else 1)


def _settings(paper, cell):
    """A cell's settings, and the ones that its profile would give it, as JSON stores them."""
    method, reduced = paper.METHODS[cell.method], cell.profile.settings
    reduced = reduced(cell.subject) if callable(reduced) else reduced
    fixed = {} if callable(method.settings) else method.settings
    own = {"channels": cell.subject.channels, **method.settings_for(cell.subject), **reduced, **fixed}
    return tuple(json.loads(json.dumps(vars(method.config(**some)))) for some in (cell.settings, own))


def _unlike(settings, stored):
    """Names of the settings, but for seed, channels and epochs, that are stored otherwise or not at all."""
    return sorted(name for name in {*settings} - {"seed", "channels", "epochs"} if stored.get(name) != settings[name])


def _about(minutes):
    if 0 < minutes < 1:
        return f"about {60 * minutes:.0f} seconds"
    return f"about {minutes:.0f} minute{'s' * (round(minutes) != 1)}"


def _free(runs):
    """Bytes that are free where the runs are to be written."""
    folder = Path(runs).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@functools.cache
def _say_once(text):
    print(text, file=sys.stderr)


def every_cell(paper, runs):
    """The cells of a paper that have a run folder, whatever profile they came from.

    A damaged one is named on standard error, once, and left out.
    """
    cells = []
    for subject in (*paper.SUBJECTS, *paper.SYNTHETIC):
        for name in paper.METHODS:
            for protocol in ("both", "paper"):
                probe = Cell(paper.NAME, name, subject, 0, Profile(), {}, protocol)
                for folder in sorted(probe.folder(runs).parent.glob("seed_*")):
                    seed = folder.name.removeprefix("seed_")
                    if not seed.isdigit() or not (folder / "status.json").exists():
                        continue
                    if reason := Run(folder).damage():
                        _say_once(f"ganspect: left out: {reason}")
                    else:
                        cells.append(Cell(paper.NAME, name, subject, int(seed), Profile(), {}, protocol))
    return cells
