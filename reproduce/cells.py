"""What a paper's script declares, and the cells that a command expands to."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SYNTHETIC = "synthetic"


SOUGHT = "looked for because the AUROC on test images was low"


@dataclass(frozen=True)
class Method:
    """A method of a paper's tables.

    Args:
        label: the name the paper prints.
        build: `config -> Detector`.
        config: the config dataclass, whose defaults are the paper's.
        sampler: `(config, sizes, held_out=False) -> sampler` of training batches from images of these sizes (see
            `data.patches`); with `held_out` one fixed batch without augmentation.
        model_fields: config fields that change the network.
        loss_fields: config fields that change the losses.
        score_fields: config fields that change the scores; a departure in any other field changes the schedule.
        noise_fields: config fields that change the synthetic defects of its training.
        free_fields: config fields that are never departures.
        settings: what makes this method of the config's class, `{field: value}` or `Subject -> {field: value}` (which
            then takes the place of the subject's own settings); no departures.
        beside: a method that the paper prints and that ours stands beside, though its networks are others.
        also: a printed method that this is as well, in another reading of its source: compared with it.
        variant: what it has other than the paper's text and code, as verdicts name it, or `config dict -> that`; empty
            for a reading of these.
        tables: the tables it belongs to; all of the category's where empty.
        unasked: whether it runs where neither it nor one of its `tables` is asked for; those of all tables always do.
        subjects: the `(dataset, category)` it runs on; all of the paper's where empty.
        scores: as the paper's SCORES, where the method's scores have other names.
        curves: as the paper's `curves`, likewise.
        note: printed with its rows.
        sought: whether it was looked for because a result on test images was poor; its rows say so.
        schedule_share, checkpoint_megabytes: as the paper's, where the method's config is of another class.
        regions: whether its training images carry their region of interest as a last channel.
        attends: whether that is the category's (its files, else the script's REGIONS); otherwise all of the image.
    """

    label: str
    build: Callable
    config: type
    sampler: Callable
    model_fields: tuple[str, ...]
    loss_fields: tuple[str, ...]
    score_fields: tuple[str, ...]
    settings: dict | Callable = field(default_factory=dict)
    beside: str = ""
    also: str = ""
    variant: str | Callable = ""
    noise_fields: tuple[str, ...] = ()
    free_fields: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    unasked: bool = False
    subjects: tuple[tuple[str, str], ...] = ()
    scores: dict = field(default_factory=dict)
    note: str = ""
    sought: bool = False
    curves: Callable | None = None
    schedule_share: Callable | None = None
    checkpoint_megabytes: Callable | None = None
    regions: bool = False
    attends: bool = False

    def settings_for(self, subject):
        """Config fields that the paper sets for this method and category."""
        return self.settings(subject) if callable(self.settings) else {**subject.settings, **self.settings}

    def variant_of(self, config):
        """`variant` for a run's config, a dict."""
        return self.variant(config) if callable(self.variant) else self.variant

    def runs_on(self, subject):
        """Whether it belongs to a category."""
        return not self.subjects or (subject.dataset, subject.category) in self.subjects

    def of(self, paper, name):
        """The method's own `scores`, `curves`, `schedule_share` or `checkpoint_megabytes`, else the paper's."""
        return getattr(self, name) or getattr(paper, "SCORES" if name == "scores" else name)


@dataclass(frozen=True)
class Subject:
    """A category that a table has a row or column for.

    Args:
        dataset, category: as in the data folders and in the printed values.
        tables: names of the paper's tables; a metric goes to the first that lists it, else to the first of all.
        channels: 1 or 3, of the paper's network.
        pixels: height and width that the paper's network needs of the images; smaller copies are other data.
        settings: config fields that the paper sets for this category; no departures.
    """

    dataset: str
    category: str
    tables: tuple[str, ...]
    channels: int
    pixels: tuple[int, int] | None = None
    settings: dict = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Profile:
    """How much of a method's training a profile does.

    Args:
        settings: departures from the paper's config, or `Subject -> departures`.
        curve: how many times the test set is scored during training, evenly spread.
        curve_stride: stride of the maps of those intermediate scorings.
        minutes: about how long one cell takes on two cores, printed by `--plan`.
        gigabytes: about how much memory one cell takes, as measured (`benchmarks/memory.py`, `peak_megabytes` of runs).
        seeds: random seeds.
        drawn: how many normal and how many anomalous test images are scored, one random draw; all where empty.
        normals: how many held-out normals are scored, evenly spread; 0: all.
        train: how many of the images trained on are scored too, for pictures, evenly spread.
        categories: those it takes, where no other ones are asked for and one of them is at hand; all where empty.
    """

    settings: dict | Callable = field(default_factory=dict)
    curve: int = 0
    curve_stride: int = 8
    minutes: float = 0.0
    gigabytes: float = 1.2
    seeds: tuple[int, ...] = (0,)
    drawn: tuple[int, ...] = ()
    normals: int = 0
    train: int = 0
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One training: paper, method, category, seed.

    Args:
        protocol: "both" where one training on the images that are not held out serves both protocols; "paper" for a
            training on all normal images.
        settings: departures from the method's config, channels and seed included.
        profile: what the settings come from.
    """

    paper: str
    method: str
    subject: Subject
    seed: int
    profile: Profile
    settings: dict
    protocol: str = "both"

    @property
    def name(self):
        return f"{self.method} {self.subject.dataset}/{self.subject.category} seed {self.seed}" + (
            " (all normals)" if self.protocol == "paper" else ""
        )

    def folder(self, runs):
        """The run folder below `runs`."""
        method = self.method + ("-all-normals" if self.protocol == "paper" else "")
        subject = self.subject
        return Path(runs) / self.paper / subject.dataset / method / subject.category / f"seed_{self.seed}"


def parse_settings(pairs, config):
    """`["width=16", ...]` as typed settings of a config dataclass.

    Raises:
        ValueError: no such field, or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(config)}
    settings = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in fields or not text:
            raise ValueError(f"--set {pair}: expected field=value with one of {', '.join(fields)}")
        kind = type(fields[name].default)
        try:
            settings[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise ValueError(f"--set {pair}: {name} takes a {kind.__name__}") from None
    return settings


def expand(paper, profile, found, methods=None, categories=None, tables=None, seeds=None, overrides=()):
    """The cells of one paper.

    Args:
        paper: a paper's script (module).
        profile: "smoke", "quick" or "paper".
        found: `{(dataset, category): path}` of the data at hand.
        methods, categories, tables, seeds: keep only these, where given.
        overrides: `field=value` texts, for the methods that have the field.

    Returns:
        List of `Cell`.

    Raises:
        ValueError: a name that the paper does not have, a wrong override, or settings that a method refuses.
    """
    subjects = [s for s in (*paper.SUBJECTS, *paper.SYNTHETIC) if (s.dataset, s.category) in found]
    _known("category", categories, [s.category for s in (*paper.SUBJECTS, *paper.SYNTHETIC)])
    _known("method", methods, list(paper.METHODS))
    _known("table", tables, list(paper.TABLES))
    cells, unused = [], set(overrides)
    for subject in subjects:
        if (categories and subject.category not in categories) or not set(tables or subject.tables) & {*subject.tables}:
            continue
        for name, method in paper.METHODS.items():
            wanted = bool({*method.tables} & {*tables}) if tables else method.unasked
            asked = name in methods if methods else not method.tables or wanted
            if not asked or name not in paper.PROFILES[profile] or not method.runs_on(subject):
                continue
            plan = paper.PROFILES[profile][name]
            preferred = {s.category for s in subjects} & {*plan.categories}
            if preferred and subject.category not in preferred and not categories:
                continue
            known = {f.name for f in dataclasses.fields(method.config)}
            pairs = [pair for pair in overrides if pair.partition("=")[0] in known]
            unused -= set(pairs)
            chosen = parse_settings(pairs, method.config)
            reduced = plan.settings(subject) if callable(plan.settings) else plan.settings
            fixed = {} if callable(method.settings) else method.settings
            settings = {**method.settings_for(subject), **reduced, **fixed, **chosen}
            try:
                method.config(**{"channels": subject.channels, **settings})
            except ValueError as error:
                raise ValueError(f"{name} {subject.dataset}/{subject.category}: {error}") from None
            for seed in dict.fromkeys(seeds or plan.seeds):
                for protocol in ("both", "paper") if profile == "paper" else ("both",):
                    own = {"channels": subject.channels, **settings, "seed": seed}
                    cells.append(Cell(paper.NAME, name, subject, seed, plan, own, protocol))
    if unused and cells:
        parse_settings(sorted(unused), paper.METHODS[cells[0].method].config)  # raises: no method has such a field
    return cells


def departures(method, subject, config):
    """Fields of a stored config that differ from the paper's: `(of the network, schedule, losses, scores,
    synthetic defects)`, as texts.

    Args:
        method: `Method`.
        subject: `Subject`.
        config: dict of config fields.
    """
    given = method.settings_for(subject)
    model, schedule, losses, scores, noise = [], [], [], [], []
    kinds = {method.model_fields: model, method.loss_fields: losses, method.score_fields: scores}
    kinds[method.noise_fields] = noise
    for f in dataclasses.fields(method.config):
        default = subject.channels if f.name == "channels" else f.default
        if f.name in ("seed", *method.free_fields) or f.name not in config:
            continue
        if config[f.name] == given.get(f.name, default):
            continue
        if f.name == "channels":
            model.append(f"channels {config[f.name]}")
            continue
        kind = next((kind for names, kind in kinds.items() if f.name in names), schedule)
        kind.append(f"{f.name} {config[f.name]}")
    return model, schedule, losses, scores, noise


def departure_texts(method, config, subject=None):
    """All departures of a config from the method's paper, one text each.

    Args:
        method: `Method`.
        config: dict of config fields.
        subject: `Subject`; None for data of no table, where the config's defaults alone are the paper's.
    """
    if subject is None:
        method, subject = dataclasses.replace(method, settings={}), Subject("", "", (), config["channels"])
    model, schedule, losses, scores, noise = departures(method, subject, config)
    named, variant = {"other noise": noise, "other scoring": scores}, method.variant_of(config)
    unnamed = [variant] if variant and not named.get(variant) else []
    return [*model, *schedule, *losses, *scores, *noise, *unnamed]


def _known(what, asked, available):
    unknown = [name for name in asked or () if name not in available]
    if unknown:
        raise ValueError(f"unknown {what} {', '.join(unknown)}; there are: {', '.join(dict.fromkeys(available))}")
