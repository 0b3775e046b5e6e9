"""What every part of a manifest is made of, and what a method's own checks may look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from nnsight_et.core.errors import accepted_names
from nnsight_et.core.named_metrics import DEFAULT_METRIC, WrittenMetric
from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.models.catalog import Shape

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


class SpecModel(BaseModel):
    """Base of everything a manifest is made of: no unknown keys, no changes, a docstring under each field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Method(SpecModel):
    """Base of every method: what any experiment may say of itself.

    A key means the same in all of them: model, models, donor and recipient name models; circuit, circuits, roles and
    scores name results of other experiments.
    """

    attention: ClassVar[Literal["sdpa", "eager"] | None] = None
    """The attention implementation the method cannot do without; None: the manifest's."""
    template: ClassVar[str]
    """An experiment of it, as `et init` writes it."""
    needs_desiderata: ClassVar[bool]
    """Whether it works only on a task that has desiderata."""

    title: str | None = Field(default=None, min_length=1, max_length=120)
    """A heading for the experiment in reports; by default its name. It changes no result."""
    reproduces: tuple[str, ...] = ()
    """Tables and figures of the paper, such as Table 1, whose numbers reports show next to these."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raise TypeError where a method does not say what every method must."""
        said = ("template", "needs_desiderata", "finds_circuit", "problems") if "method" in cls.model_fields else ()
        if missing := [name for name in said if not hasattr(cls, name)]:
            raise TypeError(f"{cls.__name__} does not say its {', '.join(missing)}")

    @property
    def model_names(self) -> dict[KeyPath, str]:
        """Where this experiment names a model -> the name."""
        return self._named_keys("model", "models", "donor", "recipient")

    @property
    def circuit_names(self) -> tuple[str, ...]:
        """The circuits this experiment uses, as it names them."""
        return tuple(self._named_keys("circuit", "circuits").values())

    @property
    def result_names(self) -> dict[KeyPath, str]:
        """Where this experiment names another's result, a file or what is shipped -> the name."""
        return self._named_keys("circuit", "circuits", "roles", "scores")

    @property
    def needs(self) -> tuple[str, ...]:
        """The experiments whose results this one uses."""
        return tuple(dict.fromkeys(name for name in self.result_names.values() if not is_file(name)))

    def _named_keys(self, *keys: str) -> dict[KeyPath, str]:
        """What stands under these keys, one name or several, where the method has them."""
        found: dict[KeyPath, str] = {}
        for key in keys:
            value = getattr(self, key, None)
            several = {} if value is None else {(key, index): name for index, name in enumerate(value)}
            found |= {(key,): value} if isinstance(value, str) else several
        return found

    def identity(self, exclude: set[str]) -> dict[str, Any]:
        """What is digested of it, as plain data without these keys: all it says, and every default.

        A key that came later is left out where it has the value of before: the same work keeps its name.
        """
        return self.model_dump(mode="json", exclude=exclude)

    def with_limit(self, examples: int) -> Self:
        """The same with at most so many examples everywhere."""
        keys = [key for key in type(self).model_fields if key.endswith("examples")]
        return self.model_copy(update={key: examples for key in keys if getattr(self, key) > examples})


@dataclass(frozen=True)
class ValidationContext:
    """What an experiment's own checks may look at."""

    positions: tuple[str, ...]
    """The task's named positions, in the order of a prompt."""
    circuits: tuple[str, ...]
    """The experiments that find a circuit."""
    roles: Mapping[str, tuple[str, ...]]
    """The experiments that select heads by DCM, and the desiderata they do it for."""
    scores: tuple[str, ...]
    """The experiments that measure patching scores."""
    only_mlps: tuple[str, ...]
    """The path patching experiments whose stages keep no heads."""
    experiments: tuple[str, ...]
    """All experiments."""
    desiderata: tuple[str, ...]
    """The desiderata that the task has."""
    shapes: Mapping[str, Shape]
    """The models whose shape is known without their files."""


PUBLISHED = ("published/llama", "published/goat", "published/float")  # the paper's own circuits, roles and scores
EMBEDDED = ("embedded/llama-tiny", "embedded/goat-tiny", "embedded/float-tiny")  # circuits and roles, as found here
SHIPPED = PUBLISHED + EMBEDDED


def is_file(circuit: str) -> bool:
    """Whether `circuit:` names a file, or what is shipped, rather than an experiment."""
    return circuit.endswith(".json") or "/" in circuit


def is_shipped(name: str) -> bool:
    """Whether a circuit, its roles or its scores come with this package: published/llama, embedded/llama-tiny, ..."""
    return name.startswith(("published/", "embedded/"))


CircuitName = Annotated[str, Field(min_length=1)]
Ablation = Literal["mean", "zero", "resample"]


class Scored(Method):
    """Base of the methods that score single heads by the effect of a patched path."""

    metric: WrittenMetric = DEFAULT_METRIC
    """The effect on one prompt whose mean is a head's score.

    `probability_ratio`: the paper's, (p_patched - p_base) / p_base of the answer. `logit_difference`: the change in
    the answer's logit minus the foils' mean logit. `probability_difference`: the change in the probability of all
    right tokens minus that of the foils. `kl`: KL(base || patched) over the next token; the largest scores come first.
    """

    @model_serializer(mode="wrap")
    def without_the_papers(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As plain data, the paper's metric left out: what was computed before there were others keeps its name."""
        return {key: value for key, value in plain(self).items() if (key, value) != ("metric", DEFAULT_METRIC)}

    def metric_problems(self) -> Iterator[Problem]:
        """A problem if the paper's numbers are to stand beside another metric's."""
        if self.reproduces and self.metric != DEFAULT_METRIC:
            found = f"found {self.metric}, but the paper's numbers use {DEFAULT_METRIC}"
            yield Problem(("metric",), f"{found}; accepted: {DEFAULT_METRIC}")


class OnCircuit(Method):
    """Base of the methods that take a circuit, and one model: by default the one it was found in."""

    finds_circuit: ClassVar[bool] = False

    circuit: CircuitName
    """An experiment that finds a circuit, a .json file, or one of published/llama, embedded/llama-tiny, ..."""
    model: str | None = None
    """The model to measure; by default the one that the circuit was found in."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the circuit, if anything."""
        yield from circuit_problems(("circuit",), self.circuit, known)
        if self.model is None and is_file(self.circuit) and not is_shipped(self.circuit):
            yield Problem(
                ("model",), "missing, but required for a circuit from a file; accepted: the model to measure it in"
            )


class Measured(Method):
    """Base of the methods that ablate heads on prompts."""

    examples: Count = 500
    """How many prompts to measure accuracy on."""
    only_correct: Flag = False
    """Use only prompts that the model itself answers correctly."""
    ablation: Ablation = "mean"
    """What an ablated head outputs: its mean over prompts (as in the paper), zero, or its output in another prompt."""
    ablation_examples: Count = 500
    """How many prompts to take the outputs of ablated heads from."""


def circuit_problems(path: KeyPath, name: str, known: ValidationContext) -> Iterator[Problem]:
    """A problem if `name` is no circuit: neither an experiment's, nor a file's, nor a shipped one."""
    tail = accepted_names(name, known.circuits)
    if name in SHIPPED or name in known.circuits:
        return
    if is_shipped(name):
        yield Problem(path, f"no shipped circuit {name!a}; {accepted_names(name, SHIPPED)}")
    elif name in known.only_mlps:
        yield Problem(path, f"experiment {name!r} keeps only MLPs, and a circuit consists of heads; {tail}")
    elif name in known.experiments:
        yield Problem(path, f"experiment {name!r} finds no circuit; {tail}")
    elif not is_file(name):
        yield Problem(path, f"no experiment named {name!r}; {tail}, a .json file, or one of {', '.join(SHIPPED)}")


def roles_problems(path: KeyPath, name: str, known: ValidationContext) -> Iterator[Problem]:
    """A problem if `name` is neither an experiment that selects heads by DCM, nor a shipped selection."""
    names = (*known.roles, *SHIPPED)
    if name not in names:
        found = (
            f"experiment {name!r} selects no heads" if name in known.experiments else f"no experiment named {name!a}"
        )
        yield Problem(path, f"{found}; {accepted_names(name, names)}")


def twice(path: KeyPath, names: tuple[str, ...]) -> Iterator[Problem]:
    """A problem for each name that appears twice."""
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem((*path, index), f"{name} appears twice; accepted: each name once")
