"""nnsight's own client and the loopback server, for tests: models under a name, keys, jobs that are submitted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.modeling import huggingface

from tests.helpers.tiny_model import tokenizer

NAME, ADAPTERS = "tiny/llama", ("tiny/lora-a", "tiny/lora-b")
TRUSTED, UNTRUSTED = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
PLANTED = "0a1b2c3d-5ec2-4e75-9a11-0123456789ab"
"""A key that is looked for wherever a command writes."""
IDS = torch.tensor([[5, 17, 30, 8, 9, 40], [7, 22, 11, 60, 12, 13]])


def client(folder: Path, **how: Any) -> Any:
    """The model without weights, under the name the server knows."""
    model: Any = TransformersModel(str(folder), task="text-generation", tokenizer=tokenizer(), **how)
    model.repo_id = NAME
    huggingface._ID_CACHE[NAME] = NAME  # what the hub would answer
    return model


def submitted(model: Any, address: str) -> RemoteBackend:
    """A job that saves the last logits as "logits"."""
    with model.trace(input_ids=IDS, remote=address, blocking=False) as tracer:
        logits = model.output.logits[:, -1].save()  # noqa: F841 - read from the dict
    return tracer.backend


def waited(job: Any, patience: float = 60.0) -> dict[str, Any]:
    """What a submitted job saved."""
    until = time.monotonic() + patience
    while (saved := job()) is None:
        assert time.monotonic() < until, job.status
        time.sleep(0.02)
    return saved


def attached(model: Any, address: str, name: str | None) -> RemoteBackend:
    """A job that was submitted before, by its id."""
    return RemoteBackend(model.to_model_key(), host=address, blocking=False, job_id=name)
