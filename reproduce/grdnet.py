"""GRD-Net (Ferrari et al., 2023): image and pixel AUROC on MVTec AD after 10, 35, 100 and 200 epochs, beside DRAEM.

Protocols. Both score the last weights of a training at each of those epochs; no checkpoint is chosen by the test set.
The paper protocol takes the best accuracy over thresholds on the test set (decision 2o), the clean one the threshold of
held-out normal images, and drops exact duplicates of training images from the test side. Where all normal images are
trained on (`paper` profile, paper protocol) the loss that the rate's plateaus are taken from (2j) is of the same last
images, which it has seen.

Regions of interest are made by a recipe (`REGIONS`), or are the user's own files. The recipes of `pill` and `bottle`
were chosen on test images too, their masks seen, and every row that they reach says so. The methods of Tables 2 to 5
train without them, as do all where there are none; those of Table 7 and of the experiment of section 4.2 train with
them. Every method is measured inside and outside of them. Table 1 is of private images: other data stand in for them.
"""

import functools
import sys

from ganspect.data import sources
from ganspect.data.corruption import CorruptedSampler
from ganspect.data.regions import RegionRecipe
from ganspect.models import draem, grdnet
from ganspect.reproduce.baselines import ganomaly_method
from ganspect.reproduce.cells import SYNTHETIC as DATASET
from ganspect.reproduce.cells import Method, Profile, Subject
from ganspect.reproduce.milestones import ROI_METRICS
from ganspect.reproduce.verdicts import borne_out, shown_interval

NAME = "grdnet"
TITLE = "GRD-Net: Generative-Reconstructive-Discriminative Anomaly Detection with ROI Attention (IJIS 2023)"
HELD_OUT = 32  # held-out images of the monitored losses, at most
SCORES = {"anomaly": "", "residual": ", residual alone"}
SAME = 0.02  # no difference, as in the verdict "reproduced"
MILESTONES = {"2": (10,), "3": (35,), "4": (100,), "5": (200,), "1": (250, 500), "7": (100,)}
AUROC_TABLES = ("2", "3", "4", "5")
PRIVATE = {"1": ("bfs_vials", "vials"), "6": ("bfs_vials", "vials")}


def sampler(config, sizes, held_out=False):
    """Corrupted batches of whole images, turned by up to a quarter; with `held_out` one fixed batch, not turned."""
    return corrupted(config, sizes, held_out, noise=config.noise, sources=textures_of(config, config.noise))


def draem_sampler(config, sizes, held_out=False):
    """The same with DRAEM's textures, opacities and rarer turns."""
    settings = dict(noise="texture", opacity=(0.2, 1.0), turned=config.turned)
    return corrupted(config, sizes, held_out, sources=textures_of(config, "texture"), **settings)


def textures_of(config, noise):
    """The sources of a config of either method; None for noises without."""
    c = config
    kind = c.texture_folder, c.textures, c.patch_size, c.channels, c.seed
    return anomaly_sources(*kind) if noise == "texture" else None


def corrupted(config, sizes, held_out, **settings):
    """A `CorruptedSampler` for a config of either method."""
    settings |= dict(corrupted=config.corrupted, highest_scale=config.highest_scale)
    settings |= dict(stride=config.patch_stride if config.image_size > config.patch_size else 0)
    if held_out:
        count = min(len(sizes), HELD_OUT)
        return CorruptedSampler(sizes, config.patch_size, count, count, config.seed, augment=False, **settings)
    count = config.images_per_epoch(len(sizes))
    return CorruptedSampler(sizes, config.patch_size, count, config.batch_size, config.seed, **settings)


@functools.cache
def anomaly_sources(folder, count, size, channels, seed):
    """DRAEM's textures: uint8 `[count, size, size, channels]`, from a folder or made by a procedure."""
    if folder:
        return sources.folder_textures(folder, count, size, channels, seed)
    return sources.procedural_textures(count, size, channels, seed)


NOISE_FIELDS = ("noise", "corrupted", "highest_scale", "turned", "textures", "texture_folder")


def grdnet_method(label, tables, attends=False, unasked=False, also="", note="", sought=False, **settings):
    """GRD-Net with settings that make it a row of these tables."""
    generative = settings.get("discriminative") is False
    return Method(
        label,
        grdnet.GRDNet,
        grdnet.GRDNetConfig,
        sampler,
        model_fields=grdnet.MODEL_FIELDS,
        loss_fields=grdnet.LOSS_FIELDS,
        score_fields=("patch_stride", "statistics_batches"),
        noise_fields=NOISE_FIELDS,
        variant="other noise" if "noise" in settings else "",
        settings=lambda subject: settings,
        also=also,
        note=note,
        sought=sought,
        tables=tables,
        unasked=unasked,
        scores={"residual": ""} if generative else SCORES,
        curves=generative_curves if generative else None,
        regions=True,
        attends=attends,
        schedule_share=lambda config: min(1.0, config["epochs"] / settings.get("epochs", 200)),
    )


def generative_curves(subject):
    """What the curve of a training without a U-Net shows."""
    return (("residual", "image_auroc"),)


METHODS = {
    "grdnet": grdnet_method("GRD-Net", (*AUROC_TABLES, "roi", "bottleneck"), unasked=True),
    "grdnet-perlin": grdnet_method(  # [GRD-tf], [GRD-pt], decision 2g
        "GRD-Net, Perlin colours",
        AUROC_TABLES,
        also="GRD-Net",
        note="the noise is of smooth colours, a map of Perlin noise for each channel (the authors' TensorFlow codes: "
        "gray maps)",
        sought=True,
        noise="perlin",
    ),
    "grdnet-gray": grdnet_method(  # [GRD-tf], decision 2h
        "GRD-Net, gray noise",
        AUROC_TABLES,
        also="GRD-Net",
        note="masks are filled with their own map of Perlin noise as gray, as in the authors' TensorFlow codes",
        sought=True,
        noise="gray",
    ),
    "draem": Method(
        "DRAEM",
        draem.DRAEM,
        draem.DRAEMConfig,
        draem_sampler,
        model_fields=draem.MODEL_FIELDS,
        loss_fields=draem.LOSS_FIELDS,
        score_fields=("patch_stride", "statistics_batches"),
        noise_fields=NOISE_FIELDS,
        free_fields=("texture_folder",),
        variant=lambda config: "" if config["texture_folder"] else "other noise",  # not the code's DTD
        settings=lambda subject: dict(epochs=200, schedule_epochs=200),  # as GRD-Net's authors trained it
        tables=(*AUROC_TABLES, "roi"),
        unasked=True,
        regions=True,
        checkpoint_megabytes=lambda config: 97.5 * 12 * (config.width / 64) ** 2,
    ),
    "ganomaly": ganomaly_method(
        "GANomaly",
        lambda subject: {"epochs": 200},
        lambda config: min(1.0, config["epochs"] / 200),
        millions=9.6,
        tables=("5",),
        unasked=True,
    ),
    **{
        f"grdnet-case-{case}": grdnet_method(
            f"GRD-Net loss case {case}", ("7", "roi"), attends=True, loss_case=case, epochs=100
        )
        for case in grdnet.CASES
    },
    "grdnet-prediction": grdnet_method("GRD-Net, prediction masked", ("roi",), attends=True, reading="prediction"),
    "grdnet-dense": grdnet_method("GRD-Net, dense bottleneck", ("bottleneck",), bottleneck="dense"),
    "residual-ae": grdnet_method("residual AE", ("1",), discriminative=False, epochs=500),
    "vanilla-ae": grdnet_method("vanilla AE", ("1",), discriminative=False, residual=False, epochs=500),
}

TABLE_NAMES = (*AUROC_TABLES, "1", "7", "roi", "bottleneck")
CATEGORIES = ("hazelnut", "metal_nut", "pill", "cable", "bottle", "zipper")  # the last two beyond Tables 2 to 5
SUBJECTS = tuple(Subject("mvtec_ad", name, TABLE_NAMES, 3, (128, 128)) for name in CATEGORIES)
SYNTHETIC = (Subject(DATASET, "object", TABLE_NAMES, 3),)
# Of images of 128 pixels: the pill's body, the ring of the bottle's mouth. `SEEN` goes into the rows' notes.
SEEN = dict(remark="chosen on training and test images, their coverage of the test masks seen")
REGIONS = {
    ("mvtec_ad", "pill"): RegionRecipe("threshold", level=45, margin=1, **SEEN),
    ("mvtec_ad", "bottle"): RegionRecipe("ring", centre=(0.502, 0.502), outer=0.42, inner=0.21, **SEEN),
}

AUROC = ("image_auroc", "pixel_auroc")
LOSSES = {
    "adversarial_loss": "adversarial",
    "contextual_loss": "contextual",
    "encoder_loss": "encoding",
    "ssim_loss": "dissimilarity",
}
TABLES = {
    **{
        table: {"title": f"Table {table}: AUROC on MVTec AD after {MILESTONES[table][0]} epochs", "metrics": AUROC}
        for table in AUROC_TABLES
    },
    "1": {
        "title": "Table 1: losses of a residual and of a plain autoencoder (the paper's vials are private)",
        "metrics": tuple(f"{part}_{loss}" for loss in LOSSES for part in ("train", "validation")),
    },
    "6": {"title": "Table 6: vials (private data)", "metrics": (*AUROC, "image_accuracy_oracle")},
    "7": {
        "title": "Table 7: loss of the discriminative network, with regions of interest",
        "metrics": (*AUROC, "image_accuracy_oracle"),
    },
    "roi": {
        "title": "Inside and outside the region of interest (section 4.2, pictures only in the paper)",
        "metrics": (*AUROC, *ROI_METRICS),
    },
    "bottleneck": {
        "title": "Convolutional and dense bottleneck (section 8.4.1, pictures only in the paper)",
        "metrics": (*AUROC, *(f"validation_{loss}" for loss in LOSSES)),
    },
}
BEYOND = (
    *("image_ap", "image_balanced_accuracy_oracle", "image_balanced_accuracy"),
    *("pixel_aupr", "seconds_per_image", *ROI_METRICS),
)
RIVALS = (("grdnet", "draem"), ("grdnet-gray", "draem"), ("grdnet-perlin", "draem"))  # the first is the paper's claim
NOT_RUN = {}
QUOTED = ("PaDiM", "PatchCore")
PUBLISHED = ("training", "maps", "corruption")

SMALL = dict(image_size=32, patch_size=32, patch_stride=32, width=4, batch_size=4, rate=2e-3, epochs=10)
SMALL_GANOMALY = dict(image_size=32, width=8, batch_size=8, steps_per_epoch=20, epochs=4)  # CBiGAN's, copied from there
QUICK = dict(width=16, epochs=10)  # decision 2u
QUICK_CATEGORIES = ("hazelnut", "pill", "bottle")  # three hours on two cores
PROFILES = {
    "smoke": {
        **dict.fromkeys(
            ("grdnet", "grdnet-perlin", "grdnet-gray"), Profile(SMALL | dict(stages=3), curve=2, minutes=0.4)
        ),
        "draem": Profile(SMALL | dict(textures=32), curve=2, minutes=0.4),
        "ganomaly": Profile(SMALL_GANOMALY, curve=2, minutes=0.2),
    },
    "quick": {
        **{name: Profile(QUICK, curve=5, minutes=20, gigabytes=3, categories=QUICK_CATEGORIES) for name in METHODS},
        "draem": Profile(QUICK, curve=5, minutes=12, gigabytes=2, categories=QUICK_CATEGORIES),
        "ganomaly": Profile(curve=5, minutes=25, gigabytes=2.1, categories=QUICK_CATEGORIES),
    },
    "paper": {
        **{name: Profile(curve=20, minutes=60 * 24 * 3, gigabytes=12.5) for name in METHODS},
        "ganomaly": Profile(curve=10, minutes=25, gigabytes=2.1),
    },
}


def schedule_share(config):
    """Share of the 200 epochs that a config (dict) trains."""
    return min(1.0, config["epochs"] / 200)


def checkpoint_megabytes(config):
    """Size of a run's checkpoint: 209 million weights at width 64, three numbers each."""
    return 209 * 12 * (config.width / 64) ** 2


def curves(subject):
    """What the curve against training steps shows."""
    return tuple((score, metric) for score in SCORES for metric in AUROC)


def claims(rows):
    """What the paper says of its tables, checked on the measured rows of the paper protocol."""
    found = {
        (r["table"], r["dataset"], r["category"], r["method"], r["metric"]): r for r in rows if r["protocol"] == "paper"
    }
    places = dict.fromkeys(key[1:3] for key in found)
    out = []
    for table in AUROC_TABLES:
        for place in places:
            for metric in AUROC:
                pair = [found.get((table, *place, METHODS[name].label, metric)) for name in ("grdnet", "draem")]
                text = f"{metric}, {'/'.join(place)}: GRD-Net is above DRAEM after {MILESTONES[table][0]} epochs"
                out += _compared(text, pair, lambda ours, other: ours - other > SAME)
    for place in places:
        for metric in TABLES["1"]["metrics"]:
            pair = [found.get(("1", *place, METHODS[name].label, metric)) for name in ("residual-ae", "vanilla-ae")]
            text = f"{metric}, {'/'.join(place)}: the residual autoencoder is below the plain one"
            out += _compared(text, pair, lambda ours, other: ours < other)
    return out or [("GRD-Net learns faster than DRAEM at equal epochs", None, "not measured")]


def _compared(text, pair, holds):
    """A claim on two rows, or none where one of them is missing."""
    if any(row is None or row["value"] is None for row in pair):
        return []
    ours, other = (row["value"] for row in pair)
    if any(pair[0][name] != pair[1][name] for name in ("schedule", "model")):
        budgets = [f"{100 * float(row['schedule']):.3g} % of the epochs; {row['model']}" for row in pair]
        return [(text, None, f"{ours:.3g} and {other:.3g} are of other budgets: {budgets[0]}, and {budgets[1]}")]
    share = f"{100 * float(pair[0]['schedule']):.3g} % of the epochs; {pair[0]['model']}; {pair[0]['seeds']} seed(s)"
    ours, other = (f"{row['value']:.3g}{shown_interval(row)}" for row in pair)
    return [(text, borne_out(pair, holds), f"{ours} against {other}; {share}")]


def draw_run(detector, arrays, evidence, batch, run):
    """The pictures of Figures 8 and 10: what was corrupted and repaired, and the maps of test images."""
    from ganspect.reproduce import grdnet_figures

    if isinstance(batch, dict):
        grdnet_figures.draw_run(detector, arrays, evidence, batch, run)


def draw(cells, runs, folder):
    """Reconstructions of the two bottlenecks side by side, across runs."""
    from ganspect.reproduce import grdnet_figures

    grdnet_figures.draw_bottlenecks(cells, runs, folder)


if __name__ == "__main__":
    from ganspect.reproduce.cli import main

    sys.exit(main(["reproduce", NAME, *sys.argv[1:]]))
