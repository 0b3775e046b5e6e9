"""Manifests: YAML text -> Manifest. document.py reads the text, schema.py and methods/ say what it may hold."""

from nnsight_et.manifest.experiments import Experiment
from nnsight_et.manifest.load import load, parse
from nnsight_et.manifest.methods.activation_patching import ActivationPatching
from nnsight_et.manifest.methods.attention_patterns import AttentionPatterns
from nnsight_et.manifest.methods.attribution import Attribution
from nnsight_et.manifest.methods.cmap import CMAP
from nnsight_et.manifest.methods.comparison import Comparison
from nnsight_et.manifest.methods.completeness import Completeness
from nnsight_et.manifest.methods.dcm import DCM
from nnsight_et.manifest.methods.discovery import Discovery
from nnsight_et.manifest.methods.faithfulness import Faithfulness
from nnsight_et.manifest.methods.knockout import Edge, Knockout
from nnsight_et.manifest.methods.minimality import Minimality
from nnsight_et.manifest.methods.path_patching import PathPatching, Stage
from nnsight_et.manifest.own_task import MadeTask, PythonTask
from nnsight_et.manifest.pairs import PairsFile, PairsTask
from nnsight_et.manifest.schema import BoxesTask, Manifest, OwnModel, TaskData
from nnsight_et.manifest.tasks import ColoredObjectsTask, GreaterThanTask, IOITask

__all__ = [
    "CMAP",
    "DCM",
    "ActivationPatching",
    "AttentionPatterns",
    "Attribution",
    "BoxesTask",
    "ColoredObjectsTask",
    "Comparison",
    "Completeness",
    "Discovery",
    "Edge",
    "Experiment",
    "Faithfulness",
    "GreaterThanTask",
    "IOITask",
    "Knockout",
    "MadeTask",
    "Manifest",
    "Minimality",
    "OwnModel",
    "PairsFile",
    "PairsTask",
    "PathPatching",
    "PythonTask",
    "Stage",
    "TaskData",
    "load",
    "parse",
]
