"""One measured value, with everything that says what it is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import isnan
from operator import attrgetter
from typing import Any

from torch import Tensor

from nnsight_et.core.circuit import Component, Head, Mlp
from nnsight_et.core.named_metrics import DEFAULT_METRIC
from nnsight_et.results.headers import method_of, metric_of, name_of
from nnsight_et.results.store import Result, ResultHeader


@dataclass(frozen=True)
class TidyRow:
    """A value of an experiment; text is empty and numbers are None where they say nothing of it."""

    experiment: str
    method: str
    model: str = ""
    group: str = ""
    at: str = ""
    """The named position."""
    desideratum: str = ""
    condition: str = ""
    """What was done: which heads were removed, what was patched, which attention was blocked."""
    head: str = ""
    """Its name, such as L4H1; of an MLP L4MLP."""
    layer: int | None = None
    index: int | None = None
    metric: str = ""
    value: float | None = None
    low: float | None = None
    """With `high`: the 95% interval."""
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    """After Holm's correction over the stage's heads."""
    kept: bool | None = None
    """Whether the experiment kept the head, or for DCM selected it."""
    reached: bool | None = None
    """Whether the head can reach the end of the path at all; if not, its score is exactly 0."""

    def at_head(self, head: Component) -> TidyRow:
        """The same of one head, or of an MLP, which has no index."""
        index = None if isinstance(head, Mlp) else head.index
        return replace(self, head=str(head), layer=head.layer, index=index)

    def of(
        self, metric: str, value: float | None, bounds: Sequence[float | None] | None = None, p: float | None = None
    ) -> TidyRow:
        """The same with a metric's value, and its interval and p-value if there are any."""
        low, high = bounds or (None, None)
        return replace(self, metric=metric, value=value, low=low, high=high, p=p)

    def to_row(self) -> tuple:
        """The fields in the order of COLUMNS."""
        return _FIELDS(self)


COLUMNS = tuple(field.name for field in fields(TidyRow))
_FIELDS = attrgetter(*COLUMNS)
IDENTITY = COLUMNS[: COLUMNS.index("value")]
"""The columns that say what a value is of."""


def of_experiment(header: ResultHeader, model: str | None = None) -> TidyRow:
    """What all values of a result share; the model is its only one where none is named."""
    names = list(dict.fromkeys(record.name for record in header.models))
    if model is None:
        model = names[0] if len(names) == 1 else ""
    return TidyRow(name_of(header), method_of(header), model)


def tensors_of_group(result: Result, group: str) -> dict[str, Tensor]:
    """The tensors [layer, head] under a name, by what follows it."""
    prefix = f"{group}."
    found = {name.removeprefix(prefix): tensor for name, tensor in result.scores.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in found.items() if tensor.dim() == 2}


def all_heads(values: Tensor) -> Iterator[Head]:
    """Every head of a tensor [layer, head]."""
    layers, heads = values.shape
    return (Head(layer, index) for layer in range(layers) for index in range(heads))


def all_mlps(values: Tensor) -> Iterator[Mlp]:
    """Every MLP of a tensor [layer, 1]."""
    return (Mlp(layer) for layer in range(len(values)))


def number_at(values: Tensor, head: Component) -> Any:
    """The number of a head or an MLP; None for NaN."""
    value = values[head].item()
    return None if isinstance(value, float) and isnan(value) else value


def suffix_of_metric(header: ResultHeader) -> str:
    """What the names of values end in: nothing for the paper's metric, for others an _ and its name."""
    metric = metric_of(header)
    return "" if metric == DEFAULT_METRIC else f"_{metric}"


def no_rows(result: Result) -> Iterator[TidyRow]:
    """For methods that have no values of this kind."""
    yield from ()
