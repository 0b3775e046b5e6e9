"""Reference pages as Markdown: the manifest from its models, the commands from the shell, the API by module."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer
from nnsight_et_cli import app
from nnsight_et_cli.shell import EXAMPLES
from pydantic import BaseModel

import nnsight_et.api
from nnsight_et.manifest.schema import json_schema
from nnsight_et.methods import METHODS
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Summary

MODULES = {
    "Words": ("core.circuit", "core.batch", "core.metrics", "core.statistics", "core.errors"),
    "Tasks": ("tasks.boxes", "tasks.desiderata", "tasks.ioi", "tasks.greater_than", "tasks.marked", "tasks.own_pairs",
        "tasks.own_task", "tasks.encoding"),
    "Models": ("models.load", "models.in_memory", "models.model", "models.catalog"),
    "Engine": ("engine.capture", "engine.one_token", "engine.suffix", "engine.reference", "engine.budget"),
    "Methods": (
        "interventions.path_patching", "interventions.ablation", "interventions.activation_patching",
        "interventions.dcm", "interventions.cmap", "interventions.knockout", "interventions.attribution",
        "interventions.attention_patterns",
    ),
    "Runs and results": ("runner.run", "results.store", "api.runs", "report.export", "circuits.published"),
}  # fmt: skip


MANIFEST_LEAD = """\
A manifest is a YAML file. An unknown key is an error, and every error names its line. `*` marks keys without a
default. `et schema --write manifest.schema.json` writes the same for editors."""
COMMANDS_LEAD = """\
`et COMMAND --help` shows the same. Exit codes: 0 done; 2 something for you to fix, in one message; 1 an experiment
failed, or another process uses the folder; 130 after Ctrl-C, 143 after SIGTERM, with all finished work saved."""
NOTEBOOK_LEAD = """\
After `import nnsight_et as et` all of these are attributes of `et`. [Work in a notebook](../howto/notebook.md) shows
how to combine them, [Methods](../methods.md) what they measure."""


def manifest_page() -> str:
    """Every key of a manifest, from the JSON Schema that pydantic makes of its models."""
    schema = json_schema()
    parts = schema["$defs"]
    methods = [name for name, part in parts.items() if "method" in part["properties"]]
    others = [name for name in parts if name not in methods]
    said = [
        "# Manifest",
        MANIFEST_LEAD,
        "## The whole",
        _described(schema),
        "## Parts",
    ]
    for name in others:
        said += [f"### {name} {{#{name.lower()}}}", _described(parts[name])]
    said.append("## Methods")
    for name in methods:
        method = parts[name]["properties"]["method"]["const"]
        said += [f"### `method: {method}` {{#{name.lower()}}}", _described(parts[name])]
    return "\n\n".join(said) + "\n"


def results_page() -> str:
    """Every key of result.json and every tensor of scores.safetensors, from the models that write and read them."""
    header, *summaries = map(_with_null, (ResultHeader, *(method.summary for method in METHODS.values())))
    users = Counter(name for schema in summaries for name in schema.get("$defs", ()))
    parts = {name: part for schema in (header, *summaries) for name, part in schema.get("$defs", {}).items()}
    common = [name for name in parts if users[name] != 1 and name not in json_schema()["$defs"]]
    said = ["# Result files", RESULTS_LEAD, "## result.json {#resultheader}", _described(header)]
    said += _headed(parts, common, "###")
    shared = Summary.__annotations__.keys() - {"scores"}
    said += ["## Summaries and scores {#methods}", SUMMARIES_LEAD]
    said.append(_table(_rows({key: summaries[0]["properties"][key] for key in sorted(shared)}, ())))
    for method, schema in zip(METHODS.values(), summaries, strict=True):
        own = {key: field for key, field in schema["properties"].items() if key not in shared}
        said += [f"### `{method.name}`", _paragraph(schema["description"])]
        said += [_table(_rows(own, schema.get("required", ()))), _scores(method.summary.scores)]
        said += _headed(parts, [name for name in schema.get("$defs", ()) if users[name] == 1], "####")
    page = "\n\n".join(said) + "\n"
    return page.replace("one of the [methods](#methods)", "the keys of its [method](manifest.md#methods)")


def commands_page() -> str:
    """Every command with its arguments and options, from the shell itself."""
    shell = typer.main.get_command(app)
    said = [
        "# Commands",
        COMMANDS_LEAD,
    ]
    for name in shell.commands:  # type: ignore[attr-defined]
        command = shell.get_command(None, name)  # type: ignore[attr-defined]
        rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        said += [f"## et {name}", _paragraph(command.help or ""), f"Example: `{EXAMPLES[name]}`"]
        if rows:
            said.append("\n".join(["| argument or option | what it does |", "|---|---|", *rows]))
    return "\n\n".join(said) + "\n"


def notebook_page() -> str:
    """The names of nnsight_et.api, from their docstrings."""
    said = [
        "# Notebook API",
        NOTEBOOK_LEAD,
    ]
    for name in sorted(nnsight_et.api.__all__, key=lambda name: (name[0].isupper(), name.lower())):
        said.append(f"::: {getattr(nnsight_et.api, name).__module__}.{name}")
    return "\n\n".join(said) + "\n"


def modules_page() -> str:
    """The package's own modules, from their docstrings."""
    said = ["# Modules", "What the methods and jobs are made of. [Design](../design.md) says how the layers lie."]
    for title, modules in MODULES.items():
        said.append(f"## {title}")
        said += [f"::: nnsight_et.{module}" for module in modules]
    return "\n\n".join(said) + "\n"


RESULTS_LEAD = """\
A run's folder has a folder for each experiment: `result.json` says how it was made and what its headline numbers are,
`scores.safetensors` has every score of every head and example. In Python `open_run(FOLDER)["NAME"]` has both, as
`.summary` and `.scores`. `*` marks what is always there. A number that does not exist is `null` in `result.json` and
NaN in tensors. A file that was changed is known by its digest. `schema_version` is raised when either file says more
or less than here."""
SUMMARIES_LEAD = """\
`summary` has the keys of the experiment's method, and where there is reason these:"""
NO_SCORES = "It has no scores of its own: `scores.safetensors` is empty."


PAGES: dict[str, Callable[[], str]] = {
    "reference/manifest.md": manifest_page,
    "reference/results.md": results_page,
    "reference/commands.md": commands_page,
    "reference/notebook.md": notebook_page,
    "reference/modules.md": modules_page,
}


def _with_null(model: type[BaseModel]) -> Any:
    """The JSON Schema of what is read, in which null is a value like others."""
    return json.loads(json.dumps(model.model_json_schema()).replace('{"type": "null"}', '{"enum": ["null"]}'))


def _headed(parts: Mapping[str, Any], names: Iterable[str], mark: str) -> Iterator[str]:
    """Parts under headings that links lead to."""
    for name in names:
        yield f"{mark} {name} {{#{name.lower()}}}"
        yield _described(parts[name])


def _described(part: Mapping[str, Any]) -> str:
    """A part's sentence, and a table of its keys."""
    rows = _rows(part.get("properties", {}), set(part.get("required", ())))
    return f"{_paragraph(part.get('description', ''))}\n\n{_table(rows) if rows else ''}"


def _table(rows: Iterable[str]) -> str:
    return "\n".join(["| key | accepted | default | what it is |", "|---|---|---|---|", *rows])


def _rows(properties: Mapping[str, Any], required: Collection[str]) -> list[str]:
    """A row of a table for each key."""
    rows = []
    for key, field in properties.items():
        default = json.dumps(field["default"], ensure_ascii=False) if field.get("default") is not None else "–"
        if "$ref" in field and "default" in field:
            default = "its own"
        name = f"`{key}`" + (" *" if key in required else "")
        shown = default if default in ("–", "its own") else f"`{default}`"
        cells = (name, _accepted(field), shown, _paragraph(field.get("description", "")))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return rows


def _scores(tensors: Sequence[ScoreTensor]) -> str:
    """A table of a method's tensors."""
    if not tensors:
        return NO_SCORES
    rows = ["| tensor | axes | one for each of | what it is |", "|---|---|---|---|"]
    for one in tensors:
        name = f"`{one.name}`" + (" *" if one.always else "")
        cells = (name, f"[{', '.join(one.axes)}]", f"`{one.each}`" if one.each else "–", one.what)
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _accepted(field: Mapping[str, Any]) -> str:
    """What a key may hold, in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            parts = [_accepted(one) for one in field[union] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(parts)) if len(parts) < 5 else "one of the [methods](#methods)"
    return _typed(field)


def _typed(field: Mapping[str, Any]) -> str:
    kind = field.get("type", "anything")
    if kind == "array":
        if "prefixItems" in field:
            return f"a list of {len(field['prefixItems'])}"
        several = re.sub("^a (whole number|number|list)", r"\1s", _accepted(field.get("items", {})))
        count = f"{field['minItems']} " if field.get("minItems") == field.get("maxItems", 0) else ""
        return f"a list of {count}{several}"
    if kind == "object":
        (inner,) = field.get("patternProperties", {"": field.get("additionalProperties", {})}).values()
        return f"name: {_accepted(inner) if isinstance(inner, dict) and inner else 'anything'}"
    words = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true, false"}
    return f"{words.get(kind, kind)}{''.join(_bounds(field))}"


def _bounds(field: Mapping[str, Any]) -> Iterator[str]:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    for key, word in words.items():
        if key in field and abs(field[key]) < 1 << 62:
            yield f" {word} {field[key]:g}" if abs(field[key]) < 1e6 else f" {word} {field[key]:,.0f}"


def _parameter(parameter: Any) -> str:
    names = " ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    return f"| {names} | {_cell(_paragraph(getattr(parameter, 'help', None) or ''))} |"


def _paragraph(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
