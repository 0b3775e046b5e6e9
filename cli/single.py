"""The commands of one method each: they build the manifest a user would write, and run it."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from .complete import circuits, model_lists, model_names, names_of
from .execute import Where, execute
from .options import (
    RUNS,
    Backend,
    Boxes,
    CircuitPlace,
    Device,
    Examples,
    Fresh,
    Json,
    Memory,
    ModelName,
    Out,
    Quiet,
    Seed,
    SelfCheck,
    Settings,
    settings_of,
    view_of,
)

single = typer.Typer()


@single.command("path-patch")
def path_patch(
    model: ModelName,
    stage: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="STAGE", help="{group: NAME, into: logits or GROUP, via: query, at: last, keep: 8, receivers: 4}"
        ),
    ] = None,
    examples: Examples = None,
    seed: Seed = 0,
    boxes: Boxes = 7,
    settings: Settings = None,
    fresh: Fresh = False,
    out: Out = RUNS,
    backend: Backend = None,
    device: Device = None,
    memory: Memory = None,
    self_check: SelfCheck = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find a circuit by path patching; without --stage, by the boxes task's four stages."""
    from nnsight_et.manifest import single as manifests

    setting = manifests.Setting(seed, boxes, examples, settings_of(settings, backend, device, memory, self_check))
    execute(manifests.path_patching(model, stage or (), setting), Where(out, fresh=fresh, view=view_of(quiet, as_json)))


@single.command()
def evaluate(
    circuit: Annotated[
        str,
        typer.Argument(
            metavar="CIRCUIT",
            help="A .json file, a result's folder, or published/llama and the like.",
            autocompletion=circuits,
        ),
    ],
    models: Annotated[
        str,
        typer.Option(metavar="A,B", help="The models to measure, separated by commas.", autocompletion=model_lists),
    ],
    minimality: Annotated[bool, typer.Option("--minimality", help="Also which heads add to the circuit.")] = False,
    completeness: Annotated[bool, typer.Option("--completeness", help="Also how complete the circuit is.")] = False,
    examples: Examples = None,
    seed: Seed = 0,
    boxes: Boxes = 7,
    settings: Settings = None,
    fresh: Fresh = False,
    out: Out = RUNS,
    backend: Backend = None,
    device: Device = None,
    memory: Memory = None,
    self_check: SelfCheck = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a circuit on one or several models: its faithfulness, and what else is asked for."""
    from nnsight_et.manifest import single as manifests

    setting = manifests.Setting(seed, boxes, examples, settings_of(settings, backend, device, memory, self_check))
    also = [name for name, wanted in (("minimality", minimality), ("completeness", completeness)) if wanted]
    execute(
        manifests.evaluation(circuit, names_of(models), also, setting),
        Where(out, fresh=fresh, view=view_of(quiet, as_json)),
    )


@single.command()
def dcm(
    model: ModelName,
    circuit: CircuitPlace = None,
    desiderata: Annotated[
        Optional[str], typer.Option(metavar="A,B", help="The variables: object, label, position or a variant of it.")
    ] = None,
    seed: Seed = 0,
    boxes: Boxes = 7,
    settings: Settings = None,
    fresh: Fresh = False,
    out: Out = RUNS,
    backend: Backend = None,
    device: Device = None,
    memory: Memory = None,
    self_check: SelfCheck = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find which heads of a circuit carry which variable; the circuit is the shipped one, or found first."""
    from nnsight_et.manifest import single as manifests

    setting = manifests.Setting(
        seed,
        boxes,
        settings=settings_of(settings, backend, device, memory, self_check),
    )
    execute(
        manifests.dcm(model, circuit, names_of(desiderata or ""), setting),
        Where(out, fresh=fresh, view=view_of(quiet, as_json)),
    )


@single.command()
def cmap(
    donor: Annotated[
        str,
        typer.Option(
            "--src", metavar="MODEL", help="The donor: its head activations are taken.", autocompletion=model_names
        ),
    ],
    recipient: Annotated[
        str,
        typer.Option(
            "--dst", metavar="MODEL", help="The recipient: they are put into its runs.", autocompletion=model_names
        ),
    ],
    circuit: CircuitPlace = None,
    roles: Annotated[Optional[str], typer.Option(help="Whose selected heads: published/goat and the like.")] = None,
    examples: Examples = None,
    seed: Seed = 0,
    boxes: Boxes = 7,
    settings: Settings = None,
    fresh: Fresh = False,
    out: Out = RUNS,
    backend: Backend = None,
    device: Device = None,
    memory: Memory = None,
    self_check: SelfCheck = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Patch a donor's head activations into a recipient; its circuit is the shipped one, or found first."""
    from nnsight_et.manifest import single as manifests

    setting = manifests.Setting(seed, boxes, examples, settings_of(settings, backend, device, memory, self_check))
    execute(
        manifests.cmap(donor, recipient, (circuit, roles), setting),
        Where(out, fresh=fresh, view=view_of(quiet, as_json)),
    )


@single.command()
def knockout(
    model: ModelName,
    examples: Examples = None,
    seed: Seed = 0,
    boxes: Boxes = 7,
    settings: Settings = None,
    fresh: Fresh = False,
    out: Out = RUNS,
    backend: Backend = None,
    device: Device = None,
    memory: Memory = None,
    self_check: SelfCheck = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Block attention between named positions, from each layer up."""
    from nnsight_et.manifest import single as manifests

    setting = manifests.Setting(seed, boxes, examples, settings_of(settings, backend, device, memory, self_check))
    execute(manifests.knockout(model, setting), Where(out, fresh=fresh, view=view_of(quiet, as_json)))


@single.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A .json file, a result's folder, or published/llama.", autocompletion=circuits
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The circuit to compare it with.", autocompletion=circuits)
    ],
    scores: Annotated[
        Optional[str], typer.Option(metavar="PUBLISHED", help="Order the heads by scores: published/goat and the like.")
    ] = None,
    out: Out = RUNS,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show how two circuits overlap."""
    from nnsight_et.manifest import single as manifests

    setting = manifests.Setting(seed=0, boxes=7)
    execute(manifests.comparison(first, second, scores, setting), Where(out, view=view_of(quiet, as_json)))
