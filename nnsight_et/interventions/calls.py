"""Many interventions as one piece of work: what is sent to a server travels in one session, and comes home as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, Pair, PromptBatch, Question
from nnsight_et.engine.budget import Chunks
from nnsight_et.models.load import part_gaps
from nnsight_et.models.model import Model

LEAST_TOKENS = 512  # of one pass: with fewer at once memory is not where variants are


@dataclass(frozen=True)
class Call:
    """An intervention: a function of a model and these arguments, whose tensors may lie on any device."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    name: str = ""
    """What tells it from all others of a run."""

    def with_half_chunks(self) -> Call | None:
        """The same with half as much going through the model at once; None if it is little already."""
        sizes = [argument for argument in self.arguments if isinstance(argument, Chunks)]
        if not sizes or sizes[0].tokens <= LEAST_TOKENS:
            return None
        fewer = replace(sizes[0], tokens=sizes[0].tokens // 2, kept=sizes[0].kept // 2)
        return replace(self, arguments=tuple(fewer if one is sizes[0] else one for one in self.arguments))


def run_calls(model: Model, calls: Sequence[Call]) -> dict[str, Any]:
    """What a job finds where the model is: "found", what each call finds, and "place", what the model is there.

    place: its "dtype", whether "gradients" pass through it, and the "gap" [], the largest of part_gaps. Opens traces.
    """
    here = resolve_placement(model)
    place = {
        "dtype": str(here.dtype).removeprefix("torch."),
        "gradients": here.gradients,
        "gap": part_gaps(here).max().double().cpu(),
    }
    return {"found": [call.function(here, *to_device(call.arguments, here.device)) for call in calls], "place": place}


def resolve_placement(model: Model) -> Model:
    """The same model as it is where its traces run: with that dtype, and on those devices. Opens a trace."""
    token = torch.zeros(1, 1, dtype=torch.long)
    with model.trace(token, token):
        entering = model.residual(0)
        dtype, device = entering.dtype, entering.device
        layers = []
        for layer in range(model.n_layers):
            layers.append(model.attention_output(layer).device)
        model.skip_unembedding(model.residual(model.n_layers))
    gradients = not model.part(model.parts.embeddings[0]).weight.is_meta
    spread = tuple(layers) if set(layers) != {device} else ()
    return replace(model, dtype=dtype, device=device, spread=spread, gradients=gradients)


def to_device(value: Any, device: torch.device) -> Any:
    """The value with all tensors in it on `device`."""
    if isinstance(value, (Tensor, PromptBatch, Pair, Question, Answers)):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(one, device) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)([to_device(one, device) for one in value])
    return value
