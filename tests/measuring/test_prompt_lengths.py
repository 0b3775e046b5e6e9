"""Prompts longer than a model's table of positions: refused before any weight is read; no limit where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nnsight_et as api
from nnsight_et.core.errors import TaskError
from nnsight_et.manifest import load
from nnsight_et.measuring import model_pool
from nnsight_et.models.families import FAMILIES, architecture
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run
from tests.helpers.architectures import configuration, hf_model
from tests.helpers.commands import et
from tests.helpers.tiny_model import tokenizer

TOKENS = 26  # of a prompt with three boxes: <s>, seven for each box, four of the query
STUDY = """\
name: long
models: {{one: {{path: one}}}}
task: {task}
attention: eager
experiments:
  x: {{method: {method}}}
"""
METHODS = {
    "path_patching": "path_patching, model: one, examples: 3, stages: [{group: a, into: logits, at: last, keep: 2}]",
    "knockout": "knockout, model: one, examples: 3",
    "attribution": "attribution, model: one, examples: 3",
    "dcm": "dcm, model: one, circuit: ./circuit.json, desiderata: [text_at_start], training_examples: 80",
    "faithfulness": "faithfulness, models: [one], circuit: ./circuit.json, examples: 3, ablation_examples: 3",
}
CIRCUIT = {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L1H0", "L2H1"]}]}
BOXES = "{kind: boxes, boxes: 3}"


def study(folder: Path, name: str, positions: int, method: str = "attribution", task: str = BOXES) -> Path:
    """A manifest beside a model of that architecture with so many positions."""
    key = "max_position_embeddings" if name in ("OPT", "Llama 1, 2 (MHA)") else "n_positions"
    sizes: dict[str, Any] = {key: positions}
    hf_model(name, **sizes).save_pretrained(folder / "one")
    tokenizer().save_pretrained(folder / "one")
    (folder / "circuit.json").write_text(json.dumps(CIRCUIT))
    (folder / "long.yaml").write_text(STUDY.format(method=METHODS[method], task=task))
    return folder / "long.yaml"


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_longer_than_the_table_is_told_before_a_weight_is_read(method, tmp_path, monkeypatch):
    monkeypatch.setattr(model_pool, "load_model", None)
    path = study(tmp_path, "GPT-2", 25, method)
    found = et("run", path, "--out", tmp_path / "runs")
    assert found.exit_code == 2
    assert found.stderr.startswith("experiments.x: a prompt of ")
    assert "but one has positions for 25; accepted: prompts of at most 25 tokens" in found.stderr


@pytest.mark.parametrize("name", ["GPT-2", "GPT-J", "OPT"])
def test_the_last_position_of_a_table_can_be_used_and_one_more_cannot(name, tmp_path):
    assert list(run(plan(load(study(tmp_path, name, TOKENS))), tmp_path / "runs"))
    with pytest.raises(TaskError, match=f"a prompt of {TOKENS} tokens, but one has positions for {TOKENS - 1};"):
        next(run(plan(load(study(tmp_path, name, TOKENS - 1))), tmp_path / "runs"))


def test_rotations_have_no_end(tmp_path):
    path = study(tmp_path, "Llama 1, 2 (MHA)", 8)
    assert list(run(plan(load(path)), tmp_path / "runs"))


def test_a_file_of_pairs_is_refused_at_its_longest_line(tmp_path, monkeypatch):
    monkeypatch.setattr(model_pool, "load_model", None)
    pair = {"base": "The book is in Box A", "source": "The car is in Box B", "answer": "is"}
    source = pair | {"source": f"The car is in Box B{', the book is in Box C' * 2}"}  # 7 + 2 * 7 tokens
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [pair, pair, source] + [pair] * 9)))
    path = study(tmp_path, "GPT-2", 20, task="{kind: pairs, file: pairs.jsonl}")
    found = et("run", path, "--set", "experiments.x.at=[last]", "--out", tmp_path / "runs")
    assert found.exit_code == 2
    text = "experiments.x: pairs.jsonl:3: a prompt of 21 tokens, but one has positions for 20; accepted: prompts of"
    assert found.stderr.startswith(text)


def test_the_same_in_python():
    model = api.load(hf_model("GPT-2", n_positions=25), tokenizer())
    circuit = api.Circuit.from_dict(CIRCUIT)
    pairs = api.Pairs.boxes(3, boxes=3)
    for call in (
        lambda: api.path_patch(model, pairs),
        lambda: api.evaluate(model, pairs, circuit),
        lambda: api.knockout(model, pairs, blind="last", to="correct_object"),
        lambda: pairs.answered_by(model),
    ):
        with pytest.raises(TaskError, match=r"pairs: a prompt of 26 tokens, but .* has positions for 25"):
            call()
    api.path_patch(model, api.Pairs.boxes(3, boxes=2), keep=2)


def test_every_architecture_that_adds_an_embedding_of_positions_has_an_end():
    for kind, parts in FAMILIES.items():
        assert parts.position_table or len(parts.embeddings) == 1, kind
    assert architecture(configuration("GPT-2"), "x").longest(configuration("GPT-2")) == 128
