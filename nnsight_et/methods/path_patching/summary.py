"""What the summary of path patching says."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from nnsight_et.results.records import CircuitRecord, MlpGroupRecord, PartName, Record
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Summary

ONE_PERCENT = "base_probability_1%"  # a key that is no name
TENSORS = {
    ("layer", "head"): {
        "score": "Mean effect over the examples, in the unit of the metric's effect; 0 where it was not run. Of a head "
        "that a screen let leave NaN, and low and high are what it lies between.",
        "low": "Low end of the score's 95% interval.",
        "high": "High end of it.",
        "median": "Median effect over the examples.",
        "largest": "Largest effect on one example.",
        "log_ratio": "Mean log(p_patched / p_base), which is what is tested; of the paper's metric alone.",
        "p": "One-sided p-value; NaN where nothing was run or tested.",
        "p_holm": "The same after Holm's correction over all that the stage tested.",
        "p_bh": "The same after Benjamini and Hochberg's.",
        "selection_frequency": "Share of resamples of the examples that would keep it, from 0 to 1.",
        "reach": "Whether it can reach the end of the path, and was run.",
        "prompts": "On how many examples it was measured; of a screened stage alone.",
        "held_out_score": "Mean effect over the held-out examples; NaN where it was not kept.",
        "held_out_low": "Low end of that score's 95% interval.",
        "held_out_high": "High end of it.",
    },
    ("layer", "head", "example"): {"per_example": "Effect on each example."},
    ("example",): {
        "base": "Probability of the answer in the base run, from 0 to 1.",
        "base_value": "What another metric compares, in the base run.",
    },
    (): {"stability": "Mean Jaccard index of the kept with those that resampled examples would keep, from 0 to 1."},
}
"""Of each stage, by axes. Of MLPs there is one head in a layer."""
SOMETIMES = {"log_ratio", "prompts", "base_value", "held_out_score", "held_out_low", "held_out_high"}


class MeanTest(Record):
    """What p-values are of (docs/statistics.md)."""

    statistic: str
    """The mean whose sign is tested."""
    alternative: str
    """What it is where a head matters."""
    null: str
    """What the p-values come from."""
    level: float
    """The largest adjusted p-value of a head beyond chance."""


class KeptHead(Record):
    """A head that a stage kept, or an MLP. Scores are in the unit of the metric's effect."""

    head: PartName
    """Its name, such as L9H3; of an MLP, L9MLP."""
    beyond_chance: bool | None
    """Whether `p_holm` is at most the test's level; null where nothing was tested."""
    score: float
    """Mean effect over the examples."""
    low: float | None
    """Low end of the score's 95% interval; null where one example was all there was."""
    high: float | None
    """High end of it."""
    median: float
    """Median effect over the examples."""
    largest: float
    """Largest effect on one example."""
    log_ratio: float | None = None
    """Mean log(p_patched / p_base), which is what is tested; of the paper's metric alone."""
    p: float | None
    """One-sided p-value; null where nothing was tested."""
    p_holm: float | None
    """The same after Holm's correction over all that the stage tested."""
    p_bh: float | None
    """The same after Benjamini and Hochberg's."""
    selection_frequency: float
    """Share of resamples of the examples that would keep it, from 0 to 1."""
    held_out_score: float | None = None
    """Mean effect over the held-out examples, if there are any."""
    held_out_low: float | None = None
    """Low end of that score's 95% interval."""
    held_out_high: float | None = None
    """High end of it."""

    @property
    def held_out(self) -> tuple[float, float | None, float | None] | None:
        """The held-out score, if there is one, and its interval, which one example does not have."""
        return None if self.held_out_score is None else (self.held_out_score, self.held_out_low, self.held_out_high)


class ScreenRecord(Record):
    """How the senders raced that a stage may keep, and what is taken for granted where it says that it misses none."""

    miss: float
    """With what probability, at most, a sender that all prompts would keep is not among the kept ones."""
    first: int
    """On how many prompts every sender was measured."""
    tail: float | None
    """On no prompt has a sender more than so many times what is largest on the first; null: nothing is assumed."""
    whole: int
    """How many senders were measured on all prompts."""
    left: int
    """How many left before: they have an interval, and no score."""
    measured: float
    """The share of all pairs of a sender and a prompt that was measured, from 0 to 1."""
    estimated: int
    """Of how many the difference from a gradient's estimate was bounded, and not the effect itself."""
    louder: int
    """Of those measured on all prompts, how many have an effect that `tail` says there is not."""


class StageRecord(Record):
    """What a stage patched and what it found."""

    group: str
    """The name of what it found."""
    into: str
    """Where its paths end: logits, or the group of an earlier stage."""
    via: Literal["query", "key", "value", "input"] | None
    """Which input of the receivers changed; null for logits."""
    at: str
    """The named position of the senders."""
    senders: Literal["heads", "mlps"] = "heads"
    """What was patched."""
    kv_heads: Literal["shared", "expanded"]
    """Who saw it where query heads share keys and values: all of them, or the receivers alone."""
    receivers: list[PartName]
    """The heads or MLPs of `into` that were patched into."""
    kept: list[KeptHead]
    """What the stage kept, that which matters most first."""
    tested: int
    """How many heads or MLPs were tested; 0 where the metric's effect has no sign to test."""
    beyond_chance: list[PartName]
    """All heads or MLPs whose p-value after Holm's correction is at most the test's level."""
    beyond_chance_bh: list[PartName]
    """The same after Benjamini and Hochberg's."""
    stability: float
    """Mean Jaccard index of the kept with those that resampled examples would keep, from 0 to 1."""
    base_probability: float
    """The answer's probability in the base run, on average over the examples."""
    base_probability_1_percent: float = Field(validation_alias=ONE_PERCENT, serialization_alias=ONE_PERCENT)
    """Its first percentile."""
    base_logit_difference: float | None = None
    """The answer's logit minus the foils' mean logit in the base run, on average; of that metric alone."""
    base_probability_difference: float | None = None
    """The right tokens' probability minus the foils' in the base run, on average; of that metric alone."""
    tied: list[PartName]
    """What was not kept though its score is that of the last one kept, to within rounding."""
    tied_receivers: list[PartName]
    """What is no receiver though its score is that of the last receiver, to within rounding."""
    screen: ScreenRecord | None = None
    """How it was screened, if it was."""

    @property
    def of_mlps(self) -> bool:
        """Whether it patched MLPs."""
        return self.senders == "mlps"


class PathPatchingSummary(Summary):
    """The circuit that was found, and how."""

    scores: ClassVar = tuple(
        ScoreTensor(f"{{group}}.{name}", axes, what, "stages", name not in SOMETIMES)
        for axes, some in TENSORS.items()
        for name, what in some.items()
    )
    circuit: CircuitRecord
    """The kept heads; one that a later stage kept at the same position is not in the earlier group."""
    mlps: list[MlpGroupRecord] = Field(default_factory=list[MlpGroupRecord])
    """The kept MLPs, a group for each stage that keeps some."""
    stages: list[StageRecord]
    """The stages, from the logits back."""
    test: MeanTest | None
    """What was tested; null where the metric's effect has no sign to test."""
    examples: int
    """How many examples selected the heads."""
    held_out_examples: int
    """On how many of another split the kept were measured again."""
    query_heads_per_kv_head: int
    """How many query heads share a key and value head."""

    @model_validator(mode="after")
    def _has_every_group(self) -> Self:
        if not {stage.group for stage in self.stages if not stage.of_mlps} <= {one.name for one in self.circuit.groups}:
            raise ValueError("stages: a group that is not in the circuit")
        return self
