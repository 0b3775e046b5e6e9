"""A finished result -> its figures, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnsight_et.core.errors import ResultError, quantity
from nnsight_et.display.figures import Bars, Cell, Curves, HeatMap, Impact, Line, Mark, Plate, Point, Scatter, Series
from nnsight_et.display.marks import BARS, drawn, mark, plate, unique
from nnsight_et.display.table import number
from nnsight_et.report import circuit_figures, role_figures
from nnsight_et.results.headers import models_of, name_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def plates(result: Result, study: Study) -> tuple[Plate, ...]:
    """The figures of one result; ResultError if its summary or scores are not what its method writes."""
    name, method = name_of(result.header), str(result.header.job.get("spec", {}).get("method"))
    try:
        found = PLATES[method](result, study) if method in PLATES else ()
        return tuple(plate for plate in found if plate.panels)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ResultError(f"{name}: no figures of {method} ({type(error).__name__}: {error})") from None


def _faithfulness(result: Result, study: Study) -> tuple[Plate, ...]:
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


def _completeness(result: Result, study: Study) -> tuple[Plate, ...]:
    rows = result.header.summary["rows"]
    kinds: dict[str, list[Point]] = {}
    for row in rows:
        kind = "random halves" if str(row["removed"]).startswith("random ") else row["removed"]
        circuit, model = (mark(row, key, key) for key in ("circuit", "model"))
        if circuit and model:
            text = f"without {row['removed']} ({quantity(row['heads'], 'head')}): {circuit.text}; {model.text}"
            kinds.setdefault(kind, []).append(Point(circuit, model, text))
    found = tuple((kind, tuple(points)) for kind, points in kinds.items())
    panel = Scatter("completeness", ("circuit without K", "model without K"), found)
    caption = f"Accuracy of circuit and model without the same heads K: in a complete circuit, on the diagonal. {BARS}"
    title = f"Completeness on {models_of(result.header)}"
    return (plate(result, "completeness", title, caption, (panel,)),)


def _comparison(result: Result, study: Study) -> tuple[Plate, ...]:
    heads = result.header.summary.get("impact")
    if not heads:
        return ()
    names = tuple(result.header.job["spec"]["circuits"])
    members = tuple((head["in_finetuned"], head["in_pretrained"]) for head in heads)
    texts = tuple(
        f"{head['head']}: |score| {number(head['score'], 3)}; {_membership(names, member)}"
        for head, member in zip(heads, members, strict=True)
    )
    values, labels = tuple(head["score"] for head in heads), tuple(head["head"] for head in heads)
    panel = Impact("causal impact", (names[1], names[0]), labels, values, members, texts)
    caption = (
        f"All heads of both circuits by their |patching score| in {result.header.job['spec']['scores']}, in the same "
        f"order above and below; filled: in {names[1]} (above), in {names[0]} (below)."
    )
    return (plate(result, "impact", f"Causal impact: {names[0]} and {names[1]}", caption, (panel,)),)


def _membership(names: Sequence[str], member: tuple[bool, bool]) -> str:
    inside = [name for name, there in zip(names, reversed(member), strict=True) if there]
    return f"in {' and '.join(inside)}" if inside else "in neither"


def _knockout(result: Result, study: Study) -> tuple[Plate, ...]:
    rows, panels = result.header.summary["rows"], []
    for blind in unique(rows, "blind"):
        series = []
        for row in (row for row in rows if row["blind"] == blind):
            bounds = row.get("accuracy_interval") or [None] * len(row["accuracy"])
            marks = []
            for layer, (value, interval) in enumerate(zip(row["accuracy"], bounds, strict=True)):
                where = "nothing blocked" if layer == len(row["accuracy"]) - 1 else f"layers L{layer} and up"
                one = {"accuracy": value, "accuracy_interval": interval}
                marks.append(mark(one, "accuracy", f"{blind} blind to {row['to']}, {where}"))
            series.append(Series(f"to {row['to']}", tuple(marks)))
        layers = len(series[0].marks) - 1
        ticks = (*map(str, range(layers)), "none")
        panels.append(Curves(f"{blind} blind to …", ticks, "first blocked layer", tuple(series), "accuracy"))
    caption = f"Accuracy when one position may not attend to another in all layers from one up. {BARS}"
    title = f"Attention knockout in {models_of(result.header)}"
    return (plate(result, "knockout", title, caption, tuple(panels)),)


def _attention_patterns(result: Result, study: Study) -> tuple[Plate, ...]:
    rows, columns = result.header.summary["rows"], tuple(result.header.summary["columns"])
    panels = []
    for group in unique(rows, "group"):
        mine = [row for row in rows if row["group"] == group]
        cells = tuple(
            tuple(Cell(row[to], f"{row['head']} to {to}: {number(row[to], 3)}") for to in columns) for row in mine
        )
        heads = tuple(row["head"] for row in mine)
        panels.append(
            HeatMap(f"{group}, at {mine[0]['at']}", heads, columns, cells, 1.0, False, ("head", "attends to"))
        )
    title = f"Where the circuit's heads look in {models_of(result.header)}"
    return (plate(result, "attention", title, "Mean attention weight from the head's position.", tuple(panels)),)


def _attribution(result: Result, study: Study) -> tuple[Plate, ...]:
    panels = []
    for row in result.header.summary["rows"]:
        at, points = row["at"], []
        exact, estimate = (result.scores[f"{at}.{name}"] for name in ("exact", "attributed"))
        for layer in range(exact.shape[0]):
            for head in range(exact.shape[1]):
                x, y = exact[layer, head].item(), estimate[layer, head].item()
                text = f"L{layer}H{head}: exact {x:+.3f}, estimated {y:+.3f}"
                points.append(Point(Mark(x, None, text), Mark(y, None, text), text))
        panels.append(Scatter(f"at {at}", ("exact effect", "estimate"), (("heads", tuple(points)),), shares=False))
    title = f"Gradient's estimate and exact effects in {models_of(result.header)}"
    return (
        plate(result, "attribution", title, "A point per head; on the diagonal the estimate is exact.", tuple(panels)),
    )


PLATES: dict[str, Callable[[Result, Study], tuple[Plate, ...]]] = {
    "path_patching": circuit_figures.path_patching,
    "minimality": circuit_figures.minimality,
    "faithfulness": _faithfulness,
    "completeness": _completeness,
    "comparison": _comparison,
    "dcm": role_figures.dcm,
    "activation_patching": role_figures.activation_patching,
    "cmap": role_figures.cmap,
    "knockout": _knockout,
    "attention_patterns": _attention_patterns,
    "attribution": _attribution,
}
