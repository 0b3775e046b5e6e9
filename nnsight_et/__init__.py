"""nnsight_et: path patching, circuits and their evaluation on any causal language model, from one manifest.

The names of nnsight_et.api are here too; they are imported, and torch with them, when they are first used.
"""

# ruff: noqa: F403, F405
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsight_et.api import *

__version__ = "0.2.0"
__all__ = [
    "Circuit",
    "Example",
    "Finding",
    "Graph",
    "Head",
    "HeadGroup",
    "ImportedCircuit",
    "LoadedModel",
    "Overlap",
    "Pairs",
    "PatchingScores",
    "Prompt",
    "Selection",
    "activation_patch",
    "attention",
    "attention_patterns",
    "attribution",
    "circuit_of",
    "cmap",
    "compare",
    "completeness",
    "dcm",
    "discover",
    "evaluate",
    "export_circuit",
    "import_circuit",
    "knockout",
    "load",
    "minimality",
    "open_run",
    "path_patch",
    "path_patch_mlps",
    "view_attention",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("nnsight_et.api"), name)
    close = "".join(f"; did you mean {one!r}?" for one in get_close_matches(name, __all__, n=1))
    # notebooks show no suggestions of Python's own; naming the attribute keeps Python from adding one elsewhere
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{close}", name=name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
