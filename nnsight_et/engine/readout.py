"""What leaves a run: a few numbers per example, never the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.metrics import kl_divergence, logit_difference, probability_difference
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class ReadoutSpec:
    """What else than the answer [batch] is read: a metric's value, beside other tokens or the base run's logits.

    right and foils [batch, n], NO_TOKEN where a row has fewer; base [batch, vocabulary], on the model's device.
    """

    answer: Tensor
    metric: Metric
    right: Tensor
    foils: Tensor | None
    base: Tensor

    @classmethod
    def of(cls, pair: Pair, base: Tensor) -> Tensor | ReadoutSpec:
        """What is read for the pair's metric, its base run having the logits `base`: for the paper's the answer."""
        return (
            pair.answer
            if pair.metric == DEFAULT_METRIC
            else cls(pair.answer, pair.metric, pair.right, pair.foils, base)
        )


@dataclass(frozen=True)
class Readout:
    """Of each variant and example: the answer's probability and logit, and the predicted token. All [..., batch].

    value [..., batch]: the metric's, where another than the paper's is asked for.
    """

    probability: Tensor
    logit: Tensor
    predicted: Tensor
    value: Tensor | None = None

    def split(self) -> list[Readout]:
        """Each variant [variant, batch] as a readout [1, batch] of its own."""
        return [self.variants(slice(index, index + 1)) for index in range(len(self.probability))]

    def variants(self, some: slice) -> Readout:
        """Those of the variants [variant, batch]."""
        value = None if self.value is None else self.value[some]
        return Readout(self.probability[some], self.logit[some], self.predicted[some], value)

    def numbers(self) -> dict[str, Tensor]:
        """The same on the CPU, detached, as plain data that can leave a session."""
        return {
            "probability": self.probability.detach().cpu(),
            "logit": self.logit.detach().cpu(),
            "predicted": self.predicted.detach().cpu(),
        }


def readout(logits: Tensor, spec: Tensor | ReadoutSpec) -> Readout:
    """The readout of logits [..., batch, vocabulary] for answer [batch]; softmax over all tokens, in fp32 at least."""
    answer = spec.answer if isinstance(spec, ReadoutSpec) else spec
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    index = answer.expand(wide.shape[:-1])[..., None]
    probability = wide.softmax(-1).gather(-1, index)[..., 0]
    value = _value(wide, spec) if isinstance(spec, ReadoutSpec) else None
    return Readout(probability, wide.gather(-1, index)[..., 0], wide.argmax(-1), value)


def _value(wide: Tensor, spec: ReadoutSpec) -> Tensor:
    """[..., batch]: what the metric makes of logits [..., batch, vocabulary]."""
    if spec.metric == "kl":
        return kl_divergence(spec.base.to(wide.dtype), wide)
    assert spec.foils is not None, "pairs without foils are refused before"
    if spec.metric == "logit_difference":
        return logit_difference(wide, spec.answer, spec.foils)
    return probability_difference(wide, spec.right, spec.foils)


def plain(model: Model, run: PromptBatch, answer: Tensor) -> Readout:
    """[batch]: the readout of a run nothing is done to."""
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    with model.trace(run.tokens, run.position_ids, run.mask):
        model.narrow_unembedding(row, run.positions["last"][:, None])
        logits = model.logits()[:, 0]
    return readout(logits, answer)


def joined_readouts(parts: list[Readout]) -> Readout:
    """Readouts of consecutive variants as one."""
    return _combined_readout(parts, torch.cat)


def stacked_readouts(parts: list[Readout]) -> Readout:
    """Readouts [batch] of single variants as one [variant, batch]."""
    return _combined_readout(parts, torch.stack)


def _combined_readout(parts: list[Readout], put: Callable[[list[Tensor]], Tensor]) -> Readout:
    columns = ([getattr(part, name) for part in parts] for name in ("probability", "logit", "predicted", "value"))
    return Readout(*(put(column) if column[0] is not None else None for column in columns))  # type: ignore[arg-type]
