"""Run the benchmark: every trial through the ordinary `run`, then its results beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import Progress, run
from nnsight_et.truth.checks import TruthCheck, checks
from nnsight_et.truth.coverage import Measure, measures
from nnsight_et.truth.study import Trial, write_trial


@dataclass
class Benchmark:
    """Trials, and what came of those that are done."""

    trials: Sequence[Trial]
    checks: list[TruthCheck] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list[Measure])
    seconds: list[float] = field(default_factory=list)
    """How long each trial took, the making of its models included."""

    def steps(self, folder: Path) -> Iterator[Progress]:
        """Run every trial in an empty `folder`; afterwards its checks are among the checks."""
        for number, trial in enumerate(self.trials):
            started = monotonic()
            place = folder / f"{number}-{trial.known.name}"
            place.mkdir()
            jobs = plan(write_trial(trial, place))
            for step in run(jobs, place / "runs"):
                yield Progress(f"{trial.known.name} {trial.engine}: {step.experiment}", *_rest(step))
            found = folder_of(place / "runs", jobs)
            results: dict[str, Result] = {job.name: read_result(found / job.name) for job in jobs.jobs}
            self.checks += checks(trial, results)
            if not trial.known.demanded:
                self.measures += measures(trial, results)
            self.seconds.append(monotonic() - started)

    @property
    def wrong(self) -> list[TruthCheck]:
        """The checks that had to be right and are not."""
        return [check for check in self.checks if check.demanded and not check.right]


def _rest(step: Progress) -> tuple[str, int, int, int]:
    return step.step, step.done, step.total, step.reused
