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
    """What `et.discover` returns: a circuit found without stages. Its rows are the edges; every function accepts it."""

    circuit: Circuit = field(default_factory=lambda: Circuit(()))
    """The groups of heads, from the logits back."""
    branches: tuple[Row, ...] = ()
    """Every branch that was probed, and what was done with it."""
    sentences: tuple[str, ...] = ()
    """What each group reads and writes; if nothing was found, what was searched, and what to try."""


def discover(
    model: LoadedModel,
    pairs: Pairs,
    effect: float = 0.02,
    mlps: bool = False,
    branches: int = 40,
    searched: float = 1 / 3,
) -> Graph:
    """Find the circuit of a task from its prompts alone, without stages (docs/discovery.md).

    The search goes back from the logits. It probes which inputs and positions matter to the heads found so far, and
    patches the heads below into those inputs one by one. What it finds on the first pairs is tested on the others.

    Args:
        model: What `et.load` returns.
        pairs: Base and source prompts; the nodes of the graph are heads at their named positions.
        effect: The smallest score worth keeping, as a share of the base run's, from 0.0001 to 0.9999.
        mlps: Let MLPs be nodes too. They do not become part of the circuit.
        branches: At most how many branches to open.
        searched: The share of the pairs to search on. Every edge is tested on the others.

    Returns:
        A Graph. `.circuit`: its groups. `.rows`: one per edge, with "node", "at", "into", "via", "score" and its
        interval, and "p_holm". `.branches`: what was probed, opened and closed, and why. `.sentences`: what each group
        does. `.scores`: "<branch>.score" [layer, head] and the like for every searched branch, "held_out"
        [edge, example].

    Raises:
        TaskError: An argument has the wrong type or value, or there are fewer than two pairs.
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
        accept = "probability_ratio, logit_difference or probability_difference"
        raise TaskError(f"pairs: scored by a function, which discovery does not support; accepted: {accept}")
    effect, searched = number(effect, "effect", 0.0001, 0.9999), number(searched, "searched", 0, 1)
    branches = whole_number(branches, "branches")
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    first = round(searched * len(examples))
    if not 0 < first < len(examples):
        found = f"{len(examples)} pairs with searched: {searched} leave none to search or to test on"
        raise TaskError(f"pairs: {found}; accepted: two or more pairs, with some for each")
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
