"""The commands `ganspect train`, `calibrate`, `evaluate`, `export`; what they do is in `own` and `own_detector`."""

import shlex
import sys

from ganspect.reproduce.arguments import add_precision, whole_number
from ganspect.training.files import Damaged

DONE, UNUSABLE, INTERRUPTED = 0, 1, 130
METHODS = ("fcbigan", "grdnet", "draem", "cbigan", "ganomaly", "f-anogan", "anogan")
FORMATS = ("onnx", "litert", "openvino")
CHOICES = ("f1", "youden")


def add_own(commands):
    """Adds the four commands to the parser's."""
    command = commands.add_parser("train", help="train a detector on a folder of your own normal images")
    command.add_argument("--method", choices=METHODS, default="fcbigan", help="default: fcbigan")
    command.add_argument("--data", required=True, metavar="FOLDER", help="normal images, or a category as in MVTec AD")
    command.add_argument("--output", default="detector", metavar="DIR", help="the detector's folder; default: detector")
    command.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change settings of the method")
    command.add_argument(
        "--epochs", type=whole_number(1), metavar="N", help="epochs (f-anogan: --set gan_epochs=N encoder_epochs=M)"
    )
    command.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="images for the threshold; default: 10 %%, at least 20 or a third",
    )
    command.add_argument("--seed", type=whole_number(0), default=0, metavar="N")
    command.add_argument("--devices", default="1", metavar="N|cpu:N", help="GPUs to divide a batch between")
    add_precision(command)
    command.add_argument("--force", action="store_true", help="train anew; the old detector is set aside")
    command.add_argument(
        "--plan",
        action="store_true",
        help="say what would be trained, how it departs from the paper, what it takes, and stop",
    )
    _threads(command).set_defaults(run=train)
    command = commands.add_parser("calibrate", help="find a detector's threshold from held-out normal images")
    command.add_argument("detector", metavar="DETECTOR", help="a folder that train has left")
    command.add_argument("--rate", type=float, default=0.05, metavar="R", help="rate of false alarms; default: 0.05")
    command.add_argument("--normals", metavar="FOLDER", help="other normal images than those held out in training")
    command.add_argument("--labelled", metavar="FOLDER", help="take the best threshold on these labelled images")
    command.add_argument("--choose", choices=CHOICES, default="f1", help="with --labelled; default: f1")
    _threads(command).set_defaults(run=calibrate)
    command = commands.add_parser("evaluate", help="measure a calibrated detector on labelled images")
    command.add_argument("detector", metavar="DETECTOR")
    command.add_argument("--data", required=True, metavar="FOLDER", help="test images: test/<kind>/ or <kind>/")
    _threads(command).set_defaults(run=evaluate)
    command = commands.add_parser("export", help="write a calibrated detector as a SavedModel")
    command.add_argument("detector", metavar="DETECTOR")
    command.add_argument("--output", metavar="DIR", help="the model's folder; default: DETECTOR/export")
    command.add_argument(
        "--to", nargs="+", choices=FORMATS, default=[], help="also convert (packages: pip install '.[export]')"
    )
    _threads(command).set_defaults(run=export)


def _threads(command):
    command.add_argument("--threads", type=whole_number(1), metavar="N", help="processor threads")
    return command


def _guarded(threads, work, stopped="interrupted: give the same command again"):
    """Runs a command; what the user can mend, and that a signal came, is one line on standard error."""
    from ganspect.reproduce.cli import quiet_backend, set_threads

    set_threads(threads)
    quiet_backend()
    from ganspect.data.images import DataError
    from ganspect.reproduce.own import OwnError
    from ganspect.training.callbacks import Diverged
    from ganspect.training.checkpoint import CheckpointError
    from ganspect.training.devices import NoDevices
    from ganspect.training.grid import stoppable
    from ganspect.training.run import ConfigMismatch

    known = (DataError, OwnError, ConfigMismatch, Diverged, NoDevices, CheckpointError, Damaged, OSError)
    try:
        with stoppable():
            return work()
    except known as error:
        print(f"ganspect: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED


def _next(*words):
    """The next command, as it can be pasted."""
    print("next: " + " ".join(word if word.isupper() else shlex.quote(word) for word in ("ganspect", *words)))


def _say(text):
    print(text, flush=True)


def _remark(found):
    """Prints what was left out or passed over."""
    for text in found["remarks"]:
        print(f"note: {text}")


def train(options):
    """`ganspect train`."""
    from ganspect.training.devices import Devices

    try:
        options.devices = Devices.parse(options.devices)
    except ValueError as error:
        print(f"ganspect: --devices: {error}", file=sys.stderr)
        return UNUSABLE
    from rich.console import Console

    from ganspect.reproduce.own_display import TrainingDisplay

    def work():
        from ganspect.reproduce import own

        options.devices.scope()  # virtual ones have to be made before a plan's textures start TensorFlow
        settings = [*options.set, *([f"epochs={options.epochs}"] if options.epochs is not None else [])]
        chosen = own.plan(options.method, options.data, settings, options.seed, options.held_out)
        print(chosen.text(options.output), flush=True)
        if options.plan:
            return DONE
        with TrainingDisplay(Console()) as channel:
            own.train(chosen, options.output, options, channel)
        print(f"trained: {options.output}")
        _next("calibrate", options.output)
        return DONE

    return _guarded(options.threads, work, "interrupted: the same command continues where it stopped")


def calibrate(options):
    """`ganspect calibrate`."""
    if not 0 < options.rate < 1:
        print(f"ganspect: --rate must lie in (0, 1), not {options.rate:g}", file=sys.stderr)
        return UNUSABLE

    def work():
        from ganspect.reproduce import own_detector

        chosen = (options.rate, options.normals, options.labelled, options.choose)
        found = own_detector.calibrate(options.detector, *chosen, say=_say)
        _remark(found)
        print(f"threshold {found['threshold']:.6g}: {found['note']}")
        _next("evaluate", options.detector, "--data", "LABELLED_FOLDER")
        _next("export", options.detector)
        return DONE

    return _guarded(options.threads, work)


def evaluate(options):
    """`ganspect evaluate`."""

    def work():
        from ganspect.reproduce import own_detector
        from ganspect.reproduce.model_card import measured

        found = own_detector.evaluate(options.detector, options.data, _say)
        _remark(found)
        print(f"{found['normal']} normal images, {found['false_alarms']} called anomalous")
        print(f"{found['anomalous']} anomalous images, {found['caught']} called anomalous")
        for defect, text in found["caught_by_defect"].items():
            print(f"  {defect}: {text}")
        for line in measured(found):
            print(line)
        if "inside" in found:
            _inside(found["inside"])
        print(f"scores, metrics, histogram: {options.detector}/evaluation")
        _next("export", options.detector)
        return DONE

    return _guarded(options.threads, work)


def _inside(found):
    """Prints what was measured inside regions of interest, where what lies outside does not count."""
    outside, empty = found["images_outside"], found["images_empty"]
    print(f"inside the regions of interest: {found['images_inside']} images", end="")
    print(f" (left out: {outside} with defects wholly outside, {empty} with empty regions)")
    names = {"image_auroc_roi": "image AUROC", "image_ap_roi": "average precision"}
    names |= {"image_balanced_accuracy_roi": "balanced accuracy", "pixel_auroc_roi": "pixel AUROC"}
    shown = [f"{text} {found[name]:.3f}" for name, text in names.items() if found.get(name) is not None]
    print("  " + (", ".join(shown) or "undefined: one class only"))


def export(options):
    """`ganspect export`."""

    def work():
        from ganspect.reproduce import own_detector

        place, metadata = own_detector.export(options.detector, options.output, _say)
        print(f"model: {place} ({', '.join(metadata['endpoints'])})")
        if not metadata["evaluation"] and own_detector.was_evaluated(options.detector):
            print("the stored evaluation is of another threshold and not in the model: evaluate again, then export")
        code = _convert(place, options.to) if options.to else DONE
        _next("predict", str(place), "IMAGES", "--output", "predictions")
        return code

    return _guarded(options.threads, work)


def _convert(place, formats):
    """Converts the model; says how far each copy is from it, or why there is none."""
    from ganspect.models.convert import ConversionError, convert

    code = DONE
    for name in formats:
        try:
            found = convert(place, [name])[name]
        except ConversionError as error:
            print(f"ganspect: {error}", file=sys.stderr)
            code = 2
            continue
        free = f"any {', '.join(found.dynamic)}" if found.dynamic else "sizes as exported"
        print(f"{name}: {found.path}, within {found.error:.1g} of the SavedModel; {free}")
    return code
