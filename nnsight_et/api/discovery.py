"""Discovery of a circuit from pairs of prompts alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from nnsight_et.api.arguments import check_setting, number, whole_number
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, Row
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import TaskError
from nnsight_et.manifest import Discovery
from nnsight_et.methods.discovery.experiment import EXPERIMENT
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.methods.discovery.words import nothing_found, sentence
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


@dataclass(frozen=True, repr=False)
class Graph(Finding):
    """A circuit that was found without stages. Its rows are the edges of the graph; every function takes it."""

    circuit: Circuit = field(default_factory=lambda: Circuit(()))
    """The groups of heads, from the logits back."""
    branches: tuple[Row, ...] = ()
    """Every branch that was looked at, and what became of it."""
    sentences: tuple[str, ...] = ()
    """Of each group what it reads, and what it writes to; if nothing was found, what was searched, and what to try."""


def discover(
    model: LoadedModel,
    pairs: Pairs,
    effect: float = 0.02,
    mlps: bool = False,
    branches: int = 40,
    searched: float = 1 / 3,
) -> Graph:
    """Find the circuit of a task, without being told a stage (docs/discovery.md).

    From the logits back: heads that are found are probed for the inputs and positions that matter to them, and into
    these the heads below are patched one by one. What is found on the first pairs is tested on the others.

    Args:
        model: What `et.load` returns.
        pairs: Base and source prompts; the nodes of the graph are heads at their named positions.
        effect: The least score worth keeping, as a share of the base, from 0.0001 to 0.9999.
        mlps: Whether MLPs can be nodes too. They are in no circuit.
        branches: How many branches are opened at most.
        searched: On which share of the pairs is searched; every edge is tested on the others.

    Returns:
        A Graph. `.circuit`: its groups. `.rows`: one an edge, with "node", "at", "into", "via", "score" and its
        interval, and "p_holm". `.branches`: what was probed, opened and closed, and why. `.sentences`: what each group
        does. `.scores`: "<branch>.score" [layer, head] and the like of every branch that was searched, "held_out"
        [edge, example].

    Raises:
        TaskError: An argument is not of this kind, or there are fewer than two pairs.
        ExperimentError: A self-check failed, or the answer has no probability in a base run.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> found = et.discover(model, et.Pairs.boxes(32), effect=0.1, branches=0, searched=0.5)
        >>> found.rows[0]["node"], found.rows[0]["into"]
        ('L5H0', 'logits')
        >>> found.circuit.groups[0].name
        'last_1'
    """
    check_setting(model, pairs)
    if pairs.metric == "function":
        accept = "probability_ratio, logit_difference or probability_difference, by name"
        raise TaskError(f"pairs: scored by a function, which a search does not know; accepted: {accept}")
    effect, searched = number(effect, "effect", 0.0001, 0.9999), number(searched, "searched", 0, 1)
    branches = whole_number(branches, "branches")
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    first = round(searched * len(examples))
    if not 0 < first < len(examples):
        found = f"{len(examples)} and searched: {searched}, which leaves none to search on or to test on"
        raise TaskError(f"pairs: {found}; accepted: two pairs or more, some for each")
    spec = Discovery(
        method="discovery",
        model=model.name,
        metric=pairs.metric,
        examples=first,
        held_out_examples=len(examples) - first,
        effect=effect,
        mlps=mlps,
        branches=branches,
    )
    known = model.collect_notices(examples)
    with experimenting("discover", spec, [model], {"": examples}) as run:
        result = run.result(known)
    return _graph(result, spec)


def _graph(result: Result, spec: Discovery) -> Graph:
    """What a result of discovery says."""
    summary = DiscoverySummary.read(result.header)
    rows = [edge.to_dict() for edge in summary.graph]
    groups, _, _ = EXPERIMENT.tables(result.header, summary)
    return Graph(
        title=groups.title.partition(": ")[2],
        rows=tuple(row | {"score_interval": [row.pop("low"), row.pop("high")]} for row in rows),
        figures=EXPERIMENT.figures(result.read(DiscoverySummary), Study("notebook", (result,), ())),
        note=groups.note,
        scores=result.scores,
        notices=result.header.notices,
        self_check=result.header.self_check.to_dict(),
        circuit=summary.circuit.to_circuit(),
        branches=tuple(one.to_dict() for one in summary.branches),
        sentences=tuple(sentence(summary, group) for group in summary.groups if group.nodes)
        or (nothing_found(spec, summary),),
    )
