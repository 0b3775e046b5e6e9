"""Faults out of sample, as data: written from the documents and the code of the methods alone, by who had seen no check.

faults.py is in sample: checks were written with its faults in view. These say what is found of slips that nobody had in
view. A set is written once, tried, and published as it comes out: nothing is dropped or mended for being caught or not,
and what is learnt from it helps the next set only. Every fault changes a number, a head, a circuit, a test, an interval,
a table or a figure, and lets nothing crash. The tests that are to find one are all of its layer's folder and all of the
methods'.
"""

from __future__ import annotations

from .faults import FAULTS, Fault, repeated_names, text_problems

METHODS = "methods/{}/experiment.py"
DECISION, COMPUTATION = "decision", "computation"
TESTS = {"api": "notebook", "display": "report"}
"""Folders whose tests are in a folder of another name."""
TESTS_TEXT = "The tests are all of its layer's folder and all of the methods'."
LIMIT = 3600  # seconds, of whole folders of tests


def _decision(name: str, file: str, change: tuple[str, str], exercise: str = "gqa") -> Fault:
    """What is chosen, drawn, ranked or counted is wrong."""
    return _fault(DECISION, name, file, change, exercise)


def _computation(name: str, file: str, change: tuple[str, str], exercise: str = "gqa") -> Fault:
    """How it is measured, stored or shown is wrong."""
    return _fault(COMPUTATION, name, file, change, exercise)


def _fault(kind: str, name: str, file: str, change: tuple[str, str], exercise: str) -> Fault:
    folder = file.split("/")[0]
    return Fault(kind, name, file, *change, exercise, tuple(dict.fromkeys((TESTS.get(folder, folder), "methods"))))


FIRST: tuple[Fault, ...] = (
    _decision(
        "receivers are the lowest of the kept heads, not the best", METHODS.format("path_patching"),
        ("tuple(ranked[stage.into][: _receivers(spec, stage)])",
         "tuple(sorted(ranked[stage.into])[: _receivers(spec, stage)])"),
    ),
    _decision(
        "K is ranked by what is lost from the circuit without the head itself", "core/metrics.py",
        ("float(accuracy[w][w]) - float(accuracy[head][w])",
         "float(accuracy[head][head]) - float(accuracy[head][w])"),
    ),
    _decision(
        "minimality's `after` has K put back", METHODS.format("minimality"),
        ("circuit.without(_part(group, (*others, number)))", "circuit.without(_part(group, (number,)))"),
    ),
    _computation(
        "the random circuits' interval is over the circuits, not over the examples", METHODS.format("faithfulness"),
        ("intervals(right[1:].double().mean(0), seed)", "intervals(right[1:].double().mean(-1), seed)"),
    ),
    _decision(
        "random halves have exactly half of every group", METHODS.format("completeness"),
        ("tuple(head for head in group.heads if draw.random() < 0.5)",
         "tuple(draw.sample(group.heads, (len(group.heads) + 1) // 2))"),
    ),
    _decision(
        "selected heads are tested on the examples that chose the mask", METHODS.format("dcm"),
        ('"mask_training", "mask_validation", "mask_test"', '"mask_training", "mask_validation", "mask_validation"'),
    ),
    _decision(
        "every draw has the same examples", METHODS.format("activation_patching"),
        ("count=spec.examples, draw=draw)", "count=spec.examples)"),
    ),
    _computation(
        "every column of the table shows the last one", "methods/attention_patterns/present.py",
        ("{to: lambda row, to=to: row.weights[to] for to", "{to: lambda row: row.weights[to] for to"),
    ),
    _decision(
        "top heads are those of the largest effects, of either sign", METHODS.format("attribution"),
        ("set(to_list(values.argsort(stable=True)[:top]))",
         "set(to_list(values.abs().argsort(descending=True, stable=True)[:top]))"),
    ),
    _decision(
        "donor and recipient have each other's own accuracy", METHODS.format("cmap"),
        ("zip(job.models, plain, strict=True)", "zip((recipient, donor), plain, strict=True)"),
    ),
    _decision(
        "one seed draws the random token of every example", METHODS.format("knockout"),
        ('[f"{job.seed}/{data_digest([examples[index]])}" for index in batch]', "[job.seed for _ in batch]"),
    ),
    _computation(
        "precision and recall exchanged", METHODS.format("comparison"),
        ("precision=one.precision, recall=one.recall", "precision=one.recall, recall=one.precision"),
    ),
    _decision(
        "every split of a file of pairs is dealt from a shuffle of its own", "tasks/own_pairs.py",
        ('random.Random(f"{seed}/pairs")', 'random.Random(f"{seed}/{split}/pairs")'),
        "pairs",
    ),
    _decision(
        "what is also right does not count in accuracies", "core/batch.py",
        ("_tokens([(example.answer, *example.also_right) for", "_tokens([(example.answer,) for"),
        "pairs",
    ),
    _decision(
        "Holm's first factor is one less than the heads tested", "core/statistics.py",
        ("neg().add(tested).clamp(min=1)", "neg().add(tested - 1).clamp(min=1)"),
    ),
    _decision(
        "95% intervals end at the quantiles 5% and 95%", "core/statistics.py",
        ("torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)",
         "torch.tensor([1 - level, level], dtype=torch.float64)"),
    ),
    _computation(
        "an adapter's weights are not in the fingerprint of its model", "models/files.py",
        ("| _indexed_files(weights))\n    _add(digest, name, _matching(adapter, FILES) if adapter else ())",
         "| _indexed_files(weights))\n    _add(digest, name, _matching(adapter, DESCRIBING) if adapter else ())"),
        "lora",
    ),
    _decision(
        "heads are taken not to reach the MLP of their own layer", "engine/paths.py",
        ("return layer <= end if beside else layer < end", "return layer < end"),
    ),
    _decision(
        "random circuits are drawn with replacement", "interventions/ablation.py",
        ("sorted(draw.sample(every, size))", "sorted(draw.choices(every, k=size))"),
    ),
    _decision(
        "scores are rounded before they are ranked", "measuring/stage_scores.py",
        ("(direction * score[head].item(), head)", "(round(direction * score[head].item(), 2), head)"),
    ),
    _computation(
        "structure readers of the authors' files are at the query label", "circuits/circuit_files.py",
        ('("structure_reader", "previous_query_label"): (', '("structure_reader", "query_label"): ('),
    ),
    _computation(
        "a selected head costs as much as the learning rate", "manifest/methods/dcm.py",
        ("allow_inf_nan=False, strict=True)] = 0.01", "allow_inf_nan=False, strict=True)] = 0.1"),
    ),
    _decision(
        "imported scores are ranked by their size", "results/circuit_import.py",
        ("(sign * matrix.scores).flatten()", "(-matrix.scores.abs()).flatten()"),
    ),
    _computation(
        "a heat map's layers are labelled from the top down", "report/html/maps.py",
        ('add(svg, "text", names[index], x=left - 4', 'add(svg, "text", names[place], x=left - 4'),
    ),
)  # fmt: skip
NOTES = {
    "first": "In the place of one that ended every run in an error at once, 'the source run is the base run', stands the one "
    "of what is also right; it was written before anybody looked at why.\n\nOf the seven that these tests miss, tests of "
    "other folders find five: truth the receivers, interventions the top heads and the random tokens, tasks what is also "
    "right, circuits the imported scores. The table and the heat map were found by none that were tried."
}
"""What is to be known of a set."""
SETS: dict[str, tuple[Fault, ...]] = {"first": FIRST}
"""By the order in which they were written."""


def problems() -> list[str]:
    """What is wrong with the sets themselves: a text that is not there once, no Python, two faults of one name."""
    every = [fault for found in SETS.values() for fault in found]
    return [*text_problems(every), *repeated_names([*FAULTS, *every])]
