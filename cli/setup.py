"""The commands before the first run: a manifest to start from, its schema for editors, and what this machine has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nnsight_et.core.errors import ManifestError, UnsupportedModel, quantity
from nnsight_et.display.table import Table
from nnsight_et.results.disk import write_file

from .options import RUNS, Out, model_names, names_of
from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.manifest.template import InitOptions

setup = typer.Typer()


@setup.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The file to write.")] = Path("experiments.yaml"),
    model: Annotated[
        Optional[str],
        typer.Option(help="A built-in model, a folder, or a hub id. Default: llama-tiny.", autocompletion=model_names),
    ] = None,
    finetuned: Annotated[
        Optional[str], typer.Option(help="A finetuned version of it, to compare.", autocompletion=model_names)
    ] = None,
    boxes: Annotated[Optional[int], typer.Option(help="Boxes in a prompt: 2 to 12. Default: 7.")] = None,
    methods: Annotated[
        Optional[str], typer.Option(metavar="A,B", help="Methods to include. What they need is added.")
    ] = None,
    task: Annotated[
        Optional[str], typer.Option(help="Which prompts: boxes, ioi, greater_than or colored_objects. Default: boxes.")
    ] = None,
) -> None:
    """Write a commented manifest to start from, and its schema for editors. Asks you if no option is given.

    Overwrites nothing.
    """
    from nnsight_et.manifest.schema import FILE
    from nnsight_et.manifest.template import InitOptions, study_name

    if path.exists():
        raise ManifestError(f"{path}: it exists already; accepted: the name of a new one")
    given = {"model": model, "finetuned": finetuned, "task": task, "boxes": boxes}
    given |= {"methods": methods and names_of(methods)}
    given = {key: value for key, value in given.items() if value is not None}
    if not given and sys.stdin.isatty():
        given = _ask_options()
    wishes = InitOptions(**given, name=study_name(path.stem))
    text, takes = _fit_manifest(wishes, path)
    _write_schema(path.parent / FILE)
    write_file(path, text.encode())
    typer.echo(f"{path} is written, with {path.parent / FILE} for editors. Next: et plan {path}, then et run {path}")
    if takes:
        typer.echo(takes)


def _fit_manifest(wishes: InitOptions, path: Path) -> tuple[str, str]:
    """The manifest's text, and how long a run of it takes, of models that are not known by name."""
    from nnsight_et.manifest.template import render_manifest
    from nnsight_et.models.catalog import KNOWN_MODELS

    if all(model in KNOWN_MODELS for model in (wishes.pretrained, wishes.finetuned) if model):
        return render_manifest(wishes), ""
    from nnsight_et.diagnostics.sizing import fit_study
    from nnsight_et.manifest import parse
    from nnsight_et.models.stored import missing_folder
    from nnsight_et.planning.plan import model_choice

    manifest = parse(render_manifest(wishes), "the manifest", lines=False, folder=path.parent)
    for option, model in (("--model", wishes.model), ("--finetuned", wishes.finetuned)):
        if model and missing_folder(model_choice(manifest, model).spec):
            accept = "a built-in model, a folder, or a hub id such as org/name"
            raise UnsupportedModel(f"{option}: no folder {model}; accepted: {accept}")
    study = fit_study(wishes, path.parent)
    if study.minutes is None:
        return study.text, f"The time it takes is unknown: {study.unknown}."
    minutes = max(1, round(study.minutes))
    rough = f"a rough estimate; et plan {path} --calibrate times the model itself"
    return study.text, f"A run takes about {quantity(minutes, 'minute')} on this machine ({rough})."


def _ask_options() -> dict:
    """What a person at the terminal wishes for."""
    from nnsight_et.manifest.template import DEFAULT_METHODS, METHODS, TASKS, InitOptions

    typer.echo(f"Models known by name: {', '.join(model_names(''))}; or a folder, or a hub id.")
    task = typer.prompt(f"Task, one of {', '.join(TASKS)}", default=InitOptions.task)
    model = typer.prompt("Model", default=InitOptions(task=task).pretrained)
    finetuned = typer.prompt("A finetuned model of it (empty: none)", default="", show_default=False)
    boxes = typer.prompt("Boxes in a prompt", default=7, type=int) if task == "boxes" else None
    typer.echo(f"Methods: {', '.join(METHODS)}")
    methods = names_of(typer.prompt("Which, separated by commas", default=",".join(DEFAULT_METHODS)))
    return {"model": model, "finetuned": finetuned or None, "task": task, "boxes": boxes, "methods": methods}


def _write_schema(path: Path) -> None:
    """Put the schema at `path`; ManifestError if what is there is none of ours."""
    from nnsight_et.manifest.schema import is_schema, schema_text

    if path.exists() and not (path.is_file() and is_schema(path.read_text(encoding="utf-8", errors="replace"))):
        raise ManifestError(f"{path}: it exists and is not a schema; accepted: a new file, or a schema that et wrote")
    write_file(path, schema_text().encode())


@setup.command()
def schema(
    write: Annotated[
        Optional[Path], typer.Option("--write", metavar="FILE", help="Write to this file, replacing an earlier schema.")
    ] = None,
) -> None:
    """Print the JSON Schema of manifests, with which editors complete and explain keys.

    A manifest that begins with `# yaml-language-server: $schema=manifest.schema.json` uses the file beside it.
    """
    from nnsight_et.manifest.schema import schema_text

    if write is None:
        typer.echo(schema_text(), nl=False)
    else:
        _write_schema(write)
        typer.echo(write)


@setup.command()
def doctor(
    manifest: Annotated[
        Optional[Path],
        typer.Argument(metavar="[MANIFEST]", help="Look at the models of this manifest instead of the built-in ones."),
    ] = None,
    ndif: Annotated[bool, typer.Option("--ndif", help="Also ask the NDIF server.")] = False,
    out: Out = RUNS,
) -> None:
    """Check versions, devices, memory, disk and model files, and say what to do. Downloads nothing.

    With --ndif, or a manifest for NDIF, also whether the server answers, takes the key, and has the models.
    """
    from nnsight_et.diagnostics.doctor import findings
    from nnsight_et.manifest import load
    from nnsight_et.planning.plan import plan

    read = load(manifest) if manifest else None
    models = None if read is None else {one.name: one for job in plan(read).jobs for one in job.models}
    remote = ndif or (read is not None and read.backend == "ndif")
    files = None if models is None else {name: (one.spec, one.shape) for name, one in models.items()}
    tables = {"this machine": findings(out, {} if remote else files)}
    if remote:
        from nnsight_et.diagnostics.doctor_ndif import known_models, server_findings

        tables["the NDIF server"] = server_findings(known_models() if models is None else list(models.values()))
    words = {"ok": "", "note": "note", "mend": "FIX"}
    for title, found in tables.items():
        rows = tuple((words[one.state], one.subject, one.found, one.do) for one in found)
        show(output(), Table(title, ("", "what", "found", "what to do"), rows))
    if any(one.state == "mend" for found in tables.values() for one in found):
        raise typer.Exit(ManifestError.exit_code)
    typer.echo("Ready to run.")
