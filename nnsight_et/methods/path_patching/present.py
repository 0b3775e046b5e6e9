"""What results of path patching are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnsight_et.core.named_metrics import METRICS, PAPERS, Metric, too_few
from nnsight_et.display.circuit_figures import drawn_circuit, heat_map, shown
from nnsight_et.display.figures import (
    Plate,
)
from nnsight_et.display.measurement import (
    Measurement,
    all_heads,
    all_mlps,
    number_at,
    of_experiment,
    suffix_of_metric,
    tensors_of_group,
)
from nnsight_et.display.table import (
    Table,
    number,
    several,
    signed,
    table_of,
)
from nnsight_et.results.headers import ResultHeader, metric_of, models_of, name_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def score_note(metric: Metric) -> str:
    """What a score is."""
    found = METRICS[metric]
    matter = f"{found.ranks}: the head mattered" + (" (paper §4.1)" if metric == PAPERS else "")
    return f"Score: mean of {found.effect} over the examples; {matter}."


STABLE = "Stability: mean Jaccard index of the kept heads with those that resampled examples would keep."


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """The circuit, kept MLPs, what is beyond chance, and where the kept were measured again, both their scores."""
    of_mlps = [stage for stage in header.summary["stages"] if are_mlps(stage)]
    tables = [_circuit(header)] if len(of_mlps) < len(header.summary["stages"]) else []
    if of_mlps:
        tables.append(_mlps(header, of_mlps))
    if header.summary["test"]:
        tables.append(_beyond_chance(header))
    return (*tables, _held_out(header)) if header.summary["held_out_examples"] else tuple(tables)


def are_mlps(stage: Mapping[str, Any]) -> bool:
    """Whether a stage patched MLPs; results of before there were any say nothing of it."""
    return stage.get("senders") == "mlps"


def _circuit(header: ResultHeader) -> Table:
    """Per group its heads and their scores. A head that left a group for a later one is not in it."""
    members = {group["name"]: group["heads"] for group in header.summary["circuit"]["groups"]}
    rows, metric = [], metric_of(header)
    for stage in header.summary["stages"]:
        if not are_mlps(stage):
            rows.append(_row(stage, [one for one in stage["kept"] if one["head"] in members[stage["group"]]], metric))
    columns = {
        "group": "group",
        "at": "at",
        "heads": "count",
        "beyond chance": "beyond",
        "stability": "stability",
        "head and score": "heads",
    }
    note = " ".join([*_scored(header, columns), STABLE, *_sharing(header), *_ties(header)])
    return table_of(header, f"circuit of {models_of(header)}", columns, rows, note)


def _mlps(header: ResultHeader, stages: Sequence[Mapping[str, Any]]) -> Table:
    """Per stage that patched MLPs those it kept, with their scores."""
    columns = {
        "group": "group",
        "at": "at",
        "MLPs": "count",
        "beyond chance": "beyond",
        "stability": "stability",
        "MLP and score": "heads",
    }
    about = "All an MLP adds to the residual at the position is the source's. MLPs belong to no circuit."
    rows = [_row(stage, stage["kept"], metric_of(header)) for stage in stages]
    note = " ".join([about, *_scored(header, columns)])
    return table_of(header, f"MLPs of {models_of(header)}", columns, rows, note)


def _scored(header: ResultHeader, columns: dict[str, str]) -> Iterator[str]:
    """What scores and stars are; where nothing was tested there are none, and no column of it."""
    yield score_note(metric_of(header))
    if header.summary["test"]:
        yield "*: beyond chance."
    else:
        del columns["beyond chance"]


def _row(stage: Mapping[str, Any], kept: Sequence[Mapping[str, Any]], metric: Metric) -> dict[str, Any]:
    beyond = [bool(one["beyond_chance"]) for one in kept]
    scores = [signed(one["score"], metric) for one in kept]
    named = [f"{one['head']} {score}{'*' * star}" for one, score, star in zip(kept, scores, beyond, strict=True)]
    found = {"count": len(kept), "beyond": sum(beyond), "heads": ", ".join(named)}
    return {key: stage[key] for key in ("group", "at", "stability")} | found


def _sharing(header: ResultHeader) -> Iterator[str]:
    """What was patched where query heads share keys and values, a sentence for each kind of stage there is."""
    sharing = header.summary["query_heads_per_kv_head"]
    if sharing == 1:
        return
    sharing = sharing or "(not recorded how many)"
    texts = {
        "shared": f"a receiver's key or value is that of its {sharing} query heads together",
        "expanded": f"of the {sharing} query heads that share a key or value the receivers alone see it patched",
    }
    stages = [stage for stage in header.summary["stages"] if stage["via"] in ("key", "value")]
    for kind, text in texts.items():
        groups = [stage["group"] for stage in stages if stage["kv_heads"] == kind]
        if groups:
            yield f"{', '.join(groups)}: {text}."


def _ties(header: ResultHeader) -> Iterator[str]:
    """The heads that only rounding kept out of a stage, or out of its receivers, a sentence for each."""
    for stage in header.summary["stages"]:
        if stage.get("tied"):
            yield f"Tied with the last kept head of {stage['group']}, to within rounding: {several(stage['tied'])}."
        if stage.get("tied_receivers"):
            tied = several(stage["tied_receivers"])
            yield f"Tied with the last receiver in {stage['into']}, to within rounding: {tied}."


def _beyond_chance(header: ResultHeader) -> Table:
    """Per stage how many of the tested heads are beyond chance, and which of them were not kept."""
    rows = []
    for stage in header.summary["stages"]:
        kept = {one["head"] for one in stage["kept"]}
        others = [head for head in stage["beyond_chance"] if head not in kept]
        counts = {"holm": len(stage["beyond_chance"]), "bh": len(stage["beyond_chance_bh"])}
        rows.append({"group": stage["group"], "tested": stage["tested"], "others": " ".join(others) or "–"} | counts)
    both = any(are_mlps(stage) for stage in header.summary["stages"])
    columns = {
        "group": "group",
        "heads or MLPs tested" if both else "heads tested": "tested",
        "beyond chance": "holm",
        "by Benjamini-Hochberg": "bh",
        "beyond chance, not kept": "others",
    }
    test = header.summary["test"]
    note = (
        f"Beyond chance: {test['statistic']} is {test['alternative']}, by {test['null']} over the examples, one-sided; "
        f"p at most {test['level']} after Holm's correction over all that the stage tested."
    )
    most = max((stage["tested"] for stage in header.summary["stages"]), default=0)
    note = f"{note} {too_few(header.summary['examples'], most, test['level'])}".strip()
    return table_of(header, f"heads beyond chance in {models_of(header)}", columns, rows, note)


def _held_out(header: ResultHeader) -> Table:
    """The kept heads' scores where they were selected and on examples that had no say in it."""
    metric = metric_of(header)
    rows = [
        {
            "group": stage["group"],
            "head": one["head"],
            "selected": _score(one, "", metric),
            "held_out": _score(one, "held_out_", metric),
            "shift": signed(one["held_out_score"] - one["score"], metric),
        }
        for stage in header.summary["stages"]
        for one in stage["kept"]
    ]
    columns = {"group": "group", "head": "head", "selected": "selected", "held out": "held_out", "difference": "shift"}
    kept = [one for stage in header.summary["stages"] for one in stage["kept"]]
    note = (
        f"Scores with 95% bootstrap intervals: on the {header.summary['examples']} examples that selected the heads, "
        f"and on {header.summary['held_out_examples']} of another split. Mean: {_mean(kept, 'score', metric)} and "
        f"{_mean(kept, 'held_out_score', metric)}."
    )
    return table_of(header, f"kept heads of {models_of(header)} on held-out examples", columns, rows, note)


def _score(head: Mapping[str, Any], prefix: str, metric: Metric) -> str:
    score, low, high = (signed(head[f"{prefix}{name}"], metric) for name in ("score", "low", "high"))
    return f"{score} [{low}, {high}]"


def _mean(heads: Sequence[Mapping[str, Any]], key: str, metric: Metric) -> str:
    mean = sum(head[key] for head in heads) / len(heads)
    return number(mean, 3) if metric == PAPERS else signed(mean, metric)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """The circuit, and a heat map per stage."""
    header = result.header
    stages = header.summary["stages"]
    metric = metric_of(header)
    circuit, mlps = header.summary["circuit"], header.summary.get("mlps", ())
    panels = tuple(heat_map(stage, result.scores, metric, circuit) for stage in stages)
    title = f"{'Circuit' if circuit['groups'] else 'Paths'} of {models_of(header)}"
    scores = f"Patching scores in {models_of(header)}, stage by stage"
    return (
        drawn_circuit(result, stages, circuit, title, mlps),
        Plate(f"{name_of(header)}-scores", scores, shown(metric, panels), panels),
    )


def metrics(result: Result) -> Iterator[Measurement]:
    """Per stage: how many heads were tested, kept and beyond chance, how stable the kept are, p_base and LD or PD."""
    for stage in result.header.summary["stages"]:
        place = replace(of_experiment(result.header), group=stage["group"], at=stage["at"])
        for name in ("tested", "stability", "base_probability", f"base_{metric_of(result.header)}"):
            if name in stage:
                yield place.of(name, stage[name])
        for name in ("kept", "beyond_chance"):
            yield place.of(name, len(stage[name]))


def heads(result: Result) -> Iterator[Measurement]:
    """Per stage and head, or MLP: the patching score with interval and p-value, and what else there is of its effect.

    What is of another metric than the paper's has it in its name: patching_score_kl.
    """
    suffix = suffix_of_metric(result.header)
    for stage in result.header.summary["stages"]:
        tensors = tensors_of_group(result, stage["group"])
        condition = f"into {stage['into']}" + (f" via {stage['via']}" if stage["via"] else "")
        place = replace(of_experiment(result.header), group=stage["group"], at=stage["at"], condition=condition)
        kept = {one["head"] for one in stage["kept"]}
        all_parts = all_mlps if stage.get("senders") == "mlps" else all_heads
        for head in all_parts(tensors["score"]):
            reached = bool(tensors["reach"][head])
            one = replace(place.at_head(head), kept=str(head) in kept, reached=reached)
            yield from _of_score(one, {name: number_at(values, head) for name, values in tensors.items()}, suffix)


def _of_score(head: Measurement, values: dict[str, float | None], suffix: str) -> Iterator[Measurement]:
    score = head.of(f"patching_score{suffix}", values["score"], (values["low"], values["high"]), values["p"])
    yield replace(score, p_adjusted=values["p_holm"])
    for name in BESIDE_IT:
        if name in values:
            yield head.of(name if name == "selection_frequency" else f"{name}{suffix}", values[name])
    if (again := values.get("held_out_score")) is not None:
        name, bounds = f"held_out_patching_score{suffix}", (values["held_out_low"], values["held_out_high"])
        yield head.of(name, again, bounds)


BESIDE_IT = ("median", "largest", "log_ratio", "selection_frequency")  # beside the patching score
