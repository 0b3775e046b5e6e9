"""The tables of every method, from the rows of its result's summary."""

from __future__ import annotations

from nnsight_et.core.errors import ResultError
from nnsight_et.display.table import (
    INTERVALS,
    Cell,
    Row,
    Table,
    number,
    several,
    spread,
    table_of,
    with_interval,
)
from nnsight_et.results.headers import ResultHeader, models_of, name_of


def faithfulness(header: ResultHeader) -> tuple[Table, ...]:
    """Table 1: a model's accuracy, the circuit's, random circuits', and faithfulness."""
    rows = _rows(header)
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


def minimality(header: ResultHeader) -> tuple[Table, ...]:
    """What is left of each group, with what each head adds."""
    rows = []
    for group in dict.fromkeys(row["group"] for row in header.summary["heads"]):
        tried = [row for row in header.summary["heads"] if row["group"] == group]
        kept = [f"{row['head']} {_share(row['contribution'])}" for row in tried if row["kept"]]
        rows.append({"group": group, "tried": len(tried), "kept": len(kept), "heads": ", ".join(kept)})
    columns = {"group": "group", "heads tried": "tried", "kept": "kept", "head and what it adds": "heads"}
    note = "What a head adds: accuracy with it over accuracy without it, minus 1, as a share (App. B)."
    if ties := [row["head"] for row in header.summary["heads"] if row.get("tied")]:
        note += " Tie: more heads make up equally for these than may be removed with them, so which were removed is "
        note += f"partly arbitrary: {several(ties)}."
    if any(row["contribution"] == "infinite" for row in header.summary["heads"]):
        note += " Infinite: without the head the circuit answers nothing right."
    return (table_of(header, f"minimal circuit of {models_of(header)}", columns, rows, note),)


def completeness(header: ResultHeader) -> tuple[Table, ...]:
    """Circuit and model without the same heads; the random draws as their mean and deviation."""
    rows = [row for row in _rows(header) if not str(row["removed"]).startswith("random ")]
    if drawn := header.summary["random"]:
        mean = {key: spread(values["mean"], values["std"]) for key, values in drawn.items()}
        rows.insert(0, {"removed": "random halves", "heads": "–"} | mean)
    columns = {"removed": "removed", "heads": "heads"} | {
        name: with_interval(key)
        for name, key in {"model": "model", "circuit": "circuit", "difference": "completeness"}.items()
    }
    note = f"Accuracy without the removed heads; in a complete circuit both lose alike (App. C). {INTERVALS}"
    return (table_of(header, f"completeness on {models_of(header)}", columns, rows, note),)


def comparison(header: ResultHeader) -> tuple[Table, ...]:
    """How two circuits overlap, group by group."""
    columns = {key: key for key in ("group", "first", "second", "shared", "precision", "recall")}
    note = (
        "Precision: the share of the first circuit's heads that the second has; recall: the other way (Tables A6, A10)."
    )
    return (table_of(header, "overlap", columns, _rows(header), note),)


def dcm(header: ResultHeader) -> tuple[Table, ...]:
    """Which heads of each group were selected for which variable, and what patching them does."""
    columns: dict[str, str | Cell] = {
        "group": "group",
        "desideratum": "desideratum",
        "selected": lambda row: f"{len(row['selected'])} of {row['heads']}",
        "accuracy": with_interval("accuracy"),
        "doing nothing": with_interval("do_nothing"),
        "heads": lambda row: " ".join(row["selected"]),
    }
    note = "Accuracy: how often patching the selected heads gives the desideratum's answer (§5.1). " + INTERVALS
    for row in _rows(header):
        if row.get("tied"):
            found = several([" ".join(heads) for heads in row["tied"]])
            note += f" As good in validation for {row['group']}, {row['desideratum']}: {found}."
    return (table_of(header, f"roles of heads in {models_of(header)}", columns, _rows(header), note),)


def activation_patching(header: ResultHeader) -> tuple[Table, ...]:
    """How often the selected heads, patched in each model, give the desideratum's answer."""
    columns: dict[str, str | Cell] = {key: key for key in ("model", "group", "desideratum", "heads")}
    columns["accuracy"] = lambda row: spread(row["mean"], row["std"], row.get("mean_interval"))
    columns["doing nothing"] = with_interval("do_nothing")
    note = f"Mean and standard deviation over draws of fresh examples (Fig. 3). {INTERVALS}"
    return (table_of(header, "functionality", columns, _rows(header), note),)


def cmap(header: ResultHeader) -> tuple[Table, ...]:
    """The recipient's accuracy with the donor's activations, beside both models' own."""
    summary = header.summary
    own = ", ".join(f"{name} alone {number(value)}" for name, value in summary["models"].items())
    drawn = summary["random"]
    control = f"; as many random heads {spread(drawn['mean'], drawn['std'])}" if drawn else ""
    columns = {"patched": "patched", "group": "group", "heads": "heads", "accuracy": with_interval("accuracy")}
    note = f"Accuracy of the recipient; {own}{control} (Fig. 4). {INTERVALS}"
    title = f"{summary['donor']} into {summary['recipient']}"
    return (table_of(header, title, columns, _rows(header), note),)


def knockout(header: ResultHeader) -> tuple[Table, ...]:
    """Accuracy when one position is blind to another, from each layer up."""
    rows = _rows(header)
    layers = len(rows[0]["accuracy"]) if rows else 0
    columns: dict[str, str | Cell] = {"blind": "blind", "to": "to"}
    for layer in range(layers):
        columns["none" if layer == layers - 1 else f"L{layer}+"] = _entry("accuracy", layer)
    return (table_of(header, f"attention knockout in {models_of(header)}", columns, rows, "Accuracy (Fig. A1, A2)."),)


def attention_patterns(header: ResultHeader) -> tuple[Table, ...]:
    """Where each head of the circuit looks from its position."""
    columns = {key: key for key in ("group", "at", "head", *header.summary["columns"])}
    title = f"attention of the circuit's heads in {models_of(header)}"
    return (table_of(header, title, columns, _rows(header), "Mean attention weight from the head's position."),)


def attribution(header: ResultHeader) -> tuple[Table, ...]:
    """How well the gradient's estimate agrees with the exact effects."""
    columns: dict[str, str | Cell] = {key: key for key in ("at", "pearson", "spearman")}
    columns["top heads found"] = lambda row: f"{round(row['top_found'] * row['top'])} of {row['top']}"
    return (
        table_of(
            header, f"attribution in {models_of(header)}", columns, _rows(header), "Over all heads at a position."
        ),
    )


def _share(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:+.3f}"


def _chance(row: Row) -> str:
    """The p of a circuit against random ones, and whether it is the smallest there can be with so many."""
    found, count = row["random_p"], row["random_circuits"]
    least = found is not None and found <= 1 / (1 + count) + 1e-9
    return f"{number(found, 3)} (least)" if least else number(found, 3)


def _entry(key: str, index: int) -> Cell:
    return lambda row: number(row[key][index])


def _rows(header: ResultHeader) -> list[Row]:
    rows = header.summary["rows"]
    if not isinstance(rows, list):
        raise ResultError(f"{name_of(header)}: its summary has no rows")
    return rows
