"""Attention knockout: both engines against plain hooks, the whole model masked, by hand, and random targets."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Any

import pytest
import torch
from torch import Tensor

import nnsight_et as et
from nnsight_et.core.batch import Prompt, Question, Side, collate, padded_batch
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import model_readouts
from nnsight_et.interventions.knockout import knockout_readouts, random_targets
from nnsight_et.manifest import parse
from nnsight_et.methods.knockout import present
from nnsight_et.methods.knockout.summary import KnockoutSummary
from nnsight_et.tasks.boxes import Boxes
from tests.helpers import plain_methods
from tests.helpers.closeness import assert_near, assert_same_scores
from tests.helpers.methods_study import MODELS, accuracy_of, models_in, pairs, results
from tests.helpers.tiny_model import PAD, few_examples, few_pairs, hf_llama, tiny_model, tokenizer

ENGINES = ("default", "reference")
CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
EDGES = [
    ("last", "correct_object"),
    ("last", "query_label"),
    ("query_label", "previous_query_label"),
    ("last", "previous_query_label"),
]
NAMES = ("correct_object", "previous_query_label", "query_label", "last")
LABELS = Boxes().label_tokens(tokenizer())


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


def asked(side: Side = "left") -> Question:
    return few_pairs(side=side).question


def blocked(model, question: Question, edge: tuple[str, str], engine: str = "default", chunks: Chunks | None = None):
    blind, to = (question.run.positions[name] for name in edge)
    return knockout_readouts(model, question, (blind, to), range(model.n_layers + 1), engine, chunks or Chunks())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("edge", EDGES, ids=" to ".join)
def test_every_first_layer_agrees_with_plain_hooks(model, edge, engine):
    question = asked()
    found = blocked(model, question, edge, engine)
    assert found["probability"].shape == (4, 3)
    for first in range(4):
        where = (question.run.positions[name] for name in edge)
        logits = plain_methods.knockout_logits(model.nn._module, question.run, first, *where)
        expected = plain_methods.probabilities(logits, question.answer)
        torch.testing.assert_close(found["probability"][first], expected, **CLOSE)
        assert torch.equal(found["predicted"][first], logits.argmax(-1))
    change = (found["probability"][1:] - found["probability"][:-1]).abs().amax(-1)
    reached = change if edge[0] == "last" else change[:-1]  # what query_label misses in the last layer reaches nobody
    assert reached.min() > 1e-7


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_in_fp32_both_engines_agree_with_plain_hooks_to_1e_5(kv_heads):
    module, question = hf_llama(kv_heads=kv_heads), asked()
    for engine in ENGINES:
        found = blocked(tiny_model(module), question, EDGES[0], engine)["probability"]
        for first in range(4):
            where = (question.run.positions[name] for name in EDGES[0])
            logits = plain_methods.knockout_logits(module, question.run, first, *where)
            expected = plain_methods.probabilities(logits, question.answer)
            torch.testing.assert_close(found[first], expected, atol=1e-5, rtol=1e-5)


def test_right_padding_in_the_reference_and_eager_attention_agree():
    module = hf_llama(dtype=torch.float64)
    expected = blocked(tiny_model(module), asked(), EDGES[2], "reference")["probability"]
    found = blocked(tiny_model(module), asked("right"), EDGES[2], "reference")["probability"]
    torch.testing.assert_close(found, expected, **CLOSE)
    for engine in ENGINES:
        eager = blocked(tiny_model(hf_llama(), "eager"), asked(), EDGES[2], engine)["probability"]
        torch.testing.assert_close(eager, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("edge", EDGES, ids=" to ".join)
def test_blocked_from_the_first_layer_is_a_model_with_that_edge_masked_everywhere(model, edge, engine):
    """Prompts of one length, and one additive mask given to the whole model."""
    question = few_pairs((3, 3, 3)).question
    run, seq = question.run, question.run.tokens.shape[1]
    mask = torch.zeros(3, 1, seq, seq, dtype=torch.float64)
    mask[:, :, torch.ones(seq, seq).triu(1).bool()] = -1e9
    mask[torch.arange(3), 0, run.positions[edge[0]], run.positions[edge[1]]] = -1e9
    logits = model.nn._module(input_ids=run.tokens, attention_mask=mask, position_ids=run.position_ids).logits[:, -1]
    found = blocked(model, question, edge, engine)["probability"][0]
    torch.testing.assert_close(found, plain_methods.probabilities(logits, question.answer), **CLOSE)


def test_past_the_last_layer_nothing_is_blocked():
    model, question = tiny_model(hf_llama()), asked()
    logits = plain_methods.plain_logits(model.nn._module, question.run)
    plain = plain_methods.probabilities(logits, question.answer)
    for edge in EDGES:
        exact, fast = blocked(model, question, edge, "reference"), blocked(model, question, edge)
        assert torch.equal(exact["probability"][-1], model_readouts(model, question, "reference")["probability"])
        assert (exact["probability"][-1] - plain).abs().max() <= 1e-6
        assert torch.equal(exact["predicted"][-1], logits.argmax(-1))
        assert torch.equal(fast["probability"][-1], model_readouts(model, question, "default")["probability"])
        assert (fast["probability"][-1] - plain).abs().max() <= 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_a_token_that_sees_only_itself_outputs_its_own_value_by_hand(engine):
    """Two tokens and one layer: blind to the first, the second's heads output its value, whatever the scores are."""
    module = hf_llama(layers=1, kv_heads=2, dtype=torch.float64)
    run = padded_batch([Prompt((0, 30), {"first": 0, "last": 1}), Prompt((0, 40), {"first": 0, "last": 1})])
    question = Question(run, torch.tensor([50, 60]))
    layer, entering = module.model.layers[0], module.model.embed_tokens(run.tokens[:, 1])
    value = layer.self_attn.v_proj(layer.input_layernorm(entering)).unflatten(-1, (2, -1))
    middle = entering + layer.self_attn.o_proj(value.repeat_interleave(2, 1).flatten(-2))
    leaving = middle + layer.mlp(layer.post_attention_layernorm(middle))
    logits = module.lm_head(module.model.norm(leaving))
    found = blocked(tiny_model(module), question, ("last", "first"), engine)
    torch.testing.assert_close(found["logit"][0], logits[torch.arange(2), question.answer], **CLOSE)
    assert (found["logit"][1] - found["logit"][0]).abs().min() > 1e-3


@pytest.mark.parametrize("chunks", [Chunks(tokens=1), Chunks(branch_tokens=1), Chunks(branch_tokens=1 << 16)], ids=str)
def test_chunk_sizes_do_not_matter(model, chunks):
    found, expected = (blocked(model, asked(), EDGES[2], chunks=one)["probability"] for one in (chunks, Chunks()))
    torch.testing.assert_close(found, expected, **CLOSE)


def drawn(question: Question, blind: str, seeds) -> Tensor:
    return random_targets(question, blind, NAMES, LABELS, seeds)


@pytest.mark.parametrize("blind", ["last", "query_label"])
def test_random_targets_are_any_earlier_tokens_but_the_first_the_named_and_labels(blind):
    (example,) = few_examples((3,))
    question = collate([example] * 400, PAD).question
    found = set(drawn(question, blind, range(400)).tolist())
    named = set(example.base.positions.values())
    labels = {
        at
        for at, token in enumerate(example.base.tokens)
        if str(tokenizer().convert_ids_to_tokens(token)) in ascii_uppercase
    }
    assert len(labels) > 3
    assert found == set(range(1, example.base.positions[blind])) - named - labels


def test_random_targets_do_not_depend_on_the_batch_but_on_their_seed():
    examples = few_examples((2, 3, 2, 4))
    seeds = [11, 12, 13, 14]
    together = collate(examples, PAD)
    found = drawn(together.question, "last", seeds) - together.base.mask.argmax(-1)
    alone = [
        drawn(collate([one], PAD).question, "last", [seed]).item() for one, seed in zip(examples, seeds, strict=True)
    ]
    assert found.tolist() == alone
    right = drawn(collate(examples, PAD, "right").question, "last", seeds)
    assert right.tolist() == alone
    same = collate([examples[1]] * 20, PAD).question
    assert len(set(drawn(same, "last", range(20)).tolist())) > 3
    assert len(set(drawn(same, "last", [5] * 20).tolist())) == 1


KNOCKOUT = "  x: {method: knockout, model: one, examples: 40, edges: [{blind: last, to: random}, %s]}\n"
EDGE = "{blind: query_label, to: previous_query_label}"


def test_a_job_blocks_one_random_token_per_example_in_all_layers(tmp_path):
    """Of each example exactly one allowed token explains the sweep over all layers."""
    result = results(models_in(tmp_path / "large"), KNOCKOUT % EDGE, "memory=1GiB")["x"]
    module, pair = MODELS["one"](), pairs(40, "evaluation")
    run, found = pair.base, result.scores["last to random.probability"]
    first, last = 1, int(run.positions["last"][0])
    sweeps = []
    for to in range(first, last):
        ends = run.positions["last"], torch.full((40,), to)
        logits = [plain_methods.knockout_logits(module, run, layer, *ends) for layer in range(4)]
        sweeps.append(torch.stack([plain_methods.probabilities(one, pair.answer) for one in logits]))
    same = (torch.stack(sweeps) - found).abs().amax(1) <= 1e-5 * found.amax(0)  # [target, example]
    assert same.sum(0).tolist() == [1] * 40
    targets = same.long().argmax(0) + first
    assert len(set(targets.tolist())) > 3
    assert not any((targets == at).any() for name, at in run.positions.items() if name != "last")
    chosen = run.tokens[torch.arange(40), targets].tolist()
    assert not set(chosen) & set(LABELS)
    small = results(models_in(tmp_path / "small"), KNOCKOUT % EDGE, "memory=4MiB")["x"].scores  # other batches
    assert_same_scores(small, result.scores)


def test_a_jobs_accuracies_are_those_of_plain_hooks_layer_by_layer(tmp_path):
    rows = results(models_in(tmp_path), KNOCKOUT % EDGE)["x"].header.summary["rows"]
    module, pair = MODELS["one"](), pairs(40, "evaluation")
    ends = pair.base.positions["query_label"], pair.base.positions["previous_query_label"]
    expected = [
        accuracy_of(plain_methods.knockout_logits(module, pair.base, layer, *ends), pair.answer) for layer in range(4)
    ]
    assert [(row["blind"], row["to"]) for row in rows] == [("last", "random"), ("query_label", "previous_query_label")]
    assert rows[1]["accuracy"] == pytest.approx(expected)
    assert rows[0]["accuracy"][-1] == rows[1]["accuracy"][-1]


def test_some_layers_are_those_of_the_whole_sweep(tmp_path):
    root, spec = models_in(tmp_path), f"method: knockout, model: one, examples: 40, edges: [{EDGE}]"
    found = results(root, f"  x: {{{spec}}}\n  some: {{{spec}, layers: [0, 2]}}\n")
    whole, some = found["x"], found["some"]
    assert some.header.job_id != whole.header.job_id
    for name in ("predicted", "probability"):
        key = f"query_label to previous_query_label.{name}"
        assert_near(some.scores[key], whole.scores[key][[0, 2, 3]], size=1, dtype=torch.float32)
    assert some.header.summary["layers"] == [0, 2]
    (table,) = present.tables(some.header, KnockoutSummary.model_validate(some.header.summary))
    assert table.columns == ("blind", "to", "L0+", "L2+", "none")
    with pytest.raises(TaskError, match=r"experiments.x.layers.1: layer 3, but one has 3 layers; accepted: 0 to 2"):
        results(root, f"  x: {{{spec}, layers: [1, 3]}}\n")


@pytest.mark.parametrize(
    ("layers", "message"),
    [("[2, 1]", "layers.1: found 1 after 2; accepted: layers in inc"), ("[1, 1]", "layers.1: found 1 after 1"),
     ("[]", "layers: found a list of 0"), ("[6]", "layers.0: layer 6, but llama-tiny has 6 layers; accepted: 0 to 5")],
)  # fmt: skip
def test_layers_that_cannot_be_are_told(layers: str, message: str):
    text = f"name: x\nexperiments:\n  x: {{method: knockout, model: llama-tiny, layers: {layers}}}\n"
    with pytest.raises(ManifestError, match=f"x.yaml:3: experiments.x.{re.escape(message)}"):
        parse(text, "x.yaml")


def test_a_notebook_takes_layers():
    model, pairs_ = et.load("llama-tiny", device="cpu"), et.Pairs.boxes(3)
    found = et.knockout(model, pairs_, blind="last", to="correct_object", layers=[1, 4])
    whole = et.knockout(model, pairs_, blind="last", to="correct_object")
    assert [row["first_blocked_layer"] for row in found.rows] == ["L1", "L4", "none"]
    assert [row["accuracy"] for row in found.rows] == [whole.rows[layer]["accuracy"] for layer in (1, 4, 6)]
    for wrong in ([4, 1], [6], [], "1", [True], 3):
        with pytest.raises(TaskError, match=r"layers: found .*; accepted: numbers from 0 to 5 in increasing order"):
            et.knockout(model, pairs_, blind="last", to="correct_object", layers=wrong)  # type: ignore[arg-type]
