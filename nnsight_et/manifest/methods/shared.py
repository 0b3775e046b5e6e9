"""Fields and checks that several methods have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nnsight_et.core.errors import accepted_names
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.manifest.written import SHIPPED, Count, Flag, Method, ValidationContext, is_file, is_shipped, no_circuit

CircuitName = Annotated[str, Field(min_length=1)]
Ablation = Literal["mean", "zero", "resample"]


class OnCircuit(Method):
    """Base of the methods that take a circuit, and one model: by default the one it was found in."""

    finds_circuit: ClassVar[bool] = False

    circuit: CircuitName
    """An experiment that finds a circuit, a .json file, or one of published/llama, embedded/llama-tiny, ..."""
    model: str | None = None
    """The model to measure; when absent the one the circuit was found in."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the circuit, if anything."""
        yield from circuit_problems(("circuit",), self.circuit, known)
        if self.model is None and is_file(self.circuit) and not is_shipped(self.circuit):
            yield Problem(
                ("model",), "missing, and the circuit comes from a file; accepted: the model to measure it in"
            )


class Scored(Method):
    """Base of the methods that score single heads."""

    metric: Metric = DEFAULT_METRIC
    """What the score of a head is the mean of.

    `probability_ratio`: the paper's, (p_patched - p_base) / p_base of the answer; `logit_difference`: the change of the
    answer's logit minus the foils' mean logit; `probability_difference`: of the probability of all right tokens minus
    that of the foils; `kl`: KL(base || patched) over the next token. For kl the largest scores come first.
    """

    @model_serializer(mode="wrap")
    def without_the_papers(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As plain data, the paper's metric left out: what was computed before there were others keeps its name."""
        return {key: value for key, value in plain(self).items() if (key, value) != ("metric", DEFAULT_METRIC)}

    def metric_problems(self) -> Iterator[Problem]:
        """A problem if the paper's numbers are to stand beside another metric's."""
        if self.reproduces and self.metric != DEFAULT_METRIC:
            yield Problem(
                ("metric",),
                f"{self.metric}, and the paper's numbers are of {DEFAULT_METRIC}; accepted: {DEFAULT_METRIC}",
            )


class Measured(Method):
    """Base of the methods that ablate heads on prompts."""

    examples: Count = 500
    """How many prompts accuracy is measured on."""
    only_correct: Flag = False
    """Whether only prompts that the model itself answers right count."""
    ablation: Ablation = "mean"
    """What an ablated head outputs: its mean over prompts (the paper's), zero, or its output in another prompt."""
    ablation_examples: Count = 500
    """How many prompts ablated heads' outputs come from."""


def circuit_problems(path: KeyPath, name: str, known: ValidationContext) -> Iterator[Problem]:
    """A problem if `name` is no circuit: neither an experiment's, nor a file's, nor a shipped one."""
    if is_shipped(name):
        if name not in SHIPPED:
            yield Problem(path, f"no shipped circuit {name!a}; {accepted_names(name, SHIPPED)}")
    elif not is_file(name) and name not in known.circuits:
        yield Problem(path, no_circuit(name, known))


def roles_problems(path: KeyPath, name: str, known: ValidationContext) -> Iterator[Problem]:
    """A problem if `name` is neither an experiment that selects heads by DCM, nor a shipped selection."""
    names = (*known.roles, *SHIPPED)
    if name not in names:
        found = (
            f"experiment {name!r} selects no heads" if name in known.experiments else f"no experiment named {name!a}"
        )
        yield Problem(path, f"{found}; {accepted_names(name, names)}")


def twice(path: KeyPath, names: tuple[str, ...]) -> Iterator[Problem]:
    """A problem for each name that is there twice."""
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem((*path, index), f"{name} is there twice")
