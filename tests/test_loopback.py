"""The loopback server, through nnsight's own client: the same values as here, and what its protocol promises."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteError
from nnsight.modeling import huggingface
from nnsight.schema.config import CONFIG
from tiny_model import hf_llama, tokenizer

from nnsight_et.loopback import Loopback

NAME = "tiny/llama"
TRUSTED, UNTRUSTED = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
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
    """A server with a trusted and an untrusted key."""
    keys = [TRUSTED, f"{UNTRUSTED}:untrusted"]
    with Loopback.start(tmp_path_factory.mktemp("state"), models, keys=keys) as running:
        yield running


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's key, unless a test takes another."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", TRUSTED)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)


@pytest.fixture
def untrusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other key."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", UNTRUSTED)


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


def edited(model: Any, remote: str | bool) -> torch.Tensor:
    """Logits after an edit in place, an assignment, a module called ad hoc, a skipped block and a second trace."""
    with model.session(remote=remote):
        with model.trace(input_ids=IDS):
            kept = model.model.layers[0].self_attn.o_proj.input[:, -1].clone()
            model.model.layers[0].self_attn.o_proj.input[:, -1, :10] = 0
            model.model.layers[1].self_attn.o_proj.output = model.model.layers[1].self_attn.o_proj.output * 2
            normal = model.model.norm(model.model.layers[1].output)
            model.model.layers[2].skip(normal)
            first = model.output.logits[:, -1]
        with model.trace(input_ids=IDS.flip(0)):
            model.model.layers[0].self_attn.o_proj.input[:, -1] = kept
            logits = (model.output.logits[:, -1] + first).save()
    return logits


def test_an_untrusted_job_gives_the_values_it_gives_here(server: Loopback, local: Any, there: Any, untrusted: None):
    assert torch.equal(edited(there, server.address), edited(local, False))


def test_invokes_are_rows_of_one_batch_untrusted(server: Loopback, local: Any, there: Any, untrusted: None):
    results = []
    for model, remote in ((local, False), (there, server.address)):
        with model.trace(remote=remote) as tracer:
            with tracer.invoke(input_ids=IDS[:1]):
                model.model.layers[0].output[:] = 0
                first = model.output.logits[:, -1].save()
            with tracer.invoke(input_ids=IDS[1:]):
                second = model.output.logits[:, -1].save()
        results.append(torch.cat([first, second]))
    assert torch.equal(*results)
    assert not torch.equal(results[0][0], results[0][1])


def test_an_untrusted_block_sees_no_weights(server: Loopback, there: Any, untrusted: None, monkeypatch: Any):
    found = []
    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with there.trace(input_ids=IDS, remote=server.address):
            meta = nnsight.save([there.model.layers[0].self_attn.o_proj.weight.is_meta])
            there.output  # noqa: B018 - a trace has to wait for something
        found += meta
    assert found == [False, True]


def test_an_untrusted_gradient_silently_stops_at_the_model(server: Loopback, local: Any, there: Any, monkeypatch: Any):
    gradients = []
    for model, remote, key in (
        (local, False, TRUSTED),
        (there, server.address, TRUSTED),
        (there, server.address, UNTRUSTED),
    ):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with model.session(remote=remote):
            mask = torch.full((3,), 0.5, requires_grad=True)
            with model.trace(input_ids=IDS):
                for i in range(3):
                    model.model.layers[i].self_attn.o_proj.input = (
                        model.model.layers[i].self_attn.o_proj.input * mask[i]
                    )
                loss = model.output.logits[:, -1, 7].sum() + 0.01 * mask.sum()
            loss.backward()
            gradient = nnsight.save(mask.grad.clone())
        gradients.append(gradient)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.allclose(gradients[2], torch.full((3,), 0.01))
    assert not torch.allclose(gradients[0], gradients[2])


def test_after_stop_the_next_untrusted_trace_fails(server: Loopback, there: Any, monkeypatch: Any):
    def stopped() -> torch.Tensor:
        with there.session(remote=server.address):
            with there.trace(input_ids=IDS) as tracer:
                kept = there.model.layers[0].output[:, -1].clone()
                tracer.stop()
            with there.trace(input_ids=IDS):
                logits = (there.output.logits[:, -1, :48] + kept).save()
        return logits

    assert stopped().shape == (2, 48)
    monkeypatch.setattr(CONFIG.API, "APIKEY", UNTRUSTED)
    with pytest.raises(RemoteError):
        stopped()


def test_an_untrusted_read_of_what_carries_the_cache_empties_it(server: Loopback, there: Any, monkeypatch: Any):
    lengths = []
    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with there.trace(input_ids=IDS, use_cache=True, remote=server.address):
            there.model.layers[1].self_attn.inputs  # noqa: B018 - reading is what does it
            cache = there.output.past_key_values
            found = nnsight.save([layer.get_seq_length() for layer in cache.layers])
        lengths.append(found)
    assert lengths == [[6, 6, 6], [6, 0, 6]]


def test_an_error_in_the_block_comes_back_with_its_line(server: Loopback, there: Any, monkeypatch: Any):
    def wrong() -> None:
        with there.trace(input_ids=IDS, remote=server.address):
            there.output.logits.reshape(7, 7).save()

    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with pytest.raises(RemoteError, match=r"(?s)test_loopback.py.*reshape.*RuntimeError: shape") as caught:
            wrong()
        assert "loopback/" not in str(caught.value)
