"""What results of faithfulness are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nnsight_et.display.figures import (
    Bars,
    Line,
    Plate,
    Series,
)
from nnsight_et.display.marks import BARS, drawn, mark, plate
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
    of_row,
)
from nnsight_et.display.paper import PaperNumbers, paper_name
from nnsight_et.display.table import (
    INTERVALS,
    Cell,
    Row,
    Table,
    number,
    rows_of,
    spread,
    table_of,
    with_interval,
)
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """Table 1: a model's accuracy, the circuit's, random circuits', and faithfulness."""
    rows = rows_of(header)
    columns: dict[str, str | Cell] = {
        "model": "model",
        "full model": with_interval("full"),
        "circuit": with_interval("circuit"),
        "random circuits": lambda row: spread(row["random_mean"], row["random_std"]),
        "p": _chance,
        "faithfulness": with_interval("faithfulness"),
    }
    counts = " or ".join(sorted({str(row["examples"]) for row in rows}))
    note = f"Accuracy on {counts} prompts; faithfulness = circuit / full model (Table 1). {INTERVALS}"
    if drawn := sorted({row["random_circuits"] for row in rows} - {0}):
        least = ", ".join(f"{1 / (1 + count):.3f} with {count}" for count in drawn)
        note += " p = (1 + random circuits at least as accurate as the circuit) / (1 + random circuits): "
        note += f"it cannot be below {least} of them. (least): none of them was."
    return (table_of(header, "faithfulness", columns, rows, note),)


def _chance(row: Row) -> str:
    """The p of a circuit against random ones, and whether it is the smallest there can be with so many."""
    found, count = row["random_p"], row["random_circuits"]
    least = found is not None and found <= 1 / (1 + count) + 1e-9
    return f"{number(found, 3)} (least)" if least else number(found, 3)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """Bars per model: whole, circuit alone, random circuits."""
    rows = result.header.summary["rows"]
    measured = {"full model": "full", "circuit": "circuit"}
    series = [
        Series(name, tuple(mark(row, key, f"{row['model']}, {name}") for row in rows)) for name, key in measured.items()
    ]
    others = [
        drawn(row, "random_mean", "random_std", "random_interval", f"{row['model']}, random circuits") for row in rows
    ]
    series.append(Series("random circuits", tuple(others)))
    task = result.header.job.get("task", {})
    lines, guess = (), ""
    if task.get("kind") == "boxes":
        chance = 1 / task["boxes"]
        lines = (Line("chance", chance, f"chance: one of the {task['boxes']} objects of the prompt, {number(chance)}"),)
        guess = (
            " Chance: a guess among the prompt's objects; random circuits can do worse, as they answer other words too."
        )
    panel = Bars("accuracy", tuple(row["model"] for row in rows), tuple(series), "accuracy", lines)
    compared = "Each model whole, the circuit alone, and random circuits of its size (all other heads mean-ablated)."
    caption = f"{compared} {BARS}{guess}"
    return (plate(result, "accuracy", "Accuracy of model and circuit", caption, (panel,)),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Per model: its accuracy, the circuit's, random circuits', and faithfulness."""
    for row in result.header.summary["rows"]:
        place = of_experiment(result.header, row["model"])
        yield from of_row(place, row, {"accuracy": "full", "circuit_accuracy": "circuit"})
        yield from of_row(place, row, {"faithfulness": "faithfulness"})
        yield place.of("random_accuracy", row["random_mean"], row.get("random_interval"), row["random_p"])
        yield place.of("random_accuracy_std", row["random_std"])


def paper_numbers(summary: Mapping[str, Any]) -> PaperNumbers:
    """Per model: its accuracies and faithfulness."""
    names = {
        "full_model": "full",
        "circuit": "circuit",
        "random_circuit": "random_mean",
        "faithfulness": "faithfulness",
    }
    for row in summary["rows"]:
        for column, key in names.items():
            yield (paper_name(row["model"]), column), row[key]
