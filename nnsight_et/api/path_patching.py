"""Path patching (§4.1) of pairs of prompts: a score per head, or per MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from nnsight_et.api.arguments import check_name, check_setting, whole_number
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import SEED, Finding
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.batch import Example, collate
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup, Mlp, as_part, part, transformer_lens_place
from nnsight_et.core.errors import ExperimentError, TaskError, brief, quantity
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.core.statistics import LEVEL, too_few
from nnsight_et.display.circuit_figures import StageView, colour_legend, heat_map
from nnsight_et.display.figures import FigureGroup
from nnsight_et.engine.paths import End
from nnsight_et.engine.readout import ReadoutSpec
from nnsight_et.interventions.path_patching import Path
from nnsight_et.manifest import PathPatching, Stage
from nnsight_et.measuring.missing_scores import without_score
from nnsight_et.measuring.stage_scores import ranking, stage_scores
from nnsight_et.methods.path_patching.experiment import patched_paths

Order = Literal["score", "size"]
KEPT = {"head": 10, "MLP": 3}
"""How many are kept if nobody says, where there are as many."""
SHORT: dict[Metric, str] = {"logit_difference": "LD", "probability_difference": "PD"}


@dataclass(frozen=True, repr=False)
class PatchingScores(Finding):
    """What `et.path_patch` and `et.path_patch_mlps` return: scores of all heads, or all MLPs, at one position.

    rows: the heads or MLPs that can reach the end of the path, those that matter most first: the most negative scores,
    or for metric kl the largest.
    """

    path: Path = field(default_factory=lambda: Path("last"))
    kept: tuple[Component, ...] = ()
    """The `keep` heads or MLPs that matter most, in that order."""

    @property
    def values(self) -> Tensor:
        """[layer, head], of MLPs [layer, 1]: the scores; exactly 0 where the end of the path cannot be reached."""
        return self.scores["score"]

    @property
    def circuit(self) -> Circuit:
        """The kept heads as a circuit of one group. Scores are accepted wherever a circuit is."""
        return Circuit((self.group(f"heads at {self.path.at}"),))

    def to_transformer_lens(self) -> list[dict[str, Any]]:
        """The rows' scores under TransformerLens' names, in their order: "hook", "head" (None of MLPs) and "score".

        A score of a head is of its output, `hook_z` (docs/howto/other_tools.md).
        """
        named = ((transformer_lens_place(part(row["head"])), row["score"]) for row in self.rows)
        return [{"hook": hook, "head": head, "score": score} for (hook, head), score in named]

    def top(self, count: int = 10, by: Order = "score") -> tuple[Component, ...]:
        """The `count` that matter most, or all if there are fewer; `path_patch(..., into=...)` takes them.

        by: "score", as in `rows`, or "size", the largest effect of either sign: heads that work against the answer too.
        """
        count = whole_number(count, "count", 1)
        check_name(by, "by", get_args(Order))
        rows = self.rows if by == "score" else sorted(self.rows, key=lambda row: -abs(row["score"]))
        return tuple(part(row["head"]) for row in rows[:count])

    def group(self, name: str, count: int | None = None) -> HeadGroup:
        """The top `count` heads, or those kept, as a group of a circuit; TaskError if they are MLPs, or fewer."""
        chosen = self.kept if count is None else self.top(whole_number(count, "count", 1))
        if count is not None and len(chosen) < count:
            raise TaskError(f"count: {count}, but {len(chosen)} were measured; accepted: 1 to {len(chosen)}")
        if self.path.senders == "mlps":
            raise TaskError(
                f"group {name}: {', '.join(map(str, chosen))}; accepted: heads, since a circuit consists of heads"
            )
        return HeadGroup(name, self.path.at, tuple(Head(*head) for head in chosen))


def path_patch(
    model: LoadedModel,
    pairs: Pairs,
    at: str = "last",
    into: str | HeadGroup | Iterable[Component | str] = "logits",
    via: End | None = None,
    keep: int | None = None,
) -> PatchingScores:
    """Measure how much each head matters to the answer, or to other heads: path patching (§4.1).

    In the base run, one head's output at `at` is replaced by its output in the source run, and the change reaches
    only `into`. The score is the mean over pairs of (p_patched - p) / p, where p is the answer's probability in the
    base run. A negative score means that the head mattered. `pairs.scored_by(...)` chooses another metric
    (docs/methods.md), or a function of logits. Scores of "kl" are 0 or more, with the largest first, and have no
    p-values.

    Args:
        model: What `et.load` returns.
        pairs: Base and source prompts, and the base's answers.
        at: The named position at which heads are patched. Must be "last" if `into` is the logits.
        into: "logits", or receivers: heads such as scores.top(5), a group or ["L4H0"], or MLPs such as ["L3MLP"].
        via: The input of the receivers that is patched: "query", "key" or "value"; for MLPs "input".
        keep: How many heads to keep; `group(name)` makes a group of them. None: 10, or all if fewer can reach `into`.

    Returns:
        PatchingScores. `.values`: the scores [layer, head], as a share of p; exactly 0 where `into` cannot be reached.
        `.rows`: one per head, the most negative first, with the score's 95% interval, the p-value of a t test, and
        p_holm, corrected for all heads. `.scores`: the same as tensors, and "per_example" [layer, head, example].

    Raises:
        TaskError: An argument has the wrong type or value, or does not fit the model or the prompts.
        ExperimentError: A score does not exist because the answer's probability is 0, or a self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> model, pairs = et.load("llama-tiny", device="cpu"), et.Pairs.boxes(8)
        >>> scores = et.path_patch(model, pairs, keep=2)
        >>> scores.top(2)
        (L5H0, L5H2)
        >>> et.path_patch(model, pairs, into=scores.kept, via="query").values.shape
        torch.Size([6, 8])
    """
    _check(model, pairs, at, into)
    return _measure_scores(model, pairs, Path(at, via, _receivers(model, into, via)), keep)


def path_patch_mlps(
    model: LoadedModel,
    pairs: Pairs,
    at: str = "last",
    into: str | HeadGroup | Iterable[Component | str] = "logits",
    via: End | None = None,
    keep: int | None = None,
) -> PatchingScores:
    """Measure how much each MLP matters, like `path_patch` for heads (docs/methods.md).

    At `at`, everything that one MLP adds to the residual comes from the source run. Arguments, result and errors are
    those of `path_patch`, but `.values` is [layer, 1], and `keep=None` means 3. Kept MLPs can be receivers of
    `path_patch`, via "input". They do not become part of a circuit.

    Examples:
        >>> import nnsight_et as et
        >>> model, pairs = et.load("llama-tiny", device="cpu"), et.Pairs.boxes(4)
        >>> mlps = et.path_patch_mlps(model, pairs, keep=1)
        >>> mlps.values.shape, et.path_patch(model, pairs, into=mlps.kept, via="input").values.shape
        (torch.Size([6, 1]), torch.Size([6, 8]))
    """
    _check(model, pairs, at, into)
    return _measure_scores(model, pairs, Path(at, via, _receivers(model, into, via), senders="mlps"), keep)


def _check(model: LoadedModel, pairs: Pairs, at: str, into: object) -> None:
    check_setting(model, pairs)
    pairs.check_position(at, "at")
    if isinstance(into, str) and into == "logits" and at != "last":
        raise TaskError(f"at: {at!r}, but the logits are read at last; accepted: last, or into= heads there")


def _measure_scores(model: LoadedModel, pairs: Pairs, path: Path, keep: int | None) -> PatchingScores:
    senders = path.reaching(model.shape.n_layers, model.shape.n_heads, model.shape.parallel)
    kind = "MLP" if path.senders == "mlps" else "head"
    if not senders:
        raise TaskError(
            f"into: no {kind} can reach it, because all of it is in layer 0; accepted: heads or MLPs of later layers"
        )
    keep = min(KEPT[kind], len(senders)) if keep is None else whole_number(keep, "keep", 1)
    if keep > len(senders):
        found = f"{quantity(keep, kind)}, but {len(senders)} can reach {'the logits' if path.via is None else 'into'}"
        raise TaskError(f"keep: {found}; accepted: 1 to {len(senders)}")
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    known = model.collect_notices(examples)
    stage = Stage(group="found", into="logits", via=path.via, at=path.at, senders=path.senders, keep=keep)
    spec = PathPatching(
        method="path_patching",
        model=model.name,
        examples=len(examples),
        metric=DEFAULT_METRIC if pairs.metric == "function" else pairs.metric,
        stages=(stage,),
    )
    if pairs.function:
        _try_metric(model, pairs.function, examples)
    with experimenting("path_patch", spec, [model], {"": examples}, metric=pairs.function) as run:
        found = run.values(patched_paths(run.context, run.job, path, senders, "found", examples))
    if have := without_score(found, pairs.metric, examples, model.tokenizer):
        accept = 'prompts whose answer has some probability, or load(dtype="float64")'
        raise ExperimentError(f"pairs: {have}; accepted: {accept}")
    scores = stage_scores(found, senders, model.shape, keep, SEED, pairs.metric)
    ranked = ranking(scores["score"], senders, pairs.metric)
    scored = _finding(model, path, tuple(ranked[:keep]), ranked, scores, pairs.metric)
    return replace(scored, notices=known, self_check=run.self_check)


def _try_metric(model: LoadedModel, metric: Callable[[Tensor, Any], Tensor], examples: list[Example]) -> None:
    """Raise TaskError unless the function makes one number a prompt of made-up logits."""
    if any(example.further for example in examples):
        raise TaskError("metric: a function cannot score answers of several tokens; accepted: answers of one token")
    pair = replace(collate(examples[:3]), metric="function", function=metric).to(model.model.device)
    size = len(pair.right), model.shape.vocabulary  # no random ones: the caller's draws stay what they are
    logits = torch.linspace(-1, 1, size[0] * size[1], device=model.model.device).view(size)
    found: Any = metric(logits, ReadoutSpec.of(pair, logits))
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        got = f"found a tensor {list(found.shape)}" if isinstance(found, Tensor) else brief(found)
        accept = f"a tensor with one number per prompt, {list(logits.shape[:1])}"
        raise TaskError(f"metric: {got} for logits {list(logits.shape)}; accepted: {accept}")


def _finding(
    model: LoadedModel,
    path: Path,
    kept: tuple[Component, ...],
    ranked: list[Component],
    scores: dict[str, Tensor],
    metric: Metric,
) -> PatchingScores:
    end = quantity(len(path.receivers), "MLP" if path.via == "input" else "head") if path.via else "logits"
    name = f"{'MLPs' if path.senders == 'mlps' else 'heads'} at {path.at}"
    rows = tuple(_row(head, scores, head in kept) for head in ranked)
    best = {row["head"]: row["score"] for row in rows if row["kept"]}
    beyond = {row["head"] for row in rows if row["p_holm"] <= LEVEL}
    stage = StageView(name, end, path.via, path.at, path.senders == "mlps", best, beyond)
    panel = heat_map(stage, {f"{name}.{key}": tensor for key, tensor in scores.items()}, metric)
    title = f"Patching scores in {model.name}: {panel.title}"
    plate = FigureGroup("scores", title, colour_legend(metric, [panel]), (replace(panel, title=title),))
    base = scores["base"].double()
    effect = "(p_patched - p) / p" if metric == DEFAULT_METRIC else METRICS[metric].effect
    note = f"Mean of {effect} over {quantity(len(base), 'pair')}; in the base run p is {base.mean():.3f} on average."
    if "base_value" in scores and metric in SHORT:
        note += f" {SHORT[metric]} is {scores['base_value'].double().mean():.3f} there."
    against = max(rows, key=lambda row: row["score"])
    if metric != "kl" and against["score_interval"][0] > 0:
        note += f' The strongest against the answer is {against["head"]}: {against["score"]:+.3f} (top(by="size")).'
    few = too_few(len(base), len(rows)) if METRICS[metric].statistic else ""
    return PatchingScores(title, rows, (plate,), f"{note} {few}".strip(), scores, path=path, kept=kept)


def _row(head: Component, scores: dict[str, Tensor], kept: bool) -> dict[str, Any]:
    found = {name: scores[name][head].item() for name in ("score", "low", "high", "median", "p", "p_holm")}
    interval = [found.pop("low"), found.pop("high")]
    return {"head": str(head), "score": found.pop("score"), "score_interval": interval, **found, "kept": kept}


def _receivers(model: LoadedModel, into: Any, via: End | None) -> tuple[Component, ...]:
    if isinstance(into, str) and into == "logits":
        if via is not None:
            raise TaskError(
                f"via: {via!r}, but the logits have no such input; accepted: via together with heads or MLPs"
            )
        return ()
    found = _parts(into)
    if via not in ("query", "key", "value", "input"):
        accept = "query, key or value: the input of the receivers to patch; for MLPs, input"
        raise TaskError(f"via: {via!r}; accepted: {accept}")
    if not found:
        raise TaskError('into: no heads; accepted: "logits", or one or more heads')
    for one in found:
        if isinstance(one, Mlp) != (via == "input"):
            accept = "input" if isinstance(one, Mlp) else "query, key or value"
            raise TaskError(f"via: {via!r} into {one}; accepted: {accept}")
        if one.layer >= model.shape.n_layers or one.index >= model.shape.n_heads:
            last = f"L{model.shape.n_layers - 1}", f"H{model.shape.n_heads - 1}"
            raise TaskError(f"into: {one}; the model has layers L0-{last[0]} and heads H0-{last[1]}")
    return found


def _parts(into: Any) -> tuple[Component, ...]:
    """The heads or MLPs that are meant: one, several, or those of a group."""
    if isinstance(into, HeadGroup):
        return into.heads
    if isinstance(into, (Head, Mlp)):
        return (as_part(into),)
    if isinstance(into, (str, Finding, Circuit)) or not isinstance(into, Iterable):
        accept = '"logits", or heads such as ["L4H0"] or scores.top(5)'
        raise TaskError(f"into: {brief(into)}; accepted: {accept}")
    try:
        return tuple(dict.fromkeys(map(as_part, into)))
    except TaskError as error:
        raise TaskError(f"into: {error}") from None
