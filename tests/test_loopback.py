"""The loopback server, through nnsight's own client: the same values as here, and what its protocol promises."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight import TransformersModel
from nnsight.modeling import huggingface
from tiny_model import hf_llama, tokenizer

from nnsight_et.loopback import Loopback

NAME = "tiny/llama"
IDS = torch.tensor([[5, 17, 30, 8, 9, 40], [7, 22, 11, 60, 12, 13]])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small random model on disk, by the name it is asked for."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    hf_llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return {NAME: folder}


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A server without keys."""
    with Loopback.start(tmp_path_factory.mktemp("state"), models) as running:
        yield running


@pytest.fixture(scope="module")
def local(models: dict[str, Path]) -> Any:
    """The model, here."""
    model = TransformersModel(str(models[NAME]), task="text-generation", tokenizer=tokenizer(), dispatch=True)
    model._module.requires_grad_(False)
    return model


def client(models: dict[str, Path]) -> Any:
    """The model without weights, under the name the server knows."""
    model: Any = TransformersModel(str(models[NAME]), task="text-generation", tokenizer=tokenizer())
    model.repo_id = NAME
    huggingface._ID_CACHE[NAME] = NAME  # what the hub would answer
    return model


def waited(job: Any, patience: float = 60.0) -> dict[str, Any]:
    """What a submitted job saved."""
    until = time.monotonic() + patience
    while (saved := job()) is None:
        assert time.monotonic() < until, job.status
        time.sleep(0.02)
    return saved


@pytest.fixture(scope="module")
def there(models: dict[str, Path]) -> Any:
    """The client's model, which has no weights."""
    return client(models)


def test_a_trace_gives_the_values_it_gives_here(server: Loopback, local: Any, there: Any):
    with local.trace(input_ids=IDS):
        local.model.layers[1].self_attn.o_proj.input[:, -1, :10] = 0
        here = local.output.logits.save()
    with there.trace(input_ids=IDS, remote=server.address):
        there.model.layers[1].self_attn.o_proj.input[:, -1, :10] = 0
        logits = there.output.logits.save()
    assert torch.equal(logits, here)
    assert there._module.device.type == "meta"


def test_a_submitted_job_is_fetched_by_its_id(server: Loopback, local: Any, there: Any):
    with local.trace(input_ids=IDS):
        here = local.model.layers[2].output.save()
    with there.trace(input_ids=IDS, remote=server.address, blocking=False) as tracer:
        found = there.model.layers[2].output.save()  # noqa: F841 - read from the dict
    submitted: Any = tracer.backend
    again = type(submitted)(there.to_model_key(), host=server.address, blocking=False, job_id=submitted.job_id)
    assert torch.equal(waited(again)["found"], here)
    assert torch.equal(waited(submitted)["found"], here)


def test_a_session_is_one_job(server: Loopback, local: Any, there: Any):
    results = []
    for model, remote in ((local, False), (there, server.address)):
        with model.session(remote=remote):
            with model.trace(input_ids=IDS):
                kept = model.model.layers[0].self_attn.o_proj.input[:, -1].clone()
            with model.trace(input_ids=IDS.flip(0)):
                model.model.layers[0].self_attn.o_proj.input[:, -1] = kept
                logits = model.output.logits[:, -1].save()
        results.append(logits)
    assert torch.equal(*results)
