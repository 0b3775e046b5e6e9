"""The loopback server, through nnsight's own client: the same values as here, and what its protocol promises."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import Any

import cloudpickle.cloudpickle as cloudpickle
import nnsight
import pytest
import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.config import CONFIG
from nnsight.tracing.globals import BLOCKS, SOURCES
from peft import PeftModel

from nnsight_et.core.metrics import patching_score
from tests.helpers.faulty_loopback import FaultyLoopback
from tests.helpers.loopback_client import ADAPTERS, IDS, TRUSTED, UNTRUSTED, attached, client, submitted, waited
from tests.helpers.tiny_model import hf_llama, tokenizer


@pytest.fixture(scope="module")
def local(deployed: Path) -> Any:
    """The model, here."""
    model = TransformersModel(str(deployed), task="text-generation", tokenizer=tokenizer(), dispatch=True)
    model._module.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def there(deployed: Path) -> Any:
    """The client's model, which has no weights."""
    return client(deployed)


def test_a_trace_gives_the_values_it_gives_here(server: FaultyLoopback, local: Any, there: Any):
    with local.trace(input_ids=IDS):
        local.model.layers[1].self_attn.o_proj.input[:, -1, :10] = 0
        here = local.output.logits.save()
    with there.trace(input_ids=IDS, remote=server.address):
        there.model.layers[1].self_attn.o_proj.input[:, -1, :10] = 0
        logits = there.output.logits.save()
    assert torch.equal(logits, here)
    assert there._module.device.type == "meta"


def test_a_submitted_job_is_fetched_by_its_id(server: FaultyLoopback, local: Any, there: Any):
    with local.trace(input_ids=IDS):
        here = local.output.logits[:, -1].save()
    job = submitted(there, server.address)
    assert torch.equal(waited(attached(there, server.address, job.job_id))["logits"], here)
    assert torch.equal(waited(job)["logits"], here)


def test_a_session_is_one_job(server: FaultyLoopback, local: Any, there: Any):
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


def test_an_untrusted_job_gives_the_values_it_gives_here(
    server: FaultyLoopback, local: Any, there: Any, untrusted: None
):
    assert torch.equal(edited(there, server.address), edited(local, False))


def test_invokes_are_rows_of_one_batch_untrusted(server: FaultyLoopback, local: Any, there: Any, untrusted: None):
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


def test_an_untrusted_block_sees_no_weights(server: FaultyLoopback, there: Any, untrusted: None, monkeypatch: Any):
    found = []
    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with there.trace(input_ids=IDS, remote=server.address):
            meta = nnsight.save([there.model.layers[0].self_attn.o_proj.weight.is_meta])
            there.output  # noqa: B018 - a trace has to wait for something
        found += meta
    assert found == [False, True]


def test_an_untrusted_gradient_silently_stops_at_the_model(
    server: FaultyLoopback, local: Any, there: Any, monkeypatch: Any
):
    gradients = []
    for model, remote, key in (
        (local, False, TRUSTED),
        (there, server.address, TRUSTED),
        (there, server.address, UNTRUSTED),
    ):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with model.session(remote=remote):
            mask: Any = torch.full((3,), 0.5, requires_grad=True)
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


def test_after_stop_the_next_untrusted_trace_fails(server: FaultyLoopback, there: Any, monkeypatch: Any):
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


def test_an_untrusted_read_of_what_carries_the_cache_empties_it(server: FaultyLoopback, there: Any, monkeypatch: Any):
    lengths = []
    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with there.trace(input_ids=IDS, use_cache=True, remote=server.address):
            there.model.layers[1].self_attn.inputs  # noqa: B018 - reading is what does it
            cache = there.output.past_key_values
            found = nnsight.save([layer.get_seq_length() for layer in cache.layers])
        lengths.append(found)
    assert lengths == [[6, 6, 6], [6, 0, 6]]


def test_what_the_untrusted_mode_lacks_is_named(server: FaultyLoopback, there: Any, untrusted: None):
    def iterated() -> None:
        with there.trace(input_ids=IDS, remote=server.address) as tracer:
            for _ in tracer.iter[:1]:
                there.output.logits.save()

    with pytest.raises(RemoteError, match=r"untrusted mode has no tracer\.iter"):
        iterated()


def test_an_error_in_the_block_comes_back_with_its_line(server: FaultyLoopback, there: Any, monkeypatch: Any):
    def wrong() -> None:
        with there.trace(input_ids=IDS, remote=server.address):
            there.output.logits.reshape(7, 7).save()

    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with pytest.raises(RemoteError, match=r"(?s)^Traceback.*test_loopback\.py.*reshape.*\nRuntimeError: shape"):
            wrong()


def test_each_request_has_its_own_adapter(server: FaultyLoopback, there: Any, deployed: Path, monkeypatch: Any):
    def logits() -> torch.Tensor:
        return waited(submitted(there, server.address))["logits"]

    expected: dict[str | None, torch.Tensor] = {None: hf_llama()(IDS).logits[:, -1]}
    for name in ADAPTERS:
        adapted = PeftModel.from_pretrained(hf_llama(), str(server.models[name]))
        expected[name] = adapted(IDS).logits[:, -1].detach()
    first, second = ADAPTERS
    wanted = [(first, TRUSTED), (second, UNTRUSTED), (None, TRUSTED), (second, TRUSTED), (None, UNTRUSTED)]
    for name, key in wanted:
        monkeypatch.setattr(there, "peft", name)
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        assert torch.allclose(logits(), expected[name], atol=1e-5)
    assert not torch.allclose(expected[ADAPTERS[0]], expected[ADAPTERS[1]], atol=1e-2)


def test_functions_of_this_package_run_there_once_it_is_registered(server: FaultyLoopback, local: Any, there: Any):
    nnsight.ndif.pull_env()  # would register the package by itself where it is not installed
    registered = {name for name in cloudpickle._PICKLE_BY_VALUE_MODULES if name.split(".")[0] == "nnsight_et"}
    cloudpickle._PICKLE_BY_VALUE_MODULES.difference_update(registered)

    def scored(model: Any, remote: str | bool) -> torch.Tensor:
        with model.trace(input_ids=IDS, remote=remote):
            score = nnsight.save(patching_score(model.output.logits[:, -1, 3], model.output.logits[:, -1, 4]))
        return score

    with pytest.raises(RemoteError, match=r"could not be read \(ModuleNotFoundError: No module named 'nnsight_et'"):
        scored(there, server.address)
    nnsight.register("nnsight_et")
    assert torch.equal(scored(there, server.address), scored(local, False))


def test_a_changed_block_is_run_as_it_is_now(server: FaultyLoopback, there: Any, tmp_path: Path):
    found = []
    for factor in (2, 3):
        path = tmp_path / f"block_{factor}.py"
        text = (
            "def run(model, ids, address):\n"
            "    with model.session(remote=address):\n"
            "        with model.trace(input_ids=ids):\n"
            f"            kept = (model.output.logits[0, -1, 0] * 0 + {factor}).save()\n"
            "    return kept\n"
        )
        path.write_text(text)
        code = compile(text, "edited.py", "exec")
        linecache.cache["edited.py"] = (len(text), None, text.splitlines(keepends=True), "edited.py")
        SOURCES.clear()
        BLOCKS.clear()
        namespace: dict[str, Any] = {}
        exec(code, namespace)
        found.append(float(namespace["run"](there, IDS, server.address)))
    assert found == [2, 3]


def test_what_a_job_prints_is_logged(
    server: FaultyLoopback, there: Any, untrusted: None, monkeypatch: Any, capsys: Any
):
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", True)
    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        with there.trace(input_ids=IDS, remote=server.address):
            print("shape", list(there.output.logits.shape))
    assert capsys.readouterr().out.count("shape [2, 6, 122]") == 2
