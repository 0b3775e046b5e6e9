"""What the summary of a result is made of: every key of result.json's `summary`, with what it holds."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ResultError
from nnsight_et.manifest.values import value_problem
from nnsight_et.results.headers import HEADER, ResultHeader, method_of, name_of
from nnsight_et.results.records import CircuitRecord, Record
from nnsight_et.results.scores import ScoreTensor

Gradient = Literal["autograd", "finite differences"]
"""How derivatives were taken."""


class ScoredToken(Record):
    """A token that examples are scored by; or the tokens of an answer that has several."""

    text: str
    """What it adds to the text before it."""
    token: str
    """Its name in the vocabulary; of several, names with spaces between them."""
    id: int | list[int]
    """Its number in the vocabulary; of several, all of them."""


class ShownPair(Record):
    """One pair of prompts, as its tokens say it: what a reader of the results sees first of the task."""

    base: list[list[str]]
    """The base (clean) prompt in pieces: text, and the position whose token it is, or nothing."""
    source: list[list[str]]
    """The source (corrupted) prompt, in the same way."""
    answer: str
    """What answers the base prompt, in quotes."""


class Reason(Record):
    """Why something in a result is empty, says nothing, or was decided by little."""

    kind: str
    """One word for it, for programs, such as gradient or ceiling."""
    text: str
    """What was found, with its numbers, and what can be done about it: whole sentences."""


class Summary(Record):
    """Base of every method's summary: what any of them may say."""

    scores: ClassVar[tuple[ScoreTensor, ...]]
    """What is in the method's scores.safetensors."""

    smaller_chunks: dict[str, int] = Field(default_factory=dict[str, int])
    """Model and dtype -> tokens of one pass, where memory ran out and passes were made smaller."""
    tokens: dict[str, dict[str, list[ScoredToken]]] = Field(default_factory=dict[str, dict[str, list[ScoredToken]]])
    """Of a task of your own: model -> answer, also right, foil -> the tokens that examples are scored by."""
    example: ShownPair | None = None
    """The first pair of prompts of the first model."""
    sent: dict[str, str] = Field(default_factory=dict[str, str])
    """Where prompts are turns of a chat: model -> one of them, as it was given to the model."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raise TypeError where a method does not say what its scores are."""
        if not hasattr(cls, "scores"):
            raise TypeError(f"{cls.__name__} does not say its scores")

    @classmethod
    def read(cls, header: ResultHeader) -> Self:
        """The summary of a result; ResultError naming the first key that is wrong."""
        return _read(cls, header)

    @property
    def gradients(self) -> Set[Gradient]:
        """How derivatives were taken, by a method that takes some."""
        return frozenset()


S = TypeVar("S", bound=Summary)


class _View(BaseModel):
    """Some keys of a summary, for who does not know its method."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


V = TypeVar("V", bound=BaseModel)


class _Shared(_View):
    """What the summaries of several methods have."""

    circuit: CircuitRecord | None = None
    example: ShownPair | None = None
    tokens: dict[str, dict[str, list[ScoredToken]]] = Field(default_factory=dict[str, dict[str, list[ScoredToken]]])


class ScoredStage(_View):
    """A stage of path patching: its group, at a named position."""

    group: str
    at: str


class _Staged(_View):
    """What path patching has."""

    stages: list[ScoredStage]


def circuit_in(header: ResultHeader) -> Circuit | None:
    """The circuit that a result found or used, if any; ResultError naming the key that is wrong."""
    record = _read(_Shared, header).circuit
    return None if record is None else record.to_circuit()


def tokens_in(header: ResultHeader) -> dict[str, dict[str, list[ScoredToken]]]:
    """What Summary.tokens says; ResultError naming the key that is wrong."""
    return _read(_Shared, header).tokens


def example_in(header: ResultHeader) -> ShownPair | None:
    """What Summary.example says; ResultError naming the key that is wrong."""
    return _read(_Shared, header).example


def stages_in(header: ResultHeader) -> list[ScoredStage]:
    """The stages of a result of path patching; ResultError naming the key that is wrong."""
    return _read(_Staged, header).stages


def _read(kind: type[V], header: ResultHeader) -> V:
    try:
        return kind.model_validate(header.summary)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("summary", *first["loc"]))
        found = f"its {HEADER} is not one of {method_of(header)} ({where}: {value_problem(first)})"
        raise ResultError(f"{name_of(header)}: {found}") from None
