"""The embedded models on disk are what their record says, and the record meets what the models are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.tasks.boxes import LABELS, OBJECTS, Boxes
from tools.embedded_models.make import digests, load
from tools.embedded_models.measure import accuracy, all_heads, stage_scores
from tools.embedded_models.record import DATA_SEEDS, EVALUATED, EVALUATION_SEED, EXAMPLES, STAGES, stage_summary

RECORD = json.loads((EMBEDDED / "record.json").read_text())
NAMES = ("llama-tiny", "vicuna-tiny", "goat-tiny", "float-tiny")
PAPER_PROMPTS = (
    "There are a bunch of boxes containing objects, the magnet is in Box O. Box O contains the",
    "The bus is in Box Q, the watch is in Box C, these are a bunch of boxes containing objects. Box C contains the",
    "The fan is contained in the Box H, the painting is in Box L. Box H contains the",
    "The tie is in Box U, there are three additional boxes, Box PP, Box BB and Box AA, the wire is in Box F.",
    "The pot is in Box U, Box C contains the disk, the wheel is not in Box G, the suit, is in Box Y",
    "What is 12 + 345? Answer: 357. 7 * 8 = 56, 9 / 3 = 3, 5 - 4 = 1",
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer")


@pytest.mark.parametrize("text", PAPER_PROMPTS)
def test_a_text_comes_back_from_its_tokens_and_each_token_knows_its_characters(tokenizer, text: str) -> None:
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids = encoding["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.pad_token_id not in ids
    pieces = [text[start:end] for start, end in encoding["offset_mapping"][1:]]
    assert pieces == tokenizer.convert_ids_to_tokens(ids[1:])
    assert "".join(pieces) == text.replace(" ", "")


def test_decoding_a_boxes_prompt_gives_its_text(tokenizer) -> None:
    text = "The apple is in Box F, the computer is in Box Q. Box F contains the"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_objects_and_labels_are_single_tokens_and_prompts_have_the_papers_length(tokenizer) -> None:
    for word in (*OBJECTS, *LABELS):
        assert len(tokenizer(word)["input_ids"]) == 2
    prompt = Boxes().examples(tokenizer, 1, seed=0, split="evaluation")[0].base
    assert (len(prompt.tokens), prompt.positions["query_label"], prompt.positions["last"]) == (54, 51, 53)


def test_all_files_together_stay_small_and_the_weights_are_16_bit() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= 12_000_000
    for name in NAMES:
        (weights,) = (EMBEDDED / name).glob("*.safetensors")
        assert {weight.dtype for weight in load_file(weights).values()} == {torch.float16}


def test_the_weights_are_those_the_record_was_made_with() -> None:
    assert digests(EMBEDDED) == RECORD["digests"]


def test_goat_tiny_is_an_adapter_of_every_attention_projection() -> None:
    weights = load_file(EMBEDDED / "goat-tiny" / "adapter_model.safetensors")
    adapted = {name.split(".self_attn.")[1].split(".")[0] for name in weights}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_weights_have_the_recorded_accuracy(tokenizer, name: str) -> None:
    pair = collate(Boxes().examples(tokenizer, EVALUATED, EVALUATION_SEED, "evaluation"))
    assert accuracy(load(EMBEDDED / name), pair) == pytest.approx(RECORD["accuracy"][name], abs=0.0041)


def test_the_recorded_accuracies_are_those_the_models_were_made_for() -> None:
    measured = RECORD["accuracy"]
    assert 0.60 <= measured["llama-tiny"] <= 0.75
    assert min(measured["goat-tiny"], measured["float-tiny"]) >= 0.80
    assert abs(measured["vicuna-tiny"] - measured["llama-tiny"]) <= 0.08


@pytest.mark.parametrize(
    ("group", "at_most", "heads"),
    [
        ("value_fetcher", -0.05, 3),
        ("position_transmitter", -0.05, 3),
        ("position_detector", -0.02, 3),
        ("structure_reader", -0.02, 1),
    ],
)
def test_every_stage_finds_the_same_best_head_in_every_data_seed(group: str, at_most: float, heads: int) -> None:
    by_seed = [RECORD["stages"][group][str(seed)] for seed in DATA_SEEDS]
    assert len({found["best"] for found in by_seed}) == 1
    assert all(found["score"] <= at_most and len(found["matter"]) >= heads for found in by_seed)


def test_the_right_answer_is_never_ruled_out() -> None:
    assert min(RECORD["p_base_1_percent"].values()) >= 0.003


def test_the_recorded_first_stage_can_be_measured_again(tokenizer) -> None:
    llama = load(EMBEDDED / "llama-tiny")
    pair = collate(Boxes().examples(tokenizer, EXAMPLES, DATA_SEEDS[0], "discovery"))
    found = stage_summary(llama, stage_scores(llama, pair, STAGES[0], ()))
    recorded = RECORD["stages"]["value_fetcher"][str(DATA_SEEDS[0])]
    assert found["best"] == recorded["best"]
    assert found["score"] == pytest.approx(recorded["score"], abs=1e-3)


def test_the_recorded_circuit_fits_the_model_and_works_alone() -> None:
    circuit = Circuit.from_dict(RECORD["circuit"])
    heads = all_heads(load(EMBEDDED / "llama-tiny"))
    assert {Head(*head) for group in circuit.groups for head in group.heads} <= set(heads)
    assert RECORD["faithfulness"]["llama-tiny"]["faithfulness"] >= 0.7
    assert RECORD["faithfulness"]["random circuits, llama-tiny"]["mean"] < 0.2


def test_importing_the_package_of_models_costs_nothing() -> None:
    root = Path(__file__).parents[2]
    code = "import sys, nnsight_et.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
