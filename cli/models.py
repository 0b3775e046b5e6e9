"""The commands about models: which are known by name, and what one is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nnsight_et.core.errors import ManifestError, UnsupportedModel
from nnsight_et.display.table import Table

from .options import Settings, manifests, model_names
from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.manifest import Manifest

models = typer.Typer(invoke_without_command=True)


@models.callback()
def list_models(context: typer.Context) -> None:
    """List the built-in models. `et models inspect NAME` looks inside any model."""
    from nnsight_et.report.overview import models_table

    if context.invoked_subcommand is None:
        show(output(), models_table())


def check_models(manifest: Manifest) -> None:
    """Say that a model's folder is not there, or that it is quantized by its config.json, before anything is run.

    A hub id that was not fetched yet is no mistake.
    """
    from nnsight_et.models.stored import check_stored, missing_folder
    from nnsight_et.planning.plan import model_choice

    written = {
        name: ("experiments", experiment, *path)
        for experiment, spec in reversed(manifest.experiments.items())
        for path, name in spec.model_names.items()
    }
    for name, path in written.items():
        spec = model_choice(manifest, name).spec
        if missing := missing_folder(spec):
            key, place = missing
            where = manifest.place(*(("models", name, key) if name in manifest.models else path))
            kind = "a model's folder" if key == "path" else "a folder"
            raise UnsupportedModel(f"{where}: no folder {place}; accepted: {kind}, or a hub id such as org/name")
        if manifest.backend != "ndif":  # there the server has the weights
            check_stored(name, spec)


@models.command()
def inspect(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A built-in model, a folder, or a hub id.", autocompletion=model_names),
    ],
    manifest: Annotated[
        Optional[Path],
        typer.Option(
            help="Check the model against the task, dtype and memory of this manifest.", autocompletion=manifests
        ),
    ] = None,
    settings: Settings = None,
) -> None:
    """Show the sizes of a model, its parts, what works on it, whether prompts fit, and the memory it needs.

    Weights are read where they decide: an adapter's, to see whether it fits; the model's, where prompts begin without
    the BOS that there is, to see whether it needs it.
    """
    if settings and manifest is None:
        raise ManifestError("--set: given without a manifest; accepted: together with --manifest FILE")
    from nnsight_et.diagnostics.inspection import inspect_model
    from nnsight_et.manifest import load

    read = load(manifest, settings or ()) if manifest else None
    found = inspect_model(name, read)
    sites = tuple((site.what, site.where, site.module, site.width) for site in found.sites)
    where = "*: every layer. What is read and replaced has the same meaning in every model: docs/architectures.md."
    for notice in found.notices:
        typer.echo(f"Notice: {notice}")
    show(output(), Table(name, ("what", "found"), found.facts))
    show(
        output(), Table("where its parts are", ("what", "where", "class", "width"), sites, frozenset({"width"}), where)
    )
    show(output(), Table("what works", ("what", "found"), found.support))
    show(output(), Table("memory", ("what", "amount"), found.memory, frozenset({"amount"})))
