"""The values of whole experiments: accuracies, faithfulness, overlap, and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnsight_et.display.measurement import Measurement, of_experiment
from nnsight_et.results.headers import metric_of
from nnsight_et.results.store import Result


def path_patching(result: Result) -> Iterator[Measurement]:
    """Per stage: how many heads were tested, kept and beyond chance, how stable the kept are, p_base and LD or PD."""
    for stage in result.header.summary["stages"]:
        place = replace(of_experiment(result.header), group=stage["group"], at=stage["at"])
        for name in ("tested", "stability", "base_probability", f"base_{metric_of(result.header)}"):
            if name in stage:
                yield place.of(name, stage[name])
        for name in ("kept", "beyond_chance"):
            yield place.of(name, len(stage[name]))


def faithfulness(result: Result) -> Iterator[Measurement]:
    """Per model: its accuracy, the circuit's, random circuits', and faithfulness."""
    for row in result.header.summary["rows"]:
        place = of_experiment(result.header, row["model"])
        yield from _of_row(place, row, {"accuracy": "full", "circuit_accuracy": "circuit"})
        yield from _of_row(place, row, {"faithfulness": "faithfulness"})
        yield place.of("random_accuracy", row["random_mean"], row.get("random_interval"), row["random_p"])
        yield place.of("random_accuracy_std", row["random_std"])


def minimality(result: Result) -> Iterator[Measurement]:
    """Per group: how many heads were tried and kept."""
    rows = result.header.summary["heads"]
    for group in dict.fromkeys(row["group"] for row in rows):
        place = replace(of_experiment(result.header), group=group)
        tried = [row for row in rows if row["group"] == group]
        yield place.of("tried", len(tried))
        yield place.of("kept", sum(row["kept"] for row in tried))


def completeness(result: Result) -> Iterator[Measurement]:
    """Per set of removed heads, and on average over the random halves: what the model and the circuit keep."""
    names = {"accuracy": "model", "circuit_accuracy": "circuit", "completeness": "completeness"}
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), condition=f"without {row['removed']}")
        yield from _of_row(place, row, names)
    place = replace(of_experiment(result.header), condition="without random halves")
    drawn = result.header.summary["random"]
    for name, key in names.items() if drawn else ():
        yield place.of(name, drawn[key]["mean"], drawn[key].get("mean_interval"))
        yield place.of(f"{name}_std", drawn[key]["std"])


def comparison(result: Result) -> Iterator[Measurement]:
    """Per group: the circuits' sizes and their overlap."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), group=row["group"])
        yield from _of_row(place, row, {name: name for name in ("first", "second", "shared", "precision", "recall")})


def dcm(result: Result) -> Iterator[Measurement]:
    """Per group and desideratum: how many heads were selected, their accuracy, and that of doing nothing."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), group=row["group"], desideratum=row["desideratum"])
        yield place.of("selected", len(row["selected"]))
        yield from _of_row(place, row, {"accuracy": "accuracy", "do_nothing_accuracy": "do_nothing"})


def activation_patching(result: Result) -> Iterator[Measurement]:
    """Per model, group and desideratum: the selected heads' accuracy, and that of doing nothing."""
    for row in result.header.summary["rows"]:
        place = of_experiment(result.header, row["model"])
        place = replace(place, group=row["group"], desideratum=row["desideratum"])
        yield from _of_row(place, row, {"accuracy": "mean", "do_nothing_accuracy": "do_nothing"})
        yield place.of("accuracy_std", row["std"])


def cmap(result: Result) -> Iterator[Measurement]:
    """Both models' own accuracy, and the recipient's with the donor's activations."""
    summary = result.header.summary
    for name, value in summary["models"].items():
        alone = replace(of_experiment(result.header, name), condition="alone")
        yield alone.of("accuracy", value, summary.get("model_intervals", {}).get(name))
    recipient = of_experiment(result.header, summary["recipient"])
    for row in summary["rows"]:
        condition = f"{row['patched']} of {summary['donor']}"
        yield from _of_row(replace(recipient, group=row["group"], condition=condition), row, {"accuracy": "accuracy"})
    if drawn := summary["random"]:
        place = replace(recipient, condition=f"output of {summary['donor']}, random heads")
        yield place.of("accuracy", drawn["mean"], drawn.get("mean_interval"))
        yield place.of("accuracy_std", drawn["std"])


def knockout(result: Result) -> Iterator[Measurement]:
    """Accuracy by the first layer whose attention is blocked; the layer after the last means none is."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), condition=f"{row['blind']} blind to {row['to']}")
        bounds = row.get("accuracy_interval") or [None] * len(row["accuracy"])
        for layer, (value, interval) in enumerate(zip(row["accuracy"], bounds, strict=True)):
            yield replace(place, layer=layer).of("accuracy", value, interval)


def attribution(result: Result) -> Iterator[Measurement]:
    """Per position: how well the gradient's estimate agrees with the exact effects."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), at=row["at"])
        yield from _of_row(place, row, {name: name for name in ("pearson", "spearman", "top_found")})


def _none(result: Result) -> Iterator[Measurement]:
    yield from ()


METRICS: dict[str, Callable[[Result], Iterator[Measurement]]] = {
    "path_patching": path_patching,
    "faithfulness": faithfulness,
    "minimality": minimality,
    "completeness": completeness,
    "comparison": comparison,
    "dcm": dcm,
    "activation_patching": activation_patching,
    "cmap": cmap,
    "knockout": knockout,
    "attention_patterns": _none,
    "attribution": attribution,
}


def _of_row(place: Measurement, row: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Measurement]:
    """The row's values under our names, each with its interval where the row has one."""
    for name, key in names.items():
        yield place.of(name, row[key], row.get(f"{key}_interval"))
