"""The methods in Python, for notebooks: load a model, write pairs of prompts, measure; what is found shows itself.

Everything here is also an attribute of nnsight_et itself.
"""

from nnsight_et.api.circuits import activation_patch, circuit_of, evaluate, export_circuit
from nnsight_et.api.cmap import cmap
from nnsight_et.api.comparison import Overlap, compare
from nnsight_et.api.criteria import completeness, minimality
from nnsight_et.api.dcm import Selection, dcm
from nnsight_et.api.discovery import Graph, discover
from nnsight_et.api.findings import Finding
from nnsight_et.api.heads import attention, attention_patterns, attribution, view_attention
from nnsight_et.api.knockout import knockout
from nnsight_et.api.models import LoadedModel, load
from nnsight_et.api.pairs import Pairs
from nnsight_et.api.path_patching import PatchingScores, path_patch, path_patch_mlps
from nnsight_et.api.runs import open_run
from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.results.circuit_import import ImportedCircuit, import_circuit

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
