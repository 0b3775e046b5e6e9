"""All that is known of a method, in two records. No field has a default: a method that forgets one does not import.

`Method` is read without torch: `et plan` and `et --help` need no more. `Experiment` is the half that measures and
shows what was measured; it is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nnsight_et.manifest import Experiment as Spec
from nnsight_et.methods.sections import Section
from nnsight_et.planning.cost.pieces import CostSetting, Piece
from nnsight_et.results.summary import S

if TYPE_CHECKING:  # what these name imports torch
    from nnsight_et.display.figures import FigureGroup
    from nnsight_et.display.measurement import TidyRow
    from nnsight_et.display.paper import PaperNumbers
    from nnsight_et.display.table import Table
    from nnsight_et.measuring.audit import Finding
    from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
    from nnsight_et.measuring.evidence import Evidence
    from nnsight_et.planning.plan import Job
    from nnsight_et.results.headers import ResultHeader
    from nnsight_et.results.store import MethodResult
    from nnsight_et.results.study import Study
    from nnsight_et.zoo.known import Known
    from nnsight_et.zoo.statements import Statement

M = TypeVar("M", bound=Spec)
"""What a manifest says of an experiment of the method."""


@dataclass(frozen=True)
class Experiment(Generic[M, S]):
    """How jobs of a method become results, and what is made of results."""

    check: Callable[[RunContext, Job[M]], None]
    """Raises where the job cannot be done, before any work."""
    measure: Callable[[RunContext, Job[M]], Generator[Progress, None, MethodOutput[S]]]
    """Measures all the job asks for, cell by cell."""
    audit: Callable[[Evidence[M, S]], Iterable[Finding]]
    """What was asked of the models, and every score, number and choice, derived again by code of its own."""
    headline: Callable[[S], str]
    """The result in a few words, for the line that ends an experiment."""
    tables: Callable[[ResultHeader, S], tuple[Table, ...]]
    figures: Callable[[MethodResult[S], Study], tuple[FigureGroup, ...]]
    metrics: Callable[[MethodResult[S]], Iterator[TidyRow]]
    """Rows of the long table of whole experiments."""
    heads: Callable[[MethodResult[S]], Iterator[TidyRow]]
    """Rows of the long table of heads."""
    paper: Callable[[S], PaperNumbers] | None
    """Its numbers under the names that the paper's tables and figures have for them; None if the paper has none."""
    statements: Callable[[Known, str, MethodResult[S]], Iterator[Statement]]
    """What must hold of it on a model whose circuit is known, beside what was found."""


@dataclass(frozen=True)
class Method(Generic[M, S]):
    """What is known of a method without torch."""

    name: str
    spec: type[M]
    """What a manifest says of it."""
    summary: type[S]
    """What its results say, key by key."""
    cost: Callable[[CostSetting[M]], Iterator[Piece]]
    """What its jobs measure, and what that costs."""
    section: Section
    """Where the report shows it."""
    experiment: Callable[[], Experiment[M, S]]
    """Imports the rest."""


AnyMethod = Method[Any, Any]
