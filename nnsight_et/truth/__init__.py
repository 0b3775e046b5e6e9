"""The benchmark of truth: every method, run as users run it, on models whose circuit is known."""

from nnsight_et.truth.checks import TruthCheck
from nnsight_et.truth.study import Trial, hard_trials, quick_trials, whole_trials
from nnsight_et.truth.tables import by_method, hard, heads, write_json, wrong
from nnsight_et.truth.trials import Benchmark

__all__ = [
    "Benchmark",
    "Trial",
    "TruthCheck",
    "by_method",
    "hard",
    "hard_trials",
    "heads",
    "quick_trials",
    "whole_trials",
    "write_json",
    "wrong",
]
