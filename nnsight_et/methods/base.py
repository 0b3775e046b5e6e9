"""All that is known of a method, in two records. No field has a default: a method that forgets one does not import.

`Method` is read without torch: `et plan` and `et --help` need no more. `Experiment` is the half that measures and
shows what was measured; it is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nnsight_et.manifest import Experiment as Spec
from nnsight_et.methods.sections import Section
from nnsight_et.planning.cost.pieces import Piece, Setting

if TYPE_CHECKING:  # what these name imports torch
    from torch import Tensor

    from nnsight_et.display.figures import Plate
    from nnsight_et.display.measurement import Measurement
    from nnsight_et.display.paper import PaperNumbers
    from nnsight_et.display.table import Table
    from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
    from nnsight_et.planning.plan import Job
    from nnsight_et.results.headers import ResultHeader
    from nnsight_et.results.store import Result
    from nnsight_et.results.study import Study
    from nnsight_et.zoo.known import Known
    from nnsight_et.zoo.statements import Statement

M = TypeVar("M", bound=Spec)
"""What a manifest says of an experiment of the method."""


@dataclass(frozen=True)
class Experiment(Generic[M]):
    """How jobs of a method become results, and what is made of results."""

    check: Callable[[RunContext, Job[M]], None]
    """Raises where the job cannot be done, before any work."""
    measure: Callable[[RunContext, Job[M]], Generator[Progress, None, MethodOutput]]
    """Measures all the job asks for, cell by cell."""
    audit: Callable[[Job[M], Mapping[str, Tensor], Mapping[str, Any]], Iterable[float]] | None
    """How far the summary's numbers are from what the scores say, counted by formulas of its own; None where a
    summary says nothing that scores could."""
    tables: Callable[[ResultHeader], tuple[Table, ...]]
    figures: Callable[[Result, Study], tuple[Plate, ...]]
    metrics: Callable[[Result], Iterator[Measurement]]
    """Rows of the long table of whole experiments."""
    heads: Callable[[Result], Iterator[Measurement]]
    """Rows of the long table of heads."""
    paper: Callable[[Mapping[str, Any]], PaperNumbers] | None
    """Its numbers under the names that the paper's tables and figures have for them; None if the paper has none."""
    statements: Callable[[Known, str, Result], Iterator[Statement]]
    """What must hold of it on a model whose circuit is known, beside what was found."""


@dataclass(frozen=True)
class Method(Generic[M]):
    """What is known of a method without torch."""

    name: str
    spec: type[M]
    """What a manifest says of it."""
    cost: Callable[[Setting[M]], Iterator[Piece]]
    """What its jobs measure, and what that costs."""
    section: Section
    """Where the report shows it."""
    experiment: Callable[[], Experiment[M]]
    """Imports the rest."""


AnyMethod = Method[Any]
AnyExperiment = Experiment[Any]
