"""`et models inspect`: what is said of a model from its configuration alone, for every architecture."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import huggingface_hub
import pytest
from transformers import BloomConfig

from nnsight_et.diagnostics.inspection import inspect_model
from nnsight_et.models.families import FAMILIES
from tests.helpers.architectures import ARCHITECTURES, WINDOW, configuration, hf_model
from tests.helpers.commands import et
from tests.helpers.tiny_model import change_config, hf_llama, tokenizer


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A folder with a configuration and a tokenizer, and no weights."""
    hf_llama().config.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def lines(*arguments: object) -> dict[str, str]:
    """What is printed: the first word or words of each line -> the rest."""
    result = et("models", "inspect", *arguments)
    assert result.exit_code == 0, result.stderr
    pairs = (line.split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
    return {what: rest.strip() for what, rest in pairs}


def test_a_folder_is_described_without_weights(described):
    found = lines(described)
    assert found["architecture"] == "llama (LlamaForCausalLM)"
    assert found["kv heads"] == "2, each shared by 2 query heads"
    assert found["keys and values"].startswith("patched for all query heads that share them")
    assert found["parameters"] == f"{sum(one.numel() for one in hf_llama().parameters()):,}"
    assert found["z"].split() == ["input", "of", "model.layers.*.self_attn.o_proj", "Linear", "4", "x", "10"]
    assert found["key"].split()[-3:] == ["2", "x", "10"]
    assert found["a captured token, float32"] == "1.5 KiB"  # 4 bytes x 3 layers x (2 x 20 + 48 + 40)
    assert found["a captured token, bfloat16"] == "768.0 B"
    assert found["task boxes"].startswith("fits the tokenizer; 54 tokens in 20 examples, the first is <s>; one has ")
    assert found["task boxes"].endswith(", query_label 51, last 53")
    assert found["positions"] == "no limit; max_position_embeddings is 128"
    # kept: 54 tokens x 1536 bytes; a pass: 65536 tokens x (4 x (3 x 80 + 8 x 48 + 4 x 40) + 10 x 122) bytes
    assert found["a chunk of work, float32: 50 prompts, 65536 tokens a pass"] == "276.2 MiB"
    assert found["padding"] == "token 1, on the left"


def test_a_model_known_by_name_is_described():
    found = lines("goat-tiny")
    assert found["adapter"].endswith("goat-tiny")
    assert found["layers"] == "6"
    assert et("models").stdout.startswith("built-in models")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architectures_parts_are_where_it_says(name, tmp_path):
    configuration(name).save_pretrained(tmp_path)
    found = inspect_model(str(tmp_path))
    facts, module = dict(found.facts), hf_model(name)
    kind = ARCHITECTURES[name][0]
    tied = configuration(name).get_text_config().tie_word_embeddings
    parameters = sum(one.numel() for one in module.parameters()) - tied * module.lm_head.weight.numel()
    assert facts["parameters"] == f"{parameters:,}"
    assert facts["architecture"] == f"{kind} ({type(module).__name__})"
    own = ARCHITECTURES[name][1]
    windowed = "sliding_window" in own | own.get("text_config", {})
    assert facts["sliding window"].startswith(f"{WINDOW} tokens in" if windowed else "none")
    assert [site.what for site in found.sites] == [
        "residual", "z", "query", "key", "value", "attention", "mlp", "mlp input", "logits",
    ]  # fmt: skip
    support = [text for _, text in found.support]
    assert all(note in support for note in FAMILIES[kind].notes)
    assert any("not with this tokenizer" in text for text in support)  # there is none


def test_what_differs_between_architectures_is_told(tmp_path):
    def told(name: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        configuration(name).save_pretrained(tmp_path / name)
        found = inspect_model(str(tmp_path / name))
        return dict(found.facts), {site.what: site.where for site in found.sites}, dict(found.support)

    _, gpt2, _ = told("GPT-2")
    assert gpt2["value"] == "output of transformer.h.*.attn.c_attn, block 3 of 3"
    assert gpt2["residual"].startswith("transformer.wte + transformer.wpe, then output of transformer.h.*")
    _, neox, _ = told("GPT-NeoX")
    assert neox["key"] == "output of gpt_neox.layers.*.attention.query_key_value, part 2 of 3 in each kv head's group"
    facts, gemma, support = told("Gemma-2")
    assert facts["sliding window"] == f"{WINDOW} tokens in layers 0, 2"
    assert gemma["attention"] == "output of model.layers.*.post_attention_layernorm"
    assert support["attention"] == "eager: put attention: eager in the manifest"
    assert told("Mistral")[0]["sliding window"] == f"{WINDOW} tokens in all layers"
    assert told("Llama 3 (GQA)")[0]["sliding window"] == "none: a token sees all earlier tokens"
    assert told("OLMo-2")[1]["query"] == "output of model.layers.*.self_attn.q_norm"
    assert told("Mixtral")[0]["d_mlp"] == "96 of 192 in all experts"


def test_a_tokenizer_that_splits_the_tasks_words_is_told_and_the_rest_is_shown(described):
    words = described / "tokenizer.json"
    words.write_text(words.read_text().replace('"guitar"', '"gui"'))
    found = lines(described)
    assert "'guitar' is not one token of this tokenizer" in found["task boxes"]
    assert "a captured prompt of the task, float32" not in found
    assert "weights, float32" in found


STUDY = """\
name: x
seed: 4
memory: 1MiB
task: {kind: pairs, file: pairs.jsonl, positions: [thing]}
models: {mine: {path: model, dtype: bfloat16}}
experiments: {x: {method: attribution, model: mine, at: [last]}}
"""


def test_a_manifests_task_memory_and_dtype_are_looked_at(described):
    pair = {"base": "The {{thing|book}} is in Box A", "source": "The {{thing|car}} is in Box B", "answer": "is"}
    longer = pair | {"base": f"{pair['base']} the is in" + " Box" * 120}
    (described.parent / "pairs.jsonl").write_text("\n".join(map(json.dumps, [pair, longer, pair])))
    (described.parent / "study.yaml").write_text(STUDY)
    study = ("mine", "--manifest", described.parent / "study.yaml")
    found = lines(*study)
    start = "fits the tokenizer; 130 tokens in pairs.jsonl:2, the longest of 3 pairs, the first is <s>; one has thing 2"
    assert found["task pairs"].startswith(start)
    assert found["positions"].startswith("no limit, but prompts of 130 tokens exceed max_position_embeddings, 128")
    # 2 bytes x 3 layers x 128; 262144 // (130 x (768 + 2788)) is no whole prompt; 524288 // 2788 tokens in a pass
    assert found["a chunk of work, bfloat16: 1 prompts, 188 tokens a pass"] == "609.4 KiB"
    assert "weights, float32" not in found
    assert lines(*study, "--set", "task={kind: boxes, boxes: 2}")["task boxes"].startswith("fits the tokenizer; 19 tok")
    (described.parent / "pairs.jsonl").write_text(json.dumps(pair | {"answer": "unheard"}))
    assert lines(*study)["task pairs"].startswith("not with this tokenizer: pairs.jsonl:1: ")
    for wrong in ("missing.yaml", described.parent / "model" / "config.json"):
        assert et("models", "inspect", "mine", "--manifest", wrong).exit_code == 2
    assert et("models", "inspect", "mine", "--set", "seed=3").exit_code == 2


def test_prompts_past_a_table_of_positions_are_told(tmp_path):
    configuration("GPT-2", n_positions=53).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert lines(tmp_path)["positions"] == "a table of 53: 54 are refused"
    change_config(tmp_path, n_positions=54)
    assert lines(tmp_path)["positions"] == "a table of 54: the task's prompts fit"


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "no answer"])
def test_a_hub_id_whose_configuration_is_here_is_described_and_another_is_refused(
    offline, described, tmp_path, monkeypatch
):
    hub = tmp_path / "hub" / "models--org--one"
    (hub / "snapshots").mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0123")
    described.rename(hub / "snapshots" / "0123")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        assert lines("org/one")["layers"] == "3"
        refused = et("models", "inspect", "org/two")
    assert refused.exit_code == 2
    assert "'org/two' cannot be fetched from the hub" in refused.stderr


def test_what_cannot_be_run_or_read_is_told_with_exit_code_2(described, tmp_path):
    BloomConfig().save_pretrained(tmp_path / "bloom")
    change_config(described, num_attention_heads=0)
    (tmp_path / "empty").mkdir()
    for name, told in (
        (tmp_path / "bloom", "ALiBi"),
        (described, "config.json cannot be read"),
        (tmp_path / "empty", "no config.json"),
        (tmp_path / "nowhere", "no folder"),
    ):
        result = et("models", "inspect", name)
        assert result.exit_code == 2
        assert told in result.stderr
