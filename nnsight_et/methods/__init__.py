"""The methods: all that is known of each in one folder, and the list of them."""

from nnsight_et.manifest.experiments import METHODS as SPECS
from nnsight_et.methods import (
    activation_patching,
    attention_patterns,
    attribution,
    cmap,
    comparison,
    completeness,
    dcm,
    discovery,
    faithfulness,
    knockout,
    minimality,
    path_patching,
)
from nnsight_et.methods.base import AnyMethod

METHODS: dict[str, AnyMethod] = {
    one.METHOD.name: one.METHOD
    for one in (
        path_patching,
        faithfulness,
        minimality,
        completeness,
        comparison,
        dcm,
        activation_patching,
        cmap,
        knockout,
        attention_patterns,
        discovery,
        attribution,
    )
}
if lacking := set(METHODS) ^ set(SPECS):
    raise TypeError(f"methods/__init__.py and manifest/experiments.py differ in {', '.join(sorted(lacking))}")
