"""What leaves a run: a few numbers per example, never the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN, UNFINISHED, Answers, Pair, PromptBatch
from nnsight_et.core.metrics import kl_divergence, logit_difference, probability_difference
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class ReadoutSpec:
    """What else than the answer [batch] is read: a metric's value, beside other tokens or the base run's logits.

    right and foils [batch, n], NO_TOKEN where a row has fewer; base [batch, vocabulary], on the model's device; with
    answers of several tokens [row, token, vocabulary]. function: a metric of the user's, called with logits [batch,
    vocabulary] and this.
    """

    answer: Tensor | Answers
    metric: Metric
    right: Tensor
    foils: Tensor | None
    base: Tensor
    function: Callable[[Tensor, Any], Tensor] | None = None

    @classmethod
    def of(cls, pair: Pair, base: Tensor) -> Asked:
        """What is read for the pair's metric, its base run having the logits `base`: for the paper's the answer."""
        return (
            pair.answer
            if pair.metric == DEFAULT_METRIC
            else cls(pair.answer, pair.metric, pair.right, pair.foils, base, pair.function)
        )

    def words(self, model: Model) -> Tensor | None:
        """[batch, 1 + n]: the tokens whose logits are all that is read, the answer first; None if it takes all."""
        if not model.reads_words or self.metric != "logit_difference" or isinstance(self.answer, Answers):
            return None
        assert self.foils is not None, "pairs without foils are refused before"
        return torch.cat([self.answer[:, None], self.foils.clamp(min=0)], 1)


Asked = Tensor | Answers | ReadoutSpec
"""What is read: the answers, or a metric's value beside them."""


@dataclass(frozen=True)
class LogitOf:
    """Of each example the logit of the answer [batch], which is all that is read."""

    answer: Tensor


@dataclass(frozen=True)
class Readout:
    """Of each variant and example: the answer's probability and logit, and the predicted token. All [..., batch].

    Of an answer of several tokens: the probability of all of them, the sum of their logits, and the token predicted
    first; UNFINISHED where that begins a right answer, and none is predicted to its end.
    value [..., batch]: the metric's, where another than the paper's is asked for. alone: whether it is all there is,
    the other three being NaN and NO_TOKEN.
    """

    probability: Tensor
    logit: Tensor
    predicted: Tensor
    value: Tensor | None = None
    alone: bool = False

    def split(self) -> list[Readout]:
        """Each variant [variant, batch] as a readout [1, batch] of its own."""
        return [self.variants(slice(index, index + 1)) for index in range(len(self.probability))]

    def variants(self, some: slice) -> Readout:
        """Those of the variants [variant, batch]."""
        value = None if self.value is None else self.value[some]
        return Readout(self.probability[some], self.logit[some], self.predicted[some], value, self.alone)

    def of_examples(self, rows: Tensor) -> Readout:
        """Those of some of the examples."""
        value = None if self.value is None else self.value[..., rows]
        probability, logit, predicted = (one[..., rows] for one in (self.probability, self.logit, self.predicted))
        return Readout(probability, logit, predicted, value, self.alone)

    def numbers(self) -> dict[str, Tensor]:
        """The same on the CPU, detached, as plain data that can leave a session."""
        return {
            "probability": self.probability.detach().cpu(),
            "logit": self.logit.detach().cpu(),
            "predicted": self.predicted.detach().cpu(),
        }


def read_logits(model: Model, run: PromptBatch) -> Tensor:
    """Inside a trace: logits [batch, vocabulary] at `last`; with a continuation [batch, token, vocabulary], at `read`.

    No others are computed.
    """
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    model.narrow_last_mlp(len(row), row, run.read)
    model.narrow_unembedding(row, run.read)
    logits = model.logits()
    return logits if run.continuation else logits[:, 0]


def in_fp32_at_least(logits: Tensor) -> Tensor:
    """The same logits in fp32, or wider where they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def readout(logits: Tensor, spec: Asked | LogitOf) -> Readout:
    """The readout of logits [..., batch, vocabulary] for answer [batch]; softmax over all tokens, in fp32 at least.

    Of answers of several tokens: of logits [..., row, token, vocabulary].
    """
    answer = spec if isinstance(spec, (Tensor, Answers)) else spec.answer
    wide = in_fp32_at_least(logits)
    if isinstance(answer, Answers):
        return _readout_of_several(wide, answer, spec if isinstance(spec, ReadoutSpec) else None)
    index = answer.expand(wide.shape[:-1])[..., None]
    probability = wide.softmax(-1).gather(-1, index)[..., 0]
    value = _value(wide, spec) if isinstance(spec, ReadoutSpec) else None
    return Readout(probability, wide.gather(-1, index)[..., 0], wide.argmax(-1), value)


def read_variants(model: Model, spec: Asked | LogitOf, rows: int, arrange: Callable[[Tensor], Tensor]) -> Readout:
    """Inside a trace of `rows` times the batch: the readout of its logits, which `arrange` lays out as [..., batch,
    vocabulary]. Where a metric needs the logits of few words alone, no others are computed.
    """
    if isinstance(spec, LogitOf) and model.reads_words:
        model.narrow_vocabulary(spec.answer[:, None].repeat(rows, 1))
        logit = in_fp32_at_least(arrange(model.logits()))[..., 0]
        nothing = torch.full_like(logit, nan)
        return Readout(nothing, logit, torch.full(logit.shape, NO_TOKEN, device=logit.device))
    words = spec.words(model) if isinstance(spec, ReadoutSpec) else None
    if words is None or not isinstance(spec, ReadoutSpec):
        return readout(arrange(model.logits()), spec)
    model.narrow_vocabulary(words.repeat(rows, 1))
    logits = arrange(model.logits())
    wide = in_fp32_at_least(logits)
    assert spec.foils is not None
    assert isinstance(spec.answer, Tensor)
    places = torch.arange(1, words.shape[1], device=words.device).expand_as(spec.foils)
    foils = places.masked_fill(spec.foils == NO_TOKEN, NO_TOKEN)
    value = logit_difference(wide, torch.zeros_like(spec.answer), foils)
    nothing = torch.full_like(value, nan)
    return Readout(nothing, nothing, torch.full(value.shape, NO_TOKEN, device=value.device), value, alone=True)


def _readout_of_several(wide: Tensor, answers: Answers, spec: ReadoutSpec | None) -> Readout:
    """The readout of logits [..., row, token, vocabulary], each token's where those before it are given."""
    tokens, there, rows = answers.tokens, answers.tokens != NO_TOKEN, answers.right[:, 0]
    logit, log_p = sums_over_texts(wide, answers), sums_over_texts(wide.log_softmax(-1), answers)
    said = wide.argmax(-1)
    whole, first = ((said == tokens) | ~there).all(-1), said[..., rows, 0]
    finished, of_right = answers.of_some(whole, answers.right)
    begun = (first[..., None] == answers.of_some(tokens[:, 0], answers.right)[0]) & of_right
    left = begun.any(-1) & ~(finished & of_right).any(-1)
    value = _value_of_several(wide, log_p, answers, spec) if spec else None
    return Readout(log_p[..., rows].exp(), logit[..., rows], first.masked_fill(left, UNFINISHED), value)


def sums_over_texts(values: Tensor, answers: Answers) -> Tensor:
    """[..., row]: the sum over each text's tokens of their values [..., row, token, vocabulary], each at its place."""
    index = answers.tokens.clamp(min=0).expand(values.shape[:-1])[..., None]
    return values.gather(-1, index)[..., 0].masked_fill(answers.tokens == NO_TOKEN, 0.0).sum(-1)


def _value_of_several(wide: Tensor, log_p: Tensor, answers: Answers, spec: ReadoutSpec) -> Tensor:
    """[..., batch]: what the metric makes of logits [..., row, token, vocabulary] that give texts log_p [..., row]."""
    rows = answers.right[:, 0]
    if spec.metric == "kl":
        divergence = kl_divergence(spec.base[rows].to(wide.dtype), wide[..., rows, :, :])
        return divergence.masked_fill(answers.tokens[rows] == NO_TOKEN, 0.0).sum(-1)
    assert answers.foils is not None, "pairs without foils are refused before"
    wrong, of_foils = answers.of_some(log_p, answers.foils)
    if spec.metric == "logit_difference":
        return log_p[..., rows] - wrong.masked_fill(~of_foils, 0.0).sum(-1) / of_foils.sum(-1)
    right, of_right = answers.of_some(log_p, answers.right)
    return right.exp().masked_fill(~of_right, 0.0).sum(-1) - wrong.exp().masked_fill(~of_foils, 0.0).sum(-1)


def _value(wide: Tensor, spec: ReadoutSpec) -> Tensor:
    """[..., batch]: what the metric makes of logits [..., batch, vocabulary]."""
    assert isinstance(spec.answer, Tensor)
    if spec.function is not None:
        rows = wide.reshape(-1, *wide.shape[-2:])  # one variant after the other: a function knows nothing of variants
        asked = replace(spec, base=spec.base.to(wide.dtype))
        return torch.stack([spec.function(logits, asked) for logits in rows]).to(wide.dtype).view(wide.shape[:-1])
    if spec.metric == "kl":
        return kl_divergence(spec.base.to(wide.dtype), wide)
    assert spec.foils is not None, "pairs without foils are refused before"
    if spec.metric == "logit_difference":
        return logit_difference(wide, spec.answer, spec.foils)
    return probability_difference(wide, spec.right, spec.foils)


def plain(model: Model, run: PromptBatch, answer: Tensor | Answers) -> Readout:
    """[batch]: the readout of a run nothing is done to."""
    with model.trace(run.tokens, run.position_ids, run.mask):
        logits = read_logits(model, run)
    return readout(logits, answer)


def joined_readouts(parts: list[Readout]) -> Readout:
    """Readouts of consecutive variants as one."""
    return _combined_readout(parts, torch.cat)


def stacked_readouts(parts: list[Readout]) -> Readout:
    """Readouts [batch] of single variants as one [variant, batch]."""
    return _combined_readout(parts, torch.stack)


def _combined_readout(parts: list[Readout], put: Callable[[list[Tensor]], Tensor]) -> Readout:
    columns = ([getattr(part, name) for part in parts] for name in ("probability", "logit", "predicted", "value"))
    tensors = (put(column) if column[0] is not None else None for column in columns)
    return Readout(*tensors, alone=parts[0].alone)  # type: ignore[arg-type]
