"""method: path_patching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nnsight_et.core.errors import accepted_names, quantity
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import Count, Flag, Name, Scored, SpecModel, ValidationContext
from nnsight_et.models.catalog import Shape

HEAD_INPUTS = ("query", "key", "value")
UNBOUNDED = ("logit_difference", "kl")  # no prompt's effect has an end that is known beforehand


class Screen(SpecModel):
    """Measure all prompts only for senders that may still be kept; drop the others as soon as a bound allows it."""

    miss: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.05
    """Upper bound on the probability of dropping a head that all prompts would have kept (docs/screening.md)."""
    exact: Count | None = None
    """How many senders are measured on all prompts whatever the bound says; by default one and a half times `keep`."""
    first: Annotated[int, Field(ge=2, le=1_000_000, strict=True)] = 8
    """How many prompts every sender is measured on before any is dropped."""
    gradient: Flag = True
    """Use gradient estimates of all heads' effects, so that heads can be dropped earlier. Not for kl or MLPs."""
    tail: Annotated[float, Field(ge=1, allow_inf_nan=False)] | Literal["any"] = 4.0
    """The bound's assumption: no prompt's effect exceeds `tail` times the largest effect on the first prompts.

    With gradient estimates, it is the gap between effect and estimate that is bounded so.

    `any` assumes nothing: only the metric then bounds an effect (a probability can fall by no more than all of it).
    """

    def whole(self, keep: int) -> int:
        """How many senders are measured on all prompts at least, where so many are kept."""
        return keep + (keep + 1) // 2 if self.exact is None else self.exact


class Stage(SpecModel):
    """One stage of path patching: find the heads, or MLPs, that matter to `into` through its `via` input."""

    group: Name
    """A name for the heads that this stage finds."""
    into: Name
    """`logits`, or the group of an earlier stage."""
    via: Literal["query", "key", "value", "input"] | None = None
    """The input of the receivers that is patched: query, key or value of heads; `input` of MLPs; none for logits."""
    senders: Literal["heads", "mlps"] = "heads"
    """What to patch and keep: `heads`, or `mlps`, each layer's whole MLP. MLPs do not join the circuit."""
    at: str
    """The named position at which senders are patched."""
    kv_heads: Literal["shared", "expanded"] = "shared"
    """Where query heads share keys and values: who sees the patched ones, all that share (`shared`) or only the
    receivers (`expanded`).

    Matters for via key and value only, and not where every query head has its own.
    """
    keep: Count
    """How many heads to add to the circuit, or MLPs to keep next to it: those with the most negative scores.

    With metric kl, those with the largest scores.
    """
    receivers: Count | None = None
    """How many of the kept heads or MLPs, the strongest first, later stages patch into."""
    screen: Screen | None = None
    """Drop senders that cannot be among the kept before they are measured on all prompts; off by default."""

    def has_estimates(self, metric: str) -> bool:
        """Whether a gradient may help: kl has none at the base run, and MLPs are too few for it."""
        return self.screen is not None and self.screen.gradient and self.senders == "heads" and metric != "kl"

    @model_serializer(mode="wrap")
    def without_screen(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As plain data, without `screen` where there is none: what was computed before keeps its name."""
        return {key: value for key, value in plain(self).items() if (key, value) != ("screen", None)}


class PathPatching(Scored):
    """Find a circuit by path patching, stage by stage from the logits back (§4.1)."""

    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # which heads matter, stage by stage from the logits back (section 4.1 of the paper)
        circuit:
          method: path_patching
          model: <model>
          examples: <300>
          metric: <metric>
          stages: # keep: how many heads join the circuit; receivers: how many of them a later stage patches into
            - <stages>
    """

    method: Literal["path_patching"]
    model: str
    """A built-in model, one of `models:`, a folder, or a hub id."""
    examples: Count = 300
    """How many pairs of a base and a source prompt to use."""
    held_out_examples: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = 0
    """How many pairs of the evaluation split to measure the kept heads on again; 0: none.

    Selection favours heads whose scores came out too negative by chance. On pairs not used to select them, scores are
    unbiased.
    """
    only_correct: Flag = False
    """Use only prompts that the model itself answers correctly."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=64)]
    """The stages, from the logits back: each finds heads that matter to the logits or to an earlier stage's heads."""

    @property
    def finds_circuit(self) -> bool:
        """Whether any stage keeps heads: MLPs belong to no circuit."""
        return any(stage.senders == "heads" for stage in self.stages)

    def identity(self, exclude: set[str]) -> dict[str, Any]:
        """What is digested: stages that patch heads as they were before MLPs could be patched."""
        spec = super().identity(exclude)
        for stage in spec["stages"]:
            if stage["senders"] == "heads":
                del stage["senders"]
        return spec

    def most_senders(self, shape: Shape) -> int:
        """How many heads and MLPs the stages patch together at most: those that can reach."""
        groups = {stage.group: stage for stage in self.stages}
        return sum(_most(stage, groups, shape) for stage in self.stages)

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the stages, if anything."""
        yield from self.metric_problems()
        earlier: dict[str, Stage] = {}
        for index, stage in enumerate(self.stages):
            for key, text in _stage_problems(stage, earlier, known.positions):
                yield Problem(("stages", index, key), text)
            for key, text in _screen_problems(stage, self.metric):
                yield Problem(("stages", index, "screen", key), text)
            if self.model in known.shapes:
                yield from _too_many(stage, index, earlier, known.shapes[self.model], self.model)
            used = any(later.into == stage.group for later in self.stages[index + 1 :])
            if used and stage.receivers is None:
                text = f"missing, but a later stage patches into {stage.group}; accepted: 1 to {stage.keep}"
                yield Problem(("stages", index, "receivers"), text)
            earlier.setdefault(stage.group, stage)


def _stage_problems(
    stage: Stage, earlier: Mapping[str, Stage], positions: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    if stage.group in earlier or stage.group == "logits":
        yield (
            "group",
            f"the name {stage.group!r} is taken; accepted: a name other than logits that no earlier stage has",
        )
    if stage.at not in positions:
        yield "at", f"no position {stage.at!r}; {accepted_names(stage.at, positions)}"
    if stage.receivers is not None and stage.receivers > stage.keep:
        yield "receivers", f"{quantity(stage.receivers, 'receiver')} of {stage.keep} kept; accepted: 1 to {stage.keep}"
    if stage.into == "logits":
        if stage.via is not None:
            yield "via", f"via {stage.via!r} into logits, which have no such input; accepted: no via"
        if stage.kv_heads == "expanded":
            yield "kv_heads", "expanded into logits, which have no keys; accepted: shared"
        if stage.at in positions and stage.at != positions[-1]:
            yield "at", f"senders at {stage.at}, but the logits are read at {positions[-1]}; accepted: {positions[-1]}"
    elif stage.into not in earlier:
        yield "into", f"no earlier stage finds {stage.into!r}; {accepted_names(stage.into, ('logits', *earlier))}"
    elif (wrong := _via_problem(stage, earlier[stage.into])) is not None:
        yield "via", wrong
    else:
        if stage.via == "query" and stage.kv_heads == "expanded":
            yield "kv_heads", "expanded via query, which no two heads share; accepted: shared, or via key or value"
        if stage.via == "input" and stage.kv_heads == "expanded":
            yield "kv_heads", "expanded via the input of MLPs, which have no keys; accepted: shared"
        yield from _position_problems(stage, earlier[stage.into], positions)


def _screen_problems(stage: Stage, metric: str) -> Iterator[tuple[str, str]]:
    screen = stage.screen
    if screen is not None and screen.exact is not None and screen.exact < stage.keep:
        yield "exact", f"found {screen.exact}, fewer than the {stage.keep} to keep; accepted: {stage.keep} or more"
    if screen is not None and screen.tail == "any" and metric in UNBOUNDED:
        yield "tail", f"found any, but {metric} has no bound on a single prompt; accepted: a number, such as 4"


def _via_problem(stage: Stage, into: Stage) -> str | None:
    """What is wrong with the stage's via into an earlier one, if anything."""
    inputs = ("input",) if into.senders == "mlps" else HEAD_INPUTS
    if stage.via in inputs:
        return None
    kind = "MLPs" if into.senders == "mlps" else "heads"
    found = "missing" if stage.via is None else f"via {stage.via!r} into {into.group}, which are {kind}"
    return f"{found}; accepted: {', '.join(inputs)}"


def _position_problems(stage: Stage, into: Stage, positions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """A head's query and an MLP's input are computed at its own position; a head's keys and values there and before."""
    if stage.at not in positions or into.at not in positions:
        return
    if stage.via in ("query", "input") and stage.at != into.at:
        found = f"senders at {stage.at}, but the {stage.via} of {into.group} is computed at {into.at}"
        yield "at", f"{found}; accepted: {into.at}"
    elif positions.index(stage.at) > positions.index(into.at):
        seen = positions[: positions.index(into.at) + 1]
        yield "at", f"senders at {stage.at}, which comes after {into.group} at {into.at}; accepted: {', '.join(seen)}"


def _depth(stage: Stage, earlier: Mapping[str, Stage], parallel: bool) -> int:
    """How many layers lie between the stage's senders and the logits at least: one for each group on the way.

    None for MLPs that heads reach in their own layer; where blocks are `parallel` they do not.
    """
    depth, steps = 0, 0
    while stage.into in earlier and steps <= len(earlier):
        into = earlier[stage.into]
        beside = stage.senders == "heads" and into.senders == "mlps" and not parallel
        stage, depth, steps = into, depth + (not beside), steps + 1
    return depth


def _most(stage: Stage, earlier: Mapping[str, Stage], shape: Shape) -> int:
    """How many senders can reach the end of the stage at most."""
    layers = max(shape.n_layers - _depth(stage, earlier, shape.parallel), 0)
    return layers * (shape.n_heads if stage.senders == "heads" else 1)


def _too_many(stage: Stage, index: int, earlier: Mapping[str, Stage], shape: Shape, model: str) -> Iterator[Problem]:
    most = _most(stage, earlier, shape)
    if stage.keep > most:
        heads = stage.senders == "heads"
        text = (
            f"{quantity(stage.keep, 'head' if heads else 'MLP')}; {model} has {quantity(shape.n_layers, 'layer')} of "
        )
        text += quantity(shape.n_heads, "head") if heads else "one MLP"
        below = f", of which {most} can reach {stage.into}" if most < _most(stage, {}, shape) else ""
        yield Problem(("stages", index, "keep"), f"{text}{below}; accepted: 1 to {most}")
