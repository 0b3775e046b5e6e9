"""What each method's part of a manifest accepts, what it fills in, and what it says about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest import parse
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.methods import METHODS as RUN
from nnsight_et.planning.plan import plan
from nnsight_et.tasks.boxes import POSITIONS
from nnsight_et.tasks.desiderata import DESIDERATA

TEXT = """\
name: study
experiments:
  found: {method: path_patching, model: llama-tiny, stages: [{group: a, into: logits, at: last, keep: 8}]}
  table: {method: faithfulness, circuit: found, models: [llama-tiny], examples: 20}
  pruned: {method: minimality, circuit: found, examples: 20, threshold: 0.02, fraction: 0.4}
  complete: {method: completeness, circuit: pruned, model: goat-tiny, draws: 3}
  overlap: {method: comparison, circuits: [found, published/goat], scores: found}
  masks: {method: dcm, circuit: pruned, sparsity: 0.1, batch: 8}
  roles: {method: activation_patching, roles: masks, models: [llama-tiny, goat-tiny], draws: 4}
  across: {method: cmap, donor: goat-tiny, recipient: llama-tiny, circuit: pruned, roles: masks}
  blind: {method: knockout, model: llama-tiny, edges: [{blind: last, to: random}, {blind: last, to: query_label}]}
  looks: {method: attention_patterns, circuit: published/llama}
  screen: {method: attribution, model: llama-tiny, at: [last, query_label]}
  graph: {method: discovery, model: goat-tiny, effect: 0.03, budget: {minutes: 5}, positions: [query_label]}
"""
LINES = {line.split(":")[0].strip(): number for number, line in enumerate(TEXT.splitlines(), 1)}


def message_about(old: str, new: str) -> str:
    """What is said about TEXT with `old` replaced by `new`, in one ManifestError."""
    assert TEXT.count(old) >= 1
    with pytest.raises(ManifestError) as raised:
        parse(TEXT.replace(old, new, 1), "study.yaml")
    return str(raised.value)


REFUSED: list[tuple[str, str, str, str]] = [
    # table (faithfulness)
    ("examples: 20}", "exampels: 20}", "table.exampels", "no key 'exampels' here; did you mean 'examples'?"),
    ("models: [llama-tiny], ", "models: [], ", "table.models", "found a list of 0; accepted: "),
    ("20}", "20, ablation: median}", "table.ablation", "found 'median'; did you mean 'mean'? accepted: mean, zero"),
    ("20}", "20, random_circuits: -1}", "table.random_circuits", "found -1; accepted: 0 or more"),
    # pruned (minimality)
    ("minimality, circuit: found", "minimality, circuit: fond", "pruned.circuit", "no experiment named 'fond'; did y"),
    ("minimality, circuit: found", "minimality, circuit: screen", "pruned.circuit", "'screen' finds no circuit; acce"),
    ("minimality, circuit: found", "minimality, circuit: blind", "pruned.circuit", "'blind' finds no circuit; accept"),
    ("minimality, circuit: found", "minimality", "pruned.circuit", "missing; it is required"),
    ("circuit: found, examples: 20, thr", "circuit: x.json, examples: 20, thr", "pruned.model", "missing, but requ"),
    ("threshold: 0.02", "threshold: .nan", "pruned.threshold", "found '.nan'; accepted: a number"),
    ("threshold: 0.02", "threshold: -2", "pruned.threshold", "found -2; accepted: -1 or more"),
    ("fraction: 0.4", "fraction: 1.5", "pruned.fraction", "found 1.5; accepted: at most 1"),
    ("fraction: 0.4", "fraction: -0.1", "pruned.fraction", "found -0.1; accepted: 0 or more"),
    ("examples: 20, threshold", "examples: 0, threshold", "pruned.examples", "found 0; accepted: 1 or more"),
    # complete (completeness)
    ("draws: 3", "draws: -1", "complete.draws", "found -1; accepted: 0 or more"),
    ("draws: 3", "draws: 2.5", "complete.draws", "found 2.5; accepted: a whole number"),
    ("model: goat-tiny", "model: goat-tyni", "complete.model", "no model named 'goat-tyni'; did you mean 'goat-tiny'?"),
    ("circuit: pruned, model", "circuit: published/lama, model", "complete.circuit", "no shipped circuit 'published"),
    # overlap (comparison)
    ("[found, published/goat]", "[found]", "overlap.circuits.1", "missing; it is required"),
    ("[found, published/goat]", "[found, pruned, found]", "overlap.circuits", "found a list of 3; accepted: "),
    ("[found, published/goat]", "[found, fuond]", "overlap.circuits.1", "no experiment named 'fuond'; did you mean '"),
    ("[found, published/goat]", "[table, found]", "overlap.circuits.0", "experiment 'table' finds no circuit; accept"),
    ("scores: found", "scores: pruned", "overlap.scores", "no scores 'pruned'; accepted: found, published/llama"),
    ("scores: found", "scores: published/gaot", "overlap.scores", "did you mean 'published/goat'? accepted: found"),
    # masks (dcm)
    ("sparsity: 0.1", "sparsity: -0.1", "masks.sparsity", "found -0.1; accepted: 0 or more"),
    ("sparsity: 0.1", "sparsty: 0.1", "masks.sparsty", "no key 'sparsty' here; did you mean 'sparsity'?"),
    ("batch: 8", "batch: 0", "masks.batch", "found 0; accepted: 1 or more"),
    ("batch: 8", "learning_rate: 0", "masks.learning_rate", "found 0; accepted: more than 0"),
    ("batch: 8", "epochs: 0", "masks.epochs", "found 0; accepted: 1 or more"),
    ("batch: 8", "validate_every: many", "masks.validate_every", "found 'many'; accepted: a whole number"),
    ("batch: 8", "training_examples: 0", "masks.training_examples", "found 0; accepted: 1 or more"),
    ("batch: 8", "desiderata: []", "masks.desiderata", "found a list of 0; accepted: "),
    ("batch: 8", "desiderata: [label, objct]", "masks.desiderata.1", "found 'objct'; did you mean 'object'? accepted"),
    ("batch: 8", "desiderata: [label, label]", "masks.desiderata.1", "label appears twice"),
    # roles (activation_patching)
    ("roles: masks, models", "roles: maks, models", "roles.roles", "no experiment named 'maks'; did you mean 'masks'?"),
    ("roles: masks, models", "roles: table, models", "roles.roles", "experiment 'table' selects no heads; accepted:"),
    ("roles: masks, models", "roles: found, models", "roles.desiderata", "missing, but required because found selects"),
    ("roles: masks, models", "roles: published/x, models", "roles.roles", "no experiment named 'published/x'; "),
    ("[llama-tiny, goat-tiny]", "[goat-tiny, goat-tiny]", "roles.models.1", "goat-tiny appears twice"),
    ("[llama-tiny, goat-tiny]", "[goat-tiny, gaot]", "roles.models.1", "no model named 'gaot'; did you mean 'goat'?"),
    ("draws: 4", "draws: 0", "roles.draws", "found 0; accepted: 1 or more"),
    ("draws: 4", "desiderata: [no_coma]", "roles.desiderata.0", "did you mean 'no_comma'? accepted: object, label"),
    # across (cmap)
    ("donor: goat-tiny, ", "", "across.donor", "missing; it is required"),
    ("donor: goat-tiny", "donor: goattiny", "across.donor", "no model named 'goattiny'; did you mean 'goat-tiny'?"),
    ("recipient: llama-tiny", "recipient: llama", "across.recipient", "llama and the donor goat-tiny differ in shape;"),
    ("circuit: pruned, roles", "circuit: purned, roles", "across.circuit", "no experiment named 'purned'; did you me"),
    ("circuit: pruned, roles: masks", "circuit: pruned, roles: pruned", "across.roles", "'pruned' selects no heads"),
    ("roles: masks}", "roles: masks, main_role: {a: objct}}", "across.main_role.a", "found 'objct'; did you mean 'ob"),
    ("roles: masks}", "roles: masks, random_sets: -1}", "across.random_sets", "found -1; accepted: 0 or more"),
    ("roles: masks}", "roles: masks, inputs: perhaps}", "across.inputs", "found 'perhaps'; accepted: true or false"),
    # blind (knockout)
    ("to: random", "to: rondom", "blind.edges.0.to", "'rondom' is not a position before last; did you mean 'random'?"),
    ("to: random", "to: last", "blind.edges.0.to", "'last' is not a position before last; accepted: correct_object"),
    ("blind: last, to: random", "blind: lst, to: random", "blind.edges.0.blind", "no position 'lst'; did you mean 'l"),
    ("to: random", "to: query_label", "blind.edges.1", "last to query_label appears twice"),
    ("blind: last, to: random", "blind: last", "blind.edges.0.to", "missing; it is required"),
    ("edges: [{blind: last, to: random}, {blind: last, to: query_label}]", "edges: []", "blind.edges", "a list of 0"),
    ("knockout, model: llama-tiny", "knockout", "blind.model", "missing; it is required"),
    # looks (attention_patterns)
    ("circuit: published/llama", "circuit: published/vicuna", "looks.circuit", "accepted: published/llama, published"),
    ("circuit: published/llama", "circuit: x.json", "looks.model", "missing, but required for a circuit from a file"),
    ("circuit: published/llama", "circuit: found, at: last", "looks.at", "no key 'at' here; "),
    # screen (attribution)
    ("at: [last, query_label]", "at: [lasst]", "screen.at.0", "no position 'lasst'; did you mean 'last'? accepted: c"),
    ("at: [last, query_label]", "at: [last, last]", "screen.at.1", "last appears twice"),
    ("at: [last, query_label]", "at: last", "screen.at", "found 'last'; accepted: a list"),
    ("at: [last, query_label]", "at: []", "screen.at", "found a list of 0; accepted: "),
    ("method: attribution", "method: atribution", "screen.method", "no method 'atribution'; did you mean 'attributio"),
    # graph (discovery)
    ("effect: 0.03", "effect: 1.0", "graph.effect", "found 1.0; accepted: less than 1"),
    ("effect: 0.03", "level: 0", "graph.level", "found 0; accepted: more than 0"),
    ("effect: 0.03", "metric: kl", "graph.metric", "kl, which has no sign to test; accepted: probability_ratio"),
    ("effect: 0.03", "keep: 0", "graph.keep", "found 0; accepted: 1 or more"),
    ("{minutes: 5}", "{}", "graph.budget", "accepted: one of token_layers and minutes"),
    ("{minutes: 5}", "{minutes: 5, token_layers: 7}", "graph.budget", "accepted: one of token_layers and minutes"),
    ("{minutes: 5}", "{hours: 5}", "graph.budget.hours", "no key 'hours' here; "),
    ("positions: [query_label]", "positions: [qlabel]", "graph.positions.0", "no position 'qlabel'; did you mean 'qu"),
    ("positions: [query_label]", "positions: [last, last]", "graph.positions.1", "last appears twice"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "part"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_input_is_told_by_line_and_key_with_what_is_accepted(old, new, place, part):
    message = message_about(old, new)
    told = [line for line in message.splitlines() if line.startswith(f"study.yaml:{LINES[place.split('.')[0]]}: ")]
    assert len(told) == 1, message
    assert told[0].split(": ")[1] == f"experiments.{place}", message
    assert part in told[0], message


def test_every_method_is_in_the_text_and_has_a_job_and_its_bad_input_is_tried():
    manifest = parse(TEXT, "study.yaml")
    assert {experiment.method for experiment in manifest.experiments.values()} == set(METHODS) == set(RUN)
    tried = {place.split(".")[0] for _, _, place, _ in REFUSED}
    assert tried == set(manifest.experiments) - {"found"}  # tried beside the stages


DEFAULTS: dict[str, dict[str, Any]] = {
    "table": {"ablation": "mean", "ablation_examples": 500, "random_circuits": 10},
    "pruned": {"model": None, "ablation": "mean", "ablation_examples": 500},
    "complete": {"examples": 500, "ablation": "mean"},
    "masks": {
        "desiderata": ("object", "label", "position"), "training_examples": 1000, "validation_examples": 500,
        "test_examples": 500, "learning_rate": 0.1, "epochs": 2, "validate_every": 4,
    },
    "roles": {"desiderata": None, "examples": 500},
    "across": {
        "main_role": {"value_fetcher": "object", "position_transmitter": "position", "position_detector": "position"},
        "examples": 500, "random_sets": 10, "inputs": True,
    },
    "looks": {"model": None, "examples": 500},
    "screen": {"examples": 300},
    "graph": {"examples": 100, "held_out_examples": 200, "mlps": False, "level": 0.05},
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_not_written_has_the_papers_numbers(name):
    experiment = parse(TEXT, "study.yaml").experiments[name]
    assert {key: getattr(experiment, key) for key in DEFAULTS[name]} == DEFAULTS[name]


def test_the_papers_numbers_prune_and_train_where_nothing_is_written():
    text = "name: x\nexperiments: {p: {method: minimality, circuit: published/llama}, d: {method: dcm, circuit: p}, "
    text += "c: {method: completeness, circuit: p}, k: {method: knockout, model: llama}, "
    text += "s: {method: attribution, model: llama}}\n"
    made: dict[str, Any] = dict(parse(text, "x").experiments)
    assert (made["p"].examples, made["p"].threshold, made["p"].fraction) == (100, 0.01, 0.3)
    assert (made["d"].sparsity, made["d"].batch, made["c"].draws, made["s"].at) == (0.01, 32, 20, ("last",))
    assert [(edge.blind, edge.to) for edge in made["k"].edges] == [
        ("last", "correct_object"),
        ("last", "query_label"),
        ("last", "random"),
        ("query_label", "previous_query_label"),
        ("query_label", "random"),
    ]


def test_jobs_come_after_what_they_need_and_have_its_model_unless_told_otherwise():
    lines = TEXT.splitlines()
    jobs = plan(parse("\n".join([*lines[:2], *reversed(lines[2:])]), "study.yaml")).jobs
    order = [job.name for job in jobs]
    assert len(order) == 12
    for job in jobs:
        assert all(order.index(need) < order.index(job.name) for need in job.needs)
    needs = {job.name: job.needs for job in jobs}
    assert needs["across"] == ("pruned", "masks")
    assert needs["overlap"] == needs["table"] == ("found",)
    assert needs["roles"] == ("masks",)
    models = {job.name: [choice.name for choice in job.models] for job in jobs}
    assert models["pruned"] == models["masks"] == ["llama-tiny"]  # the circuit's
    assert models["complete"] == ["goat-tiny"]
    assert models["looks"] == ["llama"]  # the published circuit's own
    assert models["overlap"] == []
    assert models["across"] == ["goat-tiny", "llama-tiny"]


def test_all_desiderata_and_positions_of_the_task_are_accepted():
    every = ", ".join(DESIDERATA)
    parse(TEXT.replace("batch: 8", f"desiderata: [{every}]"), "study.yaml")
    parse(TEXT.replace("at: [last, query_label]", f"at: [{', '.join(POSITIONS)}]"), "study.yaml")


@pytest.mark.parametrize(
    ("needed", "cycle"), [("pruned", "pruned needs pruned"), ("other", "pruned needs other needs pruned")]
)
def test_experiments_that_wait_for_each_other_are_told_as_a_cycle(needed, cycle):
    text = TEXT.replace("minimality, circuit: found", f"minimality, circuit: {needed}")
    with pytest.raises(ManifestError, match=f"study.yaml:5: experiments.pruned: a cycle: {cycle}; accepted: experim"):
        parse(text + "  other: {method: minimality, circuit: pruned}\n", "study.yaml")
