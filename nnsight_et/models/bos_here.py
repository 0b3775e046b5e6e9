"""Whether a model on this machine needs a BOS that its prompts lack: what can be told before a run."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.core.notices import Notice
from nnsight_et.models.files import WEIGHTS, Files
from nnsight_et.models.load import configuration, load_model, shape_of, tokenizer_of
from nnsight_et.models.tokenizing import bos_comparison_run, bos_notices, bos_of, leading


@dataclass(frozen=True)
class BosFound:
    """How texts begin for a model, in words, and what to know first of it."""

    text: str
    notices: tuple[Notice, ...] = ()


def bos_here(files: Files, dtype: str) -> BosFound:
    """How texts begin. Weights are read where a BOS is to be compared with none, and are here and fit into memory.

    UnsupportedModel if the tokenizer or the configuration cannot be read.
    """
    tokenizer, config = tokenizer_of(files), configuration(files)
    bos = bos_of(tokenizer, config)
    if bos is None:
        return BosFound("no BOS in tokenizer or configuration")
    token = tokenizer.convert_ids_to_tokens(bos)
    if leading(tokenizer, bos):
        return BosFound(f"texts begin with {token}")
    without = f"texts begin without {token}"
    if bos_comparison_run(tokenizer, config) is None:
        return BosFound(f"{without}; not compared, because the tokenizer does not know plain English")
    if files.gguf is None and not any(True for pattern in WEIGHTS for _ in files.weights.glob(pattern)):
        return BosFound(f"{without}; a run compares whether the model needs it: its weights are not here")
    needed = shape_of(files).parameters * getattr(torch, dtype).itemsize
    if needed > psutil.virtual_memory().available:
        return BosFound(f"{without}; a run compares whether the model needs it: it is too large for the memory here")
    try:
        found = tuple(bos_notices(files.name, tokenizer, load_model(files, dtype)))
    except UnsupportedModel as error:
        return BosFound(f"{without}; not compared: {error}")
    return BosFound(without if found else f"{without}, and the model does as well without it", found)
