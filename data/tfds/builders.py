"""The data sets for users of TensorFlow Datasets: the samples of `samples.scan`, in its order, with its pixels.

| name for `tfds.load` | reads |
|---|---|
| `ganspect_mvtec/<category>` | one of MVTec AD's 15 categories, or a category of your own in that layout |
| `ganspect_nanotwice` | NanoTWICE |
| `ganspect_casting` | the casting products |
| `ganspect_cloud` | the cloud images |

`DownloadConfig(manual_dir=...)` is a data root for `samples.find_categories`, or a category itself. Nothing is
downloaded. Before anything is written every file is decoded by `check`, and one `DataError` names all that cannot be
used. Prepared data are read from then on, also where the files have changed since: `info.metadata["fingerprint"]` is
that of the files they were made from; its `notes` belong beside any figure, `duplicates` are the test images that
repeat a training image byte for byte. To read prepared data TFDS is enough, without this project.

| feature | is |
|---|---|
| `image` | uint8 `[H, W, C]`, decoded as `images` says, of the file's own size; C is 1 where they are gray, else 3 |
| `label` | 0 normal, 1 anomalous |
| `defect` | the defect's folder; "good" for normal images |
| `mask` | bool `[H, W, 1]`, True = anomalous; all False for normal images and where there are no masks |
| `has_mask` | whether the category has masks; where it has none, `mask` says nothing |
| `roi` | bool `[H, W, 1]`, True = inside; all True where the image has no region of interest |
| `has_roi` | whether the image has a region of interest |
| `name` | posix path below the category's root |
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from ganspect.data.arrays import load_arrays
from ganspect.data.check import CheckReport, check
from ganspect.data.images import DataError
from ganspect.data.known import CITATIONS, MVTEC_CATEGORIES, SOURCES
from ganspect.data.samples import Category, Sample, find_categories, scan

_CHUNK = 16  # images decoded at once


@dataclass(eq=False)
class CategoryConfig(tfds.core.BuilderConfig):
    """A category for `MVTec`, wherever `samples.find_categories` finds it.

    `tfds.load("ganspect_mvtec/bolt")` finds the category `bolt` of any data set. Where two data sets have one, or for a
    name of your choice: `builder_kwargs={"config": CategoryConfig("old_bolt", dataset="old", category="bolt")}`.
    """

    dataset: str | None = None  # any where not given
    category: str | None = None  # the config's name where not given


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the builders share; a subclass says which category it reads."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = Path(__file__)  # TFDS cannot find it in a namespace package: `ganspect` has no folder of its own
    DATASET: ClassVar[str]

    def download_and_prepare(self, *, download_dir=None, download_config=None, **options):
        """Prepare the data from `download_config.manual_dir`; nothing is written unless every file is sound.

        Args:
            download_dir: its folder `manual` is read where no `manual_dir` is given, as everywhere in TFDS.
            download_config: `tfds.download.DownloadConfig`.
            **options: as of `tfds.core.DatasetBuilder.download_and_prepare`.

        Raises:
            DataError: the category is not there, or files cannot be used; all of them are named.
        """
        config = download_config or tfds.download.DownloadConfig()
        if config.download_mode.overwrite_dataset or not self.data_path.exists():
            place = config.manual_dir or Path(download_dir or self.data_dir_root / "downloads") / "manual"
            self._category, report = self._checked(Path(place).expanduser())
            self.info._features = _features(self._category.channels)  # known only now, and there is no setter
            self.info.metadata.update(_metadata(self._category, report))
        super().download_and_prepare(download_dir=download_dir, download_config=config, **options)

    def _checked(self, root: Path) -> tuple[Category, CheckReport]:
        key, path = self._find(root, *self._wanted())
        category = scan(path, *key)
        report = check(category)
        if not report.ok:
            raise DataError(category.root, report.message())
        return category, report

    def _wanted(self) -> tuple[str | None, str | None]:
        """(data set, category), None for any."""
        return self.DATASET, None

    def _find(self, root: Path, dataset: str | None, name: str | None) -> tuple[tuple[str, str], Path]:
        found = find_categories(root) if root.is_dir() else {}
        wanted = {key: path for key, path in found.items() if dataset in (None, key[0]) and name in (None, key[1])}
        if len(wanted) > 1:
            names = ", ".join("/".join(key) for key in wanted)
            raise DataError(root, f"more than one such category: {names}; say which by CategoryConfig(dataset=...)")
        if not wanted:
            what = "/".join(part for part in (dataset, name) if part)
            there = ", ".join("/".join(key) for key in found) or ("no category" if root.is_dir() else "no such folder")
            raise DataError(root, f"{what} is not there (found: {there})\n{self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return next(iter(wanted.items()))

    def _info(self) -> tfds.core.DatasetInfo:
        return self._info_of(self.DATASET)

    def _info_of(self, dataset: str | None) -> tfds.core.DatasetInfo:
        source = SOURCES.get(dataset)
        return tfds.core.DatasetInfo(
            builder=self,
            description=source.title if source else "A category of your own, in a layout that ganspect reads.",
            # once prepared, TFDS restores them from its files
            features=None if self.data_path.exists() else _features(None),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            homepage=source and source.page,
            citation=CITATIONS.get(dataset),
            license=source and source.licence,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        splits = {"train": self._category.train, "test": self._category.test}
        return {split: self._generate_examples(part) for split, part in splits.items() if part}

    def _generate_examples(self, part: tuple[Sample, ...]) -> Iterator[tuple[int, dict]]:
        category = self._category
        for start in range(0, len(part), _CHUNK):
            chunk = part[start : start + _CHUNK]
            arrays = load_arrays(replace(category, samples=chunk), category.channels)
            images, masks, rois = arrays.test, arrays.masks, arrays.rois
            if chunk[0].split == "train":
                images, masks, rois = arrays.train, None, arrays.train_rois
            none = [None] * len(chunk)
            for key, item in enumerate(zip(chunk, images, masks or none, rois or none, strict=True), start):
                yield key, _example(*item, category.has_masks)


class MVTec(_Builder):
    """MVTec AD's categories, and those of your own: every name that is none of the 15 is looked for in any data set."""

    name = "ganspect_mvtec"
    DATASET = "mvtec_ad"
    BUILDER_CONFIGS = [CategoryConfig(name, dataset="mvtec_ad") for name in MVTEC_CATEGORIES]

    def __init__(self, *, config=None, **options):
        if isinstance(config, str) and config.partition(":")[0] not in self.builder_configs:
            config = CategoryConfig(config)
        super().__init__(config=config, **options)

    def _wanted(self):
        return self.builder_config.dataset, self.builder_config.category or self.builder_config.name

    def _info(self):
        return self._info_of(self.builder_config.dataset)


class NanoTWICE(_Builder):
    """NanoTWICE; its 700-row normal images end at row 696, as everywhere in this project."""

    name = "ganspect_nanotwice"
    DATASET = "nanotwice"


class Casting(_Builder):
    """The casting products; no masks."""

    name = "ganspect_casting"
    DATASET = "casting"


class Cloud(_Builder):
    """The cloud images; no masks. How the archive, which has no split, is split: see `samples`."""

    name = "ganspect_cloud"
    DATASET = "cloud"


for _builder in (MVTec, NanoTWICE, Casting, Cloud):
    _source = SOURCES[_builder.DATASET]
    _builder.MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Nothing is downloaded. Get {_source.title} from its page, unpack it as {_source.place}, and pass "
        f"DownloadConfig(manual_dir=<data root>).\n  page     {_source.page}\n  licence  {_source.licence}"
    )


def _features(channels: int | None) -> tfds.features.FeaturesDict:
    region = {"shape": (None, None, 1), "dtype": np.bool_, "encoding": "zlib"}
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, channels)),
            "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
            "defect": tfds.features.Text(),
            "mask": tfds.features.Tensor(**region),
            "has_mask": np.bool_,
            "roi": tfds.features.Tensor(**region),
            "has_roi": np.bool_,
            "name": tfds.features.Text(),
        }
    )


def _metadata(category: Category, report: CheckReport) -> dict:
    """What is stored beside the data, for JSON."""
    return {
        "fingerprint": report.fingerprint,
        "notes": list(category.notes),
        "duplicates": [name for _, name in report.duplicates],
        "check": report.message(),
    }


def _example(sample: Sample, image, mask, roi, has_masks: bool) -> dict:
    """An example from uint8 `[H, W, C]` and bool `[H, W]` or None."""
    mask = np.zeros(image.shape[:2], bool) if mask is None else mask
    whole = np.ones(image.shape[:2], bool) if roi is None else roi
    return {
        "image": _png(image),
        "label": sample.label,
        "defect": sample.defect,
        "mask": mask[..., None],
        "has_mask": has_masks,
        "roi": whole[..., None],
        "has_roi": roi is not None,
        "name": sample.name,
    }


def _png(image: np.ndarray) -> io.BytesIO:
    """A PNG file of uint8 `[H, W, C]`; TFDS stores its bytes as they are."""
    file = io.BytesIO()
    pixels = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(file, "png", compress_level=1)  # on pill 4.6 times faster, 14 % larger
    file.seek(0)
    return file
