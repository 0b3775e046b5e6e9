"""Attention knockout (App. A): from which layer on one position has what it needs from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsight_et.api.arguments import check_setting
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, Row, unprefixed
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.errors import TaskError, brief, quantity
from nnsight_et.display.figures import Curves, FigureGroup, Series
from nnsight_et.display.marks import BARS, value_mark
from nnsight_et.manifest import Edge, Knockout


def knockout(model: LoadedModel, pairs: Pairs, blind: str, to: str, *, layers: Sequence[int] | None = None) -> Finding:
    """Measure accuracy when one position cannot attend to another from a layer upwards: attention knockout (App. A).

    In layers L0 and above, no head attends from `blind` to `to`. Each layer is tried as L0, or those of `layers`. From
    the L0 at which accuracy recovers, `blind` already has what it needs from `to`.

    Args:
        model: What `et.load` returns.
        pairs: Base prompts and their answers; source prompts are not run.
        blind: The named position whose attention is blocked.
        to: The named position that it cannot attend to; it comes before `blind` in every prompt.
        layers: The values of L0 to try, in increasing order, such as [0, 8, 16]. By default every layer.

    Returns:
        A Finding. `.rows`: one per first blocked layer, and a last one with nothing blocked, with "accuracy", its 95%
        interval and the answer's mean "probability". `.scores`: "predicted", "probability" and "logit" [tried layers +
        1, example], "answer" [example].

    Raises:
        TaskError: An argument has the wrong type or value, or `to` is not before `blind`.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> found = et.knockout(model, et.Pairs.boxes(4), blind="last", to="correct_object")
        >>> [row["first_blocked_layer"] for row in found.rows]
        ['L0', 'L1', 'L2', 'L3', 'L4', 'L5', 'none']
    """
    check_setting(model, pairs)
    for name, where in ((blind, "blind"), (to, "to")):
        pairs.check_position(name, where)
        if name == "random":
            raise TaskError(
                f"{where}: random, a name that manifests give to a randomly drawn token; accepted: another position"
            )
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    for index, example in enumerate(examples):
        if example.base.positions[to] >= example.base.positions[blind]:
            raise TaskError(f"pairs[{index}]: {to!r} is not before {blind!r}; accepted: a position before it")
    spec = Knockout(
        method="knockout", model=model.name, edges=(Edge(blind=blind, to=to),), examples=len(examples),
        layers=None if layers is None else _checked_layers(layers, model.shape.n_layers),
    )  # fmt: skip
    with experimenting("knockout", spec, [model], {"": examples}) as run:
        result = run.result(model.collect_notices(examples))
    (row,), scores = result.header.summary["rows"], unprefixed(result.scores, f"{blind} to {to}.")
    names = [*(f"L{layer}" for layer in spec.first_layers(model.shape.n_layers)[:-1]), "none"]
    means = scores["probability"].double().mean(-1).tolist()
    rows: tuple[Row, ...] = tuple(
        {"first_blocked_layer": name, "accuracy": share, "accuracy_interval": bounds, "probability": mean}
        for name, share, bounds, mean in zip(names, row["accuracy"], row["accuracy_interval"], means, strict=True)
    )
    title = f"{blind} blind to {to} in {model.name}"
    marks = tuple(value_mark(row["accuracy"], row.get("accuracy_interval"), row["first_blocked_layer"]) for row in rows)
    panel = Curves(title, tuple(names), "first blocked layer", (Series(f"to {to}", marks),), "accuracy")
    note = f"none: nothing is blocked. On {quantity(len(pairs), 'pair')}."
    plates = (FigureGroup("knockout", title, BARS, (panel,)),)
    return Finding(title, rows, plates, note, scores, result.header.notices, result.header.self_check.to_dict())


def _checked_layers(layers: Any, n_layers: int) -> tuple[int, ...]:
    """The layers; TaskError unless they are numbers of layers, from low to high."""
    listed = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else []
    right = all(type(layer) is int and 0 <= layer < n_layers for layer in listed)
    if not listed or not right or sorted(set(listed)) != listed:
        raise TaskError(f"layers: {brief(layers)}; accepted: numbers from 0 to {n_layers - 1} in increasing order")
    return tuple(listed)
