"""Results that earlier versions wrote, in today's form: one step per schema.

What was not recorded then is null, NaN or empty, and never a guess. The files stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from math import nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
"""Of result.json and of the names in scores.safetensors. Raised with a step here when either says more or less."""
TESTED = ("log_ratio", "p", "p_holm", "p_bh", "selection_frequency")
"""What schema 1 had of a stage's heads only since its heads were tested against chance."""


def migrated(header: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """The plain data of a result.json of an earlier schema in today's form.

    KeyError, TypeError, AttributeError or ValueError if it is not what a version of that schema wrote.
    """
    data = deepcopy(dict(header))
    for earlier in range(schema, SCHEMA):
        STEPS[earlier](data)
        data["schema_version"] = earlier + 1
    return data


def migrated_scores(scores: Mapping[str, Tensor], method: str, schema: int) -> dict[str, Tensor]:
    """The tensors of a result of an earlier schema, with NaN for those that were not recorded."""
    found = dict(scores)
    if schema == 1 and method == "path_patching":
        for name, score in scores.items():
            group, _, kind = name.rpartition(".")
            if kind == "score":
                missing = {f"{group}.{key}": score.new_full(score.shape, nan) for key in TESTED}
                found = missing | {f"{group}.stability": score.new_tensor(nan)} | found
    if schema == 1 and method == "attribution":
        for name, exact in scores.items():
            if name.endswith(".exact"):
                group = name.removesuffix(".exact")
                found = {f"{group}.{key}": exact.new_full(exact.shape, nan) for key in ("low", "high")} | found
    return found


def _to_2(data: dict[str, Any]) -> None:
    """The first results had no self-checks, no tests of heads, no intervals, and no word on shared keys."""
    data.setdefault("self_check", {"on": False, "seconds": 0.0, "checks": []})
    spec, summary = data["job"]["spec"], data["summary"]
    match spec["method"]:
        case "path_patching":
            _path_patching_to_2(spec, summary)
        case "faithfulness":
            for row in summary["rows"]:
                row.setdefault("random_p", None)
                row.setdefault("random_circuits", spec["random_circuits"])
        case "cmap":
            for row in summary["rows"]:
                if "interval" in row:
                    row["accuracy_interval"] = row.pop("interval")


def _path_patching_to_2(spec: dict[str, Any], summary: dict[str, Any]) -> None:
    spec.setdefault("held_out_examples", 0)
    summary.setdefault("examples", spec["examples"])
    summary.setdefault("held_out_examples", 0)
    summary.setdefault("query_heads_per_kv_head", None)
    summary.setdefault("test", None)
    summary.setdefault("mlps", [])
    none_tested = {"beyond_chance": [], "beyond_chance_bh": [], "tested": 0, "flips": None, "stability": None}
    none_tested |= {"tied": [], "tied_receivers": []}
    for stage in (*spec["stages"], *summary["stages"]):
        stage.setdefault("kv_heads", "shared")
        stage.setdefault("senders", "heads")
    for stage in summary["stages"]:
        stage |= none_tested | stage
        for one in stage["kept"]:
            one |= {"beyond_chance": None, **dict.fromkeys(TESTED)} | one


STEPS: dict[int, Callable[[dict[str, Any]], None]] = {1: _to_2}
"""Schema -> what changes a header of it, in place, into one of the next."""
