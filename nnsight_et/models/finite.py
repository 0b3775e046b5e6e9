"""Numbers that are none: NaN and infinity are refused wherever they would be scored, with the place they begin at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.errors import ExperimentError, UnsupportedModel
from nnsight_et.models.model import Model

PARTS = ("head outputs", "attention output", "MLP output", "residual")
"""What is looked at in each layer, in the order of a forward pass."""
VALUES = ("value", "base_value", "patched_value")
ACCEPTED = {
    torch.float16: "dtype: bfloat16 or float32, whose numbers can be larger than float16's 65504",
    torch.bfloat16: "dtype: float32",
}


def check_numbers(model: Model, found: Mapping[str, Tensor], given: Iterable[PromptBatch | Pair]) -> dict[str, Tensor]:
    """What an intervention found; ExperimentError if one of its numbers is not finite, naming where that begins.

    given: the runs it is of. A prompt with NaN or +inf among its logits has no probabilities. Logits of other tokens
    may be -inf, as those of words a vocabulary only has room for; and the value of a metric may not exist.
    """
    numbers = {name: tensor for name, tensor in found.items() if name not in VALUES and tensor.is_floating_point()}
    wrong = [name for name, tensor in numbers.items() if not tensor.isfinite().all()]
    if not wrong:
        return dict(found)
    runs = (run for one in given for run in ((one.base, one.source) if isinstance(one, Pair) else (one,)))
    places = (find_nonfinite(model, run) for run in runs)
    where = next(filter(None, places), f"{wrong[0]} is NaN or infinite, although nothing in the unpatched runs is")
    dtype = str(model.dtype).removeprefix("torch.")
    raise ExperimentError(f"{model.name} in {dtype}: {where}; accepted: {accepted_dtypes(model.dtype)}")


def try_prompt(model: Model, tokens: Sequence[int]) -> None:
    """Run one prompt; UnsupportedModel naming where its numbers overflow, if they do."""
    run = PromptBatch(
        torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.long), {"last": torch.tensor([len(tokens) - 1])}
    )
    place = find_nonfinite(model, run)
    if place:
        dtype = str(model.dtype).removeprefix("torch.")
        raise UnsupportedModel(
            f"{model.name}: in {dtype} a prompt gives {place}; accepted: {accepted_dtypes(model.dtype)}"
        )


def accepted_dtypes(dtype: torch.dtype) -> str:
    """What to choose instead of a dtype whose numbers are not finite."""
    return ACCEPTED.get(dtype, "weights that give finite numbers")


def find_nonfinite(model: Model, run: PromptBatch) -> str:
    """Where the numbers of a plain run stop being finite: part, token, prompt; empty if they all are. Opens a trace."""
    run = run.to(model.device)
    with model.session():
        lost = nnsight.save(_nonfinite_sites(model, run).cpu())
    mask, places = run.mask.bool().cpu(), run.position_ids.cpu()
    for site, tokens in enumerate(lost):
        rows = (tokens & mask).nonzero().tolist() or tokens.nonzero().tolist()
        if rows:
            row, column = rows[0]
            token = int(places[row, column])
            same = [name for name, index in run.positions.items() if int(index[row]) == column]
            called = f" ({', '.join(same)})" if same else ""
            where = f"token {token}{called}" if mask[row, column] else "the padding"
            prompt = f" of prompt {row + 1} of {len(mask)}" if len(mask) > 1 else ""
            return f"NaN or infinity, first in the {_name(model, site)}, at {where}{prompt}"
    return ""


def _name(model: Model, site: int) -> str:
    layer, part = divmod(site - 1, len(PARTS))
    if layer == model.n_layers:
        return "logits"
    return f"{PARTS[part]} of layer {layer}" if site else "embeddings"


def _nonfinite_sites(model: Model, run: PromptBatch) -> Tensor:
    """[site, batch, seq]: whether the token has NaN or infinity: in embeddings, the parts of each layer, and logits.

    In logits, which are looked at after the last token, -inf is none.
    """
    lost = []
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    last = run.positions["last"][:, None]
    with model.trace(run.tokens, run.position_ids, run.mask):
        lost.append(model.residual(0).isfinite().all(-1))
        for layer in range(model.n_layers):
            lost.append(model.z(layer).isfinite().all(-1).all(-1))
            lost.append(model.attention(layer).isfinite().all(-1))
            lost.append(model.mlp(layer, len(row)).isfinite().all(-1))
            lost.append(model.residual(layer + 1).isfinite().all(-1))
        model.narrow_unembedding(row, last)
        logits = model.logits()
        read = torch.ones_like(run.mask, dtype=torch.bool)
        read[row, last] = ~(logits.isnan() | logits.isposinf()).any(-1)
        lost.append(read)
    return ~torch.stack(lost)
