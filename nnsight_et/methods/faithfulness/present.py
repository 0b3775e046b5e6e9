"""What results of faithfulness are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nnsight_et.core.statistics import LEVEL
from nnsight_et.display.figures import Bars, FigureGroup, Line, Series
from nnsight_et.display.marks import BARS, plate, value_mark
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.paper import PaperNumbers, paper_name
from nnsight_et.display.table import INTERVALS, Table, bounded, number, several, spread, table_of
from nnsight_et.methods.faithfulness.summary import FaithfulnessRow, FaithfulnessSummary
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: FaithfulnessSummary) -> str:
    """The circuit's faithfulness on each model, and where random circuits do as well."""
    found = "faithfulness " + several([f"{number(row.faithfulness)} on {row.model}" for row in summary.rows], 4)
    doubtful = [row.model for row in summary.rows if no_better_than_random(row)]
    return found + (f"; random circuits do as well on {several(doubtful, 4)}" if doubtful else "")


def tables(header: ResultHeader, summary: FaithfulnessSummary) -> tuple[Table, ...]:
    """Table 1: a model's accuracy, the circuit's, random circuits', and faithfulness."""
    columns: dict[str, Callable[[FaithfulnessRow], str]] = {
        "model": lambda row: row.model,
        "full model": lambda row: bounded(row.full, row.full_interval),
        "circuit": lambda row: bounded(row.circuit, row.circuit_interval),
        "random circuits": lambda row: spread(row.random_mean, row.random_std),
        "p": _chance,
        "faithfulness": lambda row: bounded(row.faithfulness, row.faithfulness_interval, row.differing),
    }
    counts = " or ".join(sorted({str(row.examples) for row in summary.rows}))
    note = f"Accuracy on {counts} prompts; faithfulness = circuit / full model (Table 1). {INTERVALS}"
    if drawn := sorted({row.random_circuits for row in summary.rows} - {0}):
        least = ", ".join(f"{1 / (1 + count):.3f} with {count}" for count in drawn)
        note += " p = (1 + random circuits at least as accurate as the circuit) / (1 + random circuits): "
        note += f"it cannot be below {least} of them. (least): no random circuit was as accurate."
    note = " ".join([note, *_doubts(header, summary)])
    return (table_of(header, "faithfulness", columns, summary.rows, note),)


def _doubts(header: ResultHeader, summary: FaithfulnessSummary) -> Iterator[str]:
    """Which models answer too few prompts right for a share of it to say anything."""
    silent = [row.model for row in summary.rows if row.full == 0]
    if silent:
        yield f"Faithfulness is undefined for {', '.join(silent)}, which answers no prompt right."
    chance = chance_of(header)
    guessing = [row.model for row in summary.rows if row.full and chance and _low(row) <= chance]
    if guessing:
        yield f"{', '.join(guessing)}: no better than chance ({number(chance)}), so faithfulness compares guesses."
    yield from filter(None, map(no_better_than_random, summary.rows))


def no_better_than_random(row: FaithfulnessRow) -> str:
    """That random circuits of its size do as well as the circuit, in a sentence; empty where they do not."""
    if row.random_p is None or row.random_mean is None:
        return ""
    as_good = round(row.random_p * (1 + row.random_circuits)) - 1
    if not as_good or row.random_p <= LEVEL:
        return ""
    drawn = "the random circuit" if row.random_circuits == 1 else f"{as_good} of {row.random_circuits} random circuits"
    better = "is not clearly better" if row.circuit > row.random_mean else "is no better"
    accuracies = f"accuracy {number(row.circuit)}, and theirs {number(row.random_mean)} on average"
    return (
        f"On {row.model} the circuit {better} than random heads: {drawn} of its size answered at least as many prompts "
        f"right ({accuracies})."
    )


def chance_of(header: ResultHeader) -> float | None:
    """How often a guess among the objects of the prompt is right, of the boxes task."""
    boxes = header.job.task.boxes
    return None if boxes is None else 1 / boxes


def _low(row: FaithfulnessRow) -> float:
    """The low end of the accuracy's interval, or the accuracy where there is none."""
    low = row.full_interval[0] if row.full_interval else None
    return row.full if low is None else low


def _chance(row: FaithfulnessRow) -> str:
    """The p of a circuit against random ones, and whether it is the smallest there can be with so many."""
    found, count = row.random_p, row.random_circuits
    least = found is not None and found <= 1 / (1 + count) + 1e-9
    return f"{number(found, 3)} (least)" if least else number(found, 3)


def figures(result: MethodResult[FaithfulnessSummary], study: Study) -> tuple[FigureGroup, ...]:
    """Bars per model: whole, circuit alone, random circuits."""
    rows = result.summary.rows
    whole = tuple(value_mark(row.full, row.full_interval, f"{row.model}, full model") for row in rows)
    alone = tuple(value_mark(row.circuit, row.circuit_interval, f"{row.model}, circuit") for row in rows)
    others = tuple(value_mark(row.random_mean, row.random_interval, f"{row.model}, random circuits") for row in rows)
    series = (Series("full model", whole), Series("circuit", alone), Series("random circuits", others))
    chance, lines, guess = chance_of(result.header), (), ""
    if chance is not None:
        boxes = result.header.job.task.boxes
        lines = (Line("chance", chance, f"chance: one of the {boxes} objects of the prompt, {number(chance)}"),)
        guess = " Chance: a guess among the prompt's objects; random circuits can do worse: they also give other words."
    panel = Bars("accuracy", tuple(row.model for row in rows), series, "accuracy", lines)
    compared = "Each model whole, the circuit alone, and random circuits of its size (all other heads mean-ablated)."
    caption = f"{compared} {BARS}{guess}"
    return (plate(result, "accuracy", "Accuracy of model and circuit", caption, (panel,)),)


def metrics(result: MethodResult[FaithfulnessSummary]) -> Iterator[TidyRow]:
    """Per model: its accuracy, the circuit's, random circuits', and faithfulness."""
    for row in result.summary.rows:
        place = of_experiment(result.header, row.model)
        yield place.of("accuracy", row.full, row.full_interval)
        yield place.of("circuit_accuracy", row.circuit, row.circuit_interval)
        yield place.of("faithfulness", row.faithfulness, row.faithfulness_interval)
        yield place.of("random_accuracy", row.random_mean, row.random_interval, row.random_p)
        yield place.of("random_accuracy_std", row.random_std)


def paper_numbers(summary: FaithfulnessSummary) -> PaperNumbers:
    """Per model: its accuracies and faithfulness."""
    for row in summary.rows:
        name = paper_name(row.model)
        yield (name, "full_model"), row.full
        yield (name, "circuit"), row.circuit
        yield (name, "random_circuit"), row.random_mean
        yield (name, "faithfulness"), row.faithfulness
