"""What a graph says, in sentences: of each group where it reads and what it writes to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnsight_et.core.errors import quantity
from nnsight_et.core.statistics import too_few
from nnsight_et.manifest import Discovery
from nnsight_et.methods.activation_patching.summary import ActivationPatchingSummary, PatchedGroup
from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary
from nnsight_et.methods.discovery.summary import DiscoverySummary, GroupOfNodes
from nnsight_et.results.headers import method_of, models_of, name_of
from nnsight_et.results.study import Study

LOOKS = 0.1  # the smallest share of attention that is mentioned

ENDS = ("whole", "heads")


def reads(summary: DiscoverySummary, group: GroupOfNodes) -> str:
    """Where the inputs of a group come from: "its query from last_2 at last; its value from the token at s1"."""
    found, whose = list[str](), "its" if len(group.nodes) == 1 else "their"
    owner = {(one.node, one.at): one.group for one in summary.nodes}
    for branch in summary.branches:
        if branch.into != group.name:
            continue
        sources = list(dict.fromkeys(owner[node, branch.at] for node in branch.found))
        whole, heads = (min((one.score for one in branch.probes if one.what == what), default=0.0) for what in ENDS)
        if whole <= -summary.effect and heads > whole / 2:
            sources.append("the token")
        elif not sources and whole <= -summary.effect:
            sources.append("no node that was found" if branch.open else "what was not searched")
        if sources:
            found.append(f"{whose} {branch.via} from {listed(sources)} at {branch.at}")
    return "; ".join(found) or ("nothing that was found" if _probed(summary, group) else "tokens alone")


def _probed(summary: DiscoverySummary, group: GroupOfNodes) -> bool:
    return any(branch.into == group.name for branch in summary.branches)


def writes(summary: DiscoverySummary, group: GroupOfNodes) -> str:
    """What the group's nodes act on: "the logits and the key of last_1"."""
    members = {(node, group.at) for node in group.nodes}
    ends = dict.fromkeys((edge.into, edge.via) for edge in summary.graph if (edge.node, edge.at) in members)
    return listed(["the logits" if via is None else f"the {via} of {into}" for into, via in ends])


def sentence(summary: DiscoverySummary, group: GroupOfNodes) -> str:
    """What a group of the graph does, read from its paths."""
    count = quantity(len(group.nodes), "head" if group.kind == "heads" else "MLP")
    verbs = ("reads", "writes") if len(group.nodes) == 1 else ("read", "write")
    who = f"{group.name}, {count} at {group.at}"
    return f"{who}, {verbs[0]} {reads(summary, group)}, and {verbs[1]} to {writes(summary, group)}."


def nothing_found(spec: Discovery, summary: DiscoverySummary) -> str:
    """What a search that found nothing has searched, how strictly it judged, and what to try."""
    first, more = summary.branches[0], sum(one.open for one in summary.branches) - 1
    searched = quantity(first.tested, "head or MLP", "heads and MLPs") if spec.mlps else quantity(first.tested, "head")
    further = f", and {quantity(more, 'further branch', 'further branches')} searched," if more else ""
    if summary.edges:
        tested = f"{quantity(len(summary.edges), 'edge')} tested on {summary.held_out_examples} held-out pairs"
        found = (
            f"{tested}, and none beyond chance leads to the logits, at an error rate of {spec.level:g} over all edges."
        )
    else:
        found = f"none has an effect of {spec.effect:g} of the base or more that is beyond chance, at an error rate of "
        found += f"{spec.level:g}, so that no edge was tested on held-out pairs."
    told = (
        f"Nothing found. {searched} patched into the logits{further} on {summary.examples} pairs of prompts: {found}",
        too_few(summary.held_out_examples, first.tested),
        f"To try: more pairs, a smaller effect{'' if spec.mlps else ', MLPs as well'}.",
    )
    return " ".join(filter(None, told))


def sentences(study: Study, names: Sequence[str]) -> Iterator[str]:
    """Of each group of these results' graphs what it does; if measured, where it looks, and what it carries.

    Of a search that found nothing, what it has searched.
    """
    for result in study.results:
        if method_of(result.header) != "discovery" or name_of(result.header) not in names:
            continue
        summary, spec = DiscoverySummary.read(result.header), result.header.job.spec
        if not summary.nodes and isinstance(spec, Discovery):
            yield nothing_found(spec, summary)
        on_it = [one.header for one in study.results if name_of(result.header) in one.header.job.needs]
        looks = [AttentionPatternsSummary.read(one) for one in on_it if method_of(one) == "attention_patterns"]
        patches = [ActivationPatchingSummary.read(one) for one in on_it if method_of(one) == "activation_patching"]
        patched = [row for one in patches[:1] for row in one.rows]
        for group in summary.groups:
            if group.nodes:
                said = [sentence(summary, group), *(_attention(one, group) for one in looks[:1])]
                rows = [row for row in patched if (row.model, row.group) == (models_of(result.header), group.name)]
                said.append(_carried(rows, group))
                yield " ".join(filter(None, said))


def _attention(looks: AttentionPatternsSummary, group: GroupOfNodes) -> str:
    """Where the group's heads look, on average over them."""
    rows = [row.weights for row in looks.rows if row.group == group.name]
    means = {column: sum(row[column] for row in rows) / len(rows) for column in looks.columns} if rows else {}
    told = sorted((-mean, column) for column, mean in means.items() if mean >= LOOKS)
    verb = "looks" if len(group.nodes) == 1 else "look"
    who = "It" if len(group.nodes) == 1 else "They"
    return f"{who} {verb} at {listed([f'{column} ({-mean:.2f})' for mean, column in told])}." if told else ""


def _carried(rows: Sequence[PatchedGroup], group: GroupOfNodes) -> str:
    """The variables whose answers the group brings along beyond chance, and how often; rows: what was patched."""
    one = len(group.nodes) == 1
    found = [
        f"{row.desideratum} (its answer on {row.mean:.2f} of prompts, {row.do_nothing:.2f} when nothing is patched)"
        for row in rows
        if _is_beyond(row)
    ]
    none = f"none of {listed([row.desideratum for row in rows])} by {'itself' if one else 'themselves'}"
    verb = "it carries" if one else "they carry"
    return f"Patched from another prompt, {verb} {listed(found) if found else none}." if rows else ""


def _is_beyond(row: PatchedGroup) -> bool:
    """Whether its interval is above that of patching nothing."""
    (low, _), (_, high) = row.mean_interval or (None, None), row.do_nothing_interval or (None, None)
    return low is not None and high is not None and low > high


def listed(names: Sequence[str]) -> str:
    """The names with commas, and an "and" before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
