"""What is known of the public data sets: official counts, where to get them, under which licence.

Nothing here is ever downloaded: `list_text` in `commands.py` prints the pages.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a data set comes from."""

    title: str
    page: str
    licence: str
    place: str  # where it belongs
    used_by: str


# (data set, category): training images, normal test images, defective test images
OFFICIAL_COUNTS: dict[tuple[str, str], tuple[int, int, int]] = {
    ("mvtec_ad", "carpet"): (280, 28, 89),
    ("mvtec_ad", "grid"): (264, 21, 57),
    ("mvtec_ad", "leather"): (245, 32, 92),
    ("mvtec_ad", "tile"): (230, 33, 84),
    ("mvtec_ad", "wood"): (247, 19, 60),
    ("mvtec_ad", "bottle"): (209, 20, 63),
    ("mvtec_ad", "cable"): (224, 58, 92),
    ("mvtec_ad", "capsule"): (219, 23, 109),
    ("mvtec_ad", "hazelnut"): (391, 40, 70),
    ("mvtec_ad", "metal_nut"): (220, 22, 93),
    ("mvtec_ad", "pill"): (267, 26, 141),
    ("mvtec_ad", "screw"): (320, 41, 119),
    ("mvtec_ad", "toothbrush"): (60, 12, 30),
    ("mvtec_ad", "transistor"): (213, 60, 40),
    ("mvtec_ad", "zipper"): (240, 32, 119),
    ("nanotwice", "nanofibres"): (5, 0, 40),
    ("casting", "casting"): (2875, 262, 453),
    ("cloud", "cloud"): (1400, 100, 100),  # the study's; the archive has 1500 without and 100 with clouds, not split
}

MVTEC_CATEGORIES = tuple(name for dataset, name in OFFICIAL_COUNTS if dataset == "mvtec_ad")

# Published copies that repeat training images in their test set: a warning there, an error anywhere else.
KNOWN_TO_REPEAT = frozenset({"casting"})

# NanoTWICE's normal images have 700 rows; the last four lie below the useful area that the test images show.
CROP_ROWS = {"nanotwice": 696}

SOURCES: dict[str, Source] = {
    "mvtec_ad": Source(
        "MVTec AD (Bergmann et al., CVPR 2019)",
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        "CC BY-NC-SA 4.0 (no commercial use)",
        "<data root>/mvtec_ad/<category>/train, test, ground_truth",
        "CBiGAN (all 15 categories), FCBiGAN (five textures), GRD-Net (hazelnut, metal_nut, pill, cable, zipper)",
    ),
    "nanotwice": Source(
        "NanoTWICE, SEM images of nanofibres (Carrera et al., IEEE TII 2017)",
        "http://web.mi.imati.cnr.it/ettore/NanoTWICE",
        "none stated",
        "<data root>/nanotwice/Normal, nanotwice/Anomalous/images, nanotwice/Anomalous/gt",
        "FCBiGAN",
    ),
    "casting": Source(
        "Casting products, 300x300 (ravirajsinh45)",
        "https://www.kaggle.com/datasets/ravirajsinh45/real-life-industrial-dataset-of-casting-product",
        "see the page (CC BY-NC-ND at the time of writing)",
        "<data root>/casting/casting_data/train/ok_front, casting/casting_data/test/ok_front, .../test/def_front",
        "AnoGAN and GANomaly",
    ),
    "cloud": Source(
        "Cloud and non-cloud images (ashoksrinivas)",
        "https://www.kaggle.com/datasets/ashoksrinivas/cloud-anomaly-detection-images",
        "see the page",
        "<data root>/cloud/noncloud, cloud/cloud (or noncloud_train, noncloud_test, cloud, to choose the test images)",
        "AnoGAN and GANomaly",
    ),
}

# The papers that introduced the sets; casting and cloud have none.
CITATIONS: dict[str, str] = {
    "mvtec_ad": """@inproceedings{bergmann2019mvtec,
  title={{MVTec AD} -- A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection},
  author={Bergmann, Paul and Fauser, Michael and Sattlegger, David and Steger, Carsten},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages={9592--9600},
  year={2019}
}""",
    "nanotwice": """@article{carrera2017defect,
  title={Defect Detection in {SEM} Images of Nanofibrous Materials},
  author={Carrera, Diego and Manganini, Fabio and Boracchi, Giacomo and Lanzarone, Ettore},
  journal={IEEE Transactions on Industrial Informatics},
  volume={13},
  number={2},
  pages={551--561},
  year={2017}
}""",
}
