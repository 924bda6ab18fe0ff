"""What `ganspect train` shows: a bar in a terminal, a line a minute elsewhere."""

import time

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ganspect.training.grid import Channel

QUIET = 60.0  # seconds between two lines where there is no terminal


class TrainingDisplay(Channel):
    """A context in which one training tells how far it is.

    Args:
        console: `rich.console.Console`.
    """

    def __init__(self, console):
        self.console, self.shown = console, time.monotonic()
        self.bar = Progress(
            BarColumn(bar_width=30), TimeRemainingColumn(), TextColumn("{task.fields[text]}"), console=console
        )
        self.task = self.bar.add_task("training", total=1.0, text="starts")

    def __enter__(self):
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *error):
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, text):
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, done, text=""):
        self.bar.update(self.task, completed=done or 0.0, text=text)
        if not self.console.is_terminal and time.monotonic() - self.shown > QUIET:
            self.shown = time.monotonic()
            self.say(f"{100 * (done or 0):.0f} % {text}")
