"""How long a whole run may still take, told from the experiments of the same method that it has measured so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnsight_et.planning.plan import Job
    from nnsight_et.runner.run import Progress as Step


@dataclass(frozen=True)
class Left:
    """About how many seconds until a run is done; `partial`: without experiments of methods not measured yet."""

    seconds: float
    partial: bool


@dataclass
class Clock:
    """A run's experiments in order, what each is (method and size), and what methods took so far.

    made: a finished experiment -> how many seconds it took, first of all.
    """

    experiments: Sequence[str]
    sizes: Mapping[str, tuple[str, float]]
    made: Callable[[str], tuple[float, int]] | None
    took: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Method -> seconds and sizes of its measured experiments, added up."""
    _done: set[str] = field(default_factory=set)
    _current: tuple[str, float] | None = None
    _reused: bool = False

    def finished(self, experiment: str) -> None:
        """The experiment is done; it tells of its method unless some of it came from the store."""
        self._done.add(experiment)
        if not self._reused and self.made and experiment in self.sizes:
            method, size = self.sizes[experiment]
            seconds, sizes = self.took.get(method, (0.0, 0.0))
            self.took[method] = seconds + self.made(experiment)[0], sizes + size
        self._reused = False

    def left(self, step: Step, now: float, step_left: float | None) -> Left | None:
        """What is left of the run at a step with `step_left` seconds to go; None where no method was measured."""
        self._reused = self._reused or bool(step.reused)
        if self._current is None or self._current[0] != step.experiment:
            self._current = step.experiment, now
        if step.experiment not in self.sizes:
            return None
        whole = self._guess(step.experiment)
        own = None if whole is None else max(whole - (now - self._current[1]), 0.0)
        others = [name for name in self.experiments if name not in self._done and name != step.experiment]
        guesses = [guess for name in others if (guess := self._guess(name)) is not None]
        if own is None and not guesses:
            return None
        ends = [seconds for seconds in (own, step_left) if seconds is not None]
        return Left(sum(guesses) + max(ends, default=0.0), partial=own is None or len(guesses) < len(others))

    def _guess(self, experiment: str) -> float | None:
        """How long an experiment takes that is not done; None where none of its method was measured."""
        method, size = self.sizes[experiment]
        seconds, sizes = self.took.get(method, (0.0, 0.0))
        return seconds * size / sizes if sizes else None


def size_of(job: Job) -> tuple[str, float]:
    """A job's method, and what its time grows with: prompts x models x stages, desiderata, edges and draws."""
    spec = job.spec
    counts = [getattr(spec, name) for name in type(spec).model_fields if name.endswith("examples")]
    prompts = sum(count for count in counts if count)
    several = [len(getattr(spec, name, None) or ()) or 1 for name in ("stages", "desiderata", "edges")]
    draws = spec.draws if spec.method == "activation_patching" else 1
    return spec.method, float(prompts * max(len(job.models), 1) * math.prod(several) * draws)
