"""Scores that do not exist, such as a share of a probability that is 0: which prompts have none, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.errors import ExperimentError, quantity
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.stage_scores import effects
from nnsight_et.planning.plan import Job
from nnsight_et.tasks.answers import text_description

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 80  # characters of a prompt, its last ones


def without_score(
    probabilities: Mapping[str, Tensor],
    metric: Metric,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
) -> str | None:
    """What is wrong with path patching's scores, in how many prompts, and one of them; None: nothing.

    The paper's are shares of the probability in the base run, which may be 0, or too small for its dtype.
    """
    if metric == DEFAULT_METRIC:
        base = probabilities["base"]
        return _missing_text(~(base >= torch.finfo(base.dtype).tiny), _too_small(base.dtype), examples, tokenizer)
    lacking = ~effects(dict(probabilities), metric).isfinite().all(0)
    return _missing_text(lacking, f"{metric} is not finite", examples, tokenizer)


def without_share(
    shares: Sequence[Tensor], examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> str | None:
    """The same of shares [head, example] of that probability alone."""
    lacking = torch.stack([~one.isfinite().all(0) for one in shares]).any(0)
    return _missing_text(lacking, _too_small(shares[0].dtype), examples, tokenizer)


def check_scored(
    context: RunContext, job: Job, where: str, found: Mapping[str, Tensor], examples: Sequence[Example]
) -> None:
    """Raise ExperimentError naming a key of the experiment if a score of its examples does not exist.

    found: what path_probabilities finds, or head_effects.
    """
    tokenizer = context.models.tokenizer(job.models[0])
    if "base" in found:
        wrong = without_score(found, getattr(job.spec, "metric", DEFAULT_METRIC), examples, tokenizer)
    else:
        wrong = without_share([found["exact"], found["attributed"]], examples, tokenizer)
    if wrong:
        accept = "prompts whose answer has some probability, such as only_correct: true; or dtype: float64"
        raise ExperimentError(f"experiments.{job.name}.{where}: {wrong}; accepted: {accept}")


def _too_small(dtype: torch.dtype) -> str:
    least = f"{torch.finfo(dtype).tiny:.1e} in {str(dtype).removeprefix('torch.')}"
    return f"the answer's probability in the base run is 0 or below {least}"


def _missing_text(
    lacking: Tensor, what: str, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> str | None:
    if not lacking.any():
        return None
    first = examples[int(lacking.nonzero()[0])]
    prompt, answer = str(tokenizer.decode(list(first.base.tokens))), text_description(first.right[0], tokenizer)["text"]
    shown = repr(prompt if len(prompt) <= SHOWN else f"...{prompt[-SHOWN:]}")
    return f"{what}, in {int(lacking.sum())} of {quantity(len(lacking), 'prompt')}, such as {answer} after {shown}"
