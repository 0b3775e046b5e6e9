"""How far numbers of few prompts are from those of many, and how often their intervals hold them.

All prompts of a trial stand for every prompt there is; from them FEW are drawn with replacement, DRAWS times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nnsight_et.core.circuit import Head
from nnsight_et.core.metrics import is_right
from nnsight_et.core.statistics import accuracy_intervals, mean_interval, ratio_interval
from nnsight_et.results.headers import method_of
from nnsight_et.results.store import Result
from nnsight_et.truth.study import Trial
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import SCREENED

FEW, DRAWS = 20, 100


@dataclass(frozen=True)
class Measure:
    """Of one method on one model: the mean error of its numbers, or the share of its intervals that hold the truth."""

    model: str
    method: str
    error: float | None
    coverage: float | None


def measures(trial: Trial, results: Mapping[str, Result]) -> list[Measure]:
    """What each result that has numbers of single prompts says of intervals, and effects of heads of their errors."""
    found = list[Measure]()
    for result in results.values():
        method = method_of(result.header)
        errors, held = list[Tensor](), list[Tensor]()
        for error, hit in (*_effects(trial.known, result.scores), *_answers(result.scores)):
            errors.append(error.flatten().double())
            held.append(hit.flatten().double())
        if method == "attribution":
            errors.append(_estimates(trial.known, result.scores))
        of_all = (torch.cat(some) if some else torch.zeros(0) for some in (errors, held))
        error, coverage = (some.mean().item() if len(some) else None for some in of_all)
        if (error, coverage) != (None, None):
            found.append(Measure(trial.known.name, method, error, coverage))
    return found


def _draws(count: int) -> Tensor:
    """[draw, FEW]: which of so many prompts."""
    return torch.randint(count, (DRAWS, FEW), generator=torch.Generator().manual_seed(0))


def _effects(known: Known, scores: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Per stage: errors of planted heads' scores, and whether the intervals of all heads' scores hold them."""
    for group in known.circuit.groups:
        each = scores.get(f"{group.name}.per_example")
        if each is None:
            continue
        whole = each.double().mean(-1)
        few = each.double()[..., _draws(each.shape[-1])]  # [layer, head, draw, FEW]
        low, high = mean_interval(few)
        moves = each.std(-1) > 0
        held = (low <= whole[..., None]) & (high >= whole[..., None])
        errors = (few.mean(-1) - whole[..., None]).abs()
        yield torch.stack([errors[head] for head in group.heads]) if group.heads else errors[:0], held[moves]


def _answers(scores: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Per accuracy that is neither 0 nor 1: whether its intervals hold it; and faithfulness, where there is any."""
    right = dict[str, Tensor]()
    for name, predicted in scores.items():
        owners = [key.removesuffix("answer") for key in scores if key == "answer" or key.endswith(".answer")]
        owner = max((one for one in owners if name.startswith(one)), key=len, default=None)
        if name.endswith("predicted") and owner is not None:
            right[name] = is_right(predicted, scores[f"{owner}answer"][:, None]).reshape(-1, predicted.shape[-1])
    none = torch.zeros(0)
    for name, each in right.items():
        some = each.double()[:, _draws(each.shape[-1])].flatten(0, 1)
        whole = each.double().mean(-1).repeat_interleave(DRAWS)
        low, high = torch.tensor(accuracy_intervals(some), dtype=torch.float64).unbind(-1)
        varies = (whole > 0) & (whole < 1)
        yield none, ((low <= whole) & (high >= whole))[varies]
        model = right.get(name.replace(".circuit.", ".model."))
        if ".circuit." in name and model is not None and 0 < each[0].double().mean() < 1:
            truth = (each[0].sum() / model[0].sum()).item()
            bounds = [ratio_interval(each[0, few], model[0, few]) for few in _draws(each.shape[-1])]
            yield none, torch.tensor([low <= truth <= high for low, high in bounds])


def _estimates(known: Known, scores: Mapping[str, Tensor]) -> Tensor:
    """How far estimated effects of planted heads are from exact ones."""
    heads = [(at, Head(*head)) for at in SCREENED for head in known.circuit.at(at)]
    apart = [(scores[f"{at}.attributed"][head] - scores[f"{at}.exact"][head]).abs() for at, head in heads]
    return torch.stack(apart).double() if apart else torch.zeros(0)
