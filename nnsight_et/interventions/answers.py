"""What the plain model answers: among all tokens, and among the few that an answer is chosen from."""

from __future__ import annotations

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN, PromptBatch
from nnsight_et.models.model import Model


def plain_answers(model: Model, run: PromptBatch, candidates: Tensor) -> dict[str, Tensor]:
    """Tokens [batch] with the largest logit: "predicted" of all, "chosen" of candidates [batch, n], NO_TOKEN apart."""
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    with model.session():
        with model.trace(run.tokens, run.position_ids, run.mask):
            model.narrow_unembedding(row, run.positions["last"][:, None])
            logits = model.logits()[:, 0]
        among = logits.gather(-1, candidates.clamp(min=0)).masked_fill(candidates == NO_TOKEN, -torch.inf)
        chosen = candidates.gather(-1, among.argmax(-1, keepdim=True))[:, 0]
        answers = nnsight.save({"predicted": logits.argmax(-1).cpu(), "chosen": chosen.cpu()})
    return answers
