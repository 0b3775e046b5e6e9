"""What `et plan` expects of experiments: which circuits, what is counted once, and how seconds are put together."""

from __future__ import annotations

import json

import pytest
from commands import ROOT, et

from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.cost import expected, passes
from nnsight_et.cost.passes import Count
from nnsight_et.cost.plans import Speeds, boxes_prompts, costs, estimates, rows_of, seconds
from nnsight_et.manifest import BoxesTask, load, parse
from nnsight_et.models.named import TINY
from nnsight_et.plan import plan

STAGES = (
    "[{group: a, into: logits, at: last, keep: 3, receivers: 2}, {group: b, into: a, via: query, at: last, keep: 2}]"
)
TEXT = f"""\
name: study
task: {{kind: boxes, boxes: 3}}
experiments:
  found: {{method: path_patching, model: llama-tiny, examples: 10, stages: {STAGES}}}
  one: {{method: faithfulness, circuit: found, models: [llama-tiny, goat-tiny], examples: 20, ablation_examples: 30}}
  two: {{method: faithfulness, circuit: found, models: [llama-tiny, goat-tiny], examples: 20, ablation_examples: 30}}
"""
JOBS = plan(parse(TEXT, "study.yaml"))
WHOLE = 20 * 26 * 6  # tokens times layers of one measurement's whole prompts


def test_prompts_of_the_boxes_task_stand_where_the_tokenizer_puts_them():
    first, *_, last = boxes_prompts(BoxesTask())
    assert (first.tokens, first.live(["last"]), first.live(["query_label"])) == (54, 1, 3)
    assert (first.places["previous_query_label"], last.places["previous_query_label"]) == (6, 48)
    assert last.places["correct_object"] == 44


def test_means_and_plain_runs_are_counted_once_and_circuits_each_time():
    found = costs(JOBS, rows_of(JOBS, None), {})
    one, two = (found[name].counts["goat-tiny"] for name in ("one", "two"))
    assert one.whole == 30 * 26 * 6 + 2 * WHOLE
    assert two.whole == WHOLE
    assert one.again == two.again > 0
    assert (found["one"].count.texts, found["two"].count.texts) == (70, 0)  # one tokenizer: made once for both models
    assert (found["one"].measurements, found["two"].measurements) == (6, 2)


def test_what_a_model_answers_first_is_counted_where_it_is_first_measured():
    found, probed = (costs(JOBS, rows_of(JOBS, None), {}, probed=some) for some in (False, True))
    added = {name: {model: probed[name].counts[model].whole - count.whole for model, count in one.counts.items()}
             for name, one in found.items()}  # fmt: skip
    assert added == {
        "found": {"llama-tiny": 40 * 26 * 6},
        "one": {"llama-tiny": 0, "goat-tiny": 40 * 26 * 6},
        "two": {"llama-tiny": 0, "goat-tiny": 0},
    }


def test_a_circuit_that_was_found_is_taken_as_it_is_and_another_has_as_many_heads_as_are_kept():
    shapes = {"llama-tiny": TINY}
    guessed = expected.circuits(JOBS, {}, shapes)["found"]
    assert [len(group.heads) for group in guessed.groups] == [3, 2]
    known = Circuit((HeadGroup("a", "last", (Head(5, 5),)),))
    assert expected.circuits(JOBS, {"found": known}, shapes)["one"] == known


def test_stages_of_an_unknown_circuit_lie_evenly_over_the_layers():
    heads = [group.heads for group in expected.circuits(JOBS, {}, {"llama-tiny": TINY})["found"].groups]
    assert {head.layer for head in heads[0]} == {4}  # two of three parts up
    assert {head.layer for head in heads[1]} == {2}


def test_receivers_say_how_much_a_path_costs():
    rows, job = rows_of(JOBS, None)["llama-tiny"], JOBS.job("found")
    (prompts,) = {one.tokens: one for one in rows.of(10, ["last"])}.values()
    senders = [Head(layer, index) for layer in range(4) for index in range(8)]
    direct = [Head(layer, index) for layer in range(6) for index in range(8)]
    every = [
        passes.path_patching(rows.sizes, one, "last", ends, some)
        for ends, some in (((), direct), ([4], senders))
        for one in rows.of(10, ["last"])
    ]
    assert prompts.tokens == 26
    assert costs(JOBS, rows_of(JOBS, None), {})[job.name].count.token_layers == passes.total(every).token_layers


def test_seconds_are_work_times_speeds_and_what_a_run_does_once():
    found = costs(JOBS, rows_of(JOBS, None), {})
    speeds: dict[str, Speeds] = dict.fromkeys(
        ("llama-tiny", "goat-tiny"), Speeds(whole=1.0, loading=1e6, checks=1e8, sample=1e10)
    )
    took = seconds(JOBS, found, speeds, checked=True)
    assert took["found"] == pytest.approx(found["found"].count.whole + 1e6 + 1e8 + 2e10)
    assert took["one"] == pytest.approx(found["one"].count.whole + 1e6 + 1e8 + 6e10)  # one model is there already
    assert took["two"] == pytest.approx(found["two"].count.whole + 2e6 + 2e10)
    assert seconds(JOBS, found, speeds, checked=False)["found"] == found["found"].count.whole + 1e6
    assert seconds(JOBS, found, {"llama-tiny": Speeds()}, checked=False) == {"found": 0.0}
    assert Speeds(again=2.0, passes=3.0, texts=5.0).of(Count(again=1, passes=10, texts=100)) == 532


def test_what_cannot_be_known_has_no_estimate():
    text = TEXT.replace("goat-tiny", "org/model").replace("name: study", "name: study\nengine: default")
    assert set(estimates(plan(parse(text, "x")), rows_of(plan(parse(text, "x")), None), {})) == {"found"}
    slow = plan(parse(TEXT.replace("name: study", "name: study\nengine: reference"), "x"))
    assert estimates(slow, rows_of(slow, None), {}) == {}


@pytest.mark.parametrize("manifest", ["experiments.yaml", "paper.yaml"])
def test_every_experiment_of_the_shipped_manifests_has_an_estimate(manifest):
    jobs = plan(load(ROOT / manifest))
    found = estimates(jobs, rows_of(jobs, None), {})
    assert list(found) == [job.name for job in jobs.jobs]
    assert all(
        (one.flops > 0 and one.peak > 0) == bool(job.models) for one, job in zip(found.values(), jobs.jobs, strict=True)
    )


@pytest.mark.slow
def test_a_calibrated_plan_has_minutes_for_every_experiment(tmp_path):
    (tmp_path / "study.yaml").write_text(TEXT)
    printed = et("plan", str(tmp_path / "study.yaml"), "--calibrate", "--out", str(tmp_path / "runs")).output
    assert "minutes" in printed
    assert "self-checks included in the time" in printed
    assert json.dumps(printed).count("to run") == 3
