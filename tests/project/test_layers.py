"""Imports point one way. The table is the map in CONTRIBUTING.md; here it is enforced, from the text of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "nnsight_et"

TEXT = {
    *("core.errors", "core.notices", "core.circuit", "core.named_metrics"),
    *("circuits", "models.named", "manifest", "planning"),
}
"""What may be imported before any model is read."""
THINGS = {"core", "tasks", "models"}
MEASURING = THINGS | TEXT | {"engine", "interventions", "results", "remote", "workers", "measuring"}
METHODS = MEASURING | {"display", "zoo", "methods"}

MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "core": {"core"},
    "models": {"core", "models"},
    "circuits": {"core.errors", "core.circuit", "circuits"},
    "tasks": {"core", "tasks"},
    "zoo": THINGS | {"zoo"},
    "engine": {"core", "models", "engine"},
    "interventions": {"core", "models", "engine", "interventions"},
    "manifest": TEXT - {"planning"},
    "planning": TEXT | {"engine.budget", "engine.paths"},
    "results": TEXT | {"core", "results"},
    "display": TEXT | {"core", "results", "display"},
    "loopback": {"core.errors", "loopback"},
    "remote": {"core.errors", "planning", "models", "interventions", "results.disk", "loopback", "remote"},
    "workers": {"core.errors", "models", "interventions", "workers"},
    "measuring": MEASURING,
    "methods": METHODS,
    "runner": METHODS | {"__init__", "runner"},
    "report": TEXT | {"results", "display", "methods", "report"},
    "truth": METHODS | {"__init__", "runner", "truth"},
    "diagnostics": MEASURING | {"__init__", "runner", "diagnostics"},
    "api": METHODS | {"runner", "report", "api"},
    "cli": TEXT
    | {"__init__", "results", "display", "methods", "runner", "report", "truth", "diagnostics", "api.runs"}
    | {"models.stored", "cli"},
}
HEAVY = {"torch", "nnsight", "transformers", "peft", "safetensors", "numpy", "accelerate", "huggingface_hub"}
LIGHT = {
    "__init__",
    *("core.errors", "core.notices", "core.circuit", "core.named_metrics"),
    *("circuits", "manifest", "planning", "engine.budget", "engine.paths"),
    *("results.disk", "results.headers", "results.summary"),
    *("display.table", "report.overview", "models.named", "models.stored", "cli"),
    *("diagnostics.costs", "methods.base", "methods.sections"),
}
ONLY_IN = {
    "nnsight": {"models", "engine", "interventions", "remote", "loopback"},
    "transformers": {"tasks", "models", "engine", "zoo", "api", "loopback.hosted"},
    "peft": {"models", "zoo"},
    "gguf": {"models.gguf_file"},
    "ray": {"workers"},
    "ruamel": {"manifest.document"},
    "pandas": {"api.runs", "api.findings"},
    "pyarrow": {"report.export"},
    "jinja2": {"report.html"},
    "markupsafe": {"report.html"},
    "vl_convert": {"report.html.figure_files"},
    "starlette": {"loopback"},
    "uvicorn": {"loopback"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def modules() -> dict[str, Path]:
    """Every module, named from inside the package: plan, models.named, cli.app."""
    files = {path.relative_to(ROOT / PACKAGE): path for path in (ROOT / PACKAGE).rglob("*.py")}
    files |= {path.relative_to(ROOT): path for path in (ROOT / "cli").rglob("*.py")}
    return {".".join(place.with_suffix("").parts): path for place, path in sorted(files.items())}


def imports(module: str, path: Path) -> Iterator[str]:
    """Full names of what a file imports, except only for type checkers: nnsight_et.planning.plan, torch, cli.shell."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                assert module.startswith("cli."), f"{path}: a relative import; only cli/ has them"
                name = f"cli.{name}"
            known = [f"{name}.{alias.name}" for alias in node.names]
            yield from (
                full if full.removeprefix(f"{PACKAGE}.") in MODULES or name == PACKAGE else name for full in known
            )


MODULES = modules()


def inside(name: str, places: set[str]) -> bool:
    """Whether a module is one of `places` or lies in one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def own(name: str) -> str | None:
    """The package's module that a full name means; None for other packages."""
    if name == PACKAGE:
        return "__init__"
    if name.startswith(f"{PACKAGE}."):
        tail = name.removeprefix(f"{PACKAGE}.")
        return tail if inside(tail, set(MAY_IMPORT)) else "__init__"
    return name if name.split(".")[0] == "cli" else None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str):
    place = module.split(".")[0]
    assert place in MAY_IMPORT, f"{module} has no layer: give it a line in MAY_IMPORT and in CONTRIBUTING.md"
    for name in imports(module, MODULES[module]):
        target = own(name)
        assert target is None or inside(target, MAY_IMPORT[place]), f"{module} must not import {name}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_and_single_purpose_packages_are_imported_where_they_belong(module: str):
    for name in imports(module, MODULES[module]):
        package = name.split(".")[0]
        assert package not in HEAVY or not inside(module, LIGHT), (
            f"{module} must not import {name}: it is to stay light"
        )
        assert package not in ONLY_IN or inside(module, ONLY_IN[package]), f"{module} must not import {name}"


def test_every_layer_of_the_table_exists():
    assert {module.split(".")[0] for module in MODULES} == set(MAY_IMPORT)


def test_the_table_itself_points_one_way():
    order: list[str] = []
    waiting = {place: {target.split(".")[0] for target in targets} - {place} for place, targets in MAY_IMPORT.items()}
    waiting = {
        place: targets - {"models"} if place in ("manifest", "plan", "report") else targets
        for place, targets in waiting.items()
    }
    while waiting:
        free = [place for place, targets in waiting.items() if targets <= set(order)]
        assert free, f"a circle among {sorted(waiting)}"
        order += free
        waiting = {place: targets for place, targets in waiting.items() if place not in free}
