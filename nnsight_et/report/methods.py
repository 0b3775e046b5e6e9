"""The tables of every method, from the rows of its result's summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnsight_et.errors import ResultError
from nnsight_et.report.table import Table, number
from nnsight_et.store import ResultHeader

Row = Mapping[str, Any]
Cell = Callable[[Row], str]
SCORE_NOTE = "Score: mean of (p patched - p base) / p base over the examples; negative: the head mattered (paper §4.1)."


def name_of(header: ResultHeader) -> str:
    """The experiment's name in its manifest."""
    return str(header.job.get("name"))


def path_patching(header: ResultHeader) -> tuple[Table, ...]:
    """The circuit: per group its heads and their scores. A head that left a group for a later one is not in it."""
    members = {group["name"]: group["heads"] for group in header.summary["circuit"]["groups"]}
    rows = []
    for stage in header.summary["stages"]:
        heads = [
            f"{one['head']} {one['score']:+.3f}" for one in stage["kept"] if one["head"] in members[stage["group"]]
        ]
        rows.append({"group": stage["group"], "at": stage["at"], "count": len(heads), "heads": ", ".join(heads)})
    columns = {"group": "group", "at": "at", "heads": "count", "head and score": "heads"}
    return (_table(header, f"circuit of {_models(header)}", columns, rows, SCORE_NOTE),)


def faithfulness(header: ResultHeader) -> tuple[Table, ...]:
    """Table 1: a model's accuracy, the circuit's, random circuits', and faithfulness."""
    rows = _rows(header)
    columns: dict[str, str | Cell] = {
        "model": "model",
        "full model": "full",
        "circuit": "circuit",
        "random circuits": lambda row: spread(row["random_mean"], row["random_std"]),
        "faithfulness": "faithfulness",
    }
    counts = " or ".join(sorted({str(row["examples"]) for row in rows}))
    note = f"Accuracy on {counts} prompts; faithfulness = circuit / full model (Table 1)."
    return (_table(header, "faithfulness", columns, rows, note),)


def minimality(header: ResultHeader) -> tuple[Table, ...]:
    """What is left of each group, with what each head adds."""
    rows = []
    for group in dict.fromkeys(row["group"] for row in header.summary["heads"]):
        tried = [row for row in header.summary["heads"] if row["group"] == group]
        kept = [f"{row['head']} {_share(row['contribution'])}" for row in tried if row["kept"]]
        rows.append({"group": group, "tried": len(tried), "kept": len(kept), "heads": ", ".join(kept)})
    columns = {"group": "group", "heads tried": "tried", "kept": "kept", "head and what it adds": "heads"}
    note = "What a head adds: accuracy with it over accuracy without it, minus 1, as a share (App. B)."
    return (_table(header, f"minimal circuit of {_models(header)}", columns, rows, note),)


def completeness(header: ResultHeader) -> tuple[Table, ...]:
    """Circuit and model without the same heads; the random draws as their mean and deviation."""
    rows = [row for row in _rows(header) if not str(row["removed"]).startswith("random ")]
    if drawn := header.summary["random"]:
        mean = {key: spread(values["mean"], values["std"]) for key, values in drawn.items()}
        rows.insert(0, {"removed": "random halves", "heads": "–"} | mean)
    columns = {
        "removed": "removed",
        "heads": "heads",
        "model": "model",
        "circuit": "circuit",
        "difference": "completeness",
    }
    note = "Accuracy without the removed heads; in a complete circuit both lose alike (App. C)."
    return (_table(header, f"completeness on {_models(header)}", columns, rows, note),)


def comparison(header: ResultHeader) -> tuple[Table, ...]:
    """How two circuits overlap, group by group."""
    columns = {key: key for key in ("group", "first", "second", "shared", "precision", "recall")}
    note = (
        "Precision: the share of the first circuit's heads that the second has; recall: the other way (Tables A6, A10)."
    )
    return (_table(header, "overlap", columns, _rows(header), note),)


def dcm(header: ResultHeader) -> tuple[Table, ...]:
    """Which heads of each group were selected for which variable, and what patching them does."""
    columns: dict[str, str | Cell] = {
        "group": "group",
        "desideratum": "desideratum",
        "selected": lambda row: f"{len(row['selected'])} of {row['heads']}",
        "accuracy": "accuracy",
        "doing nothing": "do_nothing",
        "heads": lambda row: " ".join(row["selected"]),
    }
    note = "Accuracy: how often patching the selected heads gives the desideratum's answer (§5.1)."
    return (_table(header, f"roles of heads in {_models(header)}", columns, _rows(header), note),)


def activation_patching(header: ResultHeader) -> tuple[Table, ...]:
    """How often the selected heads, patched in each model, give the desideratum's answer."""
    columns: dict[str, str | Cell] = {key: key for key in ("model", "group", "desideratum", "heads")}
    columns["accuracy"] = lambda row: spread(row["mean"], row["std"])
    columns["doing nothing"] = "do_nothing"
    note = "Mean and standard deviation over draws of fresh examples (Fig. 3)."
    return (_table(header, "functionality", columns, _rows(header), note),)


def cmap(header: ResultHeader) -> tuple[Table, ...]:
    """The recipient's accuracy with the donor's activations, beside both models' own."""
    summary = header.summary
    own = ", ".join(f"{name} alone {number(value)}" for name, value in summary["models"].items())
    drawn = summary["random"]
    control = f"; as many random heads {spread(drawn['mean'], drawn['std'])}" if drawn else ""
    columns = {"patched": "patched", "group": "group", "heads": "heads", "accuracy": "accuracy"}
    title = f"{summary['donor']} into {summary['recipient']}"
    return (_table(header, title, columns, _rows(header), f"Accuracy of the recipient; {own}{control} (Fig. 4)."),)


def knockout(header: ResultHeader) -> tuple[Table, ...]:
    """Accuracy when one position is blind to another, from each layer up."""
    rows = _rows(header)
    layers = len(rows[0]["accuracy"]) if rows else 0
    columns: dict[str, str | Cell] = {"blind": "blind", "to": "to"}
    for layer in range(layers):
        columns["none" if layer == layers - 1 else f"L{layer}+"] = _entry("accuracy", layer)
    return (_table(header, f"attention knockout in {_models(header)}", columns, rows, "Accuracy (Fig. A1, A2)."),)


def attention_patterns(header: ResultHeader) -> tuple[Table, ...]:
    """Where each head of the circuit looks from its position."""
    columns = {key: key for key in ("group", "at", "head", *header.summary["columns"])}
    title = f"attention of the circuit's heads in {_models(header)}"
    return (_table(header, title, columns, _rows(header), "Mean attention weight from the head's position."),)


def attribution(header: ResultHeader) -> tuple[Table, ...]:
    """How well the gradient's estimate agrees with the exact effects."""
    columns: dict[str, str | Cell] = {key: key for key in ("at", "pearson", "spearman")}
    columns["top heads found"] = lambda row: f"{number(row['top_found'])} of {row['top']}"
    return (
        _table(header, f"attribution in {_models(header)}", columns, _rows(header), "Over all heads at a position."),
    )


def spread(mean: float | None, std: float | None) -> str:
    """A mean and its standard deviation; a dash where there is no number."""
    return f"{number(mean)} ± {number(std)}" if mean is not None else number(None)


def _table(
    header: ResultHeader, title: str, columns: Mapping[str, str | Cell], rows: Sequence[Row], note: str
) -> Table:
    cells = tuple(
        tuple(column(row) if callable(column) else _text(row[column]) for column in columns.values()) for row in rows
    )
    numeric = {name for index, name in enumerate(columns) if rows and all(_is_number(row[index]) for row in cells)}
    return Table(f"{name_of(header)}: {title}", tuple(columns), cells, frozenset(numeric), note)


def _text(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-–"


def _share(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:+.3f}"


def _entry(key: str, index: int) -> Cell:
    return lambda row: number(row[key][index])


def _rows(header: ResultHeader) -> list[Row]:
    rows = header.summary["rows"]
    if not isinstance(rows, list):
        raise ResultError(f"{name_of(header)}: its summary has no rows")
    return rows


def _models(header: ResultHeader) -> str:
    return ", ".join(dict.fromkeys(record.name for record in header.models))
