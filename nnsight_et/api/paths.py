"""Path patching (§4.1) of pairs of prompts: a score per head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from nnsight_et.api.findings import SEED, Finding, counted
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.errors import ExperimentError, TaskError
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.jobs.stage_scores import ranking, stage_scores, without_score
from nnsight_et.models.model import Via
from nnsight_et.named_metrics import METRICS, PAPERS, Metric
from nnsight_et.report.circuit_figures import heat_map, shown
from nnsight_et.report.figures import Plate
from nnsight_et.statistics import LEVEL


@dataclass(frozen=True, repr=False)
class PatchingScores(Finding):
    """Patching scores of all heads at one position; the rows are the heads that can reach, what matters most first.

    That is the most negative score; for metric kl the largest.
    """

    path: Path = field(default_factory=lambda: Path("last"))
    kept: tuple[Head, ...] = ()
    """The `keep` heads that matter most, in that order."""

    @property
    def values(self) -> Tensor:
        """[layer, head]: the scores; exactly 0 where a head cannot reach the end of the path."""
        return self.scores["score"]

    def top(self, count: int = 10) -> tuple[Head, ...]:
        """The `count` heads that matter most; `path_patch(..., into=...)` takes them as receivers."""
        return tuple(Head.parse(row["head"]) for row in self.rows[:count])

    def group(self, name: str, count: int | None = None) -> HeadGroup:
        """The top `count` heads, or those kept, as a group of a circuit."""
        return HeadGroup(name, self.path.at, self.kept if count is None else self.top(count))


def path_patch(
    model: LoadedModel,
    pairs: Pairs,
    at: str = "last",
    into: str | Iterable[Head | str] = "logits",
    via: Via | None = None,
    keep: int = 10,
) -> PatchingScores:
    """How much the answer's probability changes when one head's path from `at` breaks: (p_patched - p) / p (§4.1).

    into: "logits", or heads such as scores.top(5) or ["L4H0"], reached through their `via`: "query", "key" or "value".
    The score is the mean over pairs; a negative one means that the head mattered. p-values are sign-flip tests, p_holm
    corrected over all heads (docs/statistics.md). pairs.scored_by(...) chooses another metric; the scores of "kl" are
    not below 0, the largest first, and have no p-values. TaskError if the request does not fit, ExperimentError if a
    score does not exist.
    """
    pairs.check_position(at, "at")
    path = Path(at, via, _receivers(model, into, via))
    senders = path.reaching(model.shape.n_layers, model.shape.n_heads)
    if not senders:
        raise TaskError("into: no head can reach it: its first receiver is in layer 0; accepted: heads of later layers")

    def measure(pair, chunks):
        scored = replace(pair, metric=pairs.metric)
        return path_probabilities(model.model, scored, path, senders, model.engine, chunks)

    found = model.measured(pairs.examples(model.tokenizer), (at,), measure)
    if have := without_score(found, pairs.metric):
        accept = 'prompts the model gives some chance, or load(dtype="float64")'
        raise ExperimentError(f"pairs: {have} pairs; accepted: {accept}")
    scores = stage_scores(found, senders, model.shape, min(keep, len(senders)), SEED, pairs.metric)
    ranked = ranking(scores["score"], senders, pairs.metric)
    return _finding(model, path, ranked[:keep], ranked, scores, pairs.metric)


def _finding(
    model: LoadedModel,
    path: Path,
    kept: list[Head],
    ranked: list[Head],
    scores: dict[str, Tensor],
    metric: Metric,
) -> PatchingScores:
    end = f"{len(path.receivers)} heads" if path.via else "logits"
    name = f"heads at {path.at}"
    rows = tuple(_row(head, scores, head in kept) for head in ranked)
    stage = {
        "group": name, "into": end, "via": path.via, "kept": [row for row in rows if row["kept"]],
        "beyond_chance": [row["head"] for row in rows if row["p_holm"] <= LEVEL],
    }  # fmt: skip
    panel = heat_map(stage, {f"{name}.{key}": tensor for key, tensor in scores.items()}, metric)
    title = f"Patching scores in {model.name}: {panel.title}"
    plate = Plate("scores", title, shown(metric), (replace(panel, title=title),))
    base = scores["base"].double()
    effect = "(p_patched - p) / p" if metric == PAPERS else METRICS[metric].effect
    note = f"Mean of {effect} over {counted(len(base))}; in the base run p is {base.mean():.3f} on average."
    return PatchingScores(title, rows, (plate,), note, scores, path, tuple(kept))


def _row(head: Head, scores: dict[str, Tensor], kept: bool) -> dict[str, Any]:
    found = {name: scores[name][head].item() for name in ("score", "low", "high", "median", "p", "p_holm")}
    interval = [found.pop("low"), found.pop("high")]
    return {"head": str(head), "score": found.pop("score"), "score_interval": interval, **found, "kept": kept}


def _receivers(model: LoadedModel, into: str | Iterable[Head | str], via: Via | None) -> tuple[Head, ...]:
    if into == "logits":
        if via is not None:
            raise TaskError(f"via: {via!r}, and into is the logits; accepted: via with heads")
        return ()
    if via not in ("query", "key", "value"):
        raise TaskError(f"via: {via!r}; accepted: query, key or value, which input of the receivers is patched")
    if isinstance(into, str):
        raise TaskError(f'into: {into!r}; accepted: "logits", or heads such as ["L4H0"] or scores.top(5)')
    heads = tuple(head if isinstance(head, Head) else Head.parse(head) for head in into)
    if not heads:
        raise TaskError('into: no heads; accepted: "logits", or one or more heads')
    Circuit((HeadGroup("receivers", "last", heads),)).check_fits(model.shape.n_layers, model.shape.n_heads, "into")
    return heads
