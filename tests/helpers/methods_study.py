"""Two random models that always answer with one of four objects, so that accuracies are neither 0 nor 1; and runs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch, collate, padded_batch
from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.manifest import Manifest, parse
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import Progress, run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum
from tests.helpers import plain_hooks, plain_methods
from tests.helpers.tiny_model import PAD, hf_llama, tokenizer

OBJECTS = ("book", "car", "paper", "letter")
SEED = 3
TASK = Boxes(2, OBJECTS)
STUDY = """\
name: methods
seed: 3
task: {kind: boxes, boxes: 2, objects: [book, car, paper, letter]}
memory: 4MiB
models: {one: {path: one}, two: {path: two}}
experiments:
"""
CIRCUIT = """\
{"schema": 1, "groups": [
  {"name": "value_fetcher", "at": "last", "heads": ["L2H1", "L1H0", "L2H3", "L1H3"]},
  {"name": "position_transmitter", "at": "last", "heads": ["L1H2", "L0H0"]},
  {"name": "position_detector", "at": "query_label", "heads": ["L0H2", "L1H1", "L0H1"]},
  {"name": "structure_reader", "at": "previous_query_label", "heads": ["L0H3", "L1H3"]}]}
"""


EVERYTHING = """\
  found:
    method: path_patching
    model: one
    examples: 6
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}
      - {group: position_detector, into: value_fetcher, via: value, at: query_label, keep: 2}
  table: {method: faithfulness, circuit: found, models: [one, two], examples: 6, ablation_examples: 5}
  pruned: {method: minimality, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5, threshold: -0.5}
  complete: {method: completeness, circuit: pruned, examples: 6, ablation_examples: 5, draws: 2}
  overlap: {method: comparison, circuits: [found, pruned]}
  masks:
    {method: dcm, circuit: found, desiderata: [object, position], training_examples: 8, validation_examples: 6,
     test_examples: 7, batch: 4, epochs: 3, learning_rate: 0.4, validate_every: 2}
  roles:
    {method: activation_patching, roles: masks, desiderata: [object, no_comma], models: [one, two], examples: 6,
     draws: 2}
  across: {method: cmap, donor: two, recipient: one, circuit: found, examples: 6, random_sets: 2}
  blind: {method: knockout, model: one, examples: 6}
  looks: {method: attention_patterns, circuit: found, examples: 6}
  screen: {method: attribution, model: one, examples: 6}
  graph:
    {method: discovery, model: one, examples: 6, held_out_examples: 6, mlps: true, level: 0.9, effect: 0.001, keep: 2,
     branches: 3, closed_sample: 1}
  mlps:
    method: path_patching
    model: one
    examples: 6
    stages:
      - {group: writers, into: logits, at: last, senders: mlps, keep: 2, receivers: 2}
      - {group: readers, into: writers, via: input, at: last, keep: 3}
"""
"""Every method once."""
UNCHECKED = "self_check=off"


def guessing(seed: int) -> Any:
    """A random model in which all tokens but the four objects have the logit 0; the objects' are larger or smaller."""
    module = hf_llama(seed=seed)
    ids = tokenizer().convert_tokens_to_ids(list(OBJECTS))
    others = torch.ones(module.config.vocab_size, dtype=torch.bool)
    others[ids] = False
    module.lm_head.weight[others] = 0
    return module


MODELS: Mapping[str, Callable[[], Any]] = {"one": lambda: guessing(1), "two": lambda: guessing(2)}


def models_in(root: Path) -> Path:
    """The folder with both models and the circuit in it."""
    gc.freeze()  # a job collects garbage whenever it changes models; what the tests have imported is none
    for name, made in MODELS.items():
        made().save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)
    (root / "circuit.json").write_text(CIRCUIT)
    return root


def manifest(root: Path, experiments: str, *settings: str) -> Manifest:
    """The study with these experiments, YAML text indented by two."""
    return parse(STUDY + experiments, "methods.yaml", settings).in_folder(root)


def steps(root: Path, experiments: str, *settings: str, **options) -> list[Progress]:
    return list(run(plan(manifest(root, experiments, *settings)), root / "runs", **options))


def results(root: Path, experiments: str, *settings: str) -> dict[str, Result]:
    """What the experiments find."""
    steps(root, experiments, *settings)
    folder = folder_of(root / "runs", plan(manifest(root, experiments, *settings)))
    return {path.name: read_result(path) for path in folder.iterdir() if path.is_dir()}


def circuit() -> Circuit:
    return Circuit.from_json(CIRCUIT)


def places(heads: Circuit) -> dict[str, set[Head]]:
    """Position -> the heads there."""
    return {name: set(heads.at(name)) for name in heads.positions}


def pairs(count: int, split: str) -> Pair:
    """The pairs of prompts an experiment of the study sees."""
    return collate(TASK.examples(tokenizer(), count, SEED, split), PAD)


def swaps(name: str, count: int, split: str, draw: int = 0) -> Pair:
    """The pairs of a desideratum an experiment of the study sees."""
    return collate(desideratum(TASK, name, tokenizer(), count, 1000 * SEED + draw, split), PAD)


def ablation_prompts(count: int) -> PromptBatch:
    return padded_batch(TASK.prompts(tokenizer(), count, SEED, "ablation"), PAD)


def accuracy_of(logits: Tensor, answer: Tensor) -> float:
    return (logits.argmax(-1) == answer).double().mean().item()


def circuit_accuracy(module, pair: Pair, means: list[Tensor], heads: Circuit) -> float:
    """F of a circuit by plain hooks; its groups' positions are vital even where they have no heads."""
    return accuracy_of(plain_hooks.circuit_logits(module, pair.base, means, places(heads)), pair.answer)


def model_accuracy(module, pair: Pair, means: list[Tensor], without: Circuit) -> float:
    """F of the model without some heads by plain hooks."""
    return accuracy_of(plain_methods.without_logits(module, pair.base, means, places(without)), pair.answer)
