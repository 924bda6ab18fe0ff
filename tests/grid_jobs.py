"""Work for the grid's tests, in a module of its own: the grid's processes import it by name."""

import os
import signal
import time


def do(payload, attempt, channel):
    """Notes its start and end in a file, and in between does what the payload says."""
    path, what = payload
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"start {what} {attempt} {os.getpid()}\n")
    channel.update(0.5, "half")
    if what == "die" or (what == "die once" and not attempt):
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise RuntimeError("no such thing")
    if what == "exit":
        os._exit(3)
    if what == "fail":
        return "failed", "two\nlines"
    if what == "sleep":
        time.sleep(0.5)
    if what == "wait" or (what == "wait once" and not attempt):
        try:
            for _ in range(600):
                time.sleep(0.1)  # Ray's interrupt does not end a sleep
        except KeyboardInterrupt:
            time.sleep(0.3)  # what is saved
            with open(path, "a", encoding="utf-8") as file:
                file.write("saved\n")
            return "interrupted", "SIGTERM"
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"end {what}\n")
    return "finished", ""
