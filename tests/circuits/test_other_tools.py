"""Models, scores and circuits of nnsight, TransformerLens, EAP-IG and auto-circuit, from there and to there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import nnsight_et as api
from nnsight_et.circuits import other_tools
from nnsight_et.circuits.other_tools import Sizes
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError, UnsupportedModel
from nnsight_et.models.catalog import KNOWN_MODELS
from tests.helpers.commands import et

SPEC = KNOWN_MODELS["llama-tiny"].spec
CIRCUIT = Circuit((HeadGroup("movers", "last", (Head(1, 2), Head(0, 1))),))
SIZES = Sizes(2, 3, 12, parallel=False)


def plain() -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(SPEC.path), AutoTokenizer.from_pretrained(SPEC.tokenizer)


@pytest.fixture(scope="module")
def pairs() -> api.Pairs:
    return api.Pairs.boxes(3)


@pytest.fixture(scope="module")
def expected(pairs) -> torch.Tensor:
    return api.path_patch(api.load(*plain(), device="cpu"), pairs, at="last").values


@pytest.mark.filterwarnings("ignore:LanguageModel is deprecated")
@pytest.mark.parametrize("kind", [nnsight.LanguageModel, nnsight.TransformersModel])
def test_a_model_of_nnsight_is_taken_with_its_tokenizer(kind, pairs, expected):
    module, tokenizer = plain()
    model = api.load(kind(module, task="text-generation", tokenizer=tokenizer))
    assert next(model.model.nn._module.parameters()) is next(module.parameters())
    assert torch.equal(api.path_patch(model, pairs, at="last").values, expected)


@pytest.mark.filterwarnings("ignore:LanguageModel is deprecated")
def test_weights_that_nnsight_has_not_read_yet_are_read(pairs, expected):
    waiting = nnsight.LanguageModel(SPEC.path, tokenizer=plain()[1], device_map="cpu", dtype=torch.float32)
    assert next(waiting._module.parameters()).is_meta
    assert torch.equal(api.path_patch(api.load(waiting), pairs, at="last").values, expected)


@pytest.mark.filterwarnings("ignore")  # TransformerLens' own
def test_a_bridge_of_transformer_lens_is_taken_and_its_names_are_those_of_our_scores(pairs):
    """With the real TransformerLens, where it is installed: patching its hook_z by our names gives our effects."""
    pytest.importorskip("transformer_lens.model_bridge")
    from transformer_lens.model_bridge import TransformerBridge  # type: ignore[reportMissingImports]

    module, tokenizer = plain()
    bridge: Any = TransformerBridge.boot_transformers(SPEC.path, hf_model=module, tokenizer=tokenizer)
    tokens = torch.tensor([[0, 50, 60, 70]])
    before = bridge(tokens)
    model = api.load(bridge, device="cpu")
    assert torch.equal(bridge(tokens), before)  # which it can still be used for
    scores = api.path_patch(model, pairs, at="last", keep=2)
    assert "hooks" not in {notice.kind for notice in model.notices}
    best = scores.to_transformer_lens()[0]
    example = pairs.examples(model.tokenizer)[0]
    base, source = (torch.tensor([side.tokens]) for side in (example.base, example.source))
    _, cache = bridge.run_with_cache(source)

    def patch(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, -1, best["head"]] = cache[best["hook"]][:, -1, best["head"]]
        return z

    theirs = bridge.run_with_hooks(base, fwd_hooks=[(best["hook"], patch)])[0, -1].softmax(-1)[example.answer]
    ours = api.activation_patch(model, pairs, [f"L{best['hook'].split('.')[1]}H{best['head']}"])
    assert ours.scores["probability"][1, 0].item() == pytest.approx(theirs.item(), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_bridge_whose_weights_were_changed_and_a_hooked_transformer_are_refused():
    pytest.importorskip("transformer_lens.model_bridge")
    from transformer_lens.model_bridge import TransformerBridge  # type: ignore[reportMissingImports]

    module, tokenizer = plain()
    bridge: Any = TransformerBridge.boot_transformers(SPEC.path, hf_model=module, tokenizer=tokenizer)
    bridge.add_hook("blocks.1.attn.hook_z", lambda z, hook: z)
    (notice,) = [one for one in api.load(bridge, device="cpu").notices if one.kind == "hooks"]
    assert "blocks.1.attn" in str(notice)
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(UnsupportedModel, match=r"has changed its weights; accepted: a bridge before enable_compat"):
        api.load(bridge)


def test_what_holds_weights_in_a_layout_of_its_own_is_refused_by_name():
    hooked = type("HookedTransformer", (), {"__module__": "transformer_lens.HookedTransformer"})()
    with pytest.raises(UnsupportedModel, match=r"HookedTransformer: .*accepted: TransformerBridge.boot_transformers"):
        api.load(hooked)


def test_heads_and_mlps_have_transformer_lens_names(pairs):
    rows = CIRCUIT.to_transformer_lens()
    assert rows[0] == {"hook": "blocks.1.attn.hook_z", "head": 2, "group": "movers", "at": "last"}
    model = api.load(*plain(), device="cpu")
    heads = api.path_patch(model, pairs, at="last")
    assert [row["score"] for row in heads.to_transformer_lens()] == [row["score"] for row in heads.rows]
    first, best = heads.to_transformer_lens()[0], heads.top(1)[0]
    assert (first["hook"], first["head"]) == (f"blocks.{best.layer}.attn.hook_z", best.index)
    mlps = api.path_patch_mlps(model, pairs, at="last").to_transformer_lens()
    assert {(row["hook"], row["head"]) for row in mlps} == {(f"blocks.{i}.hook_mlp_out", None) for i in range(6)}


def test_a_graph_of_eap_ig_has_the_circuits_heads_all_mlps_and_every_edge_of_the_model():
    graph = other_tools.to_eap_ig(CIRCUIT, SIZES)
    assert graph["cfg"] == {"n_layers": 2, "n_heads": 3, "parallel_attn_mlp": False, "d_model": 12}
    inside = {name for name, said in graph["nodes"].items() if said["in_graph"]}
    assert inside == {"input", "a0.h1", "a1.h2", "m0", "m1", "logits"}
    assert set(graph["nodes"]) == inside | {"a0.h0", "a0.h2", "a1.h0", "a1.h1"}
    # 3 x 3 inputs of layer 0 see 1 node, its MLP 4, 3 x 3 of layer 1 see 5, its MLP 8, the logits 9
    assert len(graph["edges"]) == 9 * 1 + 4 + 9 * 5 + 8 + 9
    there = {name for name, said in graph["edges"].items() if said["in_graph"]}
    heads = {f"{source}->a1.h2<{via}>" for source in ("input", "a0.h1", "m0") for via in "qkv"}
    heads |= {f"input->a0.h1<{via}>" for via in "qkv"}
    mlps = {"input->m0", "a0.h1->m0", "input->m1", "a0.h1->m1", "m0->m1", "a1.h2->m1"}
    assert there == heads | mlps | {f"{one}->logits" for one in ("input", "a0.h1", "m0", "a1.h2", "m1")}


def test_in_parallel_blocks_an_mlp_does_not_see_the_heads_beside_it():
    edges = other_tools.to_auto_circuit(CIRCUIT, Sizes(2, 3, 12, parallel=True))
    assert "A0.1->MLP 0" not in edges
    assert {"A0.1->MLP 1", "MLP 0->A1.2.Q", "Resid Start->A0.1.V", "A1.2->Resid End"} <= set(edges)


@pytest.mark.parametrize("form", ["eap-ig", "auto-circuit"])
def test_what_is_written_for_other_tools_is_read_again(form, tmp_path: Path):
    model = api.load(*plain(), device="cpu")
    file = api.export_circuit(["L5H0", "L2H3"], tmp_path / "graph.json", form, model)
    found = api.import_circuit(file, at="last", group="theirs")
    assert found.circuit == Circuit((HeadGroup("theirs", "last", (Head(2, 3), Head(5, 0))),))
    assert form.replace("-ig", "").upper() in found.notes[0].upper()
    shown = et("circuit", "import", file, "--at", "last", "--to", tmp_path / "mine.json")
    assert shown.exit_code == 0
    assert "L2H3 L5H0" in shown.stdout
    refused = et("circuit", "show", file)
    assert refused.exit_code == 2
    assert "the position of 'heads' is not known" in refused.stderr
    with pytest.raises(TaskError, match=r"form: 'dot'; "):
        api.export_circuit(["L5H0"], file, "dot", model)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="L9H0"):
        api.export_circuit(["L9H0"], file, form, model)


EAP: dict[str, Any] = {
    "cfg": {"n_layers": 2},
    "nodes": {"input": {"in_graph": True}, "a0.h1": {"in_graph": True}, "a1.h0": {"in_graph": True},
              "a1.h2": {"in_graph": False}, "m0": {"in_graph": True}, "logits": {"in_graph": True}},
    "edges": {"input->a0.h1<q>": {"score": 0.1, "in_graph": True}, "a0.h1->a1.h0<v>": {"score": -0.4, "in_graph": True},
              "a1.h0->logits": {"score": 0.3, "in_graph": True}, "a1.h2->logits": {"score": 9, "in_graph": False}},
}  # fmt: skip
READ = {
    "EAP-IG, by edges": (EAP, [Head(1, 0), Head(0, 1)]),
    "EAP-IG, by nodes": (
        EAP | {"nodes": {"a0.h1": {"in_graph": True, "score": -3}, "a1.h0": {"in_graph": True, "score": float("nan")}}},
        [Head(0, 1), Head(1, 0)],
    ),
    "EAP-IG of 2024": (EAP | {"nodes": {"a1.h0": True, "a1.h2": False, "m1": True}}, [Head(1, 0)]),
    "edges": (["A9.6->A10.0.Q", "MLP 3->A9.6.V", "A10.0->Resid End"], [Head(9, 6), Head(10, 0)]),
    "edges with scores": (
        {"A9.6->A10.0.Q": -0.1, "A10.0->Resid End": 0.5, "A1.1->MLP 2": 0},
        [Head(10, 0), Head(9, 6)],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_heads_are_read_the_strongest_first(case, tmp_path: Path):
    data, heads = READ[case]
    (tmp_path / "graph.json").write_text(json.dumps(data))
    assert list(api.import_circuit(tmp_path / "graph.json", at="last").circuit.groups[0].heads) == heads


WRONG = {
    "node": (EAP | {"nodes": {"a1h0": True}}, r"node 'a1h0'; accepted: input, logits, m<layer>"),
    "nodes": (EAP | {"nodes": []}, r"accepted: what Graph.to_json of EAP-IG writes"),
    "edge": (["A9.6->B1.0"], r"edge 'A9.6->B1.0'; accepted: A<layer>.<head>"),
    "list": ([1, 2], r"not a circuit; accepted: .* or edges of auto-circuit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_such_file_is_refused_by_name(case, tmp_path: Path):
    data, told = WRONG[case]
    (tmp_path / "graph.json").write_text(json.dumps(data))
    with pytest.raises(TaskError, match=told):
        api.import_circuit(tmp_path / "graph.json", at="last")


def test_attention_of_a_circuits_heads_is_shown_token_by_token(pairs, monkeypatch, tmp_path: Path):
    """Of each head the weights that transformers gives; with the real CircuitsVis, where it is installed."""
    pytest.importorskip("circuitsvis")
    import circuitsvis.attention  # type: ignore[reportMissingImports]

    given: list[Any] = []
    real = circuitsvis.attention.attention_heads
    monkeypatch.setattr(circuitsvis.attention, "attention_heads", lambda *some: given.append(some) or real(*some))
    module, tokenizer = plain()
    model = api.load(module, tokenizer, device="cpu")
    view = api.view_attention(model, pairs, ["L5H0", "L2H3"], index=1)
    weights, tokens, names = given[0]
    example = pairs.examples(tokenizer)[1]
    assert names == ["L2H3", "L5H0"]
    assert len(tokens) == len(example.base.tokens)
    assert module.config._attn_implementation == "sdpa"
    module.set_attn_implementation("eager")
    with torch.no_grad():
        found = module(input_ids=torch.tensor([example.base.tokens]), output_attentions=True).attentions
    torch.testing.assert_close(weights, torch.stack([found[2][0, 3], found[5][0, 0]]), atol=1e-6, rtol=0)
    assert "L5H0" in view._repr_html_()
    assert "https://unpkg.com" not in view.html
    assert view.save(tmp_path / "view.html").read_text().count("CircuitsVis.render(") == 1
    with pytest.raises(TaskError, match="index: 3; accepted: 0 to 2"):
        api.view_attention(model, pairs, ["L5H0"], index=3)
