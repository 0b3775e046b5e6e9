"""What the reference engine reads from logits, by code of its own, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN
from nnsight_et.engine.readout import Asked, Readout


def scored(logits: Tensor, asked: Tensor | Asked) -> Readout:
    """The readout of logits [batch, vocabulary], by code of its own: p = exp(logit - log sum exp), in float64."""
    answer = asked.answer if isinstance(asked, Asked) else asked
    wide = logits.double()
    largest = wide.max(-1)
    logit = wide[torch.arange(len(wide), device=wide.device), answer]
    normaliser = largest.values + (wide - largest.values[:, None]).exp().sum(-1).log()
    kept = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    value = value_of(wide, asked).to(kept) if isinstance(asked, Asked) else None
    return Readout((logit - normaliser).exp().to(kept), logit.to(kept), largest.indices, value)


def value_of(wide: Tensor, asked: Asked) -> Tensor:
    """[batch]: the metric's value of logits [batch, vocabulary] in float64, prompt by prompt, from its definition."""
    values = []
    for row, logits in enumerate(wide):
        log_q = logits - logits.logsumexp(-1)
        right, foils = (
            [] if tokens is None else [token for token in tokens[row].tolist() if token != NO_TOKEN]
            for tokens in (asked.right, asked.foils)
        )
        if asked.metric == "kl":
            clean = asked.base[row].double()
            log_p = clean - clean.logsumexp(-1)
            terms = log_p.exp() * (log_p - log_q)
            values.append(terms.masked_fill(log_p == -torch.inf, 0.0).sum())
        elif asked.metric == "logit_difference":
            values.append(logits[asked.answer[row]] - torch.stack([logits[token] for token in foils]).mean())
        else:
            values.append(sum(log_q[token].exp() for token in right) - sum(log_q[token].exp() for token in foils))
    return torch.stack(values)
