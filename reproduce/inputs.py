"""The image files behind a command's arguments: files, folders, patterns; each file once, each output name once.

Hidden files and folders are left out unless named. Links are followed; a folder that was visited is not visited again,
so that loops end. Names that are not valid UTF-8 are kept as Python keeps them (surrogateescape) and shown with `\\xff`
for each byte that cannot be decoded.
"""

import fnmatch
import glob
import itertools
import os
import re
import stat
from dataclasses import dataclass, field

from ganspect.data.images import EXTENSIONS
from ganspect.training.files import begins_with

OWN_FOLDERS, OWN_FILES = ("heatmaps", "overlays", "maps"), ("contact_sheet", "predictions.csv")
HEADER = b"path,score,calibrated_score,"  # of predictions.csv
SHEET = re.compile(r"contact_sheet(?:_(\d+))?\.png")
MAX_BYTES = 1 << 30  # a larger file is no image of a size that is decoded
_LONGEST = 200  # bytes of an output name's part; file systems take 255


@dataclass
class Item:
    """One file to score.

    Args:
        path: as found.
        output: name of its pictures and maps, without ending, with `/`; empty where it cannot be scored.
        error: why it cannot be scored; empty where that is not known yet.
    """

    path: str
    output: str = ""
    error: str = ""

    @property
    def shown(self):
        """The path as it is printed and written: always valid text."""
        return printable(self.path)


@dataclass
class Found:
    """What `find` found.

    Args:
        items: the files, and what could not be read.
        left_out: how many files of folders have no image's ending.
        own: what was passed over as it is the folder of results, results in it, or those of an earlier command.
        base: folder that is common to all arguments; empty where there is none.
    """

    items: list[Item] = field(default_factory=list)
    left_out: int = 0
    own: list[str] = field(default_factory=list)
    base: str = ""


def printable(path):
    """A path as text that can be encoded: bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find(paths, output):
    """Finds the images.

    Output names mirror the paths below the folder that is common to all `paths`; where two files would share one, the
    later keeps its ending in the name, or goes into a numbered folder. Names that differ in case alone count as one.

    Args:
        paths: files (of any ending), folders (searched below, for image endings) and patterns with `*`, `?`, `[...]`
            and `**`. What exists by that very name is no pattern.
        output: folder of results; it and what is in it are no input.

    Returns:
        `Found`, in the order of `paths`, sorted within a folder.
    """
    search = _Search(output)
    for path in paths:
        path = os.fspath(path)
        if os.path.lexists(path) or not glob.has_magic(path):
            search.add(path)
        elif matches := list(dict.fromkeys(expand(path))):
            for match in matches:
                search.add(match)
        else:
            search.found.items.append(Item(path, error="no file matches"))
    search.name()
    return search.found


def in_the_way(output, items, pictures=True, maps=False):
    """A file of the user's own that results would replace; None where there is none.

    Where predictions.csv is of an earlier command, so are the pictures beside it.

    Args:
        output: folder of results.
        items: what `find` found.
        pictures, maps: whether heat maps, overlays and contact sheets, and raw maps, will be written.

    Returns:
        Its path.
    """
    table = os.path.join(output, OWN_FILES[1])
    if begins_with(table, HEADER):
        return None
    if os.path.lexists(table):
        return table
    places = {"heatmaps": (pictures, "png"), "overlays": (pictures, "png"), "maps": (maps, "npy")}
    wanted = [(os.path.join(output, kind), ending) for kind, (asked, ending) in places.items() if asked]
    wanted = [(folder, ending) for folder, ending in wanted if os.path.isdir(folder)]
    names = (os.path.join(folder, f"{item.output}.{end}") for item in items if item.output for folder, end in wanted)
    sheets = glob.glob(os.path.join(glob.escape(output), "contact_sheet*.png")) if pictures else []
    sheets = [path for path in sheets if SHEET.fullmatch(os.path.basename(path))]
    return next(filter(os.path.lexists, itertools.chain(sorted(sheets), names)), None)


def expand(pattern):
    """Paths that match a pattern, sorted; unlike `glob.glob` it ends where links make a loop below `**`."""
    drive, rest = os.path.splitdrive(pattern)
    parts = [part for part in rest.split(os.sep) if part]
    if os.altsep:
        parts = [part for some in parts for part in some.split(os.altsep) if part]
    found = [drive + os.sep if rest.startswith(os.sep) else drive]
    for part in parts:
        if part == "**":
            found = [folder for start in found for folder in _folders(start)]
        elif glob.has_magic(part):
            found = [os.path.join(start, name) for start in found for name in _matching(start, part)]
        else:
            found = [path for start in found if os.path.lexists(path := os.path.join(start, part))]
    return found


def _matching(folder, pattern):
    try:
        names = sorted(os.listdir(folder or os.curdir))
    except OSError:
        return []
    return [n for n in fnmatch.filter(names, pattern) if not n.startswith(".") or pattern.startswith(".")]


def _folders(start):
    """A folder and all below it, each once, hidden ones left out."""
    seen, waiting = set(), [start]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder or os.curdir)
        if real in seen or not os.path.isdir(real):
            continue
        seen.add(real)
        yield folder
        below = [os.path.join(folder, name) for name in _matching(folder, "*")]
        waiting += reversed([path for path in below if os.path.isdir(path)])


class _Search:
    """Collects the files of one call of `find`."""

    def __init__(self, output):
        self.found, self.output = Found(), os.path.realpath(output)
        self.folders, self.files = set(), set()  # real paths that were visited
        self.roots = []

    def add(self, path):
        """One argument, or one match of a pattern."""
        real = os.path.realpath(path)
        inside = os.path.relpath(real, self.output) if self._in_output(real) else ""
        first = inside.split(os.sep)[0]
        if inside and (first in (os.curdir, *OWN_FOLDERS) or (first == inside and first.startswith(OWN_FILES))):
            self.found.own.append(printable(path))
        elif os.path.isdir(path):
            self.roots.append(os.path.abspath(path))
            self._walk(path)
        else:
            self.roots.append(os.path.dirname(os.path.abspath(path)))
            self._file(path, real)

    def _in_output(self, real):
        return real == self.output or real.startswith(self.output.rstrip(os.sep) + os.sep)

    def _walk(self, root):
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
            if real == self.output or real in self.folders:
                continue
            self.folders.add(real)
            try:
                with os.scandir(folder) as entries:
                    entries = sorted(entries, key=lambda e: (e.is_symlink(), e.name))  # own names before links to them
            except OSError as error:
                self.found.items.append(Item(folder, error=f"folder cannot be read ({error.strerror})"))
                continue
            below, results = [], _holds_results(folder, entries)
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if results and (entry.name in OWN_FOLDERS or entry.name.startswith(OWN_FILES)):
                    self.found.own.append(printable(entry.path))
                    continue
                if _is_folder(entry):
                    below.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
                    self.found.left_out += 1
                else:
                    there = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
                    if not (entry.is_symlink() and self._in_output(there)):
                        self._file(entry.path, there)
            waiting += reversed(below)

    def _file(self, path, real):
        if real not in self.files:
            self.files.add(real)
            self.found.items.append(Item(path, error=problem_of(path)))

    def name(self):
        """Gives every file its output name."""
        try:
            base = self.found.base = os.path.commonpath(self.roots) if self.roots else ""
        except ValueError:  # several drives
            base = ""
        names = _Names()
        for item in self.found.items:
            if not item.error:
                relative = os.path.relpath(os.path.abspath(item.path), base) if base else os.path.basename(item.path)
                item.output = names.claim(relative)


def _holds_results(folder, entries):
    """Whether a folder holds what `ganspect predict` left there before."""
    if all(entry.name != OWN_FILES[1] for entry in entries):
        return False
    return begins_with(os.path.join(folder, OWN_FILES[1]), HEADER)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def problem_of(path):
    """Why a file is not even opened: missing, not a regular file (a pipe would never end), huge; else empty."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "no such file (a link that leads nowhere)" if os.path.islink(path) else "no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return f"too large: {status.st_size:,} bytes, the limit is {MAX_BYTES:,}" if status.st_size > MAX_BYTES else ""


class _Names:
    """Output names that are given once, as files or as folders."""

    def __init__(self):
        self.files, self.folders = set(), set()

    def claim(self, relative):
        parts = [printable(part) for part in relative.split(os.sep) if part not in ("", os.curdir, os.pardir)]
        stem = os.path.splitext(parts[-1])[0] or parts[-1]
        for number in itertools.count(1):
            above = ([str(number)] if number > 1 else []) + parts[:-1]
            for last in (stem, parts[-1]):
                name = "/".join(_shortened(part) for part in (*above, last))
                if self._free(name.casefold()):
                    return name

    def _free(self, name):
        """Takes a name, unless a file or a folder has it."""
        parts = name.split("/")
        above = {"/".join(parts[:i]) for i in range(1, len(parts))}
        files = {f"{name}.png", f"{name}.npy"}
        if any(file in self.files or file in self.folders for file in files) or above & self.files:
            return False
        self.files |= files
        self.folders |= above
        return True


def _shortened(part):
    return part if len(part.encode()) <= _LONGEST else part.encode()[:_LONGEST].decode("utf-8", "ignore")
