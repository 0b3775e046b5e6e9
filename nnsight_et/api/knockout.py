"""Attention knockout (App. A): from which layer on one position has what it needs from another."""

from __future__ import annotations

from nnsight_et.api.arguments import check_setting
from nnsight_et.api.findings import Finding, answers_of, of_right
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.core.metrics import is_right
from nnsight_et.display.figures import Curves, Plate, Series
from nnsight_et.display.marks import BARS, value_mark
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.measuring.predictions import answer_scores


def knockout(model: LoadedModel, pairs: Pairs, blind: str, to: str) -> Finding:
    """Accuracy when the position `blind` may not attend to the position `to` in any head of layers L0 and up, per L0.

    Only base prompts run. TaskError unless `to` comes before `blind` in each of them.
    """
    check_setting(model, pairs)
    for name, where in ((blind, "blind"), (to, "to")):
        pairs.check_position(name, where)
    examples = model.fitting(pairs.examples(model.tokenizer))
    for index, example in enumerate(examples):
        if example.base.positions[to] >= example.base.positions[blind]:
            raise TaskError(f"pairs[{index}]: {to!r} is not before {blind!r}; accepted: a position before it")
    answers, firsts = answers_of(examples), range(model.shape.n_layers + 1)

    def measure(pair, chunks):
        edge = pair.base.positions[blind], pair.base.positions[to]
        return knockout_readouts(model.model, pair.question, edge, firsts, model.engine, chunks)

    found = model.measured(examples, (blind,), measure)
    names = [*(f"L{first}" for first in firsts[:-1]), "none"]
    rows = tuple(
        {"first_blocked_layer": name, **of_right(right), "probability": probability.double().mean().item()}
        for name, right, probability in zip(
            names, is_right(found["predicted"], answers), found["probability"], strict=True
        )
    )
    title = f"{blind} blind to {to} in {model.name}"
    marks = tuple(value_mark(row["accuracy"], row.get("accuracy_interval"), row["first_blocked_layer"]) for row in rows)
    panel = Curves(title, tuple(names), "first blocked layer", (Series(f"to {to}", marks),), "accuracy")
    note = f"none: nothing is blocked. On {quantity(len(pairs), 'pair')}."
    plates = (Plate("knockout", title, BARS, (panel,)),)
    return Finding(title, rows, plates, note, found | answer_scores(answers), model.told(examples))
