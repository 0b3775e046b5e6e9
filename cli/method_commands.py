"""The commands of one method each: they build the manifest a user would write, and run it."""

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from . import options
from .execute import RunTarget, execute

if TYPE_CHECKING:
    from nnsight_et.manifest import Manifest
    from nnsight_et.manifest.one_method import SingleMethod

method_commands = typer.Typer()
Build = Callable[..., "Manifest"]


def _shared_options(
    *,
    examples: options.Examples = None,
    seed: options.Seed = 0,
    boxes: options.Boxes = 7,
    settings: options.Settings = None,
    fresh: options.Fresh = False,
    out: options.Out = options.RUNS,
    backend: options.Backend = None,
    device: options.Device = None,
    memory: options.Memory = None,
    self_check: options.SelfCheck = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> "tuple[SingleMethod, RunTarget]":
    """The options that methods share, as what a manifest is built and run with."""
    from nnsight_et.manifest.one_method import SingleMethod

    setting = SingleMethod(seed, boxes, examples, options.settings_of(settings, backend, device, memory, self_check))
    return setting, RunTarget(out, fresh=fresh, view=options.view_of(quiet, as_json))


SHARED = inspect.signature(_shared_options).parameters


def _command(
    name: str, shared: Collection[str] = tuple(SHARED), may_find_nothing: bool = False
) -> Callable[[Build], Build]:
    """Make a command that runs the manifest a function builds of its own options and a setting."""

    def register(build: Build) -> Build:
        def command(**given: Any) -> None:
            setting, where = _shared_options(**{key: given.pop(key) for key in shared})
            execute(build(setting, **given), where, may_find_nothing=may_find_nothing)

        _, *own = inspect.signature(build).parameters.values()
        command.__signature__ = inspect.Signature([*own, *(SHARED[key] for key in shared)])  # type: ignore[attr-defined]
        method_commands.command(name, help=build.__doc__)(command)
        return build

    return register


@_command("path-patch")
def path_patch(
    setting: "SingleMethod",
    model: options.ModelName,
    stage: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="STAGE", help="{group: NAME, into: logits or GROUP, via: query, at: last, keep: 8, receivers: 4}"
        ),
    ] = None,
) -> "Manifest":
    """Find a circuit by path patching, with the four stages of the boxes task unless --stage is given."""
    return setting.path_patching(model, stage or ())


@_command("discover", may_find_nothing=True)
def discover(
    setting: "SingleMethod",
    model: options.ModelName,
    task: Annotated[
        str, typer.Option(metavar="KIND", help="Which prompts: boxes, ioi, greater_than or colored_objects.")
    ] = "boxes",
) -> "Manifest":
    """Find a circuit from the task alone: a graph, its faithfulness, and what each group reads and writes."""
    return setting.discovery(model, task)


@_command("evaluate")
def evaluate(
    setting: "SingleMethod",
    circuit: options.CircuitArgument,
    models: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Models to measure the circuit on, separated by commas.",
            autocompletion=options.model_lists,
        ),
    ],
    minimality: Annotated[bool, typer.Option("--minimality", help="Also test which heads the circuit needs.")] = False,
    completeness: Annotated[
        bool, typer.Option("--completeness", help="Also test how complete the circuit is.")
    ] = False,
) -> "Manifest":
    """Measure how faithful a circuit is, on one model or several."""
    also = [name for name, wanted in (("minimality", minimality), ("completeness", completeness)) if wanted]
    return setting.evaluation(circuit, options.names_of(models), also)


@_command("dcm", [name for name in SHARED if name != "examples"])
def dcm(
    setting: "SingleMethod",
    model: options.ModelName,
    circuit: options.CircuitPlace = None,
    desiderata: Annotated[
        Optional[str], typer.Option(metavar="A,B", help="Variables: object, label, position, or a variant of position.")
    ] = None,
) -> "Manifest":
    """Find which heads of a circuit carry which variable. Finds the circuit first if none is shipped."""
    return setting.dcm(model, circuit, options.names_of(desiderata or ""))


@_command("cmap")
def cmap(
    setting: "SingleMethod",
    donor: Annotated[
        str,
        typer.Option(
            "--src",
            metavar="MODEL",
            help="The donor: the model whose head activations are copied.",
            autocompletion=options.model_names,
        ),
    ],
    recipient: Annotated[
        str,
        typer.Option(
            "--dst",
            metavar="MODEL",
            help="The recipient: the model they are copied into.",
            autocompletion=options.model_names,
        ),
    ],
    circuit: options.CircuitPlace = None,
    roles: Annotated[
        Optional[str], typer.Option(help="Heads to patch, selected by DCM: published/goat, for example.")
    ] = None,
) -> "Manifest":
    """Copy head activations of one model into another. Finds the circuit first if none is shipped."""
    return setting.cmap(donor, recipient, circuit=circuit, roles=roles)


@_command("knockout")
def knockout(setting: "SingleMethod", model: options.ModelName) -> "Manifest":
    """Block attention between two positions, from each layer upwards, and see what accuracy is left."""
    return setting.knockout(model)


@_command("compare", ("out", "quiet", "as_json"))
def compare(
    setting: "SingleMethod",
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A .json file, the folder of a result, or published/llama.",
            autocompletion=options.circuits,
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The circuit to compare with.", autocompletion=options.circuits)
    ],
    scores: Annotated[
        Optional[str],
        typer.Option(metavar="PUBLISHED", help="Also rank the heads by shipped scores: published/goat, for example."),
    ] = None,
) -> "Manifest":
    """Show which heads two circuits share."""
    return setting.comparison(first, second, scores)
