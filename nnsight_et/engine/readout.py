"""What leaves a run: a few numbers per example, never the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nnsight_et.batch import Run
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class Readout:
    """Of each variant and example: the answer's probability and logit, and the predicted token. All [..., batch]."""

    probability: Tensor
    logit: Tensor
    predicted: Tensor

    def split(self) -> list[Readout]:
        """Each variant [variant, batch] as a readout [1, batch] of its own."""
        parts = zip(self.probability.split(1), self.logit.split(1), self.predicted.split(1), strict=True)
        return [Readout(*one) for one in parts]

    def numbers(self) -> dict[str, Tensor]:
        """The same on the CPU, detached, as plain data that can leave a session."""
        return {
            "probability": self.probability.detach().cpu(),
            "logit": self.logit.detach().cpu(),
            "predicted": self.predicted.detach().cpu(),
        }


def readout(logits: Tensor, answer: Tensor) -> Readout:
    """The readout of logits [..., batch, vocabulary] for answer [batch]; softmax over all tokens, in fp32 at least."""
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    index = answer.expand(wide.shape[:-1])[..., None]
    probability = wide.softmax(-1).gather(-1, index)[..., 0]
    return Readout(probability, wide.gather(-1, index)[..., 0], wide.argmax(-1))


def plain(model: Model, run: Run, answer: Tensor) -> Readout:
    """[batch]: the readout of a run nothing is done to."""
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    with model.trace(run.tokens, run.position_ids, run.mask):
        model.narrow_unembedding(row, run.positions["last"][:, None])
        logits = model.logits()[:, 0]
    return readout(logits, answer)


def joined(parts: list[Readout]) -> Readout:
    """Readouts of consecutive variants as one."""
    return Readout(
        torch.cat([part.probability for part in parts]),
        torch.cat([part.logit for part in parts]),
        torch.cat([part.predicted for part in parts]),
    )


def stacked(parts: list[Readout]) -> Readout:
    """Readouts [batch] of single variants as one [variant, batch]."""
    return Readout(
        torch.stack([part.probability for part in parts]),
        torch.stack([part.logit for part in parts]),
        torch.stack([part.predicted for part in parts]),
    )
