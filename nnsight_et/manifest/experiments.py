"""An entry of `experiments:`: the union of all methods, told apart by `method:`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from nnsight_et.manifest.methods.activation_patching import ActivationPatching
from nnsight_et.manifest.methods.attention_patterns import AttentionPatterns
from nnsight_et.manifest.methods.attribution import Attribution
from nnsight_et.manifest.methods.cmap import CMAP
from nnsight_et.manifest.methods.comparison import Comparison
from nnsight_et.manifest.methods.completeness import Completeness
from nnsight_et.manifest.methods.dcm import DCM
from nnsight_et.manifest.methods.discovery import Discovery
from nnsight_et.manifest.methods.faithfulness import Faithfulness
from nnsight_et.manifest.methods.knockout import Knockout
from nnsight_et.manifest.methods.minimality import Minimality
from nnsight_et.manifest.methods.path_patching import PathPatching

AnyMethod = (
    PathPatching
    | Faithfulness
    | Minimality
    | Completeness
    | Comparison
    | DCM
    | ActivationPatching
    | CMAP
    | Knockout
    | AttentionPatterns
    | Attribution
    | Discovery
)
Experiment = Annotated[AnyMethod, Field(discriminator="method")]
METHODS: dict[str, type[AnyMethod]] = {
    get_args(method.model_fields["method"].annotation)[0]: method for method in get_args(AnyMethod)
}
