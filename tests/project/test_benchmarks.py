"""Every benchmark, small: all of it is run and written; and the floors of those that need a large device."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nnsight_et
from benchmarks import coverage, other_tools, setting, seven_b
from benchmarks.tools import cost, one_stage
from benchmarks.tools.hooks import Hooks
from benchmarks.tools.races import KnownStage, StageOfModel
from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path as PatchedPath
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.ioi import IOI
from tests.helpers import pretend_lens
from tests.helpers.commands import ROOT
from tests.helpers.gpt2_study import tokenizer
from tests.helpers.small_study import fresh_study

STAGES = list(seven_b.STAGES)
PLANNED = """\
name: study
task: {kind: boxes, boxes: 2}
self_check: "off"
models: {one: {path: model}}
experiments:
  found: {method: path_patching, model: one, examples: 3, stages: [{group: a, into: logits, at: last, keep: 2}]}
"""
FIELDS = {"stage", "senders", "receivers", "examples", "seconds", "tokens_per_second", "tflop"}
FIELDS |= {"floor_seconds", "share_of_peak", "peak_gib"}
SMALL = {  # benchmark -> how it is run here, and what it then writes
    "coverage": ("--trials 20 --sizes 20 50", "coverage"),
    "discovery": ("--cases nothing,grouped~queries --examples 16 --held-out 16 --boxes 4 --exhaustive 16", "discovery"),
    "engine": ("--size small --rounds 1", "engine_small"),
    "ioi": ("--examples 16 --held-out 12 --patched 4 --at last", "ioi"),
    "half_precision": ("--device cpu --examples 1", "half_precision"),
    "other_tools": ("--prompts 3 --others 2", "other_tools_llama"),
    "plan_accuracy": ("study.yaml --limit 2 --rounds 1", "plan_accuracy"),
    "self_checks": ("study.yaml --limit 2", "self_checks"),
    "screening": (
        "--examples 12 --rounds 1 --screens all~prompts first:~4 --seeds 20 21 --mlps",
        "screening_llama-tiny_boxes",
    ),
    "seven_b": ("--shape small --device cpu --examples 3 --batch 2 --peak-tflops 0.01", "seven_b_small"),
    "transformer_lens": ("--size small --rounds 1", "transformer_lens_small"),
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results go."""
    monkeypatch.setattr(setting, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def lens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for TransformerLens, which is not installed here."""
    for name, module in pretend_lens.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.import_module("benchmarks.transformer_lens"), "version", lambda name: "none")


def run(name: str, written: Path) -> dict:
    """Run the benchmark small; what it wrote."""
    words, result = SMALL[name]
    importlib.import_module(f"benchmarks.{name}").main([word.replace("~", " ") for word in words.split()])
    (path,) = written.glob("*.json")
    assert path.stem == result
    return json.loads(path.read_text())


def test_every_benchmark_is_run_here():
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if "def main(" in path.read_text()]
    assert {path.stem for path in scripts} == set(SMALL)
    told = "".join(
        (ROOT / "docs" / name).read_text() for name in ("performance.md", "statistics.md", "discovery.md", "peers.md")
    )
    assert all(re.search(rf"`python -m benchmarks\.{name}\b", told) for name in SMALL)


def test_coverage_is_simulated_and_told_as_it_was_found(written):
    found = run("coverage", written)
    assert {row["what"] for row in found["rows"]} == {
        "accuracy",
        "mean of 10 draws",
        "faithfulness",
        "completeness",
        "test",
    }
    assert all(row["coverage"] > 0.7 for row in found["rows"])
    normal = [row for row in found["rows"] if row.get("shape") == "normal"]
    assert [row["n"] for row in normal] == [20, 50]
    assert run("coverage", written)["rows"] == found["rows"]


def test_statistics_shows_what_the_last_simulation_found():
    data = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text())
    text = coverage.DOCUMENT.read_text()
    assert coverage.document(text, data) == text
    for name, drawn in coverage.figures(data).items():
        assert (coverage.DOCUMENT.parent / "figures" / name).read_bytes() == drawn
        assert f"figures/{name}" in text
    assert {row["n"] for row in data["rows"]} == set(coverage.SIZES)
    exact = {(row["n"], row["accuracy"]): row["coverage"] for row in data["rows"] if row["what"] == "accuracy"}
    now = {(row["n"], row["accuracy"]): round(row["coverage"], 4) for row in coverage.accuracy_rows([20, 100])}
    assert now == pytest.approx({place: exact[place] for place in now}, abs=2e-4)


def test_what_each_method_costs_is_measured_and_written(written):
    rows = run("engine", written)["rows"]
    assert len(rows) == 9
    assert all(row["forwards"] > 0 for row in rows if "circuit" not in row["per"])  # that one is a difference of times
    assert all(row["reference"] > 0 and row["hooks"] > 0 for row in rows[:4])


def test_the_engine_agrees_with_what_transformer_lens_users_write(lens, written):
    found = run("transformer_lens", written)
    assert found["largest_difference"] < 1e-4
    assert all(row["engine"] > 0 and row["transformer_lens"] > 0 for row in found["rows"])


def test_half_precision_is_compared_with_the_truth_stage_by_stage(written):
    rows = run("half_precision", written)["rows"]
    assert [row["dtype"] for row in rows] == ["bfloat16"] * 4
    assert all(0 < row[engine]["mean"] <= row[engine]["max"] for row in rows for engine in ("default", "reference"))


def test_a_plan_is_compared_with_its_run(written, tmp_path, monkeypatch):
    monkeypatch.chdir(fresh_study(tmp_path / "study"))
    Path("study.yaml").write_text(PLANNED)
    rows = {row["experiment"]: row for row in run("plan_accuracy", written)["experiments"]}
    assert set(rows) == {"found", "all"}
    assert all(row["seconds"] > 0 and row["bytes"] > 0 and row["expected_bytes"] > 0 for row in rows.values())


def test_what_self_checks_cost_is_counted_both_ways(written, tmp_path, monkeypatch):
    monkeypatch.chdir(fresh_study(tmp_path / "study"))
    Path("study.yaml").write_text(PLANNED.replace('self_check: "off"\n', ""))
    found = run("self_checks", written)
    assert found["on"]["token_layers"] > found["off"]["token_layers"] > 0
    assert found["share"]["token_layers"] == pytest.approx(
        found["on"]["token_layers"] / found["off"]["token_layers"] - 1
    )


def test_discovery_is_held_against_what_was_planted(written):
    nothing, planted = run("discovery", written)["rows"]
    assert nothing["edges"] == 0
    assert planted["node_precision"] == planted["edge_precision"] == 1
    assert planted["node_recall"] > 0.3
    assert planted["held_out_bh"] > 0
    assert planted["recall_held_out_bh"] >= 0.95
    assert planted["recall_searched_bh"] >= 0.95


def random_llama(folder: Path, layers: int) -> Any:
    """A random Llama with grouped queries, and its tokenizer, in a folder; the model itself."""
    torch.manual_seed(0)
    config: dict[str, Any] = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 48, "initializer_range": 0.2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": layers}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer()), **config, **heads)).eval()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.requires_grad_(False)


def test_plain_hooks_find_what_the_engine_finds_and_others_are_left_out_where_they_are_not(
    written, tmp_path, monkeypatch
):
    random_llama(tmp_path / "llama", 4)
    for tool in ("Lens", "Vene"):
        monkeypatch.setattr(other_tools, tool, None)
    monkeypatch.setitem(
        SMALL, "other_tools", (f"--model {tmp_path / 'llama'} {SMALL['other_tools'][0]}", "other_tools_llama")
    )
    found = run("other_tools", written)
    assert found["tools"] == {}
    assert [row["what"] for row in found["same_definition"]] == [
        "into the logits, at last",
        "into those heads' queries, at last",
        "into those heads' values, at S2",
        "whole heads, at last",
    ]
    for row in (*found["same_definition"], *found["ready_made"]):
        assert max(map(abs, row["theirs"]["logit_difference"])) > 1e-3
        assert max(row["largest_difference"].values()) < 1e-5
        assert row["same_order"]


def test_what_other_tools_offer_is_the_same_where_no_mlp_and_no_other_token_stands_between(tmp_path):
    model = random_llama(tmp_path / "llama", 2)
    pair = collate(IOI(templates=1).examples(tokenizer(), 3, 0, "discovery"), metric="logit_difference")
    sender, receiver, direct = Head(0, 1), Head(1, 2), PatchedPath("last")
    whole, frozen = (Hooks(model, pair).path(direct, sender, mlps=mlps) for mlps in ("recompute", "freeze"))
    assert (whole - frozen).abs().max() > 1e-2
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
    hooks = Hooks(model, pair)
    assert close(hooks.path(direct, sender, mlps="freeze"), hooks.path(direct, sender))
    assert close(hooks.edge(sender, receiver), hooks.path(PatchedPath("last", "query", (receiver,)), sender))
    assert close(hooks.whole(receiver, None), hooks.whole(receiver, "last"))
    assert not close(hooks.whole(sender, None), hooks.whole(sender, "last"))


def test_what_other_tools_cost_is_counted_and_timed(lens, tmp_path):
    module = random_llama(tmp_path / "llama", 4)
    model = nnsight_et.load(str(tmp_path / "llama"), device="cpu")
    examples = IOI(templates=1).examples(model.tokenizer, 12, 0, "discovery")
    path, pair = PatchedPath("last", "query", (Head(3, 0), Head(2, 1))), cost.collated(examples[:3])
    heads = [Head(layer, index) for layer in range(3) for index in range(4)]
    ratios = [cost.counted(model, path, heads, tokens)["ratio"] for tokens in (15, 54)]
    assert 1 < ratios[0] < ratios[1]
    bridge = pretend_lens.TransformerBridge(module)
    caches = [bridge.run_with_cache(run.tokens)[1] for run in (pair.source, pair.base)]
    tool = SimpleNamespace(bridge=bridge, caches=caches, layers=range(4))
    outcome = cost.timed(model, path, examples, 3, tool, 1)
    assert outcome["heads"] == 12
    assert all(value > 0 for value in outcome["forwards_per_head"].values())
    assert "| screened |" in cost.cost_table(outcome)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same logits, up to rounding."""
    return torch.allclose(one, other, atol=1e-5)


def test_a_graph_of_ioi_is_held_against_other_methods(written, tmp_path, monkeypatch):
    words, width = tokenizer(), 32
    sizes: dict[str, Any] = {"hidden_size": width, "head_dim": width, "intermediate_size": 16, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(words), num_attention_heads=2, tie_word_embeddings=True, **sizes)
    model: Any = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # L1H0 looks everywhere alike and takes from the logits of what it sees: the subject's twice
        attention, copied = model.model.layers[1].self_attn, 2 * torch.eye(width)
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[:width] = 0
        attention.v_proj.weight[:width], attention.o_proj.weight[:, :width] = copied, -copied
        model.model.embed_tokens.weight.normal_()
    folder = tmp_path / "llama"
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    options = f"--model {folder} --out {tmp_path / 'runs'}"
    monkeypatch.setitem(SMALL, "ioi", (f"{options} {SMALL['ioi'][0]}", "ioi"))
    found = run("ioi", written)
    assert [(row["head"], row["at"], row["into"]) for row in found["heads"]] == [("L1H0", "last", ["logits"])]
    assert found["direct_logits_top"] == 1
    assert found["share_alone"] > 0.9
    assert found["direct_logits_correlation"] > 0.9  # two ways to the same number, but for the norm's scale and MLPs
    assert found["cost"] > 0
    (row,) = found["heads"]
    assert row["direct_logits"] > 0
    assert row["whole_head"] is not None
    assert set(found["whole_heads"]) == {"last"}


def test_stages_with_a_screen_stand_beside_the_same_without(written, tmp_path, monkeypatch):
    words = f"{SMALL['screening'][0]} --effects {tmp_path / 'effects'} --orders 3"
    monkeypatch.setitem(SMALL, "screening", (words, SMALL["screening"][1]))
    found = run("screening", written)
    for rows in found["seeds"].values():
        whole, screened = rows.values()
        assert whole["token_layers"] == sum(stage["token_layers"] for stage in whole["stages"])
        assert screened["beside_all_prompts"]["token_layers"] == screened["token_layers"] / whole["token_layers"]
        for one, other in zip(whole["stages"], screened["stages"], strict=True):
            assert one["measured"] == 1 >= other["measured"] > 0
            assert len(one["kept"]) == len(other["kept"])
    (again,) = found["other_orders"]
    assert again["all"]["races"] == sum(again[stage["group"]]["races"] for stage in whole["stages"])
    assert again["all"]["races"] >= 2 * 3 * 2  # both seeds' first stages, into the logits, in three orders each
    assert 0 < again["all"]["pairs"] <= 1
    assert again["value_fetcher"]["lost_outside_interval"] <= again["value_fetcher"]["lost"]


def test_a_race_on_a_model_measures_what_the_stage_has():
    """And a race of the effects it measured, in the same order, measures the same heads on the same prompts."""
    module = setting.llama(setting.SMALL)
    model, some = replace(setting.traced(module), runs={}), setting.prompts(10)
    path = PatchedPath("previous_query_label", "value", setting.receivers((4, 5), 4))
    stage = StageOfModel(model, some, path, path.reaching(8, 4), "probability_ratio", Chunks(examples=4))
    race, effects = stage.race(Screen(first=4), 2, "20"), stage.measure()
    order = {number: place for place, number in enumerate(race.order)}
    for sender, prompts in enumerate(race.prompts.tolist()):
        measured = [number for number in range(10) if order[number] < prompts]
        there = race.found["patched"][sender] / race.found["base"] - 1
        assert there.isfinite().nonzero()[:, 0].tolist() == measured
        assert torch.allclose(there[measured].double(), effects[sender, measured], atol=1e-6)
    known = KnownStage("probability_ratio", 2, effects, race.estimates.double(), race.found["base"].double())
    assert known.race(Screen(first=4), "20").prompts.tolist() == race.prompts.tolist()
    assert known.outcome(Screen(first=4), "20")["left"] == 20 - len(race.whole)


def test_one_stage_is_measured_in_forwards_and_bytes(written, tmp_path):
    found = one_stage.headline(1, 8, setting.SMALL)
    assert set(found["models"]) == {"random Llama", "llama-tiny"}
    assert all(min(row["forwards_per_head"].values()) > 0 for row in found["models"].values())
    assert all(row["token_layers"]["first: 4"] > 0 for row in found["models"].values())
    random_llama(tmp_path / "llama", 6)
    held = one_stage.bytes_held(str(tmp_path / "llama"), 12)
    assert held["bytes"]["all prompts"] > held["bytes"]["weights"] > 0
    assert held["bytes"]["first: 4, afterwards"] > held["bytes"]["all prompts, afterwards"]  # runs are kept


def test_all_stages_of_a_shape_are_measured_and_written(written):
    found = run("seven_b", written)
    assert (found["device"], found["chunks"]["examples"], found["target"]) == ("cpu", 2, None)
    assert [row["stage"] for row in found["stages"]] == STAGES
    for row in found["stages"]:
        assert set(row) == FIELDS
        assert row["senders"] > 0
        assert row["examples"] == 3
        assert row["seconds"] > 0
        assert row["share_of_peak"] == pytest.approx(row["floor_seconds"] / row["seconds"])
        assert row["floor_seconds"] == pytest.approx(row["tflop"] / 0.01)


def test_the_floor_is_the_work_that_the_engine_does():
    shape, some = seven_b.SMALL, seven_b.prompts(3, 7, 320)
    model, counts = seven_b.model_of(shape, "cpu"), {"layers": 0, "answers": 0}

    def layers(_module, inputs):
        counts["layers"] += inputs[0].shape[:-1].numel()

    def answers(_module, _inputs, output):  # what skips the vocabulary comes out as narrow as it goes in
        counts["answers"] += output.shape[:-1].numel() if output.shape[-1] == shape.vocabulary else 0

    module = model.nn._module
    for layer in module.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(layers)
    module.lm_head.register_forward_hook(answers)
    for path in seven_b.paths(shape).values():
        counts.update(layers=0, answers=0)
        seven_b._run(model, path, path.reaching(shape.n_layers, shape.n_heads), [[one] for one in some], Chunks())
        least = seven_b.floor(shape, path, some)
        assert least.token_layers == counts["layers"]
        assert least.answers == counts["answers"]


def test_the_floor_of_a_path_worked_out_by_hand():
    """Two layers of one head, one prompt of 12 tokens, from its ninth token into layer 1."""
    shape = replace(seven_b.SMALL, n_layers=2, n_heads=1, n_kv_heads=1, d_head=2, d_model=3, d_mlp=5, vocabulary=7)
    (example,) = seven_b.prompts(1, 1, 7)
    assert (len(example.base.tokens), example.base.positions["query_label"]) == (12, 9)
    least = seven_b.floor(shape, PatchedPath("query_label", "value", (seven_b.Head(1, 0),)), [example])
    # layer 0 of the source runs no MLP, and the last token alone goes through the last one
    assert (least.mlp, least.whole, least.again, least.answers) == (1, 12 + 1, 1, 2)
    assert least.seen == 3 * 78 + 10 + 11 + 12
    assert least.flops(shape) == 2 * (1 * 45 + 14 * (24 + 45) + 2 * 21) + 4 * 267 * 2


def test_prompts_are_laid_out_as_boxes_prompts_are():
    real = Boxes(7).examples(setting.tokenizer(), 40, 0, "discovery")
    places = {tuple(sorted((name, where) for name, where in one.base.positions.items())) for one in real}
    for one in seven_b.prompts(14, 7, 320):
        assert any(set(one.base.positions.items()) <= set(place) for place in places)
        assert len(one.base.tokens) == len(real[0].base.tokens) == 54
    assert len({one.base.positions["previous_query_label"] for one in seven_b.prompts(7, 7, 320)}) == 7


def test_the_receivers_are_as_many_as_the_papers():
    assert [len(path.receivers) for path in seven_b.paths(seven_b.LLAMA_7B).values()] == [0, 20, 5, 10]
    best = seven_b.paths(seven_b.LLAMA_7B)["query at last"].receivers
    assert {seven_b.Head(15, 13), seven_b.Head(21, 3)} <= set(best)
