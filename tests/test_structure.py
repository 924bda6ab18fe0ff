"""The house: which package may import which, no bare imports, docstrings, no machine-specific paths."""

import ast
import configparser
from pathlib import Path

import pytest

from ganspect.data.known import SOURCES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "data", "training", "evaluation", "reproduce")
MAY_IMPORT = {
    "models": {"models"},
    "data": {"data"},
    "evaluation": {"evaluation"},
    "training": {"training", "models", "data"},
    "reproduce": set(PACKAGES),
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path):
    """Full names of everything a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_dependency_direction_and_names(path):
    package = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        first, *rest = name.split(".")
        assert first not in PACKAGES, f"{path}: import ganspect.{name}, not {name}"
        if first == "ganspect":
            assert rest[0] in MAY_IMPORT[package], f"{path} imports {name}"
        if package in ("evaluation", "data") and path.stem not in ("corruption", "patches", "pipeline", "rotation"):
            assert first not in ("keras", "tensorflow", "jax"), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), f"{path} has no module docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_every_package_is_listed_with_a_type_marker():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = {path.parent.relative_to(ROOT) for path in FILES}
    names = {"ganspect." + ".".join(folder.parts): folder for folder in folders}
    cards = {"ganspect.cards"}  # no code: the methods' cards, for the pages
    assert set(setup["options"]["packages"].split()) - cards == set(names)
    for name, folder in names.items():
        assert f"{name} = {folder.as_posix()}" in setup["options"]["package_dir"].splitlines()
        assert "py.typed" in setup["options.package_data"][name].split(", ")
        assert (ROOT / folder / "py.typed").exists() and (ROOT / folder / "__init__.py").exists()


def test_the_notice_names_every_data_set():
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for name in ("MVTec AD", "NanoTWICE", "ravirajsinh45", "ashoksrinivas"):
        assert any(name in source.title for source in SOURCES.values()) and name in text
    assert len(SOURCES) == 4 and "Describable Textures Dataset" in text


def test_every_pattern_of_package_data_finds_files():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    folders = dict(line.split(" = ") for line in setup["options"]["package_dir"].strip().splitlines())
    data = setup["options.package_data"]
    assert set(data) == set(folders)
    for package, patterns in data.items():
        for pattern in patterns.split(", "):
            assert list((ROOT / folders[package]).glob(pattern)), f"{package}: {pattern}"
