"""The metrics of a patch's effect, as data: what a score is the mean of, what it needs, which heads it ranks first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

WrittenMetric = Literal["probability_ratio", "logit_difference", "probability_difference", "kl"]
"""Those that a manifest can name."""
Metric = Literal[WrittenMetric, "function"]
"""Those, and from Python a function of logits."""
DEFAULT_METRIC: WrittenMetric = "probability_ratio"
"""The paper's, and the one where none is named."""


@dataclass(frozen=True)
class NamedMetric:
    """What a metric's score is the mean of over examples; its formulas are in `metrics`."""

    effect: str
    """Of one example, as reports write it."""
    statistic: str | None
    """The mean whose sign is tested; None: the effect has no sign, so there is no test."""
    needs_foils: bool = False
    ranks: Literal["negative", "large"] = "negative"
    """Which scores heads that matter have; the most negative, or the largest, come first."""
    compares: bool = False
    """Whether a patched run's value reads all logits of the base run."""

    @property
    def direction(self) -> int:
        """What scores are multiplied by for the head that matters most to have the lowest."""
        return 1 if self.ranks == "negative" else -1


METRICS: dict[Metric, NamedMetric] = {
    "probability_ratio": NamedMetric("(p patched - p base) / p base", "mean log(p_patched / p_base)"),
    "logit_difference": NamedMetric(
        "LD patched - LD base, LD: the answer's logit minus the foils' mean logit", "mean(LD_patched - LD_base)", True
    ),
    "probability_difference": NamedMetric(
        "PD patched - PD base, PD: the probability of all right tokens minus that of the foils",
        "mean(PD_patched - PD_base)",
        True,
    ),
    "kl": NamedMetric("KL(base || patched) over the next token, in nats", None, ranks="large", compares=True),
    "function": NamedMetric("f(patched logits) - f(base logits)", "mean(f_patched - f_base)", compares=True),
}
WRITTEN: tuple[WrittenMetric, ...] = get_args(WrittenMetric)
