"""The command line: `ganspect reproduce | report | data | train | calibrate | evaluate | export | predict`.

TensorFlow is imported only when a command needs it.
"""

import argparse
import importlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

from ganspect.reproduce.arguments import add_precision, whole_number
from ganspect.reproduce.own_commands import add_own
from ganspect.reproduce.predict import add_predict
from ganspect.training.files import Damaged

PAPERS = {
    "cbigan": "ganspect.reproduce.cbigan",
    "fcbigan": "ganspect.reproduce.fcbigan",
    "grdnet": "ganspect.reproduce.grdnet",
    "anogan_ganomaly": "ganspect.reproduce.anogan_ganomaly",
}
PRELOAD = "ganspect.reproduce.preload"
DONE, UNUSABLE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 130
XLA_HELP = "compile training steps with XLA on TensorFlow too, for GPUs; JAX always does"


def main(arguments=None):
    """Runs one command; returns its exit code.

    0 done, 1 usage error or nothing can run, 2 some cells failed, 3 an anomaly found (`predict --fail-on-anomaly`),
    130 interrupted.
    """
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (OSError, Damaged) as error:  # a full disk, a folder that is a file or may not be written, a damaged file
        return _refuse(str(error))


def build_parser():
    """The argument parser; usage errors exit with 1."""
    parser = _Parser(prog="ganspect", description="Four studies of GAN-based visual anomaly detection, re-run.")
    parser.add_argument("--version", action="version", version=f"ganspect {version('ganspect')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    add_reproduce(commands)
    add_report(commands)
    add_data(commands)
    add_own(commands)
    add_predict(commands)
    return parser


def add_reproduce(commands):
    """`ganspect reproduce`."""
    command = commands.add_parser("reproduce", help="train, measure and tabulate a paper's cells")
    _common(command)
    command.add_argument("--profile", choices=("smoke", "quick", "paper"), help="default: quick; smoke without data")
    command.add_argument("--data-root", metavar="DIR", help="folder of data sets; default: the built-in synthetic set")
    for name in ("categories", "methods", "tables"):
        command.add_argument(f"--{name}", nargs="+", metavar="NAME", help=f"only these {name}")
    command.add_argument("--seeds", nargs="+", type=whole_number(0), metavar="N", help="random seeds")
    command.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change settings of the methods")
    command.add_argument("--force", action="store_true", help="train finished cells anew; the old runs are set aside")
    command.add_argument("--rescore", action="store_true", help="score finished cells again; trains nothing anew")
    command.add_argument("--no-export", action="store_true", help="leave no SavedModel in the run folders")
    command.add_argument("--only-failed", action="store_true", help="run only the cells that failed before")
    command.add_argument("--threads", type=whole_number(1), metavar="N", help="processor threads for one training")
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at once, the cores shared; default: 1")
    command.add_argument("--ray", metavar="ADDRESS", help="run the cells on a Ray cluster, or on this machine: local")
    command.add_argument("--gpus-per-cell", type=float, default=0, metavar="N", help="with --ray; default: 0")
    command.add_argument(
        "--devices", default="1", metavar="N|cpu:N", help="GPUs to divide each training's batches between"
    )
    add_precision(command)
    command.add_argument("--xla", action="store_true", help=XLA_HELP)
    command.add_argument(
        "--checkpoint-every", type=int, default=1, metavar="N", help="epochs from checkpoint to checkpoint; default: 1"
    )
    command.add_argument(
        "--curve",
        type=int,
        metavar="N",
        help="how many times the test set is scored while training, evenly spread; 0: never",
    )
    command.add_argument("--plan", action="store_true", help="print the cells, time, disk and memory, and stop")
    command.set_defaults(run=reproduce)


def add_report(commands):
    """`ganspect report`."""
    command = commands.add_parser("report", help="rebuild tables, figures and pages from stored runs; trains nothing")
    _common(command, least="*")
    command.add_argument(
        "--compare", nargs=2, metavar=("RUNS_A", "RUNS_B"), help="differences of two runs folders, cell by cell"
    )
    command.add_argument("--output", default=".", metavar="DIR", help="with --compare: where compare.csv is written")
    kept = "rows there of cells without a scored run here stay"
    command.add_argument(
        "--results", metavar="DIR", help=f"also copy there what may be committed: rows, tables, plots; {kept}"
    )
    command.set_defaults(run=report)


def add_data(commands):
    """`ganspect data list | check | make | pack | roi`."""
    command = commands.add_parser("data", help="known sets, checks, the synthetic set, packs, regions of interest")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_Parser)
    action = actions.add_parser("list", help="known data sets, where to get them, what is at hand")
    action.add_argument("root", nargs="?")
    action.set_defaults(run=data_list)
    action = actions.add_parser("check", help="decode every file of a folder and name every problem")
    action.add_argument("folder")
    action.set_defaults(run=data_check)
    action = actions.add_parser("make", help="write the synthetic set")
    action.add_argument("folder")
    action.add_argument("--size", type=int, default=128, help="pixels, default 128")
    action.add_argument("--seed", type=int, default=0)
    action.set_defaults(run=data_make)
    action = actions.add_parser("pack", help="write a category as one compressed file, for machines without TensorFlow")
    action.add_argument("folder", help="folder of one category")
    action.add_argument("output", help="a data root to write <data set>/<category>.npz into")
    action.add_argument("--size", type=int, help="resize to this many pixels; default: as they are")
    action.add_argument("--channels", type=int, choices=(1, 3), help="default: the files' own")
    action.set_defaults(run=data_pack)
    action = actions.add_parser("roi", help="write regions of interest, where the scanner looks for them")
    action.add_argument("folder", help="folder of one category")
    action.add_argument("output", nargs="?", help="folder for roi/ or roi.png; default: the category's own")
    kind = action.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--threshold",
        nargs="?",
        const="otsu",
        metavar="LEVEL",
        help="pixels above a gray level in 0..255, or above Otsu's level of each image (otsu, the default)",
    )
    kind.add_argument("--polygon", metavar="'X,Y X,Y X,Y ...'", help="corners, in fractions of width and height")
    kind.add_argument("--ring", metavar="X,Y,OUTER[,INNER]", help="centre likewise; radii in fractions of smaller side")
    action.add_argument("--dark", action="store_true", help="with --threshold: pixels at or below the level")
    action.add_argument(
        "--margin", type=int, default=0, metavar="N", help="with --threshold: grow by N pixels, or shrink"
    )
    action.add_argument("--single", action="store_true", help="one roi.png for all images: polygon or ring")
    action.set_defaults(run=data_roi)


def reproduce(options):
    """Plans, checks, trains, scores and reports."""
    from ganspect.training.devices import Devices
    from ganspect.training.grid import start_server

    console = _console()
    if problem := _number_problem(options) or _ray_problem(options):
        return _refuse(problem)
    try:
        options.devices = Devices.parse(options.devices)
    except ValueError as error:
        return _refuse(f"--devices: {error}")
    shared = options.jobs > 1 or options.ray  # Ray counts the processors of a cell, and hands out no others
    threads = options.threads or (max(1, len(os.sched_getaffinity(0)) // options.jobs) if shared else None)
    set_threads(threads)
    preload = [PRELOAD, *(PAPERS[name] for name in _names(options.papers))]
    if not (options.plan or options.ray or "keras" in sys.modules):
        start_server(preload)  # it imports the backend at the same time as this process
    quiet_backend()
    from ganspect.data.samples import DataError
    from ganspect.reproduce import plan

    papers = [importlib.import_module(PAPERS[name]) for name in _names(options.papers)]
    profile = options.profile or ("quick" if options.data_root else "smoke")
    try:
        found = plan.find_data(options.data_root, options.runs_dir)
        found = plan.add_stand_ins(papers, found, options.runs_dir, options.categories)
        chosen = plan.cells_of(papers, profile, found, options)
    except (DataError, ValueError) as error:
        hint = "; `ganspect data list` says where to get the known sets" if isinstance(error, DataError) else ""
        return _refuse(f"{error}{hint}")
    cells = [cell for some in chosen.values() for cell in some]
    if not cells:
        return _refuse(plan.nothing_to_run(papers, found, profile, options))
    if absent := plan.not_in_profile(papers, profile, options.methods or ()):
        print(plan.says(absent, profile), file=sys.stderr)
    console.print(plan.describe(chosen, profile, found, options.runs_dir, options.jobs))
    if options.plan:
        return DONE
    from ganspect.reproduce import report as pages
    from ganspect.reproduce import runner
    from ganspect.training.grid import Interrupted
    from ganspect.training.ray_grid import NoRay

    errors, remarks = runner.check_data(cells, found)
    if remarks:
        console.print(remarks, highlight=False, markup=False)
    for message in errors.values():
        print(message, file=sys.stderr)
    if all((cell.subject.dataset, cell.subject.category) in errors for cell in cells):
        return _refuse("no cell can run: nothing was trained")
    options.threads = threads
    try:
        outcomes = _run_grid(chosen, found, errors, options, console, preload)
    except Interrupted:
        without = [flag for flag in ("--force", "--only-failed") if getattr(options, flag[2:].replace("-", "_"))]
        left_out = f" without {' and '.join(without)}" if without else ""
        print(f"interrupted: the same command{left_out} continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    except NoRay as error:
        return _refuse(str(error))
    for paper in papers:
        pages.write(paper, plan.every_cell(paper, options.runs_dir), options.runs_dir, console)
    pages.write_index([importlib.import_module(name) for name in PAPERS.values()], options.runs_dir)
    return _conclude(outcomes, errors, console)


def _number_problem(options):
    """What is wrong with a number of the command line, or nothing."""
    for name in ("jobs", "checkpoint_every"):
        if getattr(options, name) < 1:
            return f"--{name.replace('_', '-')} takes 1 or more"
    if options.curve is not None and options.curve < 0:
        return "--curve takes 0 or more"
    return ""


def _run_grid(chosen, found, errors, options, console, preload):
    """Runs the cells, those whose data cannot be used first, which end at once; returns their outcomes."""
    from ganspect.reproduce import plan, work
    from ganspect.reproduce.display import ConsoleDisplay
    from ganspect.training.grid import Grid, Outcome
    from ganspect.training.ray_grid import RayGrid
    from ganspect.training.run import Run

    cells = [(paper, cell) for paper, some in chosen.items() for cell in some]
    if options.only_failed:
        states = {id(c): Run(c.folder(options.runs_dir)).status["state"] for _, c in cells}
        cells = [(p, c) for p, c in cells if states[id(c)] in ("failed", "diverged")]
        if not cells:
            console.print("no cell failed before")
    tasks, unusable = [], []
    for i, (paper, cell) in enumerate(cells, 1):
        place = (cell.subject.dataset, cell.subject.category)
        title = f"[{i}/{len(cells)}] {cell.name}"
        told = work.order(paper, cell, found[place], options.runs_dir, title, options)
        task = work.task(told, plan.minutes_left(paper, cell, options.runs_dir))
        if place in errors:
            work.unusable(told, errors[place])
            unusable.append(Outcome(task, "failed", errors[place]))
        else:
            tasks.append(task)
    display = ConsoleDisplay(console, len(cells))
    for outcome in unusable:
        display.ended(outcome)
    locks = Path(options.runs_dir) / work.LOCKS
    if options.ray:
        room = (options.ray, options.jobs, options.threads, options.gpus_per_cell)
        return unusable + RayGrid(tasks, work.work, locks, *room, display, work.crashed).run()
    return unusable + Grid(tasks, work.work, locks, options.jobs, display, preload, work.crashed).run()


def _ray_problem(options):
    """Why cells cannot be run on Ray as asked; None where they can, or are not to be."""
    from ganspect.training.ray_grid import NoRay, import_ray

    gpus = options.gpus_per_cell
    if gpus and not options.ray:
        return "--gpus-per-cell needs --ray"
    if gpus < 0 or (gpus > 1 and gpus % 1):
        return "--gpus-per-cell takes a share of one GPU, or a whole number of them"
    try:
        if options.ray:
            import_ray()
    except NoRay as error:
        return f"--ray: {error}"
    return None


def _conclude(outcomes, errors, console):
    """Prints what became of the cells; returns the exit code: none could run, some (or all) failed, or done.

    Args:
        outcomes: `training.grid.Outcome` of every cell.
        errors: `{(dataset, category): message}` of unusable data.
        console: `rich.console.Console`.
    """
    from ganspect.reproduce.display import first_line, summary

    bad = [outcome for outcome in outcomes if not outcome.good]
    console.print(summary(outcomes), markup=False, highlight=False)
    for outcome in bad:
        print(f"{outcome.state}: {outcome.task.name}: {first_line(outcome.message)}", file=sys.stderr)
    could_run = [o for o in outcomes if o.state != "refused" and o.message not in errors.values()]
    return SOME_FAILED if bad and could_run else UNUSABLE if bad else DONE


def report(options):
    """Rebuilds everything from stored runs."""
    quiet_backend()
    from ganspect.reproduce import plan
    from ganspect.reproduce import report as pages

    console = _console()
    for folder in options.compare or [options.runs_dir]:
        if not Path(folder).is_dir():
            return _refuse(f"no runs in {folder}")
    if options.compare:
        from ganspect.reproduce import compare

        papers = [importlib.import_module(PAPERS[name]) for name in _names(options.papers)]
        found = compare.write(papers, *options.compare, options.output, console)
        return DONE if found else _refuse("the two folders have no finished cell in common")
    for name in _names(options.papers):
        paper = importlib.import_module(PAPERS[name])
        cells = plan.every_cell(paper, options.runs_dir)
        pages.write(paper, cells, options.runs_dir, console)
        if options.results:
            pages.publish(paper, cells, options.runs_dir, options.results, console)
    pages.write_index([importlib.import_module(name) for name in PAPERS.values()], options.runs_dir)
    return DONE


def data_list(options):
    """Prints the known data sets."""
    from ganspect.data.commands import list_text

    print(list_text(options.root))
    return DONE


def data_check(options):
    """Prints what `check` finds."""
    from ganspect.data.commands import check_text

    text, code = check_text(options.folder)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def data_make(options):
    """Writes the synthetic set."""
    from ganspect.data.synthetic import make

    try:
        print(make(options.folder, size=options.size, seed=options.seed))
    except (OSError, ValueError) as error:
        return _refuse(str(error))
    return DONE


def data_pack(options):
    """Writes one pack."""
    from ganspect.data.commands import pack
    from ganspect.data.images import DataError

    try:
        print(pack(options.folder, options.output, options.size, options.channels))
    except (OSError, DataError, ValueError) as error:
        return _refuse(str(error))
    return DONE


def data_roi(options):
    """Writes the regions of interest of one category."""
    from ganspect.data.images import DataError
    from ganspect.data.regions import write_regions

    try:
        print(write_regions(options.folder, _recipe(options), options.output, options.single).text)
    except (OSError, DataError, ValueError) as error:
        return _refuse(str(error))
    return DONE


def _recipe(options):
    """The recipe that the options of `data roi` describe."""
    from ganspect.data.regions import RegionRecipe

    settings = {"bright": not options.dark, "margin": options.margin}
    if options.polygon is not None:
        return RegionRecipe(
            "polygon", points=tuple(_numbers(p, "--polygon", 2, 2) for p in options.polygon.split()), **settings
        )
    if options.ring is not None:
        x, y, outer, *inner = _numbers(options.ring, "--ring", 3, 4)
        return RegionRecipe("ring", centre=(x, y), outer=outer, inner=inner[0] if inner else 0.0, **settings)
    level = None if options.threshold == "otsu" else _numbers(options.threshold, "--threshold", 1, 1)[0]
    return RegionRecipe("threshold", level=level, **settings)


def _numbers(text, option, least, most):
    """The numbers of `1,2,3`.

    Raises:
        ValueError: not numbers, or not so many.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not least <= len(numbers) <= most:
        wanted = f"{least} number{'s' if least > 1 else ''}" if least == most else f"{least} to {most} numbers"
        raise ValueError(f"{option} takes {wanted} parted by commas, not {text!r}")
    return numbers


class _Parser(argparse.ArgumentParser):
    """Usage errors exit with 1: 2 means that some cells failed."""

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"{self.prog}: error: {message}\n")


def _common(command, least="+"):
    names = (*PAPERS, "all")
    text = ", ".join(names) + ("; default: all" if least == "*" else "")
    command.add_argument("papers", nargs=least, choices=names, default="all", metavar="PAPER", help=text)
    command.add_argument("--runs-dir", default="runs", metavar="DIR", help="where runs are stored; default: runs")


def _names(papers):
    return list(PAPERS) if "all" in papers else list(dict.fromkeys(papers))


def _console():
    """The terminal; 160 columns where the output is a file or a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def _refuse(message):
    print(f"ganspect: {message}", file=sys.stderr)
    return UNUSABLE


def set_threads(threads):
    """Sets the processor threads of a backend that is yet to be imported, here and in processes started from here."""
    if threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)


def quiet_backend():
    """Imports the backend."""
    from ganspect.training.quiet import import_backend

    import_backend()


if __name__ == "__main__":
    sys.exit(main())
