"""Manifests of one experiment, as the single-method commands build them: the same text a user would write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnsight_et.manifest.document import read
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.schema import Manifest
from nnsight_et.models.named import LLAMA_7B, NAMED

# keep and receivers of the boxes task's four stages: the paper's for its 7B models (§4.1), fewer for the rest
PAPER_SIZES = ((58, 20), (10, 5), (25, 10), (5, None))
SMALL_SIZES = ((8, 4), (6, 3), (6, 3), (4, None))


@dataclass(frozen=True)
class Setting:
    """What both commands can set: the rest of a manifest has its defaults, or comes from `settings` (--set)."""

    seed: int
    boxes: int
    examples: int
    settings: Sequence[str] = ()


def path_patching(model: str, stages: Sequence[str], setting: Setting) -> Manifest:
    """Path patching on `model`; each of `stages` is YAML text such as {group: ..., into: logits, at: last, keep: 8}.

    Without stages: the boxes task's four, from the value fetchers back to the structure readers.
    """
    written = [read(text, f"--stage {index}", lines=False).data for index, text in enumerate(stages, 1)]
    experiment = {"method": "path_patching", "model": model, "examples": setting.examples}
    experiment["stages"] = written or four_stages(model)
    return _manifest("path-patch", "circuit", experiment, setting)


def faithfulness(circuit: str, models: Sequence[str], setting: Setting) -> Manifest:
    """Faithfulness of the circuit in a file, or in a result's folder, on `models`."""
    place = circuit if circuit.endswith(".json") or "/" in circuit else f"./{circuit}"
    experiment = {"method": "faithfulness", "circuit": place, "models": list(models), "examples": setting.examples}
    return _manifest("evaluate", "faithfulness", experiment, setting)


def four_stages(model: str) -> list[dict[str, Any]]:
    """The stages of §4.1 for the boxes task, as a manifest writes them."""
    large = model in NAMED and NAMED[model].shape == LLAMA_7B
    stages: list[dict[str, Any]] = [
        {"group": "value_fetcher", "into": "logits", "at": "last"},
        {"group": "position_transmitter", "into": "value_fetcher", "via": "query", "at": "last"},
        {"group": "position_detector", "into": "position_transmitter", "via": "value", "at": "query_label"},
        {"group": "structure_reader", "into": "position_detector", "via": "value", "at": "previous_query_label"},
    ]
    for stage, (keep, receivers) in zip(stages, PAPER_SIZES if large else SMALL_SIZES, strict=True):
        stage |= {"keep": keep} | ({"receivers": receivers} if receivers else {})
    return stages


def _manifest(name: str, experiment: str, spec: dict[str, Any], setting: Setting) -> Manifest:
    task = {"kind": "boxes", "boxes": setting.boxes}
    data = {"name": name, "seed": setting.seed, "task": task, "experiments": {experiment: spec}}
    return parse(json.dumps(data, ensure_ascii=False), f"et {name}", setting.settings, lines=False)
