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


def _command(name: str, shared: Collection[str] = tuple(SHARED)) -> Callable[[Build], Build]:
    """Make a command that runs the manifest a function builds of its own options and a setting."""

    def register(build: Build) -> Build:
        def command(**given: Any) -> None:
            setting, where = _shared_options(**{key: given.pop(key) for key in shared})
            execute(build(setting, **given), where)

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
    """Find a circuit by path patching; without --stage, by the boxes task's four stages."""
    return setting.path_patching(model, stage or ())


@_command("discover")
def discover(
    setting: "SingleMethod",
    model: options.ModelName,
    task: Annotated[str, typer.Option(metavar="KIND", help="boxes, ioi or greater_than.")] = "boxes",
) -> "Manifest":
    """Find a circuit without stages: a graph, its faithfulness, and what each group reads and writes to."""
    return setting.discovery(model, task)


@_command("evaluate")
def evaluate(
    setting: "SingleMethod",
    circuit: options.CircuitArgument,
    models: Annotated[
        str,
        typer.Option(
            metavar="A,B", help="The models to measure, separated by commas.", autocompletion=options.model_lists
        ),
    ],
    minimality: Annotated[bool, typer.Option("--minimality", help="Also which heads add to the circuit.")] = False,
    completeness: Annotated[bool, typer.Option("--completeness", help="Also how complete the circuit is.")] = False,
) -> "Manifest":
    """Measure a circuit on one or several models: its faithfulness, and what else is asked for."""
    also = [name for name, wanted in (("minimality", minimality), ("completeness", completeness)) if wanted]
    return setting.evaluation(circuit, options.names_of(models), also)


@_command("dcm", [name for name in SHARED if name != "examples"])
def dcm(
    setting: "SingleMethod",
    model: options.ModelName,
    circuit: options.CircuitPlace = None,
    desiderata: Annotated[
        Optional[str], typer.Option(metavar="A,B", help="The variables: object, label, position or a variant of it.")
    ] = None,
) -> "Manifest":
    """Find which heads of a circuit carry which variable; the circuit is the shipped one, or found first."""
    return setting.dcm(model, circuit, options.names_of(desiderata or ""))


@_command("cmap")
def cmap(
    setting: "SingleMethod",
    donor: Annotated[
        str,
        typer.Option(
            "--src",
            metavar="MODEL",
            help="The donor: its head activations are taken.",
            autocompletion=options.model_names,
        ),
    ],
    recipient: Annotated[
        str,
        typer.Option(
            "--dst",
            metavar="MODEL",
            help="The recipient: they are put into its runs.",
            autocompletion=options.model_names,
        ),
    ],
    circuit: options.CircuitPlace = None,
    roles: Annotated[Optional[str], typer.Option(help="Whose selected heads: published/goat and the like.")] = None,
) -> "Manifest":
    """Patch a donor's head activations into a recipient; its circuit is the shipped one, or found first."""
    return setting.cmap(donor, recipient, circuit=circuit, roles=roles)


@_command("knockout")
def knockout(setting: "SingleMethod", model: options.ModelName) -> "Manifest":
    """Block attention between named positions, from each layer up."""
    return setting.knockout(model)


@_command("compare", ("out", "quiet", "as_json"))
def compare(
    setting: "SingleMethod",
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A .json file, a result's folder, or published/llama.", autocompletion=options.circuits
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The circuit to compare it with.", autocompletion=options.circuits)
    ],
    scores: Annotated[
        Optional[str], typer.Option(metavar="PUBLISHED", help="Order the heads by scores: published/goat and the like.")
    ] = None,
) -> "Manifest":
    """Show how two circuits overlap."""
    return setting.comparison(first, second, scores)
