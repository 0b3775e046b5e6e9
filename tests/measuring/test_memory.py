"""Where memory runs out: fewer tokens at once, the same numbers, and nothing finished is lost."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nnsight_et.core.errors import ExperimentError
from nnsight_et.engine.budget import DEFAULT_BYTES
from nnsight_et.manifest import load
from nnsight_et.measuring import model_pool
from nnsight_et.measuring.memory import capacity
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
from tests.helpers.closeness import assert_same_scores
from tests.helpers.tiny_model import hf_llama, tokenizer

STUDY = """\
name: study
task: {kind: boxes, boxes: 2}
self_check: "off"
memory: 49MiB
models: {one: {path: model}}
experiments:
  found:
    method: path_patching
    model: one
    examples: 20
    stages:
      - {group: a, into: logits, at: last, keep: 4, receivers: 2}
      - {group: b, into: a, via: query, at: last, keep: 2}
      - {group: c, into: a, via: value, at: query_label, keep: 3}
      - {group: d, into: a, via: key, at: query_label, keep: 3}
"""
TOKENS = 4093  # of one pass in that much memory; the stages at the query label have most in a pass


class Device:
    """What has no memory for more than `most` tokens in a layer; counts how often it had none."""

    def __init__(self, most: int, on_cpu: bool = False, words: str = "") -> None:
        self.most, self.on_cpu, self.words, self.failures = most, on_cpu, words, 0

    def check(self, _module, inputs) -> None:
        if inputs[0].shape[:-1].numel() > self.most:
            self.failures += 1
            if self.words:
                raise RuntimeError(self.words)
            if self.on_cpu:
                torch.empty(1 << 60, dtype=torch.uint8)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1 GiB free.")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # nothing here is large, and the tests' own objects are many
    hf_llama(heads=16).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def on(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Every model that is loaded from now on runs on the device."""
    whole = model_pool.load_model

    def loaded(*args, **options):
        model = whole(*args, **options)
        for layer in model.nn._module.model.layers:
            layer.self_attn.o_proj.register_forward_pre_hook(device.check)
        return model

    monkeypatch.setattr(model_pool, "load_model", loaded)
    return device


def ran(root: Path, runs: str, *settings: str):
    """The progress of a run, and its result."""
    manifest = load(root / "study.yaml", settings)
    made = list(run(plan(manifest), root / runs))
    return made, read_result(folder_of(root / runs, plan(manifest)) / "found")


def chunk_sizes(root: Path, runs: str) -> dict:
    sizes = json.loads((folder_of(root / runs, plan(load(root / "study.yaml"))) / "chunks.json").read_text())
    assert sizes.pop("digest")
    return sizes


@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_pass_too_large_is_halved_and_finds_the_same(root, monkeypatch, on_cpu):
    plain = ran(root, "plain")[1]
    with monkeypatch.context() as patch:
        device = on(Device(800, on_cpu), patch)
        _, found = ran(root, "small")
    (tokens,) = found.header.summary.pop("smaller_chunks").values()
    assert 0 < device.failures < 4
    assert tokens == TOKENS >> device.failures
    assert "smaller_chunks" not in plain.header.summary
    assert_same_scores(found.scores, plain.scores)


def test_a_resumed_run_begins_with_what_went_in_and_says_so(root, monkeypatch):
    device = on(Device(800), monkeypatch)
    going = run(plan(load(root / "study.yaml")), root / "runs")
    for _ in range(3):
        next(going)
    going.close()  # type: ignore[attr-defined]
    failures = device.failures
    assert failures
    made, found = ran(root, "runs")
    assert [one.reused for one in made if not one.finished] == [1, 1, 1, 0]
    assert device.failures == failures
    assert found.header.summary["smaller_chunks"] == {"one/float32": TOKENS >> failures}


def test_where_nothing_is_small_enough_the_run_says_what_it_tried_and_keeps_what_it_has(root, monkeypatch):
    with monkeypatch.context() as patch:
        device = on(Device(380), patch)  # enough for whole prompts, and for the stages at the last token
        with pytest.raises(ExperimentError) as raised:
            ran(root, "runs")
    assert device.failures == 4
    sizes = ", ".join(str(TOKENS >> halvings) for halvings in range(4))
    assert str(raised.value) == (
        f"experiments.found: one in float32: out of memory, with {sizes} tokens in one pass; the last pass asked for "
        "2.50 GiB more; accepted: a smaller memory:, a smaller dtype"
    )
    assert chunk_sizes(root, "runs") == {}
    made, found = ran(root, "runs")
    assert [one.reused for one in made if not one.finished] == [1, 1, 0, 0]
    assert "smaller_chunks" not in found.header.summary


def test_a_smaller_budget_is_heeded_after_a_run_that_had_too_little_memory(root, monkeypatch):
    with monkeypatch.context() as patch:
        on(Device(10), patch)
        with pytest.raises(ExperimentError, match="out of memory"):
            ran(root, "runs")
    ran(root, "runs", "memory=8MiB")
    assert chunk_sizes(root, "runs")["one/float32/19"]["examples"] == 13


def test_a_gpus_budget_is_most_of_what_it_has_beside_the_weights_and_not_of_what_is_free(monkeypatch):
    found = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    assert capacity("cuda:0", 10 << 30) == int(0.7 * (70 << 30))
    assert capacity("cuda", 79 << 30) == DEFAULT_BYTES == capacity("cpu", 0)


def test_gpus_that_share_the_weights_have_what_the_smallest_has_beside_its_share(monkeypatch):
    sizes = [80 << 30, 40 << 30]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=sizes[device]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert capacity("balanced", 20 << 30) == int(0.7 * (30 << 30))


def test_any_other_error_ends_the_run_at_once(root, monkeypatch):
    device = on(Device(10, words="mat1 and mat2 shapes cannot be multiplied"), monkeypatch)
    with pytest.raises(RuntimeError, match="mat1"):
        ran(root, "runs")
    assert device.failures == 1
