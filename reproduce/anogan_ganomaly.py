"""AnoGAN and GANomaly on casting and cloud images (a study of 2022 with public notebooks): AUROC and accuracy.

Protocols. The study plots the scores of 100 training, 100 normal and 100 anomalous test images, the first that its file
system listed, and prints one accuracy; AUROC and accuracy of the plots were read off them for this project. Here the
metrics are means over 200 random draws of 100 + 100 test images, or of one draw where the search for more takes too
long, and in rows of their own those of all test images (decision 3i). The paper protocol takes the best threshold on
the test set (`image_accuracy_oracle`); the clean one has none of it, takes its threshold from held-out normal images
and drops the 64 test images of casting that are byte-identical to training images. The study scales its scores by the
extremes of 300 images with 100 training images among them, which changes no rank and is not done here. Last weights.

Where the cloud images are not at hand, the built-in synthetic clouds stand in for them as `other data`.
"""

import sys

from ganspect.models import anogan, ganomaly
from ganspect.reproduce import baselines
from ganspect.reproduce.cells import SYNTHETIC as DATASET
from ganspect.reproduce.cells import Method, Profile, Subject
from ganspect.reproduce.verdicts import borne_out, shown_interval

NAME = "anogan_ganomaly"
TITLE = "AnoGAN and GANomaly on casting and cloud images (2022)"
DRAWS = (100, 100, 200)  # normal and anomalous test images of a draw, draws
FAR, SAME = 0.10, 0.05  # of AUROC: "far above", "about equal"
IMAGES = {"casting": 2875, "cloud": 1400}  # that the study trains on
STAND_INS = {("cloud", "cloud"): "cloud"}


def anogan_method(label, tables, unasked=False, also="", **settings):
    """AnoGAN with the study's networks for the category."""
    return Method(
        label,
        anogan.AnoGAN,
        anogan.AnoGANConfig,
        baselines.whole_images,
        model_fields=("width", "latent_size", "image_size", "layout"),
        loss_fields=(),
        score_fields=("search", "feature_weight", "search_steps", "search_rate", "restarts", "search_patience"),
        settings=lambda subject: (
            anogan.PRESETS[subject.category if subject.category == "cloud" else "casting"] | settings
        ),
        tables=tables,
        unasked=unasked,
        also=also,
        scores={"anomaly": "", "anomaly, all": ALL, "residual": ", L_R alone", "discrimination": ", L_D alone"},
        curves=lambda subject: (("anomaly", "image_auroc"),),
        schedule_share=anogan_share,
        checkpoint_megabytes=lambda config: 23e6 * 12 / 1e6 * (config.width / 64) ** 2,
    )


def ganomaly_method(label, tables, subjects=(), unasked=False, also="", **settings):
    """GANomaly with the study's networks for the category."""
    return baselines.ganomaly_method(
        label,
        lambda subject: ganomaly.PRESETS["study_cloud" if subject.category == "cloud" else "study"] | settings,
        ganomaly_share,
        millions=51,
        all_images=ALL,
        tables=tables,
        unasked=unasked,
        subjects=subjects,
        also=also,
    )


def anogan_share(config):
    """Share of the study's epochs (100 for casting, 50 for cloud), or of its images where an epoch is not one pass."""
    epochs = anogan.PRESETS[config["layout"]].get("epochs", 100)
    images = config["steps_per_epoch"] * config["batch_size"]
    return min(1.0, config["epochs"] / epochs * (images / IMAGES[config["layout"]] if images else 1))


def ganomaly_share(config):
    """Share of the study's 1000 batches, of 32 images for casting and 50 for clouds."""
    batch = ganomaly.PRESETS["study_cloud" if config["extra_layers"] else "study"]["batch_size"]
    layout = "cloud" if config["extra_layers"] else "casting"
    images = config["steps_per_epoch"] * config["batch_size"] or IMAGES[layout]
    return min(1.0, config["epochs"] * images / (1000 * batch))


ALL = " (full test set)"  # the study's plot of all casting test images
GRAY_OR_RGB = (("casting", "casting"), (DATASET, "disc"))
CLOUDS = (("cloud", "cloud"), (DATASET, "cloud"))
PRINTED_TABLES = ("figures", "text")
METHODS = {
    "anogan": anogan_method("AnoGAN", PRINTED_TABLES, unasked=True),
    "ganomaly": ganomaly_method("GANomaly", PRINTED_TABLES, unasked=True),
    # To the letter, where they differ from the text: AnoGAN's search, GANomaly's encoders. Printed values are theirs.
    "anogan-notebook": anogan_method(
        "AnoGAN as in the notebook", PRINTED_TABLES, also="AnoGAN", **anogan.PRESETS["notebook"]
    ),
    "ganomaly-notebook": ganomaly_method(
        "GANomaly as in the notebook", PRINTED_TABLES, unasked=True, also="GANomaly", **ganomaly.PRESETS["notebook"]
    ),
    "ganomaly-gray": ganomaly_method("GANomaly, grayscale", ("colour",), GRAY_OR_RGB),
    "ganomaly-rgb": ganomaly_method("GANomaly, RGB", ("colour",), GRAY_OR_RGB, channels=3),
    "ganomaly-64": ganomaly_method("GANomaly, 64 pixels", ("size",), CLOUDS, image_size=64),
    "ganomaly-256": ganomaly_method("GANomaly, 256 pixels", ("size",), CLOUDS, image_size=256),
}
TABLE_NAMES = (*PRINTED_TABLES, "colour", "size")
SUBJECTS = (
    Subject("casting", "casting", TABLE_NAMES, 1, (128, 128)),
    Subject("cloud", "cloud", TABLE_NAMES, 3, (64, 64)),
)
SYNTHETIC = (Subject(DATASET, "disc", TABLE_NAMES, 1), Subject(DATASET, "cloud", TABLE_NAMES, 3))

PRINTED = ("image_auroc", "image_accuracy_oracle")
TABLES = {
    "figures": {"title": "The study's score plots (values read off them)", "metrics": PRINTED},
    "text": {"title": "Accuracy in the study's text (above 0.80)", "metrics": ("image_accuracy_oracle",)},
    "colour": {"title": "Grayscale and RGB (claimed in the study without figures)", "metrics": PRINTED},
    "size": {"title": "Clouds at 64 and at 256 pixels (claimed in the study without figures)", "metrics": PRINTED},
}
BEYOND = ("image_ap", "image_balanced_accuracy_oracle", "image_balanced_accuracy", "seconds_per_image")
SCORES = {"anomaly": ""}  # each method has its own
# That the study compares in words:
RIVALS = (("ganomaly", "anogan"), ("ganomaly-gray", "ganomaly-rgb"), ("ganomaly-64", "ganomaly-256"))
NOT_RUN = {}
PUBLISHED = ("training", "histogram_scatter", "histogram_anomaly", "histogram_encoder_distance", "generated", "pairs")


def smoke_anogan(subject):
    """Seconds: 32 pixels, the smallest width."""
    return dict(image_size=32, width=16, batch_size=8, steps_per_epoch=40, epochs=4, search_steps=50)


def smoke_ganomaly(subject):
    """Seconds: 32 pixels, the smallest width."""
    return dict(image_size=32, width=8, batch_size=8, steps_per_epoch=20, epochs=4)


def quick_anogan(subject):
    """The largest share of the epochs that an hour with the search allows; clouds, which stand in, at a small width."""
    return CLOUD_ANOGAN if subject.category == "cloud" else dict(epochs=25)


def quick_ganomaly(subject):
    """The whole schedule on casting; clouds, which stand in, at a small width."""
    return dict(width=32) if subject.category == "cloud" else {}


def full_anogan(subject):
    """The study's epochs; of a synthetic set, which is smaller, epochs of as many batches as the study's."""
    if subject.dataset != DATASET:
        return {}
    return dict(steps_per_epoch=28 if subject.category == "cloud" else 89)


CLOUD_ANOGAN = dict(width=32, steps_per_epoch=28)
SMALL = dict(width=16)
ONE = ("casting",)  # three hours on two cores
QUICK_ANOGAN = Profile(
    quick_anogan, minutes=60, gigabytes=2, drawn=(100, 100), normals=50, train=50, categories=ONE
)  # fmt: skip
QUICK_GANOMALY = Profile(quick_ganomaly, curve=5, minutes=60, gigabytes=4, train=100, categories=ONE)
QUICK_SMALL = Profile(SMALL, curve=5, minutes=8, gigabytes=1.5, categories=ONE)
QUICK_64 = Profile(dict(width=8), curve=5, minutes=2, gigabytes=0.8)
QUICK_256 = Profile(dict(width=8), curve=5, minutes=17, gigabytes=3)
PROFILES = {
    "smoke": {
        "anogan": Profile(smoke_anogan, minutes=0.5, train=10),
        "ganomaly": Profile(smoke_ganomaly, curve=2, minutes=0.5, train=10),
        "ganomaly-gray": Profile(smoke_ganomaly, minutes=0.5),
        "ganomaly-rgb": Profile(smoke_ganomaly, minutes=0.5),
    },
    "quick": {
        **dict.fromkeys(("anogan", "anogan-notebook"), QUICK_ANOGAN),
        **dict.fromkeys(("ganomaly", "ganomaly-notebook"), QUICK_GANOMALY),
        **dict.fromkeys(("ganomaly-gray", "ganomaly-rgb"), QUICK_SMALL),
        "ganomaly-64": QUICK_64,
        "ganomaly-256": QUICK_256,
    },
    "paper": {
        **{
            name: Profile(full_anogan, minutes=60 * 4, gigabytes=2, train=100)
            for name in METHODS
            if name.startswith("anogan")
        },
        **{
            name: Profile(curve=10, minutes=70, gigabytes=4, train=100)
            for name in METHODS
            if name.startswith("ganomaly")
        },
    },
}


def claims(rows):
    """What the study says in words, on the paper protocol; of clouds on the synthetic ones where they stand in."""
    found = {
        (r["dataset"], r["category"], r["method"], r["metric"]): r
        for r in rows
        if r["protocol"] == "paper" and r["table"] in ("figures", "colour", "size")
    }
    schedules = {(r["dataset"], r["category"], r["method"]): r["schedule"].split("; ")[0] for r in rows}
    real = ("cloud", "cloud", "GANomaly", "image_auroc") in found
    clouds = ("cloud", "cloud") if real else (DATASET, "cloud")
    casting, what = ("casting", "casting"), "cloud" if real else "synthetic clouds"
    gray, rgb, small, large = (METHODS[f"ganomaly-{name}"].label for name in ("gray", "rgb", "64", "256"))

    def difference(category, first, second, text, holds, apart=True):
        pair = [found.get((*category, method, "image_auroc")) for method in (first, second)]
        if any(row is None or row["value"] is None for row in pair):
            return text, None, "not measured"
        shares = " and ".join(
            f"{100 * float(share):.3g} %" for share in (schedules[(*category, m)] for m in (first, second))
        )
        first, second = (f"{row['value']:.3f}{shown_interval(row)}" for row in pair)
        held = borne_out(pair, lambda one, other: holds(one - other), apart)
        return text, held, f"AUROC {first} against {second}, {shares} of the schedules"

    accuracy = found.get((*casting, "GANomaly", "image_accuracy_oracle"))
    least = {"value": 0.80, "low": 0.80, "high": 0.80}
    return [
        difference(casting, "GANomaly", "AnoGAN", "GANomaly is far above AnoGAN on casting", lambda d: d >= FAR),
        difference(clouds, "GANomaly", "AnoGAN", f"the two are about equal on {what}", lambda d: abs(d) <= SAME, False),
        (f"GANomaly is tighter on normal images of {what}", None, "not measured: the spread of scores is in no table"),
        difference(casting, gray, rgb, "GANomaly is better on grayscale than on RGB casting", lambda d: d > 0),
        difference(clouds, small, large, f"GANomaly is better at 64 than at 256 pixels on {what}", lambda d: d > 0),
        (
            "GANomaly's accuracy on casting is above 0.80",
            None if accuracy is None else borne_out([accuracy, least], lambda ours, other: ours > other),
            "not measured"
            if accuracy is None
            else f"{accuracy['value']:.3f}{shown_interval(accuracy)} at the best test threshold",
        ),
    ]


if __name__ == "__main__":
    from ganspect.reproduce.cli import main

    sys.exit(main(["reproduce", NAME, *sys.argv[1:]]))
