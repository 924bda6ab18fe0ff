"""README.md beside an exported model: what it is, how it was made, how to call it."""

from importlib.resources import files

CARDS = {"alpha": "cbigan", "bigan": "cbigan", "autoencoder": "cbigan", "residual": "grdnet", "vanilla": "grdnet"}
SAMPLE = """\
import numpy as np
import tensorflow as tf
from PIL import Image

model = tf.saved_model.load("1")  # keep this variable for as long as the model is used
image = np.asarray(Image.open("part.png").convert("{mode}")){axis}
answer = model.signatures["serving_default"](images=tf.constant(image[None]))
print(float(answer["score"][0]), "anomalous" if int(answer["label"][0]) else "normal")
heat = answer["anomaly_map"][0].numpy()  # [H, W], higher = more anomalous
"""


def card_of(method):
    """The name of a method's card: its variants share one."""
    first = method.replace("f-anogan", "fanogan").split("-")[0]
    return CARDS.get(first, first)


def citation(name):
    """Authors, title, place and year of a method's paper, as its card begins; empty where there is no such card."""
    source = files("ganspect.cards") / f"{name}.md"
    if not source.is_file():
        return ""
    paragraph = source.read_text(encoding="utf-8").split("\n\n")[1]
    return " ".join(paragraph.split()).partition(" Code:")[0]


def card(metadata):
    """The text.

    Args:
        metadata: what metadata.json holds.
    """
    m = metadata
    size = f"{m['image_size'][0]}x{m['image_size'][1]} pixels inside (resized)" if m["image_size"] else "their own size"
    bound = m["rate_bound"]
    found = m.get("evaluation") or {}
    lines = [
        f"# {m['label']}, {m['channels']} channel{'s' if m['channels'] > 1 else ''}",
        "",
        f"A detector of anomalies by {m['label']}, trained on {m['trained_on']} normal images (seed {m['seed']}). It",
        f"sees images at {size}; the least size is {m['smallest'][0]}x{m['smallest'][1]} pixels.",
        "",
        f"**Score:** `{m['score']}`. **Threshold:** {m['threshold']:.6g}, by {m['chosen_by']}.",
        f"False alarms to expect: {100 * m['expected_rate']:.3g} % of images like the {m['held_out']} held-out ones"
        + (f", at most {100 * bound:.3g} % with 95 % confidence." if bound else ".")
        if m["expected_rate"] is not None
        else "How many false alarms to expect is not known: no image was held out.",
        "",
    ]
    lines += _origin(m)
    if "trained_for" in m:
        lines += [f"Trained for {m['trained_for']} by `{m['command']}`, commit {m['commit']}.", ""]
    if found:
        lines += [
            f"**Measured** on {found['normal']} normal and {found['anomalous']} anomalous images: "
            f"false alarms: {found['false_alarms']}, anomalous images caught: {found['caught']}."
            + (f" {found['chose_threshold']} of them chose the threshold." if found.get("chose_threshold") else ""),
            "",
            *(f"- {line}" for line in [*measured(found), *_not_defined(found)]),
            "",
        ]
    else:
        lines += ["**Not measured** on anomalous images (`ganspect evaluate`).", ""]
    if m["regions"]:
        lines += ["Trained and calibrated inside regions of interest: give them to `serve_roi` (`predict --roi`).", ""]
    lines += [
        "It knows normal images alone: images from another camera, light or part are anomalous to it, and a defect",
        "that looks normal at its resolution is not seen.",
        "",
        "## Endpoints",
        f"{', '.join(f'`{name}`' for name in m['endpoints'])}; each answers with `score`, `calibrated_score` (0: the",
        "median normal image, 1: the threshold), `label`, `threshold`, `anomaly_map`"
        + (", `reconstruction`." if m["reconstruction"] else "."),
        "`serving_default` takes `images`, uint8 `[N, H, W, C]`; `serve_float` the same in [0, 1]; `serve_bytes` takes",
        "`encoded`, PNG or JPEG files of one size (not turned by EXIF, without transparency, no CMYK: send pixels of",
        "such files); `score` answers with the score alone. A score that is no number has label 1."
        + (" `serve_roi` also takes `regions`, uint8 `[N, H, W]`." if m["roi"] else ""),
        "",
        "## Use",
        "    ganspect predict . IMAGES --output predictions",
        "",
        "or without ganspect:",
        "",
        "```python",
        SAMPLE.format(
            mode="L" if m["channels"] == 1 else "RGB", axis="[..., None]" if m["channels"] == 1 else ""
        ).rstrip(),
        "```",
        "",
        "`1/` is the layout of TensorFlow Serving: `--model_base_path` is the folder of this file.",
    ]
    return "\n".join(lines) + "\n"


def _origin(m):
    """The method's paper, its card in the project and what the settings depart in."""
    name = card_of(m["method"])
    if not (paper := citation(name)):
        return []
    lines = [
        f"**Method:** {paper}",
        f"Where it departs, and results beside the printed ones: `docs/methods/{name}.md` of ganspect.",
    ]
    if "departures" in m:
        changes = "; ".join(m["departures"])
        lines += [f"**Settings** other than the paper's: {changes}." if changes else "**Settings** are the paper's."]
    return [*lines, ""]


def measured(found):
    """What was measured, in lines: images, thresholds, pixels, each where it is defined.

    Args:
        found: `{metric: value}`, None where it is not defined.
    """

    def of(text, name):
        return [f"{text} {found[name]:.3f}"] if found.get(name) is not None else []

    images = of("image AUROC", "image_auroc")
    if images and found.get("image_auroc_low") is not None:
        images[0] += f" (95 % interval {found['image_auroc_low']:.3f} to {found['image_auroc_high']:.3f})"
    best = of("balanced accuracy", "image_balanced_accuracy_oracle") + of("accuracy", "image_accuracy_oracle")
    best = ", ".join(best + of("F1", "image_f1_max"))
    given = of("balanced accuracy at the threshold", "image_balanced_accuracy")
    pixels = of("pixel AUROC", "pixel_auroc") + of("pixel AUPR", "pixel_aupr")
    pixels += of("AUPRO up to a false positive rate of 0.30", "pixel_aupro_0.30")
    pixels += of("F1 at the best threshold on these images", "pixel_f1_max")
    lines = [", ".join(images + of("average precision", "image_ap"))]
    lines += ["; ".join(given + ([f"best threshold on these images: {best}"] if best else [])), ", ".join(pixels)]
    return [line for line in lines if line]


def _not_defined(found):
    """`not defined (reason): metrics`, a line a reason."""
    by_reason = {}
    for name, reason in found.get("undefined", {}).items():
        by_reason.setdefault(reason, []).append(name)
    return [f"not defined ({reason}): {', '.join(names)}" for reason, names in by_reason.items()]
