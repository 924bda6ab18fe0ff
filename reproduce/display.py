"""What a grid shows: lines that stay, and in a terminal bars for the grid and for each cell in training."""

import time

from rich.progress import BarColumn, Progress, TextColumn

from ganspect.training.grid import Display

QUIET = 60.0  # seconds between two lines of progress where there is no terminal


class ConsoleDisplay(Display):
    """Shows a grid on a rich console.

    Args:
        console: `rich.console.Console`.
        count: cells.
    """

    def __init__(self, console, count):
        self.console, self.count, self.over, self.bad = console, count, 0, 0
        self.bars, self.rows, self.shown = None, {}, time.monotonic()

    def start(self, tasks):
        if self.console.is_terminal and self.count:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[text]}")
            self.bars = Progress(*columns, console=self.console, refresh_per_second=2)
            self.all = self.bars.add_task("grid", total=self.count, text=f"0 of {self.count} cells")
            self.bars.start()

    def say(self, text):
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begun(self, task, again):
        if self.bars and task not in self.rows:
            self.rows[task] = self.bars.add_task(task.name, total=1.0, text="starts")

    def progress(self, task, done, text, left):
        if self.bars:
            self.bars.update(self.rows[task], completed=done or 0.0, text=text)
            self.bars.update(self.all, text=f"{self.cells()}, about {clock(left)} left")
        elif time.monotonic() - self.shown > QUIET:
            self.shown = time.monotonic()
            share = f" {100 * done:.0f} %" if done is not None else ""
            self.say(f"{self.cells()}, about {clock(left)} left; {task.name}:{share} {text}")

    def ended(self, outcome):
        self.over += 1
        self.bad += not outcome.good
        if self.bars:
            row = self.rows.pop(outcome.task, None)
            if row is not None:
                self.bars.remove_task(row)
            self.bars.update(self.all, completed=self.over, text=self.cells())
        if not outcome.good:
            self.say(f"{outcome.task.name}: {outcome.state}: {first_line(outcome.message)}")

    def stop(self):
        if self.bars:
            self.bars.stop()
            self.bars = None

    def cells(self):
        """How many cells are over."""
        return f"{self.over} of {self.count} cells" + (f", {self.bad} not finished" if self.bad else "")


def clock(seconds):
    """`h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def first_line(message):
    """The first line of a message, or that there is none."""
    return message.splitlines()[0] if message else "no message"


def summary(outcomes):
    """The grid in a few lines: how many cells ended how, and what became of each that crashed on its way."""
    counts = {}
    for outcome in outcomes:
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    lines = [f"{len(outcomes)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items())]
    lines += [
        f"{outcome.task.name}: {outcome.state} after a crash ({', '.join(outcome.crashes)})"
        for outcome in outcomes
        if outcome.crashes and outcome.good
    ]
    return "\n".join(lines)
