"""The benchmark of truth: every method, run as users run it, on models whose circuit is known."""

from nnsight_et.truth.checks import TruthCheck
from nnsight_et.truth.study import Trial, quick_trials, whole_trials
from nnsight_et.truth.tables import by_method, heads, write_json, wrong
from nnsight_et.truth.trials import Benchmark

__all__ = [
    "Benchmark",
    "Trial",
    "TruthCheck",
    "by_method",
    "heads",
    "quick_trials",
    "whole_trials",
    "write_json",
    "wrong",
]
