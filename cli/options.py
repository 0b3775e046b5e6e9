"""The options that several commands share, and what the shell completes in them. Imports no torch."""

from __future__ import annotations

from glob import escape, glob
from os.path import isdir
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from nnsight_et.core.errors import ManifestError
from nnsight_et.models.catalog import KNOWN_MODELS

from .progress import View

RUNS = Path("runs")


def model_names(incomplete: str) -> list[str]:
    """The built-in models that begin so."""
    return [name for name in KNOWN_MODELS if name.startswith(incomplete)]


def model_lists(incomplete: str) -> list[str]:
    """Lists of models, separated by commas, with the last one completed."""
    earlier, comma, last = incomplete.rpartition(",")
    taken = earlier.split(",")
    return [f"{earlier}{comma}{name}" for name in model_names(last) if name not in taken]


def circuits(incomplete: str) -> list[str]:
    """The shipped circuits that begin so, and circuits' files."""
    from nnsight_et.manifest.written import SHIPPED

    return [*(name for name in SHIPPED if name.startswith(incomplete)), *_paths(incomplete, (".json",))]


def manifests(incomplete: str) -> list[str]:
    """The shipped manifests that begin so, and manifests' files."""
    from nnsight_et.manifest.load import SHIPPED

    return [*(name for name in SHIPPED if name.startswith(incomplete)), *_paths(incomplete, (".yaml", ".yml"))]


def names_of(text: str) -> list[str]:
    """The names in a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Files of these endings, and folders, whose path begins so."""
    found = sorted(glob(f"{escape(incomplete)}*"))
    return [f"{path}/" if isdir(path) else path for path in found if isdir(path) or path.endswith(endings)]


Settings = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the manifest: task.boxes=5. Repeatable."),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Where results and the shared store go.")
]
Backend = Annotated[
    Optional[Literal["local", "simulate", "ndif"]],
    typer.Option(help="Where models run: on this machine, on a simulated server here, or on NDIF."),
]
Device = Annotated[
    Optional[str],
    typer.Option(
        metavar="NAME", help="auto, cpu, cuda, cuda:0, or balanced, which spreads the layers of a model over all GPUs."
    ),
]
Workers = Annotated[
    Optional[str],
    typer.Option(
        "--workers",
        metavar="ray:N",
        help="Share the work among N Ray processes, one GPU each, on this machine or the cluster at RAY_ADDRESS.",
    ),
]
Memory = Annotated[
    Optional[str],
    typer.Option(
        metavar="AMOUNT", help="Memory for one batch of work, such as 4GiB. Default: most of a GPU, 2GiB on a CPU."
    ),
]
SelfCheck = Annotated[
    Optional[Literal["on", "off"]],
    typer.Option("--self-check", help="Measure a sample again with the slow reference engine. On by default."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore stored results and compute everything again.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the folder of the results, and errors.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per line: progress, then the summary of each result.")
]
Limit = Annotated[
    Optional[int],
    typer.Option(metavar="N", min=1, help="For a quick look: at most N examples everywhere, except to train masks."),
]
Examples = Annotated[
    Optional[int], typer.Option(metavar="N", min=1, help="Number of examples. Each method has its own default.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the data.")]
Boxes = Annotated[int, typer.Option(metavar="N", help="Boxes in a prompt: 2 to 12.")]
ModelName = Annotated[
    str, typer.Option(metavar="NAME", help="A built-in model, a folder, or a hub id.", autocompletion=model_names)
]
CircuitPlace = Annotated[
    Optional[str],
    typer.Option(
        metavar="CIRCUIT",
        help="A .json file, the folder of a result, or a shipped circuit: published/llama, published/goat, ...",
        autocompletion=circuits,
    ),
]


CircuitArgument = Annotated[
    str,
    typer.Argument(
        metavar="CIRCUIT",
        help="A .json file, the folder of a result, or a shipped circuit such as published/llama.",
        autocompletion=circuits,
    ),
]


def view_of(quiet: bool, as_json: bool) -> View:
    """How a run is shown; ManifestError if two ways are asked for."""
    if quiet and as_json:
        raise ManifestError("--quiet and --json: given together; accepted: one of them")
    return "quiet" if quiet else "json" if as_json else "auto"


def settings_of(
    settings: list[str] | None, backend: str | None, device: str | None, memory: str | None, self_check: str | None
) -> list[str]:
    """All settings as --set writes them; options of their own come last, under their own names."""
    extra = {"--backend": backend, "--device": device, "--memory": memory, "--self-check": self_check}
    return [*(settings or ()), *(f"{key}={value}" for key, value in extra.items() if value is not None)]
