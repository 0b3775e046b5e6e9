"""The methods in Python: numbers against plain hooks, on own pairs of unequal lengths; how findings show themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

import nnsight_et as et
from nnsight_et.core.batch import Pair, PromptBatch, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Mlp, part
from nnsight_et.core.errors import ExperimentError, ManifestError, NnsightEtError, TaskError, UnsupportedModel
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum
from tests.helpers import plain_hooks, plain_methods, plain_mlps
from tests.helpers.closeness import assert_near
from tests.helpers.report_page import Parsed
from tests.helpers.tiny_model import PAD, hf_llama, tokenizer

OWN = (
    (
        "The {{thing|apple}} is in Box {{label|B}}, the car is in Box C. Box {{asked|B}} contains the",
        "The {{thing|book}} is in Box {{label|F}}. Box {{asked|D}} contains the",
        "apple",
    ),
    ("{{thing|Box}} {{label|B}} contains {{asked|the}} car", "Box {{thing|F}} {{label|contains}} {{asked|the}}", "in"),
    (
        "The {{thing|drug}} is in Box {{label|Q}}, the paper is in Box H. Box {{asked|H}} contains the",
        "The {{thing|book}} is in Box {{label|F}}, the car is in Box G. Box {{asked|D}} contains the",
        "paper",
    ),
)
CIRCUIT = et.circuit_of(
    HeadGroup("a", "last", (Head(2, 1), Head(1, 0))), HeadGroup("b", "asked", (Head(0, 3), Head(1, 2)))
)


@pytest.fixture(scope="module")
def model() -> et.LoadedModel:
    return et.load(hf_llama(), tokenizer())


@pytest.fixture(scope="module")
def pairs() -> et.Pairs:
    return et.Pairs.of(OWN)


def singly(pairs: et.Pairs) -> list[Pair]:
    """Each pair as a batch of its own."""
    return [collate([example], PAD) for example in pairs.examples(tokenizer())]


def by_hooks(pairs: et.Pairs, logits: Callable[[Pair], torch.Tensor]) -> torch.Tensor:
    """[example]: the answer's probability from logits [1, vocab] of one pair."""
    return torch.cat([plain_methods.probabilities(logits(pair), pair.answer) for pair in singly(pairs)])


@pytest.mark.parametrize(
    ("at", "into", "via"),
    [
        ("last", "logits", None),
        ("last", ["L2H0", "L1H3"], "query"),
        ("asked", [Head(2, 2)], "value"),
        ("label", ["L1H1"], "key"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["default", "reference"])
def test_patching_scores_agree_with_plain_hooks(model: et.LoadedModel, pairs: et.Pairs, at, into, via, engine):
    found = et.path_patch(replace(model, engine=engine), pairs, at=at, into=into, via=via, keep=3)
    receivers = () if into == "logits" else tuple(Head.parse(str(head)) for head in into)
    reach = range(3 if not receivers else max(head.layer for head in receivers))
    senders = [Head(layer, index) for layer in reach for index in range(4)]
    ratios = []
    for pair in singly(pairs):
        base, patched = plain_hooks.path_patching(hf_llama(), pair, senders, receivers, via, at)
        ratios.append((patched - base) / base)
    expected = torch.cat(ratios, -1).double()  # [sender, example]
    assert_near(found.values[list(reach)].flatten(), expected.mean(-1), size=1, dtype=torch.float32)
    per_example = found.scores["per_example"][list(reach)].flatten(0, 1).double()
    assert_near(per_example, expected, size=1, dtype=torch.float32)
    assert (found.values[len(reach) :] == 0).all()
    order = sorted(senders, key=lambda head: found.values[head].item())
    assert list(found.top(4)) == order[:4]
    assert found.group("g", 2) == HeadGroup("g", at, tuple(order[:2]))
    assert found.kept == tuple(order[:3])
    assert [row["head"] for row in found.rows] == list(map(str, order))


@pytest.mark.parametrize(
    ("patched", "senders", "into", "via"),
    [
        (et.path_patch_mlps, [0, 1, 2], "logits", None),
        (et.path_patch_mlps, [0, 1], ["L2H0", "L1H3"], "query"),
        (et.path_patch, [(layer, index) for layer in range(3) for index in range(4)], ["L2MLP", Mlp(1)], "input"),
    ],
)  # fmt: skip
def test_scores_of_mlps_and_of_heads_into_mlps_agree_with_plain_hooks(model, pairs, patched, senders, into, via):
    found = patched(model, pairs, into=into, via=via, keep=2)
    ends = [part(str(one)) for one in into] if via else []
    ends = [end.layer if isinstance(end, Mlp) else tuple(end) for end in ends]
    ratios = []
    for pair in singly(pairs):
        base, patches = plain_mlps.path_patching(hf_llama(), pair, senders, ends, via, "last")
        ratios.append((patches - base) / base)
    expected = torch.cat(ratios, -1).double().mean(-1)
    assert_near(found.values.flatten()[: len(senders)], expected, size=1, dtype=torch.float32)
    assert found.figures[0].panels[0].columns == (("MLP",) if patched is et.path_patch_mlps else ("0", "1", "2", "3"))


def test_mlps_are_receivers_of_heads_and_no_group_of_a_circuit(model, pairs):
    mlps = et.path_patch_mlps(model, pairs, keep=2)
    assert mlps.kept == mlps.top(2)
    assert all(isinstance(mlp, Mlp) for mlp in mlps.kept)
    assert et.path_patch(model, pairs, into=mlps.kept, via="input").path.receivers == mlps.kept
    with pytest.raises(TaskError, match=r"group g: L[0-2]MLP; accepted: heads, since a circuit consists of heads"):
        mlps.group("g", 1)


def test_heads_that_work_against_the_answer_are_named_and_given_by_size(model, pairs):
    found = et.path_patch(model, pairs)
    sizes = {row["head"]: abs(row["score"]) for row in found.rows}
    assert [str(head) for head in found.top(12, by="size")] == sorted(sizes, key=lambda head: -sizes[head])
    with pytest.raises(TaskError, match="by: 'value'; accepted: score, size"):
        found.top(by="value")  # type: ignore[arg-type]


def test_a_model_whose_adapter_is_switched_off_gives_the_numbers_of_its_base(model, pairs):
    adapted: Any = inject_adapter_in_model(
        LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False), hf_llama()
    )
    on = et.path_patch(et.load(adapted, tokenizer()), pairs)
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(False)
    off = et.path_patch(et.load(adapted, tokenizer()), pairs)
    assert_near(off.values, et.path_patch(model, pairs).values)
    assert not torch.allclose(off.values, on.values, atol=1e-3)
    assert "adapter" in {check["check"] for check in on.self_check["checks"]}


def test_activation_patching_agrees_with_plain_hooks(model: et.LoadedModel, pairs: et.Pairs):
    found = et.activation_patch(model, pairs, CIRCUIT)
    assert [(row["patched"], row["heads"]) for row in found.rows] == [("nothing", 0), ("a", 2), ("b", 2), ("all", 4)]
    sets = [
        {},
        {"last": CIRCUIT.at("last")},
        {"asked": CIRCUIT.at("asked")},
        {at: CIRCUIT.at(at) for at in CIRCUIT.positions},
    ]
    for heads, probability in zip(sets, found.scores["probability"], strict=True):
        expected = by_hooks(pairs, lambda pair, heads=heads: plain_methods.patched_logits(hf_llama(), pair, heads))
        assert_near(probability, expected)
    assert found.rows[1]["probability"] == pytest.approx(found.scores["probability"][1].mean().item())


def means_by_name(pairs: et.Pairs) -> Callable[[PromptBatch], list[torch.Tensor]]:
    """Run -> per layer [seq, head, d_head]: means over the source prompts per named position, and of all others."""
    sums: list[dict[str, list[torch.Tensor]]] = [{}, {}, {}]

    def names_of(positions: dict, seq: int) -> list[str]:
        names = {int(at): name for name, at in positions.items()}
        return [names.get(at, "other") for at in range(seq)]

    for pair in singly(pairs):
        for layer, z in enumerate(plain_hooks.head_outputs(hf_llama(), pair.source)):
            for name, value in zip(names_of(pair.source.positions, z.shape[1]), z[0], strict=True):
                sums[layer].setdefault(name, []).append(value)
    means = [{name: torch.stack(values).mean(0) for name, values in layer.items()} for layer in sums]
    return lambda run: [
        torch.stack([layer[name] for name in names_of(run.positions, run.tokens.shape[1])]) for layer in means
    ]


def test_a_circuit_alone_agrees_with_plain_hooks(model: et.LoadedModel, pairs: et.Pairs):
    found = et.evaluate(model, pairs, CIRCUIT, random=2)
    means, kept = means_by_name(pairs), {at: set(CIRCUIT.at(at)) for at in CIRCUIT.positions}

    def alone(pair: Pair) -> torch.Tensor:
        return plain_hooks.circuit_logits(hf_llama(), pair.base, means(pair.base), kept)

    whole = by_hooks(pairs, lambda pair: plain_methods.plain_logits(hf_llama(), pair.base))
    assert_near(found.scores["circuit.probability"][0], by_hooks(pairs, alone))
    assert_near(found.scores["model.probability"], whole)
    assert found.scores["circuit.probability"].shape == (3, 3)
    assert [row["of"] for row in found.rows] == ["full model", "circuit", "2 random circuits"]


def test_where_all_prompts_have_one_length_means_are_per_place(model: et.LoadedModel):
    boxes = et.Pairs.boxes(4, boxes=2)
    circuit = Circuit((HeadGroup("a", "last", (Head(2, 1), Head(0, 2))),))
    found = et.evaluate(model, boxes, circuit, random=0)
    sources = collate(boxes.examples(tokenizer()), PAD).source
    means = plain_hooks.mean_head_outputs(hf_llama(), sources)
    expected = by_hooks(
        boxes, lambda pair: plain_hooks.circuit_logits(hf_llama(), pair.base, means, {"last": set(circuit.at("last"))})
    )
    assert_near(found.scores["circuit.probability"][0], expected)
    assert len(found.rows) == 2
    zeros = et.evaluate(model, boxes, circuit, ablation="zero", random=0)
    nothing = [torch.zeros_like(mean) for mean in means]
    expected = by_hooks(
        boxes,
        lambda pair: plain_hooks.circuit_logits(hf_llama(), pair.base, nothing, {"last": set(circuit.at("last"))}),
    )
    assert_near(zeros.scores["circuit.probability"][0], expected)


def test_cross_model_patching_agrees_with_plain_hooks(model: et.LoadedModel, pairs: et.Pairs):
    donor = et.load(hf_llama(seed=1), tokenizer())
    found = et.cmap(donor, model, pairs, CIRCUIT, random=1)
    names = [row["patched"] for row in found.rows]
    assert names[2:] == ["a", "b", "all", "random heads 1"]
    for row, heads in enumerate([{"last": CIRCUIT.at("last")}, {"asked": CIRCUIT.at("asked")}]):
        expected = by_hooks(
            pairs,
            lambda pair, heads=heads: plain_methods.across_logits(hf_llama(), hf_llama(seed=1), pair.base, heads),
        )
        assert_near(found.scores["probability"][row], expected)
    for role, seed in (("recipient", 0), ("donor", 1)):
        expected = by_hooks(pairs, lambda pair, seed=seed: plain_methods.plain_logits(hf_llama(seed=seed), pair.base))
        assert_near(found.scores[f"{role}.probability"], expected)
    assert found.rows[1]["probability"] == pytest.approx(found.scores["donor.probability"].mean().item())


def test_knockout_agrees_with_plain_hooks(model: et.LoadedModel, pairs: et.Pairs):
    found = et.knockout(model, pairs, "last", "thing")
    assert [row["first_blocked_layer"] for row in found.rows] == ["L0", "L1", "L2", "none"]
    for first, probability in enumerate(found.scores["probability"]):
        expected = by_hooks(
            pairs,
            lambda pair, first=first: plain_methods.knockout_logits(
                hf_llama(), pair.base, first, pair.base.positions["last"], pair.base.positions["thing"]
            ),
        )
        assert_near(probability, expected)


def test_masking_finds_the_heads_whose_outputs_carry_the_answer():
    model = et.load("llama-tiny", device="cpu")
    fetchers = HeadGroup("value_fetcher", "last", tuple(map(Head.parse, ("L5H0", "L5H2", "L4H1", "L5H3", "L0H0"))))
    train, validation, test = (
        et.Pairs.desideratum("object", count, boxes=3, split=split)
        for split, count in (("mask_training", 160), ("mask_validation", 32), ("mask_test", 24))
    )
    found = et.dcm(model, Circuit((fetchers,)), train, validation, test)
    (row,) = found.rows
    assert row["accuracy"] > 0.5 > row["do_nothing"]
    again = et.activation_patch(model, test, found.circuit)
    assert again.rows[1]["accuracy"] == row["accuracy"]
    assert again.rows[0]["accuracy"] == row["do_nothing"]
    assert "L5H0" in row["selected"]
    assert "L0H0" not in row["selected"]


def test_pairs_of_the_boxes_task_are_those_of_manifests():
    words = tokenizer()
    assert et.Pairs.boxes(4, boxes=3, seed=5).examples(words) == Boxes(3, foils=True).examples(words, 4, 5, "discovery")
    for name in ("object", "label", "position", "altered_order"):
        written = et.Pairs.desideratum(name, 3, boxes=3, seed=5).examples(words)
        assert written == desideratum(Boxes(3), name, words, 3, 5, "evaluation")


def test_pairs_can_be_cut_and_chosen_by_what_a_model_answers(model: et.LoadedModel, pairs: et.Pairs):
    assert (len(pairs), len(pairs[1:]), pairs.positions) == (3, 2, ("thing", "label", "asked", "last"))
    assert pairs[1:].texts == pairs.texts[1:]
    said = int(plain_methods.plain_logits(hf_llama(), singly(pairs)[1].base).argmax())
    word = str(tokenizer().decode([said]))
    right = et.Pairs.of([(*texts[:2], word if texts == OWN[1] else texts[2]) for texts in OWN])
    assert right.answered_by(model).texts == right.texts[1:2]
    with pytest.raises(TaskError, match="answers none of 3"):
        pairs.answered_by(model)


def test_a_circuit_is_put_together_as_manifests_do():
    one, two = HeadGroup("a", "last", (Head(1, 0), Head(2, 0))), HeadGroup("b", "last", (Head(1, 0),))
    other = HeadGroup("c", "asked", (Head(2, 0),))
    assert et.circuit_of(one, two, other) == Circuit((HeadGroup("a", "last", (Head(2, 0),)), two, other))
    with pytest.raises(TaskError, match="two have the same name"):
        et.circuit_of(one, one)


def test_a_search_that_finds_nothing_is_a_graph_that_says_so(model: et.LoadedModel):
    found = et.discover(model, et.Pairs.boxes(8, boxes=3), effect=0.99)
    assert (found.rows, found.circuit) == ((), Circuit(()))
    (told,) = found.sentences
    assert told.startswith(
        "Nothing found. 12 heads patched into the logits on 3 pairs of prompts: none has an effect of"
    )
    assert told in repr(found)
    assert [figure.name for figure in found.figures] == ["discover-scores"]


def refused(model: et.LoadedModel, pairs: et.Pairs) -> dict[str, tuple[Callable[[], object], str]]:
    same = et.Pairs.of([("The {{asked|car}}", "The {{asked|book}}", "is")])
    far, lost = (Circuit((HeadGroup("a", at, (head,)),)) for at, head in (("last", Head(3, 0)), ("first", Head(0, 0))))
    return {
        "position": (lambda: et.path_patch(model, pairs, at="lable"), "at: no position 'lable'; did you mean 'label'?"),
        "via": (lambda: et.path_patch(model, pairs, into=["L1H0"]), "via: None; accepted: query, key or value"),
        "no via": (lambda: et.path_patch(model, pairs, via="query"), "via: 'query', but the logits have no such input"),
        "into": (lambda: et.path_patch(model, pairs, into="L1H0", via="query"), "into: found 'L1H0'; accepted:"),
        "none": (lambda: et.path_patch(model, pairs, into=[], via="query"), "into: no heads"),
        "first layer": (lambda: et.path_patch(model, pairs, into=["L0H0"], via="query"), "into: no head can reach it"),
        "receiver": (lambda: et.path_patch(model, pairs, into=["L9H0"], via="query"), "into: L9H0; the model has"),
        "head's input": (lambda: et.path_patch(model, pairs, into=["L1H0"], via="input"), "via: 'input' into L1H0;"),
        "MLP's query": (lambda: et.path_patch(model, pairs, into=["L1MLP"], via="query"), "via: 'query' into L1MLP;"),
        "MLP and head": (lambda: et.path_patch(model, pairs, into=["L1H0", "L1MLP"], via="query"), "into L1MLP;"),
        "far MLP": (lambda: et.path_patch(model, pairs, into=["L3MLP"], via="input"), "into: L3MLP; the model has"),
        "first MLP": (lambda: et.path_patch_mlps(model, pairs, into=["L0MLP"], via="input"), "into: no MLP can reach"),
        "no name": (lambda: et.path_patch(model, pairs, into=["LMLP"], via="input"), "'LMLP' is not the name of an M"),
        "head": (lambda: et.evaluate(model, pairs, far), "group a has L3H0; the model has layers L0-L2"),
        "place": (lambda: et.activation_patch(model, pairs, lost), "circuit: no position 'first'"),
        "empty": (lambda: et.evaluate(model, pairs, Circuit(())), "circuit: it has no heads"),
        "same": (lambda: et.evaluate(model, same, CIRCUIT), "pairs[0]: 'last' and 'asked' are the same token"),
        "order": (lambda: et.knockout(model, pairs, "thing", "asked"), "pairs[0]: 'asked' is not before 'thing'"),
        "few": (lambda: et.dcm(model, CIRCUIT, pairs, pairs, pairs), "train: 3 pairs, so 2 steps of at most 0.1"),
        "keys": (lambda: et.Pairs.of([{"base": "a"}]), "pairs[0]: the keys 'base'; accepted: columns that say"),
        "texts": (lambda: et.Pairs.of([("a", "b")]), "accepted: three texts"),
        "no pairs": (lambda: et.Pairs.of([]), "pairs: the list is empty"),
        "tokenizer": (lambda: et.load(hf_llama()), "tokenizer: a model in memory needs its own"),
        "two": (lambda: et.load("llama-tiny", tokenizer()), "a tokenizer in memory needs a model in memory"),
        "shape": (lambda: et.cmap(et.load(hf_llama(layers=2), tokenizer()), model, pairs, CIRCUIT), "n_layers 2 in"),
    }  # fmt: skip


REFUSED = (
    "position", "via", "no via", "into", "none", "first layer", "receiver", "head", "place", "empty", "same", "order",
    "few", "keys", "texts", "no pairs", "tokenizer", "two", "shape",
    "head's input", "MLP's query", "MLP and head", "far MLP", "first MLP", "no name",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_told(model: et.LoadedModel, pairs: et.Pairs, name: str):
    call, message = refused(model, pairs)[name]
    with pytest.raises(NnsightEtError) as error:
        call()
    assert message in str(error.value)
    assert isinstance(error.value, (TaskError, UnsupportedModel, ManifestError))
    assert set(REFUSED) == set(refused(model, pairs))


def test_fewest_pairs_that_masks_are_trained_on_can_select(model: et.LoadedModel):
    few = et.Pairs.desideratum("object", 64, boxes=2)
    with pytest.raises(TaskError, match=r"train: 64 pairs, .* accepted: 65 pairs or more"):
        et.dcm(model, Circuit((HeadGroup("a", "last", (Head(0, 0),)),)), few, few, few)
    assert 2 * -(-65 // 32) * 0.1 >= 0.5 > 2 * -(-64 // 32) * 0.1


def test_an_answer_without_probability_is_told(model: et.LoadedModel, pairs: et.Pairs):
    module = hf_llama()
    module.lm_head.weight[tokenizer().convert_tokens_to_ids("apple")] *= 1e6
    car = torch.tensor([tokenizer().convert_tokens_to_ids("car")])
    probability = plain_methods.probabilities(plain_methods.plain_logits(module, singly(pairs)[0].base), car)
    extreme = et.load(module, tokenizer())
    wanted = "car" if probability == 0 else "apple"
    some = et.Pairs.of([(OWN[0][0], OWN[0][1], wanted)])
    with pytest.raises(ExperimentError, match=r"0 or below 1.2e-38 in float32, in 1 of 1 prompt, such as"):
        et.path_patch(extreme, some)


@pytest.mark.filterwarnings("ignore:The PEFT config")  # of a model without a name
def test_a_module_that_is_no_model_is_refused_and_adapters_in_one_are_not():
    with pytest.raises(UnsupportedModel, match="found Linear; accepted: a transformers model, or a peft model of one"):
        et.load(torch.nn.Linear(2, 2), tokenizer())  # type: ignore[arg-type]
    settings: dict = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    # inside: add_adapter of transformers 5.24 wants peft 0.22
    inside = inject_adapter_in_model(LoraConfig(**settings), hf_llama())
    for adapted in (inside, get_peft_model(hf_llama(), LoraConfig(**settings))):
        assert et.load(adapted, tokenizer()).shape.n_layers == 3  # type: ignore[arg-type]


def test_attention_that_takes_no_masks_is_refused():
    module = hf_llama()
    module.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="flash_attention_2"):
        et.load(module, tokenizer())


def test_findings_show_a_figure_and_a_table_in_notebooks(model: et.LoadedModel, pairs: et.Pairs):
    found = et.path_patch(model, pairs, keep=2)
    page = Parsed(found._repr_html_())
    assert page.wrong == []
    assert page.of_class("m") == 12  # a mark per head
    assert page.of_class("frame") == 2
    assert not {"script", "iframe", "link", "img"} & {tag for tag, _ in page.elements}
    style = "".join(text for inside, text in page.texts if inside == "style")
    assert style.count(".nnsight-et {") == style.count("\n.nnsight-et {") + 2  # no rule is outside of one
    assert "http" not in found._repr_html_()
    plain = repr(found).splitlines()
    header = next(index for index, line in enumerate(plain) if line.startswith("head"))
    assert plain[header].split() == ["head", "score", "median", "p", "p", "holm", "kept"]
    assert plain[header + 1].startswith(found.rows[0]["head"])
    frame = found.to_dataframe()
    assert list(frame["head"]) == [row["head"] for row in found.rows]
    bounds = zip(frame["score_low"], frame["score"], frame["score_high"], strict=True)
    assert all(low <= score <= high for low, score, high in bounds)


@pytest.mark.parametrize("text", ["<b>", "a & b"])
def test_what_is_shown_is_escaped(text: str):
    found = et.Finding(text, ({"name": text, "share": 0.5},))
    assert Parsed(found._repr_html_()).wrong == []
    assert "<b>" not in found._repr_html_()
    shown = et.Pairs.of([(f"The {{{{a|{text}}}}} is", "The {{a|car}} is", text)])._repr_html_()
    assert Parsed(shown).wrong == []
    assert text not in shown


def test_only_the_first_rows_are_listed_and_the_others_are_counted():
    found = et.Finding("many", tuple({"index": index, "p": 10.0**-index} for index in range(40)))
    assert len(found.table.rows) == 15
    assert "25 more rows" in found.table.note
    assert len(found.to_dataframe()) == 40
    assert found.table.rows[3] == ("3", "0.001")
    assert float(found.table.rows[8][1]) == pytest.approx(1e-8)
    assert log(float(found.table.rows[8][1]), 10) == pytest.approx(-8)


def test_importing_the_package_imports_no_torch():
    code = "import sys, nnsight_et; print('torch' in sys.modules, 'path_patch' in dir(nnsight_et))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=sys.path[0])
    assert said.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'path_patches'"):
        _ = et.path_patches


def test_a_note_says_what_the_metric_is_in_the_base_run_and_when_no_p_can_be_small(model: et.LoadedModel):
    boxes = et.Pairs.boxes(4, boxes=3)
    few = et.path_patch(model, boxes)
    assert "With 4 examples no head can be beyond chance: no p is below 0.04, before the correction for 12" in few.note
    assert "LD" not in few.note
    with_foils = et.Pairs.of(
        [{"base": p.base.text, "source": p.source.text, "answer": p.answer, "foil": "is"} for p in boxes]
    )
    scores = et.path_patch(model, with_foils.scored_by("logit_difference"))
    assert f"LD is {scores.scores['base_value'].double().mean():.3f} there" in scores.note
    assert "can be beyond chance" not in et.path_patch(model, et.Pairs.boxes(8, boxes=3)).note
