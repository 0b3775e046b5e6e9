"""What a first manifest says of a built-in task: its stages of path patching; beside the boxes its model and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnsight_et.core.named_metrics import Metric
from nnsight_et.models.named import KNOWN_MODELS, LLAMA_7B

Stages = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class StarterStudy:
    """A built-in task, and the experiments its paper suggests."""

    about: str
    """A comment above the task."""
    task: str
    """The task in YAML."""
    model: tuple[str, str]
    """The paper's model: a name for it, and its hub id."""
    stages: Stages
    edges: tuple[tuple[str, str], ...]
    """Whose attention to what knockout blocks."""
    screened: tuple[str, ...]
    """The positions whose heads attribution screens."""
    metric: Metric
    """What the paper scores paths by."""


# keep and receivers of the boxes task's four stages: the paper's for its 7B models (§4.1), fewer for the rest
PAPER_SIZES = ((58, 20), (10, 5), (25, 10), (5, None))
SMALL_SIZES = ((8, 4), (6, 3), (6, 3), (4, None))
GPT2 = ("gpt2", "openai-community/gpt2")
STUDIES: dict[str, StarterStudy] = {
    "ioi": StarterStudy(
        about="indirect object identification (Wang et al. 2022). All prompts of templates: 1 have one length: ablated "
        "heads\n# output their mean at the same token. With up to 8 lengths differ: it is that at the named position.",
        task="{kind: ioi, order: mixed, templates: 1}",
        model=GPT2,
        stages=(
            {"group": "name_mover", "into": "logits", "at": "last", "keep": 10, "receivers": 3},
            {"group": "s_inhibition", "into": "name_mover", "via": "query", "at": "last", "keep": 6, "receivers": 4},
            {"group": "induction", "into": "s_inhibition", "via": "value", "at": "s2", "keep": 8, "receivers": 4},
            {"group": "previous_token", "into": "induction", "via": "key", "at": "s1_plus_1", "keep": 4},
        ),
        edges=(("last", "io"), ("last", "s2"), ("s2", "s1"), ("s2", "s1_plus_1")),
        screened=("s2", "last"),
        metric="logit_difference",
    ),
    "greater_than": StarterStudy(
        about="greater-than (Hanna et al. 2023)",
        task="{kind: greater_than}",
        model=GPT2,
        stages=(
            {"group": "year_reader", "into": "logits", "at": "last", "keep": 8, "receivers": 6},
            {"group": "year_writer", "into": "year_reader", "via": "value", "at": "start_year", "keep": 6},
        ),
        edges=(("last", "start_year"),),
        screened=("start_year", "last"),
        metric="probability_difference",
    ),
}
"""By the task's kind."""


def stages_of(kind: str, model: str) -> list[dict[str, Any]]:
    """The stages that come with a task, as a manifest writes them; none where it has none. Of boxes those of §4.1."""
    if kind != "boxes":
        return list(STUDIES[kind].stages) if kind in STUDIES else []
    large = model in KNOWN_MODELS and KNOWN_MODELS[model].shape == LLAMA_7B
    stages: list[dict[str, Any]] = [
        {"group": "value_fetcher", "into": "logits", "at": "last"},
        {"group": "position_transmitter", "into": "value_fetcher", "via": "query", "at": "last"},
        {"group": "position_detector", "into": "position_transmitter", "via": "value", "at": "query_label"},
        {"group": "structure_reader", "into": "position_detector", "via": "value", "at": "previous_query_label"},
    ]
    for stage, (keep, receivers) in zip(stages, PAPER_SIZES if large else SMALL_SIZES, strict=True):
        stage |= {"keep": keep} | ({"receivers": receivers} if receivers else {})
    return stages
