"""Mistakes that are easily made in a notebook: each is one message, which says what is accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy
import pytest
import torch

import nnsight_et as et
from nnsight_et.core.errors import NnsightEtError, TaskError

HEADS = "accepted: a circuit, scores, a group of heads, or a list of heads"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What a notebook has: two models, pairs, the scores of one of them, a group and a circuit."""
    model, other = et.load("llama-tiny"), et.load("vicuna-tiny")
    pairs = et.Pairs.boxes(3, boxes=3)
    scores = et.path_patch(model, pairs)
    group = scores.group("mine", 3)
    return {
        "et": et, "numpy": numpy, "torch": torch, "replace": dataclasses.replace, "model": model, "other": other,
        "pairs": pairs, "scores": scores, "group": group, "circuit": et.circuit_of(group),
        "slow": dataclasses.replace(other, engine="reference"),
        "grouped": dataclasses.replace(other, shape=dataclasses.replace(other.shape, n_kv_heads=2)),
    }  # fmt: skip


MISTAKES = {
    "et.path_patch(model, pairs, at='correct_object')": "at: 'correct_object', but the logits are read at last",
    "et.path_patch_mlps(model, pairs, at='query_label')": "at: 'query_label', but the logits are read at last",
    "et.evaluate(model, pairs, et.HeadGroup('v', 'last', ['L1H1', 'L1H1']))": "group v: L1H1 appears twice",
    "pairs.tokens('llama-tiny')": "model: found 'llama-tiny'; accepted: what et.load(...) returns",
    "pairs.examples(model)": "tokenizer: found a LoadedModel; accepted: a transformers tokenizer",
    "et.load('lama-tiny')": "no model named 'lama-tiny'; did you mean 'llama-tiny'?",
    "et.load(None)": "model: found None; accepted: a name, a folder, a hub id",
    "et.load(model)": "model: found a LoadedModel",
    "et.load('llama-tiny', dtype='fp32')": "dtype: 'fp32'; accepted: float32",
    "et.load('llama-tiny', dtype=torch.int8)": "dtype: 'int8'; accepted: float32",
    "et.load('llama-tiny', device='gpu')": "device: 'gpu'; accepted: auto, cpu",
    "et.load('llama-tiny', device='cuda:99')": "device: 'cuda:99'; accepted: auto, cpu",
    "et.load('llama-tiny', attention='flash')": "attention: 'flash'; accepted: sdpa, eager",
    "replace(model, engine='fast')": "engine: 'fast'; accepted: default, reference",
    "replace(model, memory='4GiB')": "memory: '4GiB'; accepted: how many bytes",
    "et.Pairs.of('text')": "pairs: found 'text'; accepted: a list of (base, source, answer)",
    "et.Pairs.of(('a', 'b', 'c'))": "pairs[0]: found 'a'; accepted: three texts",
    "et.Pairs.of([('a', 'b', 'c', 'd')])": 'found 4 entries; accepted: three texts, base, source, answer; for more',
    "et.Pairs.of([('a', 'b')])": "found 2 entries; accepted: three texts",
    "et.Pairs.of([5])": "pairs[0]: found 5",
    "et.Pairs.read(5)": "path: found 5",
    "et.Pairs.boxes(0)": "count: found 0; accepted: a whole number, 1 or more",
    "et.Pairs.boxes(2.5)": "count: found 2.5",
    "et.Pairs.boxes(3, boxes=13)": "boxes: found 13; accepted: a whole number, 2 to 12",
    "et.Pairs.desideratum(3, 3)": "no desideratum '3'",
    "et.Pairs(())": "accepted: et.Pairs.of(",
    "pairs[0]": "accepted: a slice, such as pairs[:10]",
    "pairs.scored_by(['kl'])": "metric: ['kl']",
    "pairs.answered_by('llama-tiny')": "model: found 'llama-tiny'; accepted: what et.load(...) returns",
    "et.path_patch('llama-tiny', pairs)": "model: found 'llama-tiny'",
    "et.path_patch(model, [('a', 'b', 'c')])": "pairs: found a list; accepted: et.Pairs.of([...])",
    "et.path_patch(model, pairs, at=-1)": "at: -1; accepted: the name of a position: correct_object",
    "et.path_patch(model, pairs, at=['last'])": "at: ['last']; accepted: the name of a position",
    "et.path_patch(model, pairs, at='lst')": "at: no position 'lst'; did you mean 'last'?",
    "et.path_patch(model, pairs, into='L4H0', via='query')": 'into: found \'L4H0\'; accepted: "logits", or heads',
    "et.path_patch(model, pairs, into=scores, via='query')": "into: found a PatchingScores",
    "et.path_patch(model, pairs, into=None)": "into: found None",
    "et.path_patch(model, pairs, into=[5], via='query')": "into: found 5, which is not a head",
    "et.path_patch(model, pairs, into=['L9H0'], via='query')": "into: L9H0; the model has layers L0-L5",
    "et.path_patch(model, pairs, into=['L9MLP'], via='input')": "into: L9MLP; the model has layers L0-L5",
    "et.path_patch(model, pairs, into=[et.Head(-1, 0)], via='query')": "has a negative number; accepted: layer",
    "et.path_patch(model, pairs, keep=0)": "keep: 0; accepted: a whole number, 1 or more",
    "et.path_patch(model, pairs, keep=2.0)": "keep: 2.0",
    "et.path_patch(model, pairs, keep=500)": "keep: 500 heads, but 48 can reach the logits; accepted: 1 to 48",
    "et.path_patch(model, pairs, into=['L1H0'], via='query', keep=9)": "keep: 9 heads, but 8 can reach into;",
    "et.path_patch_mlps(model, pairs, keep=7)": "keep: 7 MLPs, but 6 can reach the logits; accepted: 1 to 6",
    "et.path_patch_mlps(model, pairs, at=-1)": "at: -1",
    "scores.top(-1)": "count: -1; accepted: a whole number, 1 or more",
    "scores.group(5)": "name of a head group: 5",
    "scores.group('a', 0)": "count: 0",
    "scores.group('a', 500)": "count: 500, but 48 were measured; accepted: 1 to 48",
    "et.evaluate(model, pairs, et.path_patch_mlps(model, pairs, keep=1))": "accepted: heads, since a circuit",
    "et.attention(model, pairs, scores, ['L5H0'])": "scores: found a list; accepted: what et.path_patch(...) returns",
    "et.evaluate(model, pairs, 'L5H0')": f"circuit: found L5H0; {HEADS}",
    "et.evaluate(model, pairs, None)": f"circuit: found None; {HEADS}",
    "et.evaluate(model, pairs, ['L99H0'])": "has L99H0; the model has layers L0-L5",
    "et.evaluate(model, pairs, ['L3MLP'])": "L3MLP is an MLP, and a circuit consists of heads",
    "et.evaluate(model, pairs, ['L5H0', 'L5H0'])": "L5H0 appears twice",
    "et.evaluate(model, pairs, [])": "circuit: it has no heads",
    "et.evaluate(model, pairs, circuit, ablation='median')": "ablation: 'median'; did you mean 'mean'?",
    "et.evaluate(model, pairs, circuit, random=-1)": "random: -1; accepted: a whole number, 0 or more",
    "et.evaluate(model, circuit, pairs)": "pairs: found a Circuit",
    "et.activation_patch(model, pairs, [1, 2])": "circuit: found 1, which is not a head",
    "et.circuit_of([group])": "accepted: groups as separate arguments",
    "et.circuit_of()": "groups: none given",
    "et.cmap(model, 'vicuna-tiny', pairs, circuit)": "recipient: found 'vicuna-tiny'",
    "et.cmap(model, slow, pairs, circuit)": "the donor's engine is default, the recipient's reference",
    "et.cmap(model, grouped, pairs, circuit)": "n_kv_heads 8 in llama-tiny and 2 in vicuna-tiny",
    "et.knockout(model, pairs, -1, 'last')": "blind: -1",
    "et.knockout(model, pairs, 'last', 'quary_label')": "to: no position 'quary_label'; did you mean 'query_label'?",
    "et.dcm(model, circuit, pairs, None, pairs)": "validation: found None",
    "et.dcm(model, circuit, pairs, pairs, pairs, sparsity=-1)": "sparsity: -1; accepted: a number from 0",
    "et.knockout(model, et.Pairs.of([('{{random|A}} b', '{{random|A}} c', 'd')]), 'last', 'random')": "to: random",
    "et.attention_patterns(model, et.Pairs.of([('{{at|A}} b', '{{at|A}} c', 'd')]), circuit)": "'at' is also a column",
    "et.attribution(model, pairs, at=[])": "at: no position",
    "et.attribution(model, pairs, at=5)": "at: found 5; accepted: a position's name",
    "et.minimality(model, pairs, circuit, threshold='a')": "threshold: found 'a'; accepted: a number from -1 to 1e+06",
    "et.completeness(model, pairs, circuit, draws=-1)": "draws: -1; accepted: a whole number, 0 or more",
    "et.compare(circuit, None)": "second: found None; accepted: a circuit",
    "et.compare(circuit, circuit, scores)": "scores: found a PatchingScores; accepted: a mapping",
    "et.compare(circuit, circuit, {'mine': 5})": "scores['mine']: found 5; accepted: what et.path_patch returns",
    "et.HeadGroup('a', 'last', 'L5H0')": "accepted: a list of heads, such as ['L5H0']",
    "et.HeadGroup('a', -1, ['L5H0'])": "at of a head group: -1",
    "et.HeadGroup('a', 'last', [5.0])": "found 5.0, which is not a head",
    "et.Circuit(['L5H0'])": 'accepted: groups, such as HeadGroup("mine", "last", ["L9H3"])',
    "et.Circuit.from_json(5)": "circuit: not JSON",
    "et.import_circuit(5)": "files: found 5",
    "et.import_circuit('x.npy', keep=1.5)": "keep: found 1.5",
    "et.open_run(None)": "folder: found None",
}  # fmt: skip


@pytest.mark.parametrize("written", MISTAKES)
def test_a_mistake_is_one_message(names: dict[str, Any], written: str):
    with pytest.raises(NnsightEtError) as error:
        eval(written, dict(names))  # noqa: S307 - the text is of this file
    assert MISTAKES[written] in str(error.value)
    assert "experiments." not in str(error.value)


def test_heads_are_accepted_wherever_a_circuit_is(names: dict[str, Any]):
    model, pairs = names["model"], names["pairs"]
    heads: Any = ["L5H0", et.Head(4, 1), (numpy.int64(3), 2)]
    plain = et.Circuit((et.HeadGroup("heads at last", "last", (et.Head(5, 0), et.Head(4, 1), et.Head(3, 2))),))
    for given in (heads, plain.groups[0], [plain.groups[0]], et.ImportedCircuit(plain, ())):
        assert et.evaluate(model, pairs, given, random=2).rows == et.evaluate(model, pairs, plain, random=2).rows
        found, same = (et.activation_patch(model, pairs, one) for one in (given, plain))
        assert found.rows == same.rows
        assert [row["patched"] for row in found.rows] == ["nothing", "heads at last"]
        assert et.cmap(model, names["other"], pairs, given).rows == et.cmap(model, names["other"], pairs, plain).rows
    with pytest.raises(TaskError, match="train: 3 pairs"):  # the heads are accepted, the pairs are too few
        et.dcm(model, heads, pairs, pairs, pairs)


def test_receivers_are_accepted_in_every_form(names: dict[str, Any]):
    model, pairs = names["model"], names["pairs"]
    expected = et.path_patch(model, pairs, into=[et.Head(4, 0)], via="query").values
    names_alone: Any = ["L4H0"]
    forms: list[Any] = [et.Head(4, 0), names_alone, [(4, 0)], numpy.array([[4, 0]])]
    for into in (*forms, et.HeadGroup("a", "last", names_alone)):
        assert torch.equal(et.path_patch(model, pairs, into=into, via="query").values, expected)
    assert len(names["scores"].top(numpy.int64(2))) == 2
    assert et.Pairs.of(pairs) is pairs
