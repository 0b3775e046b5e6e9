"""Path patching by every metric: both engines against plain hooks, what the ranking and the result make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path as Folder

import pytest
import torch
from torch import Tensor

import nnsight_et
from nnsight_et.core.batch import Pair, Side, collate
from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import ExperimentError, ManifestError, TaskError
from nnsight_et.core.metrics import patching_score
from nnsight_et.core.named_metrics import METRICS, WRITTEN
from nnsight_et.display.figures import HeatMap
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.manifest import Stage
from nnsight_et.measuring.missing_scores import without_score
from nnsight_et.measuring.stage_scores import ranking, stage_scores
from nnsight_et.methods.path_patching.experiment import stage_record
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.plan import plan
from nnsight_et.report.export import heads, metrics
from nnsight_et.report.results import plates, tables
from nnsight_et.results.headers import metric_of
from nnsight_et.results.study import Study
from nnsight_et.tasks.answers import token_description
from nnsight_et.tasks.boxes import Boxes
from tests.engine.test_work_counts import counted
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tests.helpers.methods_study import MODELS, OBJECTS, manifest, models_in, pairs, results
from tests.helpers.tiny_model import PAD, few_examples, hf_llama, tiny_model, tokenizer

OTHERS = [name for name in WRITTEN if name != "probability_ratio"]
PATHS = {
    "direct": Path("last"),
    "query at last": Path("last", "query", (Head(1, 3), Head(2, 0), Head(2, 1))),
    "value at query_label": Path("query_label", "value", (Head(2, 2), Head(2, 3))),
    "value, receivers alone": Path("query_label", "value", (Head(2, 2),), "expanded"),
}
FOILS, MORE = ((20, 31, 44), (20,), (50, 60)), ((70,), (), (80, 81))


def scored_pairs(metric: str, side: Side = "left") -> Pair:
    """Three prompts of unequal length, with 3, 1 and 2 foils, and 1, 0 and 2 more right tokens."""
    examples = few_examples((2, 3, 2))
    made = [replace(one, foils=f, also_right=r) for one, f, r in zip(examples, FOILS, MORE, strict=True)]
    return replace(collate(made, PAD, side), metric=metric)


def found_by(model, pair: Pair, path: Path, engine: str = "default", chunks: Chunks | None = None):
    senders = path.reaching(model.n_layers, model.n_heads)
    return path_probabilities(model, pair, path, senders, engine, chunks or Chunks())


def logits_by_hooks(module, pair: Pair, path: Path) -> tuple[Tensor, Tensor]:
    """[batch, vocab] of the base run, and [sender, batch, vocab] of the patched ones."""
    senders = path.reaching(module.config.num_hidden_layers, module.config.num_attention_heads)
    z = plain_hooks.head_outputs(module, pair.base), plain_hooks.head_outputs(module, pair.source)
    patched = plain_hooks.patched_logits(module, pair, z, senders, (path.receivers, path.via, path.at))
    base = plain_hooks.run_model(module, pair.base.tokens, pair.base.mask)
    row, last = torch.arange(len(base)), pair.base.positions["last"]
    return base[row, last], patched.unflatten(0, (len(senders), -1))[:, row, last]


def value_by_hand(metric: str, row: int, base: Tensor, logits: Tensor, answer: int) -> float:
    """Of one example, from logits [vocab], in float64 and in words of the definitions."""
    base, logits = base.double(), logits.double()
    p = logits.softmax(-1).tolist()
    if metric == "logit_difference":
        return logits[answer].item() - sum(logits[token].item() for token in FOILS[row]) / len(FOILS[row])
    if metric == "probability_difference":
        return sum(p[token] for token in (answer, *MORE[row])) - sum(p[token] for token in FOILS[row])
    clean = base.softmax(-1).tolist()
    return sum(one * log(one / other) for one, other in zip(clean, p, strict=True))


def values_by_hooks(module, pair: Pair, path: Path) -> dict[str, Tensor]:
    base, patched = logits_by_hooks(module, pair, path)

    def value(row: int, logits: Tensor) -> float:
        return value_by_hand(pair.metric, row, base[row], logits, int(pair.answer[row]))

    clean = [value(row, base[row]) for row in range(len(base))]
    changed = [[value(row, logits[row]) for row in range(len(base))] for logits in patched]
    return {
        name: torch.tensor(one, dtype=torch.float64)
        for name, one in (("base_value", clean), ("patched_value", changed))
    }


@pytest.mark.parametrize("path", [path for path in PATHS.values() if path.kv_heads == "shared"], ids=str)
@pytest.mark.parametrize("metric", OTHERS)
def test_both_engines_agree_with_plain_hooks_under_grouped_queries_and_padding(metric, path):
    sides: list[tuple[torch.dtype, Side, float]] = [(torch.float64, "left", 1e-10), (torch.float32, "right", 2e-5)]
    for dtype, side, near in sides:
        module = hf_llama(kv_heads=2, attention_bias=True, dtype=dtype)
        pair = scored_pairs(metric, side)
        expected = values_by_hooks(module, pair, path)
        model = tiny_model(module)
        plain = found_by(model, replace(pair, metric="probability_ratio"), path)
        for engine in ("default", "reference"):
            found = found_by(model, pair, path, engine)
            assert set(found) == {"base", "patched", "base_value", "patched_value"}
            for name, values in expected.items():
                torch.testing.assert_close(found[name].double(), values, atol=near, rtol=near)
        for name, values in plain.items():
            assert torch.equal(found_by(model, pair, path)[name], values)
        assert (expected["patched_value"] - expected["base_value"]).abs().max() > 10 * near


@pytest.mark.parametrize("metric", OTHERS)
def test_the_engines_agree_where_the_receivers_alone_see_the_patch_whatever_the_chunks(metric):
    model, pair = tiny_model(hf_llama(dtype=torch.float64)), scored_pairs(metric)
    path = PATHS["value, receivers alone"]
    one = found_by(model, pair, path, "reference")
    for chunks in (Chunks(), Chunks(tokens=1), Chunks(branch_tokens=1)):
        found = found_by(model, pair, path, chunks=chunks)
        for name, values in one.items():
            torch.testing.assert_close(found[name], values, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("metric", OTHERS)
def test_a_source_that_is_the_base_has_no_effect_and_kl_is_never_below_0(metric, path):
    model, pair = tiny_model(hf_llama()), scored_pairs(metric)
    null = replace(pair, source=pair.base)
    for engine in ("default", "reference"):
        found = found_by(model, null, path, engine)
        change = found["patched_value"] - found["base_value"]
        assert change.abs().max() <= (1e-10 if metric == "kl" else 1e-5)
        if metric == "kl":
            assert torch.equal(found["base_value"], torch.zeros(3))
    if metric == "kl":
        assert (found_by(model, null, path)["patched_value"] >= 0).all()
        assert (found_by(model, pair, path)["patched_value"] > 0).all()


def test_a_constant_on_all_logits_leaves_the_logit_difference_as_it_is():
    pair, path = scored_pairs("logit_difference"), PATHS["query at last"]
    module = hf_llama(dtype=torch.float64)
    before = found_by(tiny_model(module), pair, path)
    module.lm_head.bias = torch.nn.Parameter(torch.full((module.config.vocab_size,), 5.0).double())
    model = tiny_model(module)
    for engine in ("default", "reference"):
        after = found_by(model, pair, path, engine)
        torch.testing.assert_close(after["patched_value"], before["patched_value"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("metric", OTHERS)
def test_no_metric_costs_a_forward_pass(metric):
    model, path = tiny_model(hf_llama()), PATHS["query at last"]
    for engine in ("default", "reference"):
        runs = []
        for one in ("probability_ratio", metric):
            with counted(model) as counts:
                found_by(model, scored_pairs(one), path, engine)
            runs.append(dict(counts))
        assert runs[0] == runs[1]


def test_what_matters_most_is_ranked_first_and_kept():
    base = {"base": torch.full((2,), 0.5), "base_value": torch.tensor([1.0, 0.0])}
    patched = torch.tensor([[0.5, 0.0], [1.5, 1.0], [1.0, 0.0], [-1.0, -2.0]])
    senders, shape = [Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)], Shape(3, 2, 2, 4, 8, 16, 50)
    signed = base | {"patched": torch.zeros(4, 2) + 0.5, "patched_value": patched}
    for metric in ("logit_difference", "probability_difference"):
        found = stage_scores(signed, senders, shape, 2, 0, metric)
        assert found["score"][:2].tolist() == [[-0.25, 0.75], [0.0, -2.0]]
        assert found["per_example"][1, 1].tolist() == [-2.0, -2.0]
        ranked = [Head(1, 1), Head(0, 0), Head(1, 0), Head(0, 1)]
        assert ranking(found["score"], senders, metric) == ranked
        assert found["selection_frequency"][1, 1] == 1
        assert "log_ratio" not in found
    none = base | {"base_value": torch.zeros(2)}
    divergence = none | {"patched": signed["patched"], "patched_value": patched.abs()}
    found = stage_scores(divergence, senders, shape, 2, 0, "kl")
    assert found["score"][:2].tolist() == [[0.25, 1.25], [0.5, 1.5]]
    assert ranking(found["score"], senders, "kl") == [Head(1, 1), Head(0, 1), Head(1, 0), Head(0, 0)]
    assert found["selection_frequency"][0, :2].tolist() == [0, 1]
    assert found["selection_frequency"][1, 1] > 0.6


def test_differences_are_tested_and_kl_which_has_no_sign_is_not():
    senders, shape = [Head(0, 0), Head(0, 1)], Shape(3, 2, 2, 4, 8, 16, 50)
    change = torch.stack([-torch.ones(12), torch.ones(12)])
    values = {"base": torch.full((12,), 0.5), "base_value": torch.ones(12), "patched": torch.full((2, 12), 0.5)}
    found = stage_scores(values | {"patched_value": 1 + change}, senders, shape, 1, 0, "logit_difference")
    assert found["p"][0, 0] < 1e-4
    assert found["p"][0, 1] > 1 - 1e-4
    stage = Stage(group="a", into="logits", at="last", keep=1)
    record = stage_record(stage, (), [Head(0, 0)], found, "logit_difference")
    assert (record.beyond_chance, record.tested, record.base_logit_difference) == (["L0H0"], 2, 1.0)
    found = stage_scores(
        values | {"base_value": torch.zeros(12), "patched_value": change + 1}, senders, shape, 1, 0, "kl"
    )
    record = stage_record(stage, (), [Head(0, 1)], found, "kl")
    assert all(found[name].isnan().all() for name in ("p", "p_holm", "p_bh"))
    assert (record.beyond_chance, record.tested) == ([], 0)
    assert record.kept[0].beyond_chance is None


def test_a_score_that_does_not_exist_is_told():
    examples, words = few_examples((2, 2)), tokenizer()
    given = (examples, words)
    prompt = repr(words.decode(list(examples[1].base.tokens)))
    which = f"in 1 of 2 prompts, such as {token_description(examples[1].answer, words)['text']} after {prompt}"
    for base in (0.0, 1e-44):
        values = {"base": torch.tensor([0.5, base]), "patched": torch.ones(1, 2)}
        low = "the answer's probability in the base run is 0 or below 1.2e-38 in float32"
        assert without_score(values, "probability_ratio", *given) == f"{low}, {which}"
    values |= {"base": torch.tensor([0.5, 1e-37])}
    assert without_score(values, "probability_ratio", *given) is None
    values |= {"base_value": torch.zeros(2), "patched_value": torch.tensor([[1.0, torch.inf]])}
    assert without_score(values, "kl", *given) == f"kl is not finite, {which}"
    assert without_score(values | {"patched_value": torch.ones(1, 2)}, "kl", *given) is None


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Folder:
    return models_in(tmp_path_factory.mktemp("metrics"))


def experiment(metric: str, name: str = "found", examples: int = 6) -> str:
    return f"""\
  {name}:
    method: path_patching
    model: one
    metric: {metric}
    examples: {examples}
    held_out_examples: 4
    stages:
      - {{group: a, into: logits, at: last, keep: 8, receivers: 8}}
      - {{group: b, into: a, via: value, at: query_label, keep: 2}}
"""


@pytest.fixture(scope="module")
def every(root):
    """One experiment per metric, with its self-checks."""
    return results(root, "".join(experiment(name, name) for name in WRITTEN))


@pytest.mark.parametrize("metric", WRITTEN)
def test_a_manifest_asks_for_a_metric_and_the_result_has_its_scores(every, metric):
    result = every[metric]
    assert metric_of(result.header) == metric
    objects = [tokenizer().get_vocab()[word] for word in OBJECTS]
    pair = pairs(6, "discovery")
    base, patched = logits_by_hooks(MODELS["one"](), pair, Path("last"))
    p, q = base.double().softmax(-1), patched.double().softmax(-1)
    row = torch.arange(6)
    foil = torch.tensor([_foil(tokens.tolist(), int(answer), objects) for tokens, answer in _prompts(pair)])
    if metric == "kl":
        effect = (p * (p.log() - q.log())).sum(-1)
    elif metric == "logit_difference":
        effect = (patched[:, row, pair.answer] - patched[:, row, foil]) - (base[row, pair.answer] - base[row, foil])
    elif metric == "probability_difference":
        effect = (q[:, row, pair.answer] - q[:, row, foil]) - (p[row, pair.answer] - p[row, foil])
    else:
        effect = q[:, row, pair.answer] / p[row, pair.answer] - 1
    score = effect.double().mean(-1)
    assert_near(result.scores["a.score"].flatten(), score, size=1, dtype=torch.float32)
    best = score.argsort(descending=metric == "kl")[:8]
    kept = [one["head"] for one in result.header.summary["stages"][0]["kept"]]
    assert kept == [f"L{index // 4}H{index % 4}" for index in best.tolist()]
    checks = {check.check for check in result.header.self_check.checks}
    assert {"reference engine", "recount"} <= checks


def _prompts(pair: Pair):
    return zip(pair.base.tokens, pair.answer, strict=True)


def _foil(tokens: list[int], answer: int, objects: list[int]) -> int:
    """The other object of a prompt of two boxes."""
    (other,) = [token for token in tokens if token in objects and token != answer]
    return other


@pytest.mark.parametrize("metric", WRITTEN)
def test_report_and_tables_say_which_metric_it_is(every, metric):
    result, study = every[metric], Study("metrics", tuple(every.values()), ())
    circuit = tables(result.header)[0]
    assert METRICS[metric].effect in circuit.note
    assert ("beyond chance" in circuit.columns) == (metric != "kl")
    kept = result.header.summary["stages"][0]["kept"][0]
    assert f"{kept['head']} {kept['score']:+.3{'f' if metric == 'probability_ratio' else 'g'}}" in circuit.rows[0][-1]
    panel = plates(result, study)[1].panels[0]
    assert isinstance(panel, HeatMap)
    assert panel.signed == (metric != "kl")
    suffix = "" if metric == "probability_ratio" else f"_{metric}"
    rows = heads([result]).rows
    names = {row[heads([result]).columns.index("metric")] for row in rows}
    assert {f"patching_score{suffix}", f"held_out_patching_score{suffix}", "selection_frequency"} <= names
    assert ("log_ratio" in names) == (metric == "probability_ratio")
    whole = metrics([result])
    named = {row[whole.columns.index("metric")] for row in whole.rows}
    assert ("base_logit_difference" in named) == (metric == "logit_difference")


def test_the_papers_metric_is_the_default_and_leaves_names_of_work_as_they_were(root):
    default = plan(manifest(root, experiment("probability_ratio").replace("    metric: probability_ratio\n", ""))).jobs[
        0
    ]
    written = plan(manifest(root, experiment("probability_ratio"))).jobs[0]
    assert default.id == written.id
    assert "metric" not in json.dumps(default.to_dict())
    assert len({plan(manifest(root, experiment(name))).jobs[0].id for name in WRITTEN}) == len(WRITTEN)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("metric: kl", "metric: kld"), "metric: found 'kld'; did you mean 'kl'? accepted: "),
        (
            ("metric: kl", "metric: kl\n    reproduces: [Figure 1]"),
            "metric: found kl, but the paper's numbers use probability",
        ),
    ],
)
def test_another_metric_is_refused_by_its_line(root, change, told):
    with pytest.raises(ManifestError) as error:
        manifest(root, experiment("kl").replace(*change))
    assert told in str(error.value)
    assert "accepted" in str(error.value)


def test_the_foils_of_a_box_are_the_other_objects_of_the_prompt():
    task, words = Boxes(4), tokenizer()
    plain = task.examples(words, 5, 3, "discovery")
    assert all(example.foils == () for example in plain)
    for example, pair in zip(
        replace(task, foils=True).examples(words, 5, 3, "discovery"), task.pairs(5, 3, "discovery"), strict=True
    ):
        assert replace(example, foils=()) in plain
        said = words.convert_ids_to_tokens([example.answer, *example.foils])
        objects = [segment.split(" is in Box")[0].split()[-1] for segment in pair.base.text.split(".")[0].split(", ")]
        assert sorted(said) == sorted(objects)
        assert said[0] == pair.answer


PLAIN = {"base": "The book is in Box A. Box A contains the", "source": "The car is in Box Q. Box Y contains the"}


@pytest.mark.parametrize("metric", WRITTEN)
def test_pairs_in_python_are_scored_by_a_metric(metric):
    model = nnsight_et.load(hf_llama(), tokenizer())
    made = [PLAIN | {"answer": "book", "foil": ["car", "note"], "also_right": "fish"}] * 2
    found = nnsight_et.path_patch(model, nnsight_et.Pairs.of(made).scored_by(metric), keep=3)
    examples = nnsight_et.Pairs.of(made).examples(tokenizer())
    pair = replace(collate(examples), metric=metric)
    expected = found_by(model.model, pair, Path("last"), "reference")
    kind = "" if metric == "probability_ratio" else "_value"
    score = patching_score(expected[f"patched{kind}"], expected[f"base{kind}"], metric)
    assert_near(found.values.flatten(), score, size=1, dtype=torch.float32)
    best = score.argsort(descending=metric == "kl", stable=True)[:3].tolist()
    assert [head.layer * 4 + head.index for head in found.kept] == best
    assert (METRICS[metric].effect in found.note) or metric == "probability_ratio"
    panel = found.figures[0].panels[0]
    assert isinstance(panel, HeatMap)
    assert panel.signed == (metric != "kl")


def test_pairs_in_python_keep_their_metric_and_need_foils_for_some():
    made = nnsight_et.Pairs.of([PLAIN | {"answer": "book", "foil": "car"}, PLAIN | {"answer": "book"}])
    assert made.scored_by("kl")[:1].metric == "kl"
    assert made[:1].scored_by("logit_difference").metric == "logit_difference"
    assert nnsight_et.Pairs.boxes(2, boxes=3).scored_by("probability_difference").texts[0].foils
    with pytest.raises(TaskError, match=r"pairs\[1\]: no foil, which logit_difference needs; accepted: one in"):
        made.scored_by("logit_difference")
    with pytest.raises(
        TaskError, match=r"metric: 'logit'; did you mean 'logit_difference'\? accepted: probability_ratio"
    ):
        made.scored_by("logit")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"pairs\[0\]: foil: 'book' is already the answer"):
        nnsight_et.Pairs.of([PLAIN | {"answer": "book", "foil": "book"}]).examples(tokenizer())


def own_difference(logits: Tensor, batch) -> Tensor:
    """The logit difference, written by a user."""
    wrong = [row[foils[foils >= 0]].mean() for row, foils in zip(logits, batch.foils, strict=True)]
    return logits.gather(-1, batch.answer[:, None])[:, 0] - torch.stack(wrong)


def test_a_function_of_logits_scores_as_the_named_metric_that_it_computes():
    model = nnsight_et.load(hf_llama(), tokenizer())
    made = nnsight_et.Pairs.of([PLAIN | {"answer": "book", "foil": foils} for foils in (["car", "note"], "car")])
    named = nnsight_et.path_patch(model, made.scored_by("logit_difference"), keep=3)
    found = nnsight_et.path_patch(model, made.scored_by(own_difference)[:2], keep=3)
    assert_near(found.values.flatten(), named.values.flatten(), size=1, dtype=torch.float32)
    assert found.kept == named.kept
    assert found.values.abs().max() > 0
    assert "Mean of f(patched logits) - f(base logits) over 2 pairs" in found.note
    divergence = nnsight_et.path_patch(
        model, made.scored_by(lambda logits, batch: -(batch.base.softmax(-1) * logits.log_softmax(-1)).sum(-1))
    )
    entropy = divergence.scores["base_value"].min()
    assert entropy > 0
    kl = nnsight_et.path_patch(model, made.scored_by("kl"))  # cross entropy less entropy
    assert_near(divergence.values.flatten(), kl.values.flatten(), size=1, dtype=torch.float32)
    assert made.scored_by(own_difference).scored_by("kl").function is None


def test_a_function_that_is_no_metric_is_refused_before_or_by_a_self_check():
    model = nnsight_et.load(hf_llama(), tokenizer())
    made = nnsight_et.Pairs.of([PLAIN | {"answer": "book"}, PLAIN | {"answer": "note"}])
    draws = torch.get_rng_state()
    with pytest.raises(TaskError, match=r"metric: found a tensor \[\] for logits \[2, \d+\]; accepted: .* \[2\]"):
        nnsight_et.path_patch(model, made.scored_by(lambda logits, _: logits.mean()))
    assert torch.equal(torch.get_rng_state(), draws)  # the caller's stay what they are
    with pytest.raises(TaskError, match=r"metric: found 3 for logits .* accepted: a tensor with one number per prompt"):
        nnsight_et.path_patch(model, made.scored_by(lambda _, batch: 3))  # type: ignore[arg-type, return-value]
    mixed = nnsight_et.Pairs.boxes(4, boxes=3).scored_by(lambda logits, _: logits[:, 5] - logits[:, 5].mean())
    with pytest.raises(ExperimentError, match=r"et\.path_patch: self-check 'reference engine'"):
        nnsight_et.path_patch(model, mixed)
    with pytest.raises(
        TaskError, match="scored by a function, which discovery does not support; accepted: probability_r"
    ):
        nnsight_et.discover(model, made.scored_by(own_difference))


def test_a_manifest_names_metrics_and_no_function(tmp_path):
    with pytest.raises(ManifestError, match=r"metric: found 'function'; accepted: probability_ratio, logit"):
        manifest(models_in(tmp_path), experiment("function"))
