"""What the plain model answers: among all tokens, and among the few that an answer is chosen from."""

from __future__ import annotations

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN, UNFINISHED, Answers, PromptBatch
from nnsight_et.engine.readout import read_logits, readout, sums_over_texts
from nnsight_et.models.model import Model


def plain_answers(model: Model, run: PromptBatch, candidates: Tensor | Answers) -> dict[str, Tensor]:
    """Tokens [batch] with the largest logit: "predicted" of all, "chosen" of candidates [batch, n], NO_TOKEN apart.

    Of answers of several tokens "predicted" is what a readout says; "chosen" is the answer's first token where a right
    text is more likely than every foil, and else UNFINISHED.
    """
    if isinstance(candidates, Answers):
        return _chosen_texts(model, run, candidates)
    with model.session():
        with model.trace(run.tokens, run.position_ids, run.mask):
            logits = read_logits(model, run)
        among = logits.gather(-1, candidates.clamp(min=0)).masked_fill(candidates == NO_TOKEN, -torch.inf)
        chosen = candidates.gather(-1, among.argmax(-1, keepdim=True))[:, 0]
        answers = nnsight.save({"predicted": logits.argmax(-1).cpu(), "chosen": chosen.cpu()})
    return answers


def _chosen_texts(model: Model, run: PromptBatch, candidates: Answers) -> dict[str, Tensor]:
    whole = run.continued(candidates)
    with model.session():
        with model.trace(whole.tokens, whole.position_ids, whole.mask):
            logits = read_logits(model, whole)
        log_p = sums_over_texts(logits.log_softmax(-1), candidates)
        right, of_right = candidates.of_some(log_p, candidates.right)
        chosen = torch.ones_like(candidates.first, dtype=torch.bool)
        if candidates.foils is not None:
            wrong, of_wrong = candidates.of_some(log_p, candidates.foils)
            best = right.masked_fill(~of_right, -torch.inf).amax(-1)
            chosen = best > wrong.masked_fill(~of_wrong, -torch.inf).amax(-1)
        tokens = candidates.first.masked_fill(~chosen, UNFINISHED)
        answers = nnsight.save({"predicted": readout(logits, candidates).predicted.cpu(), "chosen": tokens.cpu()})
    return answers
