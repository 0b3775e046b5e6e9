"""Run the benchmark: every trial through the ordinary `run`, then its results beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import Progress, run, run_folder
from nnsight_et.truth.checks import Check, checks
from nnsight_et.truth.study import Trial, written


@dataclass
class Benchmark:
    """Trials, and what came of those that are done."""

    trials: Sequence[Trial]
    checks: list[Check] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long each trial took, the making of its models included."""

    def steps(self, folder: Path) -> Iterator[Progress]:
        """Run every trial in an empty `folder`; afterwards its checks are among the checks."""
        for number, trial in enumerate(self.trials):
            started = monotonic()
            place = folder / f"{number}-{trial.known.name}"
            place.mkdir()
            manifest = written(trial, place)
            for step in run(manifest, place / "runs"):
                yield Progress(f"{trial.known.name} {trial.engine}: {step.experiment}", *_rest(step))
            results: dict[str, Result] = {
                name: read_result(run_folder(manifest, place / "runs") / name) for name in manifest.experiments
            }
            self.checks += checks(trial, results)
            self.seconds.append(monotonic() - started)

    @property
    def wrong(self) -> list[Check]:
        """The checks in which what was found is not what was expected."""
        return [check for check in self.checks if not check.right]


def _rest(step: Progress) -> tuple[str, int, int, int]:
    return step.step, step.done, step.total, step.reused
