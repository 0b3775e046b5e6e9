"""Runs that reach every method, on tiny models in which a fault shows: GQA, biases, an adapter, two lengths, a file."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from nnsight_et.manifest import parse
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.encoding import MarkedText
from tests.helpers.methods_study import CIRCUIT, OBJECTS
from tests.helpers.tiny_model import hf_llama, tokenizer

STUDY = """\
name: exercise
seed: 3
task: {kind: boxes, boxes: 2, objects: [book, car, paper, letter]}
memory: 4MiB
models: {one: {path: one%s}, two: {path: two}}
experiments:
  found:
    method: path_patching
    model: one
    examples: 6
    held_out_examples: 4
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 5, receivers: 4}
      - {group: position_transmitter, into: value_fetcher, via: query, at: last, keep: 2, receivers: 2}
      - {group: position_detector, into: value_fetcher, via: value, at: query_label, keep: 2}
      - {group: structure_reader, into: value_fetcher, via: key, at: previous_query_label, keep: 2}
      - {group: alone, into: value_fetcher, via: value, at: query_label, keep: 2, kv_heads: expanded}
      - {group: writers, into: logits, at: last, senders: mlps, keep: 2, receivers: 2}
      - {group: readers, into: writers, via: input, at: last, keep: 2}
      - {group: before, into: value_fetcher, via: value, at: previous_query_label, senders: mlps, keep: 1}
  table: {method: faithfulness, circuit: ./circuit.json, models: [one], examples: 6, ablation_examples: 5}
  complete: {method: completeness, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5, draws: 2}
  pruned: {method: minimality, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5}
  masks:
    {method: dcm, circuit: ./circuit.json, model: one, desiderata: [object, position], training_examples: 8,
     validation_examples: 6, test_examples: 7, batch: 4, epochs: 3, learning_rate: 0.4, validate_every: 2}
  roles: {method: activation_patching, roles: masks, models: [one], desiderata: [object], examples: 6, draws: 2}
  across: {method: cmap, donor: two, recipient: one, circuit: ./circuit.json, examples: 6, random_sets: 30}
  blind: {method: knockout, model: one, examples: 6}
  looks: {method: attention_patterns, circuit: ./circuit.json, model: one, examples: 6}
  screen: {method: attribution, model: one, examples: 6}
  graph:
    {method: discovery, model: one, examples: 6, held_out_examples: 6, mlps: true, level: 0.9, effect: 0.001, keep: 2,
     branches: 3, closed_sample: 1}
  overlap: {method: comparison, circuits: [found, ./circuit.json], scores: found}
  kl: {method: path_patching, model: one, metric: kl, examples: 6, stages: [{group: a, into: logits, at: last, keep: 4}]}
  logits: {method: path_patching, model: one, metric: logit_difference, examples: 6, stages: [{group: a, into: logits, at: last, keep: 4}]}
  shares: {method: path_patching, model: one, metric: probability_difference, examples: 6, stages: [{group: a, into: logits, at: last, keep: 4}]}
"""
PAIRS = """\
name: exercise
seed: 3
task: {kind: pairs, file: pairs.jsonl, positions: [correct_object, previous_query_label, query_label]}
memory: 4MiB
models: {one: {path: one}}
experiments:
  found:
    {method: path_patching, model: one, examples: 6, held_out_examples: 4, stages: [{group: a, into: logits, at: last, keep: 4}]}
  pruned: {method: minimality, circuit: found, examples: 6, ablation_examples: 5}
  table: {method: faithfulness, circuit: pruned, models: [one], examples: 6, ablation_examples: 5}
"""
EXERCISES: dict[str, dict[str, Any]] = {
    "gqa": {},
    "bias": {"kv_heads": 1, "attention_bias": True},
    "lora": {},
    "padding": {},
    "pairs": {},
}


def run_exercise(name: str, folder: Path) -> None:
    """Run every method with its self-checks; whatever a check or the code itself raises is raised."""
    gc.freeze()
    words = _ragged() if name == "padding" else tokenizer()
    for model, seed in (("one", 1), ("two", 2)):
        _guessing(seed, EXERCISES[name]).save_pretrained(folder / model)
        words.save_pretrained(folder / model)
    if name == "lora":
        _adapter(_guessing(1, EXERCISES[name])).save_pretrained(str(folder / "adapter"))
    (folder / "circuit.json").write_text(CIRCUIT)
    (folder / "pairs.jsonl").write_text(_pairs(60))
    study = PAIRS if name == "pairs" else STUDY % (", adapter: adapter" if name == "lora" else "")
    for _ in run(plan(parse(study, "exercise.yaml").in_folder(folder)), folder / "runs"):
        pass


def _pairs(count: int) -> str:
    """Prompts about boxes as a file of pairs, in which the other box's object is right as well."""
    pairs = Boxes(2, tuple(OBJECTS)).pairs(count, 3, "discovery")
    texts = [{"base": _marked(one.base), "source": _marked(one.source)} for one in pairs]
    answers = [{"answer": one.answer, "also_right": list(one.foils), "space": "yes"} for one in pairs]
    return "".join(json.dumps(text | answer) + "\n" for text, answer in zip(texts, answers, strict=True))


def _marked(text: MarkedText) -> str:
    """The text with its marks written in it."""
    written = text.text
    for name, (start, end) in sorted(text.spans.items(), key=lambda one: one[1], reverse=True):
        written = f"{written[:start]}{{{{{name}|{written[start:end]}}}}}{written[end:]}"
    return written


def _guessing(seed: int, config: dict[str, Any]) -> Any:
    """A random model that always answers with one of the four objects, so that accuracies are neither 0 nor 1."""
    module = hf_llama(seed=seed, **config)
    ids = tokenizer().convert_tokens_to_ids(list(OBJECTS))
    others = torch.ones(module.config.vocab_size, dtype=torch.bool)
    others[ids] = False
    module.lm_head.weight[others] = 0
    return module


def _adapter(base: Any) -> Any:
    torch.manual_seed(5)
    wanted = LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(base, wanted)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted


def _ragged() -> PreTrainedTokenizerFast:
    """The tokenizer with one more token in prompts that name a car: prompts of two lengths, which are padded."""
    words = tokenizer()
    words.backend_tokenizer.normalizer = normalizers.Replace(Regex("(?<=car) is"), " is is")
    return PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, bos_token="<s>", pad_token="<pad>", unk_token="<unk>"
    )
