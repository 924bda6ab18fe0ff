"""The notebook runs from its first cell to its last; `!` lines as commands, as Jupyter runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "own_folder.ipynb"
SHELL = """
import subprocess

def shell(line):
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, (line, done.stderr)
"""


def source(notebook):
    """The code cells as one script; the last line of each is shown."""
    lines = [SHELL]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            lines.append(re.sub(r"^!(.*)$", lambda found: f'shell(f"""{found[1]}""")', text, flags=re.MULTILINE))
    return "\n".join(lines)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4 and not any(cell.get("outputs") for cell in notebook["cells"])
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ganspect").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ganspect.reproduce.cli "$@"\n')
    (folder / "ganspect").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    line = [sys.executable, "-c", source(notebook)]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "next: ganspect predict" in done.stdout and "images scored" in done.stdout
    work = tmp_path / "own_folder"
    assert (work / "predictions" / "contact_sheet.png").exists() and len(
        list((work / "predictions").rglob("*.png"))
    ) > 60
