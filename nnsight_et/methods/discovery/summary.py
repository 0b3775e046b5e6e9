"""What the summary of a discovery says: a graph of nodes and edges, and every branch with what became of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from nnsight_et.results.records import CircuitRecord, MlpGroupRecord, Record
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Summary

Via = Literal["query", "key", "value", "input"]
Why = Literal["logits", "effect", "sampled", "nothing", "token", "layer 0", "branches", "budget"]
TENSORS = {
    "score": (
        ("layer", "head"),
        "Mean effect over the examples it was run on; NaN where on none, 0 where out of reach.",
    ),
    "per_example": (("layer", "head", "example"), "Effect on each example; NaN where the sender was not run on it."),
    "reach": (("layer", "head"), "Whether it can reach the end of the path."),
    "p": (
        ("layer", "head"),
        "One-sided p-value; 1 where the first examples rule an effect out, NaN where out of reach.",
    ),
    "p_bh": (
        ("layer", "head"),
        "The same after Benjamini and Hochberg's correction over the branch, when it was run last.",
    ),
}
"""Of each branch that was searched; of MLPs there is one head in a layer."""
OPEN: tuple[Why, ...] = ("logits", "effect", "sampled")
"""The reasons for which a branch is searched."""


class ProbeRecord(Record):
    """One run in which an input of a whole group is replaced."""

    what: Literal["whole", "heads", "half"]
    """What arrives: all of the source's input, what all heads below write of it, or what half of them do."""
    score: float
    """Mean effect over the search's examples."""
    p: float
    """One-sided p-value."""


class BranchRecord(Record):
    """A group, one of its inputs, and a position it can come from."""

    name: str
    """What its tensors' names begin with: logits, or group, input and position."""
    into: str
    """The group; or logits."""
    via: Via | None
    """Which input; null for logits."""
    at: str
    """The position of its senders."""
    why: Why
    """Why it was searched: logits, effect, sampled; or not: nothing (no probe has an effect), token (no head carries
    what arrives), layer 0 (no sender below), branches or budget (as many were opened)."""
    probes: list[ProbeRecord]
    """What was probed before; empty for logits."""
    halves: int = 0
    """How many halves of layers were patched at once before."""
    cleared: int = 0
    """How many of these move no answer, so that their heads are not patched one by one."""
    sampled: list[str] = Field(default_factory=list[str])
    """The heads of one of these, drawn at random, that were patched one by one all the same."""
    tested: int = 0
    """How many senders were patched one by one."""
    candidates: list[str] = Field(default_factory=list[str])
    """Those that were measured again on held-out examples, the strongest first."""
    found: list[str] = Field(default_factory=list[str])
    """Those of them whose edge is in the graph."""

    @property
    def open(self) -> bool:
        """Whether its senders were patched one by one."""
        return self.why in OPEN


class EdgeRecord(Record):
    """An edge that was tested: from a node into a group, or the logits. Scores are of the metric's effect."""

    node: str
    """The head or MLP, such as L9H3."""
    at: str
    """Its position."""
    into: str
    """The group it goes into; or logits."""
    via: Via | None
    """Through which input; null for logits."""
    score: float
    """Mean effect over the held-out examples."""
    low: float
    """Low end of its 95% interval."""
    high: float
    """High end of it."""
    p: float
    """One-sided p-value on the held-out examples."""
    p_holm: float
    """The same after Holm's correction over all edges of the search."""
    search_score: float
    """Mean effect over the examples that were searched on."""
    frequency: float
    """Share of resamples of these whose score is at least the effect worth keeping."""
    in_graph: bool
    """Whether it is beyond chance with a score below 0, and leads to the logits over edges that are."""


class NodeRecord(Record):
    """A head or MLP at a position."""

    node: str
    """Its name, such as L9H3."""
    at: str
    """Its position."""
    group: str
    """The group it acts in."""


class GroupOfNodes(Record):
    """Nodes that react alike."""

    name: str
    """The position, and which of the groups there it is, from the logits back."""
    at: str
    """The position."""
    kind: Literal["heads", "mlps"]
    """What its nodes are."""
    round: int
    """In which round it was found, 1 being what acts on the logits."""
    nodes: list[str]
    """Those in the graph, that with the strongest edge first."""
    dropped: list[str]
    """Those that were searched into, and whose own edges are not beyond chance on held-out examples."""
    profiles: dict[str, list[float]]
    """Node -> what it loses when an input is the source's as a whole, branch by branch, as a share of the base.

    Measured on a part of the search's examples, cut off at -1 and 1; empty for heads of layer 0.
    """


class ClosedSample(Record):
    """What the closed branches, or cleared halves, that were searched all the same say of the others."""

    closed: int
    """How many there were: branches when the sample was drawn, halves in all."""
    searched: int
    """How many of them were searched."""
    found: int
    """How many of these have an edge in the graph."""
    low: float | None
    """Low end of Wilson's 95% interval of the share; null where none was searched."""
    high: float | None
    """High end of it."""


class CostRecord(Record):
    """What the search cost, in tokens times layers, by formula."""

    search: int
    """Patching senders one by one on the search's examples."""
    probes: int
    """All probes."""
    held_out: int
    """Measuring the candidates again."""
    exhaustive: int
    """What patching all senders of all branches of the same groups costs, on as many examples as test an edge."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.search + self.probes + self.held_out


class DiscoverySummary(Summary):
    """The graph that was found, and how."""

    scores: ClassVar = (
        *(
            ScoreTensor(f"{{name}}{kind}.{name}", axes, what, "branches", always=False)
            for kind in ("", ".mlps")
            for name, (axes, what) in TENSORS.items()
        ),
        ScoreTensor("{name}.probes", ("probe", "example"), "Effect of each of its probes.", "branches", always=False),
        ScoreTensor(
            "{name}.halves", ("half", "first_example"), "Effect of halves of layers at once.", "branches", always=False
        ),
        ScoreTensor(
            "{name}.in_half", ("layer", "head"), "Which of these a head is in; else NaN.", "branches", always=False
        ),
        ScoreTensor("held_out", ("edge", "held_out_example"), "Effects of the summary's edges, in their order."),
        ScoreTensor("base", ("example",), "Probability of the answer in the base run, from 0 to 1."),
        ScoreTensor("base_value", ("example",), "What another metric compares, in the base run.", always=False),
    )

    circuit: CircuitRecord
    """The groups of heads."""
    mlps: list[MlpGroupRecord]
    """The groups of MLPs, which are in no circuit."""
    groups: list[GroupOfNodes]
    """All groups that were searched into, from the logits back; those without nodes fell on held-out examples."""
    nodes: list[NodeRecord]
    """The nodes of the graph."""
    edges: list[EdgeRecord]
    """Every edge that was tested on held-out examples."""
    branches: list[BranchRecord]
    """Every branch of every group, in the order of the search."""
    ended: Literal["nothing more", "branches", "budget"]
    """Why the search ended."""
    closed_sample: ClosedSample
    """How many closed branches hide something, judged by a sample."""
    cleared_sample: ClosedSample
    """How many cleared halves of layers do, judged by one of each open branch."""
    stability: float | None
    """Mean Jaccard index of the senders with an effect with those of resampled examples; null where there is none."""
    cost: CostRecord
    """What it cost."""
    examples: int
    """How many examples were searched on."""
    held_out_examples: int
    """How many tested the edges."""
    base: float
    """The answer's probability in the base run, or the mean of the metric's difference, on the search's examples."""
    effect: float
    """The least score worth keeping, in the unit of scores there: at most minus this."""

    @property
    def graph(self) -> list[EdgeRecord]:
        """The edges of the graph."""
        return [edge for edge in self.edges if edge.in_graph]
