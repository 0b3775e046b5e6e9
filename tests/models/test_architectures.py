"""Every architecture: both engines against plain hooks, what must hold of any model, sizes, windows, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight import TransformersModel
from peft import LoraConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, OPTConfig

from nnsight_et.core.batch import PromptBatch
from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.attention_patterns import attention_from
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.families import FAMILIES
from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model, shape_from, wrap_model
from tests.helpers import architecture_table, plain_hooks
from tests.helpers.architecture_table import COLUMNS, ENGINES, SENDERS, made, measured
from tests.helpers.architectures import ARCHITECTURES, QUICK, WINDOW, configuration, every, hf_model
from tests.helpers.closeness import assert_near
from tests.helpers.methods_study import CIRCUIT, OBJECTS, results
from tests.helpers.tiny_model import few_pairs, tiny_model, tokenizer

EVERY = list(ARCHITECTURES)
WINDOWED = [
    name for name, (_, own) in ARCHITECTURES.items() if "sliding_window" in own | own.get("text_config", {})
]  # fmt: skip


@pytest.mark.parametrize("name", every())
def test_both_engines_agree_with_plain_hooks_on_every_method(name):
    for column, (gap, effect) in measured(name).items():
        assert gap < 1e-5, column
        assert effect > 5e-4, column  # there is something to get wrong


@pytest.mark.parametrize("name", every())
def test_what_must_hold_of_any_model_holds(name):
    """Writes add up, padding does nothing, a head's projection moves that head, source = base changes nothing."""
    errors = engine_errors(made(name)[1], few_pairs((2, 3)))
    assert max(errors.values()) < 1e-5, errors
    assert {"writes", "padding", "heads of queries", "heads of keys", "heads of values", "source = base"} <= set(errors)
    assert errors["reference: source = base"] == errors["out of reach"] == 0


def test_every_family_is_tested():
    assert {kind for kind, _ in ARCHITECTURES.values()} == set(FAMILIES)


def test_the_documents_table_is_of_these_models_and_within_what_is_accepted():
    """All but the numbers is as it would be written now; the numbers were measured on some machine."""
    text = architecture_table.DOCUMENT.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == EVERY
    measured = [cell.rstrip("| ") for row in rows for cell in row[2:]]
    assert all(0 < float(cell) < 1e-5 for cell in measured if cell != "refused")
    assert all(len(row[2:]) == len(COLUMNS) for row in rows)
    assert text.partition("<!-- notes -->\n")[2] == architecture_table.notes() + "\n", "make architectures"


def test_make_architectures_measures_and_keeps_what_is_written_by_hand(monkeypatch):
    monkeypatch.setattr(architecture_table, "ARCHITECTURES", {"GPT-2": ARCHITECTURES["GPT-2"]})
    text = architecture_table.DOCUMENT.read_text()
    made = architecture_table.document(text)
    (row,) = [line for line in made.splitlines() if line.startswith("| ") and "model_type" not in line]
    assert row.startswith("| GPT-2 | `gpt2` | ")
    assert made.partition("<!-- table -->")[0] == text.partition("<!-- table -->")[0]
    assert made.partition("<!-- /table -->")[2] == text.partition("<!-- /table -->")[2]


@pytest.mark.slow
def test_the_document_can_be_written_again_from_itself(monkeypatch):
    text = architecture_table.DOCUMENT.read_text()
    once = architecture_table.document(text)
    assert architecture_table.document(once) == once
    assert once.partition("<!-- table -->")[0] == text.partition("<!-- table -->")[0]


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_shorter_than_the_prompt_are_really_there(name):
    module, model = made(name)
    expected = [None if kind == "full_attention" else WINDOW for kind in _types(module.config)]
    assert list(model.windows) == expected
    pair = few_pairs()
    wide = hf_model(name, **_without_window(name))
    assert all(torch.equal(one, other) for one, other in zip(module.parameters(), wide.parameters(), strict=True))
    narrow, whole = (plain_hooks.run_model(one, pair.base.tokens, pair.base.mask)[:, -1] for one in (module, wide))
    assert (narrow - whole).abs().max() > 1e-3


def _types(config: Any) -> list[str]:
    text = config.get_text_config()
    by_layer = FAMILIES[config.model_type].masks == "by layer type"
    return text.layer_types if by_layer else ["sliding_attention"] * text.num_hidden_layers


def _without_window(name: str) -> dict[str, Any]:
    own = ARCHITECTURES[name][1]
    if "text_config" in own:
        return {"text_config": own["text_config"] | {"sliding_window": 1000}}
    return {"sliding_window": 1000}


@pytest.mark.parametrize(("back", "seen"), [(WINDOW - 1, True), (WINDOW, False)])
def test_a_token_sees_itself_and_one_less_than_the_window_before_it(back, seen):
    module = made("Mistral")[0]
    tokens = torch.arange(20)[None] + 3
    changed = tokens.clone()
    changed[0, 19 - back] = 50
    runs = [PromptBatch(one, torch.ones_like(one), {}) for one in (tokens, changed)]
    before, after = (plain_hooks.head_outputs(module, run)[0][0, 19] for run in runs)
    assert torch.equal(before, after) != seen


SHAPES = {  # layers, query heads, kv heads, width of a head, d_model, width of the MLP a token passes, words
    "Llama 1, 2 (MHA)": (3, 4, 4, 10, 32, 48, 122),
    "Llama (MQA)": (3, 4, 1, 10, 32, 48, 122),
    "Gemma-3 with images": (3, 4, 2, 10, 32, 48, 122),
    "OLMo-2": (3, 4, 2, 8, 32, 48, 122),
    "GPT-2": (3, 4, 4, 8, 32, 128, 122),
    "GPT-NeoX": (3, 4, 4, 8, 32, 48, 122),
    "GPT-J": (3, 4, 4, 8, 32, 128, 122),
    "OPT": (3, 4, 4, 8, 32, 48, 122),
    "GPT-BigCode": (3, 4, 1, 8, 32, 128, 122),
    "GPT-BigCode (MHA)": (3, 4, 4, 8, 32, 128, 122),
    "Falcon 7B": (3, 4, 1, 8, 32, 128, 122),
    "Falcon 40B, 11B": (3, 4, 2, 8, 32, 128, 122),
    "Falcon, serial (MHA)": (3, 4, 4, 8, 32, 128, 122),
    "Qwen3-Next": (3, 4, 2, 10, 32, 68, 122, 116),
    "Gemma-4": (3, 4, 2, 12, 32, 48, 122),
    "Granite 4 (dense, with Mamba)": (3, 4, 2, 16, 32, 48, 122),
    "gpt-oss": (3, 4, 2, 10, 32, 96, 122, 192),
    "Mixtral": (3, 4, 2, 10, 32, 96, 122, 192),
    "Qwen2-MoE": (3, 4, 2, 8, 32, 68, 122, 116),
    "Qwen3-MoE": (3, 4, 2, 10, 32, 48, 122, 96),
}


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_read_by_the_names_each_configuration_has_for_them(name):
    shape = shape_from(configuration(name), name)
    sizes = (shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head, shape.d_model, shape.d_mlp)
    assert (*sizes, shape.vocabulary, shape.d_experts) == (*SHAPES[name], 0)[:8]


@pytest.mark.parametrize("name", every())
def test_a_folder_with_it_is_loaded(name, tmp_path: Path):
    module = hf_model(name)
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    kind = module.config.model_type
    model = load_model(download_files("mine", ModelSpec(str(tmp_path))), attention=FAMILIES[kind].implementations[0])
    pair = few_pairs((2, 2))
    base = path_probabilities(model, pair, PatchedPath("last"), SENDERS[:1], "default", Chunks())["base"]
    logits = plain_hooks.run_model(made(name)[0], pair.base.tokens, pair.base.mask)[:, -1]
    assert_near(base, logits.softmax(-1)[torch.arange(2), pair.answer])


@pytest.mark.parametrize("name", ["Gemma-2", "GPT-J"])
def test_attention_that_a_model_does_not_have_is_refused_before_weights_are_read(name, tmp_path: Path):
    hf_model(name).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnsupportedModel, match=r"has no sdpa attention; accepted: attention eager"):
        load_model(download_files("mine", ModelSpec(str(tmp_path))), attention="sdpa")


FUSED = {
    "GPT-2": ["c_attn", "attn.c_proj"],
    "GPT-NeoX": ["query_key_value", "dense"],
    "Phi-3": ["qkv_proj", "o_proj"],
    "OLMo-2": ["q_proj", "k_proj", "o_proj"],
}


@pytest.mark.parametrize("name", FUSED)
def test_an_adapter_on_projections_that_are_packed_or_normed_is_part_of_what_runs(name, tmp_path: Path):
    hf_model(name).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    torch.manual_seed(5)
    wanted = LoraConfig(r=3, target_modules=FUSED[name], task_type="CAUSAL_LM", fan_in_fan_out=name == "GPT-2")
    adapted = get_peft_model(hf_model(name), wanted)
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    model = load_model(download_files("mine", ModelSpec(str(tmp_path / "model"), str(tmp_path / "adapter"))))
    errors = engine_errors(model, few_pairs((2, 3)))
    assert "adapter" in errors
    assert max(errors.values()) < 1e-5
    module, pair = adapted.get_base_model().eval(), few_pairs((2, 3))
    for path in architecture_table.PATHS.values():
        senders = [sender for sender in SENDERS if sender in path.reaching(3, 4)]
        _, expected = plain_hooks.path_patching(module, pair, senders, path.receivers, path.via, path.at)
        for engine in ENGINES:
            patched = path_probabilities(model, pair, path, senders, engine, Chunks())["patched"]
            assert architecture_table.apart(patched, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", QUICK)
def test_parts_add_up_in_every_dtype(name, dtype):
    module = hf_model(name, dtype=dtype)
    model = tiny_model(module, FAMILIES[module.config.model_type].implementations[0])
    assert model.dtype == dtype


def test_experts_run_in_float64_too():
    errors = engine_errors(tiny_model(hf_model("Mixtral", dtype=torch.float64)), few_pairs((2, 3)))
    assert max(errors.values()) < 1e-10


REFUSED = {
    "opt-350m": (OPTConfig(do_layer_norm_before=False), "passes through norms.*accepted: do_layer"),
    "OPT of two widths": (OPTConfig(word_embed_proj_dim=512), "accepted: word_embed_proj_dim 768"),
    "GPT-2 in an encoder-decoder": (GPT2Config(add_cross_attention=True), "add_cross_attention is True.*encoder"),
    "Gemma-3 that sees later tokens": (
        configuration("Gemma-3", use_bidirectional_attention=True),
        "attend to later ones",
    ),
    "Gemma-2 that sees later tokens": (
        configuration("Gemma-2", use_bidirectional_attention=True),
        "attend to later ones",
    ),
    "Falcon with ALiBi": (configuration("Falcon 7B", alibi=True), "alibi is True.*ALiBi"),
    "Gemma-4 with experts": (
        configuration("Gemma-4", enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=8),
        "enable_moe_block is True.*its experts read the residual itself",
    ),
    "Granite 4 with experts": (configuration("Granite 4 (dense)", num_local_experts=4), "num_local_experts is 4"),
    "ALiBi": (BloomConfig(), "'bloom' cannot be run exactly: .*ALiBi.*accepted: llama, mistral"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_exactly_is_refused_by_name(case):
    config, reason = REFUSED[case]
    with pytest.raises(UnsupportedModel, match=rf"^mine: architecture .*{reason}"):
        shape_from(config, "mine")


LACKING: dict[
    str, tuple[int, Any, str]
] = {  # architecture -> layer, what its heads lack there, why, where they have it
    "Qwen3.5": (2, "query", "it is linear attention, .* layers 1$"),
    "Granite 4 (dense, with Mamba)": (0, "value", "it is linear attention, .* layers 1$"),
    "Gemma-4 with shared keys": (2, "key", "it has the keys and values of an earlier layer; accepted: layers 0, 1$"),
    "Gemma-4 with keys for values": (2, "value", "one projection gives its keys and its values; .* 0, 1$"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LACKING)
def test_what_heads_of_a_layer_do_not_have_is_refused_by_layer_and_name(name, engine):
    (layer, via, why), model = LACKING[name], made(name)[1]
    path = PatchedPath("query_label", via, (Head(1, 0), Head(layer, 3)))
    with pytest.raises(UnsupportedModel, match=f"^tiny: the heads of layer {layer} have no {via} of their own: {why}"):
        path_probabilities(model, few_pairs((2, 3)), path, [Head(0, 0)], engine, Chunks())


@pytest.mark.parametrize("engine", ENGINES)
def test_linear_attention_refuses_what_looks_at_single_tokens(engine):
    model, question = made("Qwen3.5")[1], few_pairs((2, 3)).question
    edge = question.run.positions["last"], question.run.positions["query_label"]
    with pytest.raises(UnsupportedModel, match=r"layers 0, 2 are linear attention.*; accepted: "):
        knockout_readouts(model, question, edge, [1], engine, Chunks())
    with pytest.raises(UnsupportedModel, match="layer 0 have no value of their own"):
        attention_from(model, question.run, "last", (), engine)


def test_linear_attention_whose_heads_are_no_multiple_of_attentions_is_refused():
    own = ARCHITECTURES["Qwen3.5"][1] | {"linear_num_value_heads": 6, "linear_num_key_heads": 6}
    with pytest.raises(UnsupportedModel, match=r"layers 0, 2 are linear attention of 6 heads; accepted: .* 4$"):
        shape_from(configuration("Qwen3.5", **own), "mine")


def test_a_loaded_model_of_a_refused_architecture_is_refused_too():
    module = BloomForCausalLM(BloomConfig(vocab_size=122, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(UnsupportedModel, match="ALiBi"):
        wrap_model(TransformersModel(module, task="text-generation", tokenizer=tokenizer()), "mine")


@pytest.mark.parametrize("name", ["Gemma-2", "OLMo-2"])
def test_a_norm_after_attention_that_is_forgotten_is_seen_on_load(name, monkeypatch):
    module = hf_model(name)
    kind = module.config.model_type
    plain = FAMILIES["llama"]
    monkeypatch.setitem(FAMILIES, kind, plain.__class__(**{**vars(FAMILIES[kind]), "attention_norm": None}))
    with pytest.raises(UnsupportedModel, match="relative gap"):
        tiny_model(module, "eager")


def test_learned_positions_that_are_forgotten_are_seen_on_load(monkeypatch):
    plain = FAMILIES["gpt2"]
    monkeypatch.setitem(FAMILIES, "gpt2", plain.__class__(**{**vars(plain), "embeddings": plain.embeddings[:1]}))
    with pytest.raises(UnsupportedModel, match="relative gap"):
        tiny_model(hf_model("GPT-2"))


EXPERIMENTS = """\
  found:
    method: path_patching
    model: one
    examples: 5
    stages:
      - {group: a, into: logits, at: last, keep: 12, receivers: 12}
      - {group: b, into: a, via: query, at: last, keep: 2}
      - {group: c, into: a, via: key, at: query_label, keep: 2}
      - {group: d, into: a, via: value, at: previous_query_label, keep: 2, kv_heads: expanded}
  table: {method: faithfulness, circuit: ./circuit.json, models: [one, two], examples: 5, ablation_examples: 4}
  pruned: {method: minimality, circuit: ./circuit.json, model: one, examples: 5, ablation_examples: 4}
  complete: {method: completeness, circuit: ./circuit.json, model: one, examples: 5, ablation_examples: 4, draws: 2}
  masks:
    {method: dcm, circuit: ./circuit.json, model: one, desiderata: [object, position], training_examples: 4,
     validation_examples: 4, test_examples: 4, batch: 2, epochs: 3}
  across: {method: cmap, donor: two, recipient: one, circuit: ./circuit.json, examples: 5, random_sets: 2}
  blind: {method: knockout, model: one, examples: 5}
  looks: {method: attention_patterns, circuit: ./circuit.json, model: one, examples: 5}
  screen: {method: attribution, model: one, examples: 5}
"""


# GPT-J's layers give tuples.
@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one != "GPT-J")) for one in QUICK])
def test_every_method_runs_from_a_manifest_and_passes_its_self_checks(name, tmp_path):
    for seed, folder in enumerate(("one", "two")):
        module = hf_model(name, seed)
        others = torch.ones(module.config.vocab_size, dtype=torch.bool)
        others[tokenizer().convert_tokens_to_ids(list(OBJECTS))] = False
        module.lm_head.weight[others] = 0
        module.save_pretrained(tmp_path / folder)
        tokenizer().save_pretrained(tmp_path / folder)
    (tmp_path / "circuit.json").write_text(CIRCUIT)
    attention = FAMILIES[module.config.model_type].implementations[0]
    found = results(tmp_path, EXPERIMENTS, f"attention={attention}")
    assert set(found) == {"found", "table", "pruned", "complete", "masks", "across", "blind", "looks", "screen"}
    assert all(result.header.self_check.checks for result in found.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_of_olmo_2_is_the_heads_own(engine):
    """Its norm runs over all heads: replaced before it, one head's key would move the other heads' scores."""
    model, pair = made("OLMo-2")[1], few_pairs()
    module = made("OLMo-2")[0]
    width = model.d_head
    out = module.model.layers[2].self_attn.o_proj
    kept = out.weight.clone()
    try:
        out.weight[:, : 2 * width] = 0  # the query heads of kv head 0 write nothing
        path = PatchedPath("query_label", "key", (Head(2, 0),))
        found = path_probabilities(model, pair, path, SENDERS, engine, Chunks())
    finally:
        out.weight.copy_(kept)
    assert (found["patched"] - found["base"]).abs().max() < 1e-6
