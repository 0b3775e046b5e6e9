"""What must hold of results of activation patching: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.methods.activation_patching.summary import ActivationPatchingSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, near


def statements(known: Known, _: str, result: MethodResult[ActivationPatchingSummary]) -> Iterator[Statement]:
    """The selected heads, patched on fresh prompts, give the target of the variable they carry."""
    for row in result.summary.rows:
        name, variable = row.group, row.desideratum
        if (name, variable) not in known.guesses:
            yield near(f"{name}, {variable}", float(known.groups[name].carries == variable), row.mean)
