"""What a job uses of the jobs before it: their results, and the circuits these found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ExperimentError, NothingFound, ResultError
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import Result
from nnsight_et.results.summary import circuit_in


@dataclass
class EarlierResults:
    """The results that a run has by now, by the experiments' names."""

    results: dict[str, Result] = field(default_factory=dict[str, Result])
    scores: Mapping[str, Tensor] | None = None
    """Group -> patching scores [layer, head], in a notebook: there no experiment has measured them."""

    def circuit(self, job: Job, empty: bool = False) -> Circuit:
        """The circuit the job uses: from its file, a shipped one, or found by the experiment it needs.

        ExperimentError if it has no groups, or, unless it may be `empty`, no heads; NothingFound if an experiment found
        none.
        """
        name = job.spec.circuit_names[0]
        circuit = self.named_circuit(job, name)
        if not circuit.groups or not (empty or circuit.size):
            if name not in job.circuits:
                raise NothingFound(found_none(name))
            raise ExperimentError(
                f"experiments.{job.name}: the circuit {name} has no heads; accepted: a circuit with one or more"
            )
        return circuit

    def named_circuit(self, job: Job, name: str) -> Circuit:
        """One of the circuits the job names: from a file, a shipped one, or found by an experiment."""
        return job.circuits[name] if name in job.circuits else self.found_circuit(name)

    def found_circuit(self, name: str) -> Circuit:
        """The circuit that an experiment has found."""
        found = circuit_in(self.results[name].header)
        if found is None:
            raise ResultError(f"experiment {name}: its result has no circuit")
        return found


def found_none(name: str) -> str:
    """Why an experiment that needs the heads of experiment `name` is left out."""
    return f"{name}, whose heads it needs, found none; the tables of {name} say why"
