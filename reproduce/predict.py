"""`ganspect predict`: scores images with an exported model; NumPy and TensorFlow are imported when it runs."""

import math
import os
import sys
import time
import warnings
from pathlib import Path

DONE, UNUSABLE, SOME_FAILED, ANOMALY, INTERRUPTED = 0, 1, 2, 3, 130
_NAMED = 20  # files that failed and are listed


def add_predict(commands):
    """`ganspect predict`."""
    command = commands.add_parser(
        "predict",
        help="score images with an exported model",
        description="Score images with an exported model, from its folder alone. Writes predictions.csv, heat maps, "
        "overlays and contact sheets, in place of those of an earlier predict; changes nothing else.",
        epilog="Exit codes: 0 everything was scored; 1 wrong usage, no model, or nothing could be scored; 2 some files "
        "failed (they are in predictions.csv and listed); 3 an image is anomalous, with --fail-on-anomaly; 130 "
        "interrupted (what was scored so far is in predictions.csv).",
    )
    command.add_argument("model", metavar="MODEL", help="folder of `ganspect export`, or the folder 1 in it")
    command.add_argument("paths", nargs="+", metavar="PATH", help="images, folders (searched below), patterns (*, **)")
    command.add_argument("--output", default="predictions", metavar="DIR", help="for results; default: predictions")
    command.add_argument("--threshold", type=float, metavar="SCORE", help="for labels; default: the model's own")
    command.add_argument("--roi", metavar="PATH", help="region of interest: one image, or a folder with the same names")
    command.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="score images larger than N pixels a side tile by tile. The result is that of the whole image for "
        "f-AnoGAN and close to it for FCBiGAN; a method that resizes its input sees each tile at its own scale, "
        "so that scores change and the model's threshold may not fit",
    )
    command.add_argument(
        "--overlap", type=int, metavar="M", help="of tiles, pixels; default: the least that is exact, else N / 4"
    )
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="images of one size at once; default: 1 to 16, by their pixels"
    )
    command.add_argument("--save-maps", action="store_true", help="write the raw anomaly maps too, maps/*.npy, float32")
    command.add_argument("--no-images", action="store_true", help="no heat maps, overlays and contact sheets")
    command.add_argument("--fail-on-anomaly", action="store_true", help="exit with 3 when an image is anomalous")
    command.set_defaults(run=predict)


def predict(options):
    """Scores what the options name.

    Returns:
        0 all scored, 1 wrong usage, no model or nothing scored, 2 some files failed, 3 `--fail-on-anomaly` and an
        image is anomalous (also where others failed), 130 SIGINT or SIGTERM came: predictions.csv has what was scored.
    """
    if problem := _problem(options):
        return _refuse(problem)
    from ganspect.training.grid import stoppable

    with stoppable():
        return _predict(options)


def _predict(options):
    """`predict`, with options that are sound alone."""
    from ganspect.reproduce.inputs import find, in_the_way
    from ganspect.reproduce.served import ModelError, Served

    try:
        model = Served(options.model)
        tiling = model.plan_tiles(options.tile, options.overlap) if options.tile else None
        regions = _regions(options, model)
        if regions is None and model.metadata.get("regions"):
            text = "the threshold is of scores inside regions of interest; without --roi it does not fit"
            print(f"ganspect: {text}", file=sys.stderr)
        found = find(options.paths, options.output)
        for name in found.own:
            print(f"ganspect: {name}: passed over, it is the folder of results or in it", file=sys.stderr)
        if not found.items:
            left = f": {found.left_out} other files there" if found.left_out else ""
            return _refuse(f"nothing to score{left}")
        if mine := in_the_way(options.output, found.items, not options.no_images, options.save_maps):
            return _refuse(f"{mine} is no result of predict, nothing was scored: move it, or give another --output")
        if any(not item.error for item in found.items):
            Path(options.output).mkdir(parents=True, exist_ok=True)
            model.load()
    except (ModelError, ValueError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"--output: {error}")
    return _run(options, model, tiling, regions, found)


def _problem(options):
    """What is wrong with the options alone; None where nothing is."""
    if not options.output:
        return "--output takes a folder"
    if options.threshold is not None and not math.isfinite(options.threshold):
        return "--threshold takes a number"
    if options.tile is not None and options.tile < 1:
        return "--tile takes 1 or more"
    if options.overlap is not None and options.tile is None:
        return "--overlap needs --tile"
    if options.overlap is not None and options.overlap < 0:
        return "--overlap takes 0 or more"
    if options.batch_size is not None and options.batch_size < 1:
        return "--batch-size takes 1 or more"
    return None


def _regions(options, model):
    """`Regions` of `--roi`, or None.

    Raises:
        ValueError: the model takes none, or they cannot be used.
    """
    if not options.roi:
        return None
    from ganspect.reproduce.score_files import Regions

    if not model.takes_regions:
        raise ValueError(f"--roi: the score of {model.name} is not the maximum of a map, it takes no region")
    return Regions(options.roi)


def _run(options, model, tiling, regions, found):
    """Scores the files that were found, writes everything; returns the exit code."""
    from ganspect.reproduce.inputs import printable
    from ganspect.reproduce.score_files import FileScorer, write_rows

    output = Path(options.output)
    scorer = FileScorer(
        model, output, regions, found.base, options.threshold, tiling, options.batch_size,
        images=not options.no_images, maps=options.save_maps,
    )  # fmt: skip
    table, start = output / "predictions.csv", time.perf_counter()
    try:
        if not table.exists():
            write_rows(table, [])  # after a kill the pictures are known as ours by it
        with warnings.catch_warnings(), _bar(len(found.items)) as done:
            warnings.simplefilter("ignore")  # Pillow's remarks on damaged files, from several threads
            try:
                scorer.run(found.items, done)
            finally:
                seconds = time.perf_counter() - start
                write_rows(table, scorer.rows)
            sheets = scorer.sheets.write(output) if not options.no_images else 0
    except OSError as error:
        return _refuse(f"results cannot be written: {error}")
    except KeyboardInterrupt:
        scored = sum(row.score is not None for row in scorer.rows)
        print(f"interrupted: {scored} images scored so far, {printable(os.fspath(table))}", file=sys.stderr)
        return INTERRUPTED
    return _conclude(options, model, tiling, found, scorer, sheets, seconds)


def _bar(total):
    """A context that gives a function to call after each file; a progress bar where standard error is a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)

    @contextmanager
    def shown():
        columns = ("scoring", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)

    return shown()


def _older_pictures(output, images):
    """How many pictures of single images a folder holds beyond those of so many images that were scored now."""
    kinds = ("heatmaps", "overlays")
    return sum(max(0, sum(1 for _ in (output / kind).rglob("*.png")) - images) for kind in kinds)


def _conclude(options, model, tiling, found, scorer, sheets, seconds):
    """Prints what became of the files; returns the exit code."""
    from ganspect.reproduce.inputs import printable

    scored = [row for row in scorer.rows if row.score is not None]
    failed = [row for row in scorer.rows if row.error]
    anomalous = sum(row.label == "anomalous" for row in scored)
    for row in failed[:_NAMED]:
        print(f"failed: {row.path}: {row.error}", file=sys.stderr)
    if len(failed) > _NAMED:
        print(f"and {len(failed) - _NAMED} more, all in predictions.csv", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(scorer.rows)} files failed", file=sys.stderr)
    for text in dict.fromkeys(text for text, _ in scorer.warned):
        paths = [path for other, path in scorer.warned if other == text]
        print(f"warning: {text}: {len(paths)} files, the first {printable(os.fspath(min(paths)))}", file=sys.stderr)
    if tiling and model.tiling and not model.tiling.get("exact", True):
        print(f"tiles: maps of {model.name} in tiles are close to those of whole images, not equal")
    if found.left_out:
        print(f"{found.left_out} files in the folders are not images by their ending and were left out")
    if sheets and scorer.sheets.count > scorer.sheets.room:
        print(f"the contact sheets show the {scorer.sheets.room} most anomalous images")
    if not options.no_images and (old := _older_pictures(Path(options.output), len(scored))):
        print(f"{old} heat maps and overlays of images scored before are still there")
    rate = f"{len(scored) / max(seconds, 1e-9):.1f} images/s"
    print(
        f"{len(scored)} images scored, {anomalous} anomalous, {len(failed)} failed, {rate}; results in "
        f"{printable(os.fspath(options.output))}"
    )
    if not scored:
        return UNUSABLE
    if options.fail_on_anomaly and anomalous:
        return ANOMALY
    return SOME_FAILED if failed else DONE


def _refuse(message):
    from ganspect.reproduce.inputs import printable

    print(f"ganspect: {printable(message)}", file=sys.stderr)
    return UNUSABLE
