"""Digests of a model's weights, as they are in memory and as they are in files; adapters are part of both."""

from __future__ import annotations

from hashlib import blake2b, file_digest

import torch

from nnsight_et.models.files import WEIGHTS, Files
from nnsight_et.models.model import Model


def memory_print(model: Model) -> str:
    """Of the sum and the size of every parameter of the model as it is loaded."""
    state = blake2b(digest_size=10)
    for name, parameter in model.nn._module.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta:
            numbers = parameter.detach()
            sums = [numbers.sum(dtype=torch.float64).item(), numbers.abs().sum(dtype=torch.float64).item()]
            state.update(f"{name}:{tuple(parameter.shape)}:{sums};".encode())
    return state.hexdigest()


def file_print(files: Files) -> str:
    """Of the content of every file of weights, whatever else is beside them."""
    state = blake2b(digest_size=10)
    folders = [folder for folder in (files.weights, files.adapter) if folder is not None]
    found = [files.gguf] if files.gguf else [path for one in folders for kind in WEIGHTS for path in one.glob(kind)]
    for path in sorted(found):
        with path.open("rb") as file:
            state.update(f"{path.name}:{file_digest(file, 'sha256').hexdigest()};".encode())
    return state.hexdigest()
