"""Pre-flight validation: every file decoded once, one message that names every offending one, the data's fingerprint.

Errors stop a run: a file that is corrupt, truncated, empty, not an image or too large; a mask or region of interest
missing or of another size than its image; a test image byte-identical to a training image (a warning for published
copies known to have them). Conversions say what `images` did to unusual files. Warnings are counts that differ from the
official ones, repeated training images, near-duplicates across the split, mixed sizes, files left out.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ganspect.data.images import DataError, decode_image, read_bytes, read_mask
from ganspect.data.known import CROP_ROWS, KNOWN_TO_REPEAT, OFFICIAL_COUNTS
from ganspect.data.samples import Category, Sample

THREADS = 2
THUMBNAIL = 32  # pixels a side
NEAR_LEVELS = 1.5  # gray levels: largest RMS difference of two near-duplicates' thumbnails ...
NEAR_CONTRAST = 0.03  # ... and its largest share of the thumbnail's own contrast, so that flat textures do not match
_SHOWN = 5
_CHUNK = 512  # test thumbnails compared at once

Finding = tuple[Path | None, str]


@dataclass
class CheckReport:
    """What `check` found; `ok` means that nothing stops a run."""

    title: str
    root: Path
    errors: list[Finding] = field(default_factory=list)
    conversions: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # (train name, test name), byte-identical
    near_duplicates: list[tuple[str, str, float]] = field(
        default_factory=list
    )  # (train name, test name, RMS gray levels)
    fingerprint: str = ""
    counts: str = ""

    @property
    def ok(self) -> bool:
        """No errors."""
        return not self.errors

    def message(self) -> str:
        """Everything found, one line for each error; conversions and warnings grouped by their text."""
        lines = [f"{self.title}: {'ok' if self.ok else 'cannot be used'} ({self.counts})"]
        if self.errors:
            lines.append(f"  {_plural(len(self.errors), 'error')}")
            lines += [f"    {self._relative(path)}: {text}" for path, text in self.errors]
        lines += self._grouped("conversion", self.conversions)
        lines += self._grouped("warning", self.warnings)
        return "\n".join([*lines, f"  fingerprint {self.fingerprint}"])

    def remarks(self) -> str:
        """Conversions and warnings alone, grouped by their text; empty where there are none."""
        return "\n".join([*self._grouped("conversion", self.conversions), *self._grouped("warning", self.warnings)])

    def _grouped(self, kind: str, findings: list[Finding]) -> list[str]:
        groups: dict[str, list[str]] = {}
        for path, text in findings:
            groups.setdefault(text, []).extend([self._relative(path)] if path else [])
        lines = [f"  {_plural(len(groups), kind)}"] if groups else []
        for text, names in groups.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            files = f": {_plural(len(names), 'file')} ({', '.join(names[:_SHOWN])}{more})" if names else ""
            lines.append(f"    {text}{files}")
        return lines

    def _relative(self, path: Path | None) -> str:
        if path is None:
            return self.title
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


@dataclass
class _Facts:
    """What one sample's files turned out to be."""

    sample: Sample
    digest: str = ""
    digests: list[tuple[Path, str]] = field(default_factory=list)
    size: tuple[int, int] | None = None  # (height, width)
    mode: str = ""
    thumbnail: np.ndarray | None = None
    errors: list[Finding] = field(default_factory=list)
    conversions: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)


def check(category: Category) -> CheckReport:
    """Decode every file of a category once, on two threads, and report."""
    with ThreadPoolExecutor(THREADS) as pool:
        rows = CROP_ROWS.get(category.dataset)
        facts = list(pool.map(lambda sample: _inspect(sample, rows), category.samples))
    report = CheckReport(f"{category.dataset}/{category.name}", category.root, counts=_counts_text(category))
    report.errors.extend(category.problems)
    for fact in facts:
        report.errors.extend(fact.errors)
        report.conversions.extend(fact.conversions)
        report.warnings.extend(fact.warnings)
    _check_counts(category, report)
    _check_sizes(facts, report)
    _check_repeats(category, facts, report)
    _check_near(facts, report)
    report.warnings.extend((path, text) for path, text in category.ignored)
    report.warnings.extend((None, note) for note in category.notes)
    # a region of interest that all images share is looked at beside each of them
    report.errors = sorted(dict.fromkeys(report.errors), key=lambda finding: str(finding[0]))
    report.warnings = list(dict.fromkeys(report.warnings))
    report.fingerprint = fingerprint_of(category.root, (pair for fact in facts for pair in fact.digests))
    return report


def digest_of(data: bytes) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fingerprint_of(root: Path, digests: Iterable[tuple[Path, str]]) -> str:
    """SHA-256 over the sorted names (below root) and digests of all images, masks and regions of interest."""
    lines = sorted({f"{path.relative_to(root).as_posix()}\0{digest}\n" for path, digest in digests})
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def repeated_in_test(train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(train name, test name) of every test image whose (name, digest) has the digest of a training image."""
    first: dict[str, str] = {}
    for name, digest in train:
        first.setdefault(digest, name)
    return [(first[digest], name) for name, digest in test if digest in first]


def near_duplicates(train: np.ndarray, test: np.ndarray) -> list[tuple[int, int, float]]:
    """Test images that look the same as a training image, in any of the eight orientations.

    Args:
        train: float32 `[N, S, S]`, gray thumbnails in 0..255.
        test: float32 `[M, S, S]`.

    Returns:
        (train index, test index, RMS difference in gray levels, brightness removed) where the difference is at most
        `NEAR_LEVELS` and at most `NEAR_CONTRAST` of the test thumbnail's standard deviation; the nearest for each.
    """
    if not len(train) or not len(test):
        return []
    flat = _centred(train)  # [N, S*S]
    found = []
    for start in range(0, len(test), _CHUNK):
        part = test[start : start + _CHUNK]
        nearest, distance = _nearest(flat, part)
        limit = np.minimum(NEAR_LEVELS, NEAR_CONTRAST * part.reshape(len(part), -1).std(1))
        found += [(int(nearest[i]), start + int(i), float(distance[i])) for i in np.flatnonzero(distance <= limit)]
    return found


def _nearest(flat: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index, RMS difference) of the nearest of `flat` `[N, S*S]` to each of `test` `[M, S, S]`, however turned."""
    best = np.full(len(test), np.inf)
    nearest = np.zeros(len(test), int)
    for flipped in (test, test[:, :, ::-1]):
        for turns in range(4):
            turned = _centred(np.rot90(flipped, turns, (1, 2)))
            squared = (turned**2).sum(1)[:, None] + (flat**2).sum(1)[None] - 2 * turned @ flat.T  # [M, N]
            index = squared.argmin(1)
            distance = np.sqrt(np.maximum(squared[np.arange(len(test)), index], 0) / flat.shape[1])
            closer = distance < best
            best[closer], nearest[closer] = distance[closer], index[closer]
    return nearest, best


def _centred(images: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(images, np.float32).reshape(len(images), -1)
    return flat - flat.mean(1, keepdims=True)


def _inspect(sample: Sample, rows: int | None) -> _Facts:
    """Decode one sample's image, mask and region of interest; only so many rows of a region need match."""
    facts = _Facts(sample)
    try:
        data = read_bytes(sample.path)
        facts.digest = digest_of(data)
        facts.digests.append((sample.path, facts.digest))
        decoded = decode_image(sample.path, data)
    except DataError as error:
        facts.errors.append((sample.path, error.reason))
    else:
        facts.size, facts.mode = decoded.image.size[::-1], decoded.image.mode
        facts.conversions = [(sample.path, text) for text in decoded.conversions]
        facts.warnings = [(sample.path, text) for text in decoded.warnings]
        small = decoded.image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        facts.thumbnail = np.asarray(small, np.float32)
    for path, what in ((sample.mask_path, "mask"), (sample.roi_path, "region of interest")):
        if path:
            _inspect_mask(path, what, facts, rows if what != "mask" else None)
    return facts


def _inspect_mask(path: Path, what: str, facts: _Facts, rows: int | None):
    try:
        data = read_bytes(path)
        facts.digests.append((path, digest_of(data)))
        mask = read_mask(path, data=data)
    except DataError as error:
        facts.errors.append((path, error.reason))
        return
    if facts.size and _cut(mask.shape, rows) != _cut(facts.size, rows):
        sizes = [f"{width}x{height}" for height, width in (mask.shape, facts.size)]
        facts.errors.append((path, "{} is {}, its image is {}".format(what, *sizes)))
    marked, normal = bool(mask.any()), facts.sample.label == 0
    if what == "mask" and marked == normal:
        facts.warnings.append(
            (path, "mask marks pixels of a normal image" if normal else "mask of an anomalous image is empty")
        )
    elif what != "mask" and not marked:
        facts.warnings.append((path, "region of interest is empty"))


def _cut(size: tuple[int, int], rows: int | None) -> tuple[int, int]:
    """(height, width) with at most so many rows."""
    return (min(size[0], rows or size[0]), size[1])


def _counts(category: Category) -> tuple[int, int, int]:
    defective = sum(sample.label for sample in category.test)
    return len(category.train), len(category.test) - defective, defective


def _counts_text(category: Category) -> str:
    train, normal, defective = _counts(category)
    masks = sum(sample.mask_path is not None for sample in category.samples)
    regions = sum(sample.roi_path is not None for sample in category.samples)
    text = f"{train} training, {normal} normal and {defective} anomalous test images, {masks} masks"
    return f"{text}, {regions} regions of interest" if regions else text


def _check_counts(category: Category, report: CheckReport):
    found, official = _counts(category), OFFICIAL_COUNTS.get((category.dataset, category.name))
    if not found[0]:
        report.errors.append((category.root, "no training image"))
    if official and found != official:
        text = "train, test normal, test defective are {} {} {}; officially {} {} {}"
        report.warnings.append((None, text.format(*found, *official)))


def _check_sizes(facts: list[_Facts], report: CheckReport):
    sizes = Counter(fact.size for fact in facts if fact.size)
    if len(sizes) > 1:
        common = ", ".join(f"{width}x{height} ({n})" for (height, width), n in sizes.most_common(4))
        report.warnings.append((None, f"{len(sizes)} image sizes: {common}{', ...' if len(sizes) > 4 else ''}"))
    modes = Counter(fact.mode for fact in facts if fact.mode)
    if len(modes) > 1:
        report.conversions.append(
            (None, f"gray ({modes['L']}) and colour ({modes['RGB']}) images together: brought to one kind")
        )


def _check_repeats(category: Category, facts: list[_Facts], report: CheckReport):
    """Byte-identical images: across the split, and among the training images."""
    train, test = ([f for f in facts if f.sample.split == split and f.digest] for split in ("train", "test"))
    pairs = [[(fact.sample.name, fact.digest) for fact in part] for part in (train, test)]
    report.duplicates = repeated_in_test(*pairs)
    if category.dataset in KNOWN_TO_REPEAT and report.duplicates:
        text = f"{len(report.duplicates)} test images are byte-identical to training images (known of this data set)"
        report.warnings.append((None, text))
    else:
        paths = {fact.sample.name: fact.sample.path for fact in test}
        report.errors.extend(
            (paths[b], f"test image byte-identical to training image {a}") for a, b in report.duplicates
        )
    repeats = len(train) - len({fact.digest for fact in train})
    if repeats:
        report.warnings.append((None, f"{repeats} training images repeat another one byte for byte"))


def _check_near(facts: list[_Facts], report: CheckReport):
    exact = {name for _, name in report.duplicates}
    seen = [fact for fact in facts if fact.thumbnail is not None and fact.sample.name not in exact]
    train, test = ([fact for fact in seen if fact.sample.split == split] for split in ("train", "test"))
    thumbnails = [np.stack([fact.thumbnail for fact in part]) if part else np.empty(0) for part in (train, test)]
    for i, j, distance in near_duplicates(*thumbnails):
        report.near_duplicates.append((train[i].sample.name, test[j].sample.name, distance))
    if report.near_duplicates:
        shown = ", ".join(f"{b} ~ {a}" for a, b, _ in report.near_duplicates[:_SHOWN])
        more = f" and {len(report.near_duplicates) - _SHOWN} more" if len(report.near_duplicates) > _SHOWN else ""
        text = (
            f"{_plural(len(report.near_duplicates), 'test image')} almost identical to a training image: {shown}{more}"
        )
        report.warnings.append((None, text))


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
