"""Imports point one way. The table is the map in CONTRIBUTING.md; here it is enforced, from the text of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "nnsight_et"

TEXT = {
    *("core.errors", "core.notices", "core.circuit", "core.named_metrics"),
    *("circuits", "rows", "models.catalog", "manifest", "planning"),
}
"""What may be imported before any model is read."""
THINGS = {"core", "tasks", "models"}
MEASURING = THINGS | TEXT | {"engine", "interventions", "results", "remote", "workers", "measuring"}
METHODS = MEASURING | {"display", "zoo", "methods"}

MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"api"},
    "core": {"core"},
    "models": {"core", "models"},
    "circuits": {"core.errors", "core.circuit", "circuits"},
    "rows": {"core.errors", "rows"},
    "tasks": {"core", "rows", "tasks"},
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
    "diagnostics": METHODS | {"__init__", "runner", "diagnostics"},
    "api": METHODS | {"runner", "report", "api"},
    "cli": TEXT
    | {"__init__", "results", "display", "methods", "runner", "report", "truth", "diagnostics", "api.runs"}
    | {"models.stored", "remote.server", "cli"},
}
HEAVY = {"torch", "nnsight", "transformers", "peft", "safetensors", "numpy", "accelerate", "huggingface_hub"}
LIGHT = {
    "__init__",
    *("core.errors", "core.notices", "core.circuit", "core.named_metrics"),
    *("circuits", "rows", "manifest", "planning", "engine.budget", "engine.paths"),
    *("results.disk", "results.headers", "results.summary"),
    *("display.table", "report.overview", "models.catalog", "models.stored", "cli"),
    *("diagnostics.costs", "methods.base", "methods.sections"),
}
ONLY_IN = {
    "nnsight": {"models", "engine", "interventions", "remote", "loopback"},
    "transformers": {"tasks", "models", "engine", "zoo", "api", "loopback.worker"},
    "peft": {"models", "zoo"},
    "gguf": {"models.gguf_file"},
    "ray": {"workers"},
    "ruamel": {"manifest.document"},
    "pandas": {"api.runs", "api.findings", "rows.read"},
    "pyarrow": {"report.export", "rows.read"},
    "datasets": {"rows.read"},
    "jinja2": {"report.html", "tasks.turns"},
    "markupsafe": {"report.html"},
    "vl_convert": {"report.html.figure_files"},
    "circuitsvis": {"api.heads"},
    "starlette": {"loopback"},
    "uvicorn": {"loopback"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def modules() -> dict[str, Path]:
    """Every module, named from inside the package: plan, models.catalog, cli.app."""
    files = {path.relative_to(ROOT / PACKAGE): path for path in (ROOT / PACKAGE).rglob("*.py")}
    files |= {path.relative_to(ROOT): path for path in (ROOT / "cli").rglob("*.py")}
    return {".".join(place.with_suffix("").parts): path for place, path in sorted(files.items())}


def imports(module: str, path: Path, types: bool = True) -> Iterator[str]:
    """Full names of what a file imports, inside functions too: nnsight_et.planning.plan, torch, cli.shell.

    Without `types` none that only type checkers follow.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                assert module.startswith("cli."), f"{path}: a relative import; only cli/ has them"
                name = f"cli.{name}" if name else "cli"
            for alias in node.names:
                full = f"{name}.{alias.name}"
                yield full if full.removeprefix(f"{PACKAGE}.") in MODULES or name == PACKAGE else name


MODULES = modules()
IMPORTS = [(module, name) for module, path in MODULES.items() for name in imports(module, path)]


def file_of(name: str) -> str | None:
    """The file of the package that a full name means, as MODULES has it; None for other packages."""
    short = "__init__" if name == PACKAGE else name.removeprefix(f"{PACKAGE}.")
    return next((file for file in (short, f"{short}.__init__") if file in MODULES), None)


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


def test_every_room_imports_only_what_the_table_lets_it():
    assert {module.split(".")[0] for module in MODULES} == set(MAY_IMPORT), "the rooms of the table and of the package"
    known = [(module, target) for module, name in IMPORTS if (target := own(name)) is not None]
    wrong = [edge for edge in known if not inside(edge[1], MAY_IMPORT[edge[0].split(".")[0]])]
    assert wrong == []


def test_heavy_and_single_purpose_packages_are_imported_where_they_belong():
    loaded = [(module, name.split(".")[0]) for module, path in MODULES.items() for name in imports(module, path, False)]
    assert [edge for edge in loaded if edge[1] in ONLY_IN and not inside(edge[0], ONLY_IN[edge[1]])] == []
    assert [edge for edge in loaded if edge[1] in HEAVY and inside(edge[0], LIGHT)] == []


def test_the_table_itself_points_one_way():
    whole = {room: {one for one in targets if "." not in one} - {room} for room, targets in MAY_IMPORT.items()}
    TopologicalSorter({room: whole[room] - {"__init__"} for room in whole}).prepare()  # CycleError names a circle


def test_no_modules_import_each_other():
    """Not even for type checkers."""
    edges = {(module, target) for module, name in IMPORTS if (target := file_of(name)) not in (None, module)}
    graph: dict[str, set[str]] = {}
    for module, target in edges:
        graph.setdefault(module, set()).add(target)
    TopologicalSorter(graph).prepare()
