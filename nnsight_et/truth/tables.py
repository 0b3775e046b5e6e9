"""The benchmark's checks as tables, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from nnsight_et import __version__
from nnsight_et.display.table import Table, number
from nnsight_et.results.disk import write_file
from nnsight_et.truth.checks import TruthCheck
from nnsight_et.truth.coverage import FEW
from nnsight_et.truth.trials import Benchmark
from nnsight_et.zoo.statements import CLOSE, MATTERS

SCHEMA = 1


def by_method(benchmark: Benchmark) -> Table:
    """Per method and engine: how many checks of each model are right, and the worst precision and recall of heads."""
    demanded = [check for check in benchmark.checks if check.demanded]
    models = tuple(dict.fromkeys(check.model for check in demanded))
    rows = []
    for method, engine in dict.fromkeys((check.method, check.engine) for check in demanded):
        checks = [check for check in demanded if (check.method, check.engine) == (method, engine)]
        counts = (_right([check for check in checks if check.model == model]) for model in models)
        rows.append((method, engine, *counts, _worst(checks, "precision"), _worst(checks, "recall")))
    right = _right(demanded)
    note = f"{right} checks found what was planted, accuracies within {CLOSE}; {sum(benchmark.seconds):.0f} s in all."
    columns = ("method", "engine", *models, "precision", "recall")
    return Table("checks that are right, per planted model", columns, tuple(rows), frozenset(columns[2:]), note)


def heads(benchmark: Benchmark) -> Table:
    """Per stage of path patching: the planted heads, those found, and precision and recall."""
    rows = tuple(
        (
            *(check.model, str(check.seed), check.engine, check.what, check.expected, check.found),
            *(number(check.numbers[key]) for key in ("precision", "recall")),
        )
        for check in benchmark.checks
        if check.method == "path_patching" and "precision" in check.numbers
    )
    columns = ("model", "seed", "engine", "stage", "planted", "found", "precision", "recall")
    note = f"Found: every head with a patching score of {MATTERS} or below."
    return Table("heads per stage of path patching", columns, rows, frozenset({"seed", *columns[-2:]}), note)


def hard(benchmark: Benchmark) -> Table:
    """Per method and hard model: precision and recall of heads, error of its numbers, coverage of its intervals."""
    checks = [check for check in benchmark.checks if not check.demanded]
    places = dict.fromkeys((one.method, one.model) for one in (*checks, *benchmark.measures))
    rows = []
    for place in sorted(places, key=lambda one: list(dict.fromkeys(method for method, _ in places)).index(one[0])):
        numbers = [check.numbers for check in checks if (check.method, check.model) == place]
        measured = [one for one in benchmark.measures if (one.method, one.model) == place]
        errors = [one.error for one in measured if one.error is not None]
        means = [
            *(_mean([one[name] for one in numbers if name in one]) for name in ("precision", "recall")),
            _mean(errors or [one["error"] for one in numbers if "error" in one]),
            _mean([one.coverage for one in measured]),
        ]
        if any(one is not None for one in means):
            rows.append((*place, *(number(one) for one in means[:2]), number(means[2], 3), number(means[3], 3)))
    columns = ("method", "model", "precision", "recall", "error", "coverage")
    note = (
        f"Heads found: scores of {MATTERS} or below. Error: path patching, of a planted head's score on {FEW} prompts "
        "against that on all; attribution, of the estimate against the exact effect; otherwise of accuracies against "
        f"the truth. Coverage: how often 95% intervals from {FEW} prompts hold the number of all: heads' scores, and "
        "accuracies that are neither 0 nor 1."
    )
    return Table("hard models: what is found, not demanded", columns, tuple(rows), frozenset(columns[2:]), note)


def wrong(benchmark: Benchmark) -> Table:
    """The checks that are not right."""
    rows = tuple(
        (check.model, str(check.seed), check.engine, check.method, check.what, check.expected, check.found)
        for check in benchmark.wrong
    )
    columns = ("model", "seed", "engine", "method", "what", "expected", "found")
    return Table("checks that are wrong", columns, rows, frozenset({"seed"}))


def write_json(benchmark: Benchmark, place: Path) -> None:
    """Put every check and its numbers into a JSON file; a number that does not exist is null."""
    trials = [
        {"model": trial.known.name, "seed": trial.seed, "engine": trial.engine, "seconds": round(seconds, 2)}
        for trial, seconds in zip(benchmark.trials, benchmark.seconds, strict=True)
    ]
    data = {
        "schema": SCHEMA,
        "version": __version__,
        "right": not benchmark.wrong,
        "trials": trials,
        "measures": [asdict(one) for one in benchmark.measures],
        "checks": [_plain(check) for check in benchmark.checks],
    }
    write_file(place, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def _plain(check: TruthCheck) -> dict:
    numbers = {name: None if math.isnan(value) else value for name, value in check.numbers.items()}
    return asdict(check) | {"numbers": numbers}


def _mean(values: Iterable[float | None]) -> float | None:
    there = [one for one in values if one is not None and not math.isnan(one)]
    return sum(there) / len(there) if there else None


def _right(checks: Iterable[TruthCheck]) -> str:
    right = [check.right for check in checks]
    return f"{sum(right)} of {len(right)}" if right else "–"


def _worst(checks: Iterable[TruthCheck], what: str) -> str:
    return number(min((check.numbers[what] for check in checks if what in check.numbers), default=None))
