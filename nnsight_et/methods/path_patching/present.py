"""What results of path patching are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.core.statistics import too_few
from nnsight_et.display.circuit_figures import StageView, colour_legend, drawn_circuit, heat_map
from nnsight_et.display.figures import FigureGroup
from nnsight_et.display.measurement import (
    TidyRow,
    all_heads,
    all_mlps,
    number_at,
    of_experiment,
    suffix_of_metric,
    tensors_of_group,
)
from nnsight_et.display.table import Table, number, several, signed_score, table_of
from nnsight_et.methods.path_patching.summary import KeptHead, MeanTest, PathPatchingSummary, StageRecord
from nnsight_et.results.headers import ResultHeader, metric_of, models_of, name_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def score_note(metric: Metric) -> str:
    """What a score is."""
    found = METRICS[metric]
    matter = f"{found.ranks}: the head mattered" + (" (paper §4.1)" if metric == DEFAULT_METRIC else "")
    return f"Score: mean of {found.effect} over the examples; {matter}."


STABLE = "Stability: mean overlap (Jaccard index) of the kept heads with those kept on resampled examples."


def headline(summary: PathPatchingSummary) -> str:
    """How many heads and MLPs were kept, and the strongest of them."""
    strongest = [f"{stage.kept[0].head} {stage.kept[0].score:+.3g}" for stage in summary.stages[:1] if stage.kept]
    heads = sum(len(group.heads) for group in summary.circuit.groups)
    mlps = sum(len(group.mlps) for group in summary.mlps)
    counted = [quantity(heads, "head"), *([quantity(mlps, "MLP")] if mlps else [])]
    return " ".join([" and ".join(counted), *(f"kept, the strongest {one}" for one in strongest)])


def tables(header: ResultHeader, summary: PathPatchingSummary) -> tuple[Table, ...]:
    """The circuit, kept MLPs, what is beyond chance, and where the kept were measured again, both their scores."""
    of_mlps = [stage for stage in summary.stages if stage.of_mlps]
    tables = [_circuit(header, summary)] if len(of_mlps) < len(summary.stages) else []
    if of_mlps:
        tables.append(_mlps(header, summary, of_mlps))
    if summary.test:
        tables.append(_beyond_chance(header, summary, summary.test))
    return (*tables, _held_out_table(header, summary)) if summary.held_out_examples else tuple(tables)


def _circuit(header: ResultHeader, summary: PathPatchingSummary) -> Table:
    """Per group its heads and their scores. A head that left a group for a later one is not in it."""
    members = {group.name: group.heads for group in summary.circuit.groups}
    rows, metric = list[dict[str, Any]](), metric_of(header)
    for stage in summary.stages:
        if not stage.of_mlps:
            rows.append(_row(stage, [one for one in stage.kept if one.head in members[stage.group]], metric))
    columns = {
        "group": "group",
        "at": "at",
        "heads": "count",
        "beyond chance": "beyond",
        "stability": "stability",
        "head and score": "heads",
    }
    about = [*_score_notes(header, summary, columns), STABLE, *_sharing(summary), *_ties(summary)]
    about += _screens(summary, of_mlps=False)
    note = " ".join([*about, *_doubts(summary, metric, of_mlps=False)])
    return table_of(header, f"circuit of {models_of(header)}", columns, rows, note)


def _mlps(header: ResultHeader, summary: PathPatchingSummary, stages: Sequence[StageRecord]) -> Table:
    """Per stage that patched MLPs those it kept, with their scores."""
    columns = {
        "group": "group",
        "at": "at",
        "MLPs": "count",
        "beyond chance": "beyond",
        "stability": "stability",
        "MLP and score": "heads",
    }
    about = "All an MLP adds to the residual at the position comes from the source run. MLPs are not in the circuit."
    rows = [_row(stage, stage.kept, metric_of(header)) for stage in stages]
    doubts = _doubts(summary, metric_of(header), of_mlps=True)
    note = " ".join([about, *_score_notes(header, summary, columns), *_screens(summary, of_mlps=True), *doubts])
    return table_of(header, f"MLPs of {models_of(header)}", columns, rows, note)


def _score_notes(header: ResultHeader, summary: PathPatchingSummary, columns: dict[str, str]) -> Iterator[str]:
    """What scores and stars are; where nothing was tested there are none, and no column of it."""
    yield score_note(metric_of(header))
    if summary.test:
        yield "*: beyond chance."
    else:
        del columns["beyond chance"]


def _row(stage: StageRecord, kept: Sequence[KeptHead], metric: Metric) -> dict[str, Any]:
    named = [f"{one.head} {signed_score(one.score, metric)}{'*' if one.beyond_chance else ''}" for one in kept]
    return {
        "group": stage.group,
        "at": stage.at,
        "stability": stage.stability,
        "count": len(kept),
        "beyond": sum(bool(one.beyond_chance) for one in kept),
        "heads": ", ".join(named),
    }


def _sharing(summary: PathPatchingSummary) -> Iterator[str]:
    """What was patched where query heads share keys and values, a sentence for each kind of stage there is."""
    sharing = summary.query_heads_per_kv_head
    if sharing == 1:
        return
    texts = {
        "shared": f"patching a receiver's key or value patches it for all {sharing} query heads that share it",
        "expanded": f"of the {sharing} query heads that share a key or value, only receivers see the patched one",
    }
    stages = [stage for stage in summary.stages if stage.via in ("key", "value")]
    for kind, text in texts.items():
        groups = [stage.group for stage in stages if stage.kv_heads == kind]
        if groups:
            yield f"{', '.join(groups)}: {text}."


def _ties(summary: PathPatchingSummary) -> Iterator[str]:
    """The heads that only rounding kept out of a stage, or out of its receivers, a sentence for each."""
    for stage in summary.stages:
        if stage.tied:
            yield f"Tied with the last kept head of {stage.group}, to within rounding: {several(stage.tied)}."
        if stage.tied_receivers:
            tied = several(stage.tied_receivers)
            yield f"Tied with the last receiver in {stage.into}, to within rounding: {tied}."


def _screens(summary: PathPatchingSummary, of_mlps: bool) -> Iterator[str]:
    """On how many prompts a screened stage measured what, and what it may miss, a few sentences for each."""
    for stage in (stage for stage in summary.stages if stage.of_mlps == of_mlps):
        if (screen := stage.screen) is None:
            continue
        noun, every = "MLP" if of_mlps else "head", quantity(summary.examples, "prompt")
        yield (
            f"{stage.group}: {quantity(screen.whole, noun)} measured on all {every}. {screen.left} were dropped "
            f"before; the probability that one of them should have been kept is at most {screen.miss:g}"
            + (f", if no prompt's effect exceeds {screen.tail:g} times" if screen.tail else "")
            + (f" the {noun}'s largest on the first {screen.first} prompts." if screen.tail else ".")
        )
        if screen.louder:
            yield f"{screen.louder} of the {screen.whole} did exceed that on a prompt, so dropped ones may have too."


def _doubts(summary: PathPatchingSummary, metric: Metric, of_mlps: bool) -> Iterator[str]:
    """Why a group has no heads, or only heads, or MLPs, that do not matter, a sentence for each."""
    members = {group.name: group.heads for group in summary.circuit.groups}
    for stage in (stage for stage in summary.stages if stage.of_mlps == of_mlps):
        best, noun = min(METRICS[metric].direction * one.score for one in stage.kept), "MLP" if of_mlps else "head"
        if not any(one.score for one in stage.kept):
            yield f"Every kept score of {stage.group} is 0: base and source are alike there, or nothing reads it."
        elif best >= 0:
            yield f"No {noun} of {stage.group} mattered: no score is below 0, and the lowest were kept."
        if not members.get(stage.group, [noun]):
            yield f"{stage.group} has no heads left: later stages at {stage.at} took them all. Raise its keep."


def _beyond_chance(header: ResultHeader, summary: PathPatchingSummary, test: MeanTest) -> Table:
    """Per stage how many of the tested heads are beyond chance, and which of them were not kept."""
    both = any(stage.of_mlps for stage in summary.stages)
    columns: dict[str, Callable[[StageRecord], Any]] = {
        "group": lambda stage: stage.group,
        "heads or MLPs tested" if both else "heads tested": lambda stage: stage.tested,
        "beyond chance": lambda stage: len(stage.beyond_chance),
        "by Benjamini-Hochberg": lambda stage: len(stage.beyond_chance_bh),
        "beyond chance, not kept": _not_kept,
    }
    note = (
        f"Beyond chance: over the examples, {test.statistic} is {test.alternative} by a one-sided test ({test.null}); "
        f"p is at most {test.level} after Holm's correction over everything that the stage tested."
    )
    most = max((stage.tested for stage in summary.stages), default=0)
    note = f"{note} {too_few(summary.examples, most)}".strip()
    return table_of(header, f"heads beyond chance in {models_of(header)}", columns, summary.stages, note)


def _not_kept(stage: StageRecord) -> str:
    kept = {one.head for one in stage.kept}
    return " ".join(head for head in stage.beyond_chance if head not in kept) or "–"


def _held_out_table(header: ResultHeader, summary: PathPatchingSummary) -> Table:
    """The kept heads' scores where they were selected and on examples that had no say in it."""
    metric = metric_of(header)
    kept = [(stage.group, one, again) for stage in summary.stages for one in stage.kept if (again := one.held_out)]
    rows = [
        {
            "group": group,
            "head": one.head,
            "selected": _score((one.score, one.low, one.high), metric),
            "held_out": _score(again, metric),
            "shift": signed_score(again[0] - one.score, metric),
        }
        for group, one, again in kept
    ]
    columns = {"group": "group", "head": "head", "selected": "selected", "held out": "held_out", "difference": "shift"}
    note = (
        f"Scores with 95% intervals: on the {summary.examples} examples used for selection, and on "
        f"{summary.held_out_examples} held-out examples. Mean: {_mean([one.score for _, one, _ in kept], metric)} and "
        f"{_mean([again[0] for *_, again in kept], metric)}."
    )
    return table_of(header, f"kept heads of {models_of(header)} on held-out examples", columns, rows, note)


def _score(found: tuple[float, float | None, float | None], metric: Metric) -> str:
    score, *bounds = ("–" if one is None else signed_score(one, metric) for one in found)
    return f"{score} [{', '.join(bounds)}]"


def _mean(scores: Sequence[float], metric: Metric) -> str:
    mean = sum(scores) / len(scores)
    return number(mean, 3) if metric == DEFAULT_METRIC else signed_score(mean, metric)


def figures(result: MethodResult[PathPatchingSummary], study: Study) -> tuple[FigureGroup, ...]:
    """The circuit, and a heat map per stage."""
    header, summary, metric = result.header, result.summary, metric_of(result.header)
    stages = [view_of(stage) for stage in summary.stages]
    panels = tuple(heat_map(stage, result.scores, metric, summary.circuit) for stage in stages)
    title = f"{'Circuit' if summary.circuit.groups else 'Paths'} of {models_of(header)}"
    scores = f"Patching scores in {models_of(header)}, stage by stage"
    return (
        drawn_circuit(result, stages, summary.circuit, title, summary.mlps),
        FigureGroup(f"{name_of(header)}-scores", scores, colour_legend(metric, panels), panels),
    )


def view_of(stage: StageRecord) -> StageView:
    """The stage as figures show it."""
    return StageView(
        group=stage.group,
        into=stage.into,
        via=stage.via,
        at=stage.at,
        of_mlps=stage.of_mlps,
        kept={one.head: one.score for one in stage.kept},
        beyond_chance=frozenset(stage.beyond_chance),
    )


def metrics(result: MethodResult[PathPatchingSummary]) -> Iterator[TidyRow]:
    """Per stage: how many heads were tested, kept and beyond chance, how stable the kept are, p_base and LD or PD."""
    for stage in result.summary.stages:
        place = replace(of_experiment(result.header), group=stage.group, at=stage.at)
        yield place.of("tested", stage.tested)
        yield place.of("stability", stage.stability)
        yield place.of("base_probability", stage.base_probability)
        if stage.base_logit_difference is not None:
            yield place.of("base_logit_difference", stage.base_logit_difference)
        if stage.base_probability_difference is not None:
            yield place.of("base_probability_difference", stage.base_probability_difference)
        yield place.of("kept", len(stage.kept))
        yield place.of("beyond_chance", len(stage.beyond_chance))


def heads(result: MethodResult[PathPatchingSummary]) -> Iterator[TidyRow]:
    """Per stage and head, or MLP: the patching score with interval and p-value, and what else there is of its effect.

    What is of another metric than the paper's has it in its name: patching_score_kl.
    """
    suffix = suffix_of_metric(result.header)
    for stage in result.summary.stages:
        tensors = tensors_of_group(result, stage.group)
        condition = f"into {stage.into}" + (f" via {stage.via}" if stage.via else "")
        place = replace(of_experiment(result.header), group=stage.group, at=stage.at, condition=condition)
        kept = {one.head for one in stage.kept}
        all_parts = all_mlps if stage.of_mlps else all_heads
        for head in all_parts(tensors["score"]):
            reached = bool(tensors["reach"][head])
            one = replace(place.at_head(head), kept=str(head) in kept, reached=reached)
            yield from _of_score(one, {name: number_at(values, head) for name, values in tensors.items()}, suffix)
            if "prompts" in tensors:
                yield one.of("prompts_measured", tensors["prompts"][head].item())


def _of_score(head: TidyRow, values: dict[str, float | None], suffix: str) -> Iterator[TidyRow]:
    score = head.of(f"patching_score{suffix}", values["score"], (values["low"], values["high"]), values["p"])
    yield replace(score, p_adjusted=values["p_holm"])
    left = "prompts" in values and values["score"] is None
    for name in () if left else BESIDE_IT:
        if name in values:
            yield head.of(name if name == "selection_frequency" else f"{name}{suffix}", values[name])
    if (again := values.get("held_out_score")) is not None:
        name, bounds = f"held_out_patching_score{suffix}", (values["held_out_low"], values["held_out_high"])
        yield head.of(name, again, bounds)


BESIDE_IT = ("median", "largest", "log_ratio", "selection_frequency")  # beside the patching score
