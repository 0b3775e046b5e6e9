"""Faults of decision, in runs whose numbers are all right: each stops its experiment, by the name of a check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import ExperimentError
from nnsight_et.measuring import cell_cache, checks, model_pool
from tests.helpers.methods_study import models_in, steps

FOUND = """\
  found:
    method: path_patching
    model: one
    examples: 6
    held_out_examples: 4
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}
      - {group: position_detector, into: value_fetcher, via: value, at: query_label, keep: 2}
      - {group: position_transmitter, into: value_fetcher, via: query, at: last, keep: 3}
"""
TWICE = f"{FOUND}      - {{group: again, into: logits, at: last, keep: 3}}\n"
CORRECT = FOUND.replace("examples: 6\n", "examples: 6\n    only_correct: true\n")
TABLE = "  table: {method: faithfulness, circuit: ./circuit.json, models: [one], examples: 6, ablation_examples: 5}\n"
PRUNED = "  pruned: {method: minimality, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5}\n"
COMPLETE = """\
  complete: {method: completeness, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5, draws: 2}
"""
MASKS = """\
  masks:
    {method: dcm, circuit: ./circuit.json, model: one, desiderata: [object, position], training_examples: 8,
     validation_examples: 6, test_examples: 7, batch: 4, epochs: 3, learning_rate: 0.4, validate_every: 2}
"""
ROLES = f"{MASKS}  roles: {{method: activation_patching, roles: masks, models: [one], examples: 6, draws: 2}}\n"
ACROSS = """\
  across: {method: cmap, donor: two, recipient: one, circuit: ./circuit.json, examples: 6, random_sets: 3}
"""
BLIND = "  blind: {method: knockout, model: one, examples: 6}\n"
LOOKS = "  looks: {method: attention_patterns, circuit: ./circuit.json, model: one, examples: 6}\n"
SCREEN = "  screen: {method: attribution, model: one, examples: 6}\n"
OVERLAP = f"{FOUND}  overlap: {{method: comparison, circuits: [found, ./circuit.json]}}\n"
IMPACT = f"{FOUND}  overlap: {{method: comparison, circuits: [found, found], scores: found}}\n"


class Fault(NamedTuple):
    """What takes the place of a function or value, made from the right one; in which study; what stops it."""

    place: str
    wrong: Callable[[Any], Any]
    study: str
    message: str


def after(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function with another outcome."""
    return lambda right: lambda *given, **named: change(right(*given, **named))


def with_replacement(circuits: list[Circuit]) -> list[Circuit]:
    """The first head of every group twice, and its last one not at all."""
    return [Circuit(tuple(replace(g, heads=(*g.heads[:1], *g.heads[:-1])) for g in one.groups)) for one in circuits]


def all_shared(rows: Any) -> Any:
    return [one._replace(shared=one.first) for one in rows]


def label_tokens(question: Any, *_: Any) -> Any:
    return question.run.positions["query_label"] - 1


def next_rows(found: Any) -> Any:
    return {name: tensor.roll(1, 0) for name, tensor in found.items()}


def first_draw(right: Any) -> Any:
    return lambda *given, **named: right(*given, **named | {"draw": 0})


def moved(circuits: list[Circuit]) -> list[Circuit]:
    return [Circuit(tuple(replace(group, at="last") for group in one.groups)) for one in circuits]


def next_answers(examples: Any) -> Any:
    others = [*examples[1:], examples[0]]
    return [replace(one, answer=other.answer) for one, other in zip(examples, others, strict=True)]


def unlike(one: Any) -> Any:
    """A pair whose source is its base."""
    return replace(one, source=one.base)


PATHS, STAGES, DCM = "methods.path_patching.experiment", "measuring.stage_scores", "methods.dcm.experiment"
DATA, MINIMAL = "measuring.examples.Data", "methods.minimality.experiment"
FAITHFUL, CMAP = "methods.faithfulness.experiment", "methods.cmap.experiment"
KNOCKOUT, ATTRIBUTION = "methods.knockout.experiment", "methods.attribution.experiment"
RIGHT_OF_ANOTHER = after(lambda right: right.roll(1, 0) if right.ndim > 1 else right)
FAULTS = {
    "a receiver more": Fault(f"{PATHS}._receivers", after(lambda count: count + 1), FOUND, "'asked'"),
    "the worst heads receive": Fault(f"{PATHS}.ranking", after(lambda order: order[::-1]), FOUND, "'asked'"),
    "kept heads in another order": Fault(
        f"{PATHS}.ranking", after(lambda order: [*order[1:2], *order[:1], *order[2:]]), FOUND, "'decisions'"
    ),
    "a sender too few": Fault(f"{PATHS}._reaching", after(lambda senders: senders[1:]), FOUND, "'asked'|'cells'"),
    "a head in two groups": Fault(
        f"{PATHS}.Circuit.from_stages",
        lambda _: lambda groups: Circuit(tuple(groups)),
        TWICE,
        "'decisions'",
    ),
    "held out what was selected on": Fault(f"{PATHS}.HELD_OUT_SPLIT", lambda _: "discovery", FOUND, "'splits'"),
    "another split": Fault(f"{PATHS}.SPLIT", lambda _: "pruning", FOUND, "'splits'"),
    "an example too few": Fault(
        f"{DATA}.examples", after(lambda some: some[len(some) > 1 :]), FOUND, "'splits'.*how many"
    ),
    "an example twice": Fault(f"{DATA}.examples", after(lambda some: [*some[1:], some[-1]]), FOUND, "'splits'.*twice"),
    "wrong prompts count": Fault(
        "measuring.predictions.is_right", after(lambda right: ~right), CORRECT, "'splits'.*right"
    ),
    "answers of the next prompt": Fault(f"{DATA}.examples", after(next_answers), FOUND, "'examples'.*the answer"),
    "sources that answer": Fault(
        f"{DATA}.examples", after(lambda some: list(map(unlike, some))), SCREEN, "'examples'.*the source"
    ),
    "no correction": Fault(
        f"{STAGES}.holm", lambda _: lambda p: p, FOUND, "'recount', at .*p_holm|'decisions', at .*beyond"
    ),
    "p-values of two sides": Fault(f"{STAGES}.effect_p_values", after(lambda p: p * 2), FOUND, "'recount'"),
    "narrow intervals": Fault(
        f"{STAGES}.mean_interval", after(lambda ends: (ends[0] / 2, ends[1])), FOUND, "'recount'"
    ),
    "values of another sender": Fault(
        "measuring.cell_cache.CellCache.values",
        after(lambda found: found | {"patched": found["patched"].roll(1, 0)} if "patched" in found else found),
        FOUND,
        "'recount'|'decisions'",
    ),
    "a circuit of its own": Fault(
        "measuring.earlier.EarlierResults.circuit",
        after(lambda one: Circuit((*one.groups[:1], *(replace(g, heads=g.heads[:1]) for g in one.groups[1:])))),
        TABLE,
        "'asked', at step one circuits.circuits",
    ),
    "random circuits with replacement": Fault(f"{FAITHFUL}.random_circuits", after(with_replacement), TABLE, "'asked'"),
    "random circuits elsewhere": Fault(f"{FAITHFUL}.random_circuits", after(moved), TABLE, "'asked'"),
    "ablation on the measured split": Fault(
        "measuring.circuits.MEANS_SPLIT", lambda _: "evaluation", TABLE, "'splits'"
    ),
    "faithfulness of the random circuits": Fault(
        f"{FAITHFUL}.is_right",
        RIGHT_OF_ANOTHER,
        TABLE,
        "'recount'|'decisions'",
    ),
    "K of everyone": Fault(
        f"{MINIMAL}.greedy_set",
        lambda _: lambda table, v, _: tuple(w for w in range(len(table)) if w != v),
        PRUNED,
        "'asked', at step value_fetcher heads",
    ),
    "kept below the threshold": Fault(f"{MINIMAL}.is_kept", after(lambda kept: not kept), PRUNED, "'decisions'"),
    "halves of another seed": Fault(
        "methods.completeness.experiment.random_halves", after(lambda sets: sets[::-1]), COMPLETE, "'asked'"
    ),
    "the circuit lost nothing": Fault(
        "methods.completeness.experiment.Circuit.without",
        lambda _: lambda self, _: self,
        COMPLETE,
        "'asked', at step circuit",
    ),
    "the overlap of sums": Fault(
        "methods.comparison.experiment.circuit_overlap",
        after(all_shared),
        OVERLAP,
        "overlap: self-check 'decisions'",
    ),
    "impact by sign": Fault(
        "methods.comparison.experiment.causal_impact",
        after(lambda rows: rows[::-1]),
        IMPACT,
        "overlap: self-check 'decisions'",
    ),
    "selected heads stay": Fault(
        f"{DCM}.selected",
        after(lambda one: Circuit((HeadGroup(one.groups[0].name, one.groups[0].at, (Head(0, 0),)),))),
        MASKS,
        "'asked'|'decisions'",
    ),
    "validated on training pairs": Fault(f"{DCM}.VALIDATION", lambda _: "mask_training", MASKS, "'splits'"),
    "tested on validation pairs": Fault(f"{DCM}.TEST", lambda _: "mask_validation", MASKS, "'splits'"),
    "the same draw again": Fault(
        f"{DATA}.swapped_pairs",
        first_draw,
        ROLES,
        "'splits'",
    ),
    "heads of another desideratum": Fault(
        "measuring.roles.SelectedHeads.heads",
        lambda right: lambda self, group, _: right(self, group, "object"),
        ROLES,
        "roles: self-check 'asked'|roles: self-check 'decisions'",
    ),
    "targets of the other desideratum": Fault(
        f"{DATA}.swapped_pairs", after(next_answers), MASKS, "'examples'.*the target"
    ),
    "as many random heads at one position": Fault(f"{CMAP}.random_circuits", after(moved), ACROSS, "'asked'"),
    "outputs of the batch's other prompts": Fault(
        f"{CMAP}._read_donations",
        after(next_rows),
        ACROSS,
        "'asked'.*what the donor",
    ),
    "a layer late": Fault(
        "manifest.methods.knockout.Knockout.first_layers", after(lambda firsts: firsts[1:]), BLIND, "'asked'"
    ),
    "a label is hidden": Fault(
        f"{KNOCKOUT}.random_targets",
        lambda _: label_tokens,
        BLIND,
        "'asked'|blind",
    ),
    "columns in another order": Fault(
        "methods.attention_patterns.experiment.to_list", after(lambda row: row[::-1]), LOOKS, "'recount'"
    ),
    "ranks from the top": Fault(
        f"{ATTRIBUTION}.ranks",
        after(lambda some: -some[[0, *range(1, len(some))]].abs().sqrt()),
        SCREEN,
        "'recount'",
    ),
    "effects of another split": Fault(f"{ATTRIBUTION}.SPLIT", lambda _: "evaluation", SCREEN, "'splits'"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return models_in(tmp_path_factory.mktemp("decisions"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_decision_stops_the_run(root, monkeypatch, name):
    shutil.rmtree(root / "runs" / "methods", ignore_errors=True)  # results; cells stay
    fault = FAULTS[name]
    parts, holder = fault.place.split("."), None
    for count in range(len(parts) - 1, 0, -1):
        try:
            holder = import_module(".".join(("nnsight_et", *parts[:count])))
        except ModuleNotFoundError:
            continue
        break
    for part in parts[count:-1]:
        holder = getattr(holder, part)
    right = getattr(holder, parts[-1], None)
    assert right is not None or parts[-1] == "range"
    monkeypatch.setattr(holder, parts[-1], fault.wrong(right), raising=False)
    monkeypatch.setattr(checks, "engine_errors", lambda *_: {})  # no model is wrong here
    monkeypatch.setattr(checks, "_sample", lambda *_: checks.Check((), lambda _: None))
    with pytest.raises(ExperimentError, match=fault.message) as stopped:
        steps(root, fault.study, "probe=off")
    assert "self-check" in str(stopped.value)


def test_weights_of_another_model_stop_the_run(tmp_path, monkeypatch):
    root, right = models_in(tmp_path), model_pool.load_model
    one = root / "one"
    monkeypatch.setattr(model_pool, "load_model", lambda files, *more: right(replace(files, weights=one), *more))
    with pytest.raises(ExperimentError, match="across: self-check 'weights', at two and one"):
        steps(root, ACROSS, "probe=off")


def test_a_cell_of_other_prompts_stops_the_run_that_finds_it(tmp_path, monkeypatch):
    """Its name has how many they are only, in the run that made it and in the one that finds it."""
    root = models_in(tmp_path)
    monkeypatch.setattr(cell_cache, "data_digest", lambda some: str(len(some)))
    steps(root, SCREEN, "probe=off")
    with pytest.raises(ExperimentError, match="screen: self-check 'cells', step last"):
        steps(root, SCREEN, "probe=off", "seed=4")


@pytest.mark.parametrize(("key", "value"), [("keep", 4), ("receivers", 3), ("via", "key"), ("at", "last")])
def test_a_stage_that_is_not_as_the_manifest_says_stops_the_run(root, monkeypatch, key, value):
    shutil.rmtree(root / "runs" / "methods", ignore_errors=True)
    right = checks._as_written

    def read_otherwise(job: Any) -> Any:
        data = job.spec.model_dump(mode="json")
        changed = {**data["stages"][1], key: value}
        return right(replace(job, text={"experiments": {job.name: {"stages": [*data["stages"][:1], changed]}}}))

    monkeypatch.setattr(checks, "_as_written", read_otherwise)
    monkeypatch.setattr(checks, "engine_errors", lambda *_: {})
    with pytest.raises(ExperimentError, match=r"found: self-check 'manifest', at experiments.found"):
        steps(root, FOUND, "probe=off")
