"""What `et plan` expects of experiments: which circuits, what is counted once, and how seconds are put together."""

from __future__ import annotations

import json
import shutil

import pytest

from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Mlp
from nnsight_et.diagnostics.costs import (
    Speeds,
    boxes_prompts,
    costs,
    estimates,
    expected_seconds,
    rows_of,
    seconds,
    work_of,
)
from nnsight_et.diagnostics.sizing import read_rows
from nnsight_et.engine.paths import Path
from nnsight_et.manifest import DCM, BoxesTask, load, parse
from nnsight_et.models.catalog import EMBEDDED, TINY
from nnsight_et.planning.cost import methods, pieces
from nnsight_et.planning.cost.methods import Count
from nnsight_et.planning.cost.paths import path_patching
from nnsight_et.planning.plan import plan
from nnsight_et.report.overview import plan_table
from tests.helpers.commands import ROOT, et

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
WHOLE = 20 * (26 * 5 + 1)  # tokens times layers of one measurement's whole prompts, one of each in the last MLP


def test_prompts_of_the_boxes_task_stand_where_the_tokenizer_puts_them():
    first, *_, last = boxes_prompts(BoxesTask())
    assert (first.tokens, first.live(["last"]), first.live(["query_label"])) == (54, 1, 3)
    assert (first.places["previous_query_label"], last.places["previous_query_label"]) == (6, 48)
    assert last.places["correct_object"] == 44


def test_means_and_plain_runs_are_counted_once_and_circuits_each_time():
    found = costs(JOBS, rows_of(JOBS, None), {})
    one, two = (found[name].counts["goat-tiny"] for name in ("one", "two"))
    assert one.whole == 30 * 26 * 5 + 2 * WHOLE  # of means no last MLP
    assert two.whole == WHOLE
    assert one.again == two.again > 0
    assert (found["one"].count.texts, found["two"].count.texts) == (70, 0)  # one tokenizer: made once for both models
    assert (found["one"].measurements, found["two"].measurements) == (6, 2)


def test_what_a_model_answers_first_is_counted_where_it_is_first_measured():
    found, probed = (costs(JOBS, rows_of(JOBS, None), {}, probed=some) for some in (False, True))
    added = {name: {model: probed[name].counts[model].whole - count.whole for model, count in one.counts.items()}
             for name, one in found.items()}  # fmt: skip
    each = 26 * 5 + 1  # the last token alone goes through the last MLP
    assert added == {
        "found": {"llama-tiny": 40 * each},
        "one": {"llama-tiny": 0, "goat-tiny": 40 * each},
        "two": {"llama-tiny": 0, "goat-tiny": 0},
    }


def test_the_ceilings_of_masks_cost_what_the_selected_heads_do_on_the_validation_prompts():
    """That a base run and a source run per desideratum cost that much is counted in test_cost.py."""
    text = TEXT + "  roles: {method: dcm, circuit: found, desiderata: [object, position], %s}\n"
    found = Circuit((HeadGroup("a", "last", (Head(3, 0), Head(2, 1))),))
    counts, rows = [], rows_of(JOBS, None)["llama-tiny"]
    for sizes in ("test_examples: 7, validation_examples: 20", "test_examples: 20, validation_examples: 20"):
        jobs = plan(parse(text % sizes, "study.yaml"))
        counts.append(costs(jobs, rows_of(jobs, None), {"found": found})["roles"])
    few, more = counts
    patched = {size: methods.patching_work(rows, size, [[found, Circuit(())]] * 2) for size in (7, 20)}
    assert few.measurements == more.measurements == 2 + 2
    assert more.count.token_layers - few.count.token_layers == pytest.approx(
        patched[20].token_layers - patched[7].token_layers
    )
    spec = jobs.job("roles").spec
    assert isinstance(spec, DCM)
    trained = methods.masks(rows, spec, found.groups).token_layers
    assert more.count.token_layers == pytest.approx(2 * trained + 2 * patched[20].token_layers)


def test_a_circuit_that_was_found_is_taken_as_it_is_and_another_has_as_many_heads_as_are_kept():
    shapes = {"llama-tiny": TINY}
    guessed = pieces.expected_circuits(JOBS, {}, shapes)["found"]
    assert [len(group.heads) for group in guessed.groups] == [3, 2]
    known = Circuit((HeadGroup("a", "last", (Head(5, 5),)),))
    assert pieces.expected_circuits(JOBS, {"found": known}, shapes)["one"] == known


def test_stages_of_an_unknown_circuit_lie_evenly_over_the_layers():
    heads = [group.heads for group in pieces.expected_circuits(JOBS, {}, {"llama-tiny": TINY})["found"].groups]
    assert {head.layer for head in heads[0]} == {4}  # two of three parts up
    assert {head.layer for head in heads[1]} == {2}


def test_receivers_say_how_much_a_path_costs():
    rows, job = rows_of(JOBS, None)["llama-tiny"], JOBS.job("found")
    (prompts,) = {one.tokens: one for one in rows.of(10, ["last"])}.values()
    senders = [Head(layer, index) for layer in range(4) for index in range(8)]
    direct = [Head(layer, index) for layer in range(6) for index in range(8)]
    every = [
        path_patching(rows.sizes, one, path, some)
        for path, some in ((Path("last"), direct), (Path("last", "query", (Head(4, 0), Head(4, 1))), senders))
        for one in rows.of(10, ["last"])
    ]
    assert prompts.tokens == 26
    counted = costs(JOBS, rows_of(JOBS, None), {})[job.name].count
    assert counted.token_layers == pytest.approx(methods.total(every).token_layers)


def test_stages_of_mlps_cost_one_sender_a_layer_and_put_nothing_into_the_circuit():
    stages = (
        "[{group: m, into: logits, senders: mlps, at: last, keep: 2, receivers: 2},"
        " {group: h, into: m, via: input, at: last, keep: 3}]"
    )
    text = TEXT.replace(STAGES, stages).replace("examples: 10,", "examples: 10, held_out_examples: 4,")
    jobs = plan(parse(text, "x"))
    rows = rows_of(jobs, None)["llama-tiny"]
    mlps = [Mlp(layer) for layer in range(6)]
    kept = [Mlp(3), Mlp(4)]  # two of three parts up, and the lower of the two beside it
    heads = [Head(layer, index) for layer in range(5) for index in range(8)]
    paths = Path("last", senders="mlps"), Path("last", "input", (Mlp(4), Mlp(3)))
    whole = [(10, paths[0], mlps), (4, paths[0], kept), (10, paths[1], heads)]
    whole.append((4, paths[1], [Head(2, 0), Head(2, 1), Head(2, 2)]))
    every = [
        path_patching(rows.sizes, one, path, some) for count, path, some in whole for one in rows.of(count, ["last"])
    ]
    found = costs(jobs, rows_of(jobs, None), {})["found"].count
    assert found.token_layers == methods.total(every).token_layers
    assert found.passes == pytest.approx(methods.total(every).passes)
    assert [group.name for group in pieces.expected_circuits(jobs, {}, {"llama-tiny": TINY})["found"].groups] == ["h"]


def test_a_folder_costs_what_the_same_model_known_by_name_costs(tmp_path):
    """The prompts of a sample are laid out as they come: as often for each box as in the run of so many examples."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for place in ("llama-tiny/config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        shutil.copy(EMBEDDED / place, folder)
    models = "models: {mine: {path: ./mine}, goat-tiny: {path: ./mine, adapter: ./mine}, away: {path: org/none}}\n"
    text = models + TEXT.replace("llama-tiny", "mine")
    jobs = plan(parse(text, "x", folder=tmp_path))
    assert rows_of(jobs, None) == {}
    rows, _ = read_rows(jobs, {}, None)
    named = estimates(JOBS, rows_of(JOBS, None), {})
    for name, one in estimates(jobs, rows, {}).items():
        assert one.flops == pytest.approx(named[name].flops, rel=0.03)
        assert one.peak == pytest.approx(named[name].peak, rel=0.03)
    other = plan(parse(text.replace("[mine, goat-tiny]", "[mine, away]"), "x", folder=tmp_path))
    rows, unknown = read_rows(other, {}, None)
    assert unknown == {"away": "away: the files of 'org/none' are not on this machine yet"}
    shown = plan_table(other, (), estimates(other, rows, {}), {"mine": TINY}, unknown)
    assert shown.note.endswith("Not counted: one, two. away: the files of 'org/none' are not on this machine yet.")
    assert shown.rows[0][5] == "2 stages, at most 88 senders"


def test_other_tasks_have_estimates_too():
    text = "{name: x, task: {kind: ioi}, experiments: {found: {method: path_patching, model: llama-tiny, stages: ["
    jobs = plan(parse(text + "{group: a, into: logits, at: last, keep: 3}]}}}", "x"))
    assert estimates(jobs, rows_of(jobs, None), {}) == {}
    _, unknown = read_rows(jobs, {}, None)
    assert set(unknown) == {"llama-tiny"}  # its tokenizer knows no word of these prompts
    assert "of this tokenizer" in unknown["llama-tiny"]


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


def test_an_experiment_on_a_circuit_of_an_unknown_model_or_without_heads_has_no_estimate():
    unknown = plan(parse(TEXT.replace("model: llama-tiny", "model: org/model"), "x"))
    assert estimates(unknown, rows_of(unknown, None), {}) == {}
    for nothing in (Circuit(()), Circuit((HeadGroup("a", "last", ()),))):
        assert set(estimates(JOBS, rows_of(JOBS, None), {"found": nothing})) == {"found"}


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


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_what_is_left_is_scaled_from_the_measured_experiments_of_a_method(engine):
    jobs = plan(parse(f"engine: {engine}\n{TEXT}", "study.yaml"))
    work = work_of(jobs, rows_of(jobs, None), {})
    assert set(work) == {"found", "one", "two"}
    assert expected_seconds(work, {"found": 7.0}) == {}
    left = expected_seconds(work, {"found": 7.0, "one": 3.0})
    assert left == {"two": pytest.approx(3.0 * work["two"][1] / work["one"][1])}
    assert 0 < left["two"] < 3.0  # its means and plain runs are those of the first


def test_an_experiment_without_passes_takes_no_time_and_one_of_an_unknown_model_is_left_out():
    work = {"a": ("comparison default", 0.0), "b": ("faithfulness default", 4.0)}
    assert expected_seconds(work, {}) == {"a": 0.0}
    assert expected_seconds(work, {"c": 5.0}) == {"a": 0.0}


def test_a_circuit_that_discovery_has_yet_to_find_is_taken_to_have_heads_everywhere():
    text = """\
name: study
task: {kind: boxes, boxes: 3}
experiments:
  found: {method: discovery, model: llama-tiny, examples: 10, held_out_examples: 10}
  one: {method: faithfulness, circuit: found, models: [llama-tiny], examples: 20, ablation_examples: 30}
"""
    jobs = plan(parse(text, "study.yaml"))
    alone = costs(jobs, rows_of(jobs, None), {})["one"].counts["llama-tiny"]
    # 11 circuits: 4 positions are recomputed in 6 layers, but one in the last MLP
    assert alone.again == 20 * 11 * (4 * 5 + 1)
