"""CMAP: a donor's outputs and inputs in a recipient by plain hooks, what changes nothing, controls, and refusals."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from peft import PeftModel

from nnsight_et.circuits import published
from nnsight_et.core.batch import Question, Side, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import model_readouts, random_circuits
from nnsight_et.interventions.cmap import (
    by_place,
    donor_inputs,
    donor_outputs,
    recipient_input_readouts,
    recipient_readouts,
    with_heads,
)
from nnsight_et.manifest import CMAP as Spec
from nnsight_et.manifest import parse
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.model_pool import ModelPool
from nnsight_et.methods.cmap.experiment import INPUTS, patched_heads
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import Job, plan
from nnsight_et.results.store import Store
from nnsight_et.tasks.boxes import Boxes
from tests.helpers import plain_methods
from tests.helpers.methods_study import MODELS, SEED, accuracy_of, circuit, models_in, pairs, places, results, steps
from tests.helpers.tiny_model import PAD, few_pairs, hf_llama, tiny_model, tokenizer

Models = tuple[Model, Model]
"""A donor and a recipient."""
ENGINES = ("default", "reference")
CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
EVERY = tuple(Head(layer, index) for layer in range(3) for index in range(4))
GROUPS = [
    HeadGroup("a", "last", (Head(2, 1), Head(0, 3), Head(2, 0))),
    HeadGroup("b", "last", (Head(1, 2),)),
    HeadGroup("c", "query_label", (Head(1, 0), Head(0, 1), Head(1, 3))),
    HeadGroup("d", "previous_query_label", (Head(0, 0), Head(1, 1))),
]
SETS = [*(Circuit((group,)) for group in GROUPS), Circuit(tuple(GROUPS)), Circuit(())]


@pytest.fixture(scope="module", params=[2, 4], ids=["GQA", "MHA"])
def two(request) -> Models:
    donor, recipient = (
        tiny_model(hf_llama(kv_heads=request.param, attention_bias=True, dtype=torch.float64, seed=seed))
        for seed in (0, 1)
    )
    return donor, recipient


def module(model) -> Any:
    return model.nn._module


def asked(side: Side = "left") -> Question:
    return few_pairs(side=side).question


def at_one_place(group: HeadGroup) -> Question:
    """Prompts of unequal content whose position is equally far from the end, as a job batches them."""
    some = [one for boxes in (2, 3) for one in Boxes(boxes).examples(tokenizer(), 12, 0, "discovery")]
    tail = min(len(one.base.tokens) - one.base.positions[group.at] for one in some)
    some = [one for one in some if len(one.base.tokens) - one.base.positions[group.at] == tail]
    return collate([some[0], some[1], some[-1]], PAD).question


def outputs(models: Models, question: Question, sets=SETS, engine: str = "default") -> dict:
    donated = with_heads(donor_outputs(models[0], question.run, sets), sets)
    return recipient_readouts(models[1], question, donated, sets, engine, Chunks())


def inputs(models: Models, question: Question, group: HeadGroup) -> dict:
    donated = by_place(donor_inputs(models[0], question.run, group))
    return recipient_input_readouts(models[1], question, (group, donated), INPUTS, "default", Chunks())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_groups_outputs_and_all_together_agree_with_plain_hooks(two, engine, side):
    question = asked(side=side)
    answers = outputs(two, question, engine=engine)["probability"]
    assert answers.shape == (len(SETS), 3)
    donor, recipient = map(module, two)
    for row, heads in enumerate(SETS):
        logits = plain_methods.across_logits(recipient, donor, question.run, places(heads))
        torch.testing.assert_close(answers[row], plain_methods.probabilities(logits, question.answer), **CLOSE)
    assert (answers[:-1] - answers[-1]).abs().amin(-1).min() > 1e-6
    assert not torch.allclose(answers[:-1], outputs(two[::-1], question, engine=engine)["probability"][:-1])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_donated_inputs_agree_with_plain_hooks(two, group):
    question = at_one_place(group)
    answers = inputs(two, question, group)["probability"]
    donor, recipient = map(module, two)
    for row, vias in enumerate(INPUTS):
        logits = plain_methods.across_input_logits(recipient, donor, question.run, group.heads, group.at, vias)
        torch.testing.assert_close(answers[row], plain_methods.probabilities(logits, question.answer), **CLOSE)
    plain = outputs(two, question)["probability"][-1]
    assert (answers - plain).abs().amax(-1).min() > 1e-6
    assert (answers[:, None] - answers).abs().amax(-1)[~torch.eye(4).bool()].min() > 1e-6


def test_in_fp32_outputs_and_inputs_agree_with_plain_hooks_to_1e_5():
    donor, recipient = (hf_llama(kv_heads=1, seed=seed) for seed in (0, 1))
    models, question = (tiny_model(donor), tiny_model(recipient)), asked()
    for engine in ENGINES:
        logits = plain_methods.across_logits(recipient, donor, question.run, places(SETS[4]))
        expected = plain_methods.probabilities(logits, question.answer)
        torch.testing.assert_close(outputs(models, question, engine=engine)["probability"][4], expected)
    group = GROUPS[0]
    logits = plain_methods.across_input_logits(recipient, donor, question.run, group.heads, group.at, INPUTS[3])
    expected = plain_methods.probabilities(logits, question.answer)
    torch.testing.assert_close(inputs(models, question, group)["probability"][3], expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_is_its_own_donor_is_not_changed():
    model, question = tiny_model(hf_llama()), asked()
    expected = plain_methods.probabilities(plain_methods.plain_logits(module(model), question.run), question.answer)
    exact = outputs((model, model), question, engine="reference")
    plain = model_readouts(model, question, "reference")["probability"]
    assert torch.equal(exact["probability"], plain.expand(len(SETS), -1))
    assert (plain - expected).abs().max() <= 1e-6
    fast = outputs((model, model), question)
    assert torch.equal(fast["predicted"], exact["predicted"])
    assert (fast["probability"] - expected).abs().max() <= 1e-6
    for group in GROUPS:
        question = at_one_place(group)
        expected = plain_methods.plain_logits(module(model), question.run)
        difference = inputs((model, model), question, group)["probability"]
        assert (difference - plain_methods.probabilities(expected, question.answer)).abs().max() <= 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_models_that_differ_in_attention_alone_meet_when_all_heads_at_last_are_donated(engine):
    """By hand: with the same embeddings, MLPs and output weights nothing but head outputs makes `last` differ."""
    donor, recipient = (hf_llama(dtype=torch.float64) for _ in range(2))
    for block, other in zip(donor.model.layers, hf_llama(dtype=torch.float64, seed=9).model.layers, strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(block.self_attn, name).weight.copy_(getattr(other.self_attn, name).weight)
    question, every = asked(), Circuit((HeadGroup("all", "last", EVERY),))
    answers = outputs((tiny_model(donor), tiny_model(recipient)), question, [every], engine)["probability"][0]
    expected = plain_methods.plain_logits(donor, question.run)
    torch.testing.assert_close(answers, plain_methods.probabilities(expected, question.answer), **CLOSE)


def test_models_that_differ_in_the_last_layers_queries_meet_when_these_are_donated():
    """By hand: keys and values are the same, so they change nothing; the queries of `last` are all that differs."""
    donor, recipient = (hf_llama(dtype=torch.float64) for _ in range(2))
    donor.model.layers[2].self_attn.q_proj.weight.mul_(-2)
    question, group = asked(), HeadGroup("a", "last", tuple(head for head in EVERY if head.layer == 2))
    found = inputs((tiny_model(donor), tiny_model(recipient)), question, group)["probability"]
    theirs, own = (
        plain_methods.probabilities(plain_methods.plain_logits(one, question.run), question.answer)
        for one in (donor, recipient)
    )
    for row, expected in enumerate((theirs, own, own, theirs)):  # query; key; value; all three
        torch.testing.assert_close(found[row], expected, **CLOSE)
    assert (theirs - own).abs().max() > 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_an_adapter_over_the_recipients_weights_can_give_and_take(folder, adapter, engine):
    """Every projection that runs is the real one, adapter included: the output projection's too."""
    base, lora = (load_model(download_files("mine", ModelSpec(str(folder), one))) for one in (None, str(adapter)))
    modules = hf_llama(), PeftModel.from_pretrained(hf_llama(), adapter).get_base_model().eval()
    question = asked()
    for models, plain in (((lora, base), modules[::-1]), ((base, lora), modules)):
        answers = outputs(models, question, engine=engine)["probability"]
        for row, heads in enumerate(SETS):
            logits = plain_methods.across_logits(plain[1], plain[0], question.run, places(heads))
            expected = plain_methods.probabilities(logits, question.answer)
            torch.testing.assert_close(answers[row], expected, atol=1e-5, rtol=1e-5)
        assert (answers[4] / answers[5] - 1).abs().max() > 0.01


@pytest.mark.parametrize("model", published.CIRCUITS)
def test_the_heads_of_each_groups_main_role_are_patched_and_all_of_a_group_without_one(tmp_path, model):
    study = "name: x\nexperiments: {x: {method: cmap, donor: %s, recipient: vicuna, circuit: published/%s%s}}\n"
    context = RunContext(Store(tmp_path), tmp_path, ModelPool("cpu"))
    (job,) = cast("tuple[Job[Spec]]", plan(parse(study % (model, model, f", roles: published/{model}"), "x")).jobs)
    assert patched_heads(context, job) == published.cmap_circuit(model)
    (job,) = cast("tuple[Job[Spec]]", plan(parse(study % (model, model, ""), "x")).jobs)
    assert patched_heads(context, job) == published.circuit(model)


CMAP = "  x: {method: cmap, donor: two, recipient: one, circuit: ./circuit.json, examples: 12, random_sets: 3}\n"


def test_a_job_has_both_models_accuracies_every_groups_and_those_of_random_sets(tmp_path):
    summary = results(models_in(tmp_path), CMAP)["x"].header.summary
    donor, recipient, pair = MODELS["two"](), MODELS["one"](), pairs(12, "evaluation")
    alone = {
        name: accuracy_of(plain_methods.plain_logits(made(), pair.base), pair.answer) for name, made in MODELS.items()
    }
    assert summary["models"] == pytest.approx(alone)
    assert (summary["donor"], summary["recipient"]) == ("two", "one")

    def with_donor(heads: Circuit) -> float:
        return accuracy_of(plain_methods.across_logits(recipient, donor, pair.base, places(heads)), pair.answer)

    rows = {(row["patched"], row["group"]): row for row in summary["rows"]}
    for group in circuit().groups:
        assert rows["output", group.name]["accuracy"] == pytest.approx(with_donor(Circuit((group,))))
        for vias in INPUTS:
            logits = plain_methods.across_input_logits(recipient, donor, pair.base, group.heads, group.at, vias)
            assert rows["+".join(vias), group.name]["accuracy"] == pytest.approx(accuracy_of(logits, pair.answer))
    assert rows["output", "all"]["accuracy"] == pytest.approx(with_donor(circuit()))
    assert (rows["output", "all"]["heads"], len(rows)) == (11, 4 + 1 + 4 * 4)
    drawn = torch.tensor([with_donor(heads) for heads in random_circuits(circuit(), 3, 4, 3, SEED)])
    expected = {"mean": drawn.mean().item(), "std": drawn.std(correction=0).item()}
    assert {name: summary["random"][name] for name in expected} == pytest.approx(expected)
    assert len({row["accuracy"] for row in summary["rows"]}) > 3


OTHERS = {
    "n_layers 3 in two and 2 in one": {"layers": 2},
    "n_heads 4 in two and 2 in one": {"heads": 2},
    "n_kv_heads 2 in two and 4 in one": {"kv_heads": 4},
    "d_head 10 in two and 12 in one": {"head_dim": 12},
}


@pytest.mark.parametrize(("told", "other"), OTHERS.items(), ids=OTHERS)
def test_models_of_other_shapes_are_refused_by_name_before_any_work(tmp_path, no_model, told, other):
    models_in(tmp_path)
    hf_llama(**other).save_pretrained(tmp_path / "one")
    with pytest.raises(UnsupportedModel, match=f"experiments.x: {told}; accepted: donor and recipient of one shape"):
        steps(tmp_path, CMAP)


def test_models_with_other_tokenizers_are_refused_by_name_before_any_work(tmp_path, no_model):
    words = models_in(tmp_path) / "one" / "tokenizer.json"
    words.write_text(words.read_text().replace('"magnet"', '"magnets"'))
    with pytest.raises(UnsupportedModel, match=r"experiments.x: the tokenizers of two and one differ; accepted: "):
        steps(tmp_path, CMAP)


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_a_recipient_in_fp32_takes_what_a_donor_in_half_precision_gives(engine):
    """As the self-check of a bfloat16 run asks it to."""
    donor, recipient = tiny_model(hf_llama(dtype=torch.bfloat16)), tiny_model(hf_llama(seed=1))
    question, group = few_pairs((2, 2)).question, HeadGroup("a", "last", (Head(0, 1), Head(2, 2)))
    sets = [Circuit((group,))]
    half, inputs = donor_outputs(donor, question.run, sets), donor_inputs(donor, question.run, group)
    found = []
    for given, of_inputs in ((half, inputs), *[[{k: v.float() for k, v in one.items()} for one in (half, inputs)]]):
        found.append(recipient_readouts(recipient, question, with_heads(given, sets), sets, engine, Chunks()))
        whole = (group, by_place(of_inputs))
        vias = [("query", "key", "value")]
        found.append(recipient_input_readouts(recipient, question, whole, vias, engine, Chunks()))  # type: ignore[arg-type]
    assert torch.equal(found[0]["logit"], found[2]["logit"])
    assert torch.equal(found[1]["logit"], found[3]["logit"])
