"""What a case is: files as users have them, what must be found, and what a refusal must say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Differs(Exception):
    """What a case finds in Python to be otherwise than it should be."""


MARK = re.compile(r"\{\{\w+\|(.+?)\}\}")


@dataclass(frozen=True)
class Line:
    """A pair of prompts as a file of pairs has it, and the texts it stands for, written out by hand."""

    base: str
    source: str
    answer: str
    whole: str = ""
    """The base prompt with its answer behind it, as the text itself has it; a space between them where empty."""
    plain: str = ""
    """The base prompt as the model reads it; the base without its marks where empty."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the line."""

    @property
    def prompt(self) -> str:
        """The base prompt as the model reads it."""
        return self.plain or MARK.sub(r"\1", self.base)

    @property
    def answered(self) -> str:
        """The base prompt with its answer."""
        return self.whole or f"{self.prompt} {self.answer}"

    @property
    def entry(self) -> dict[str, Any]:
        """The line as data."""
        return {"base": self.base, "source": self.source, "answer": self.answer, **self.more}


BASE = "The {{object|apple}} is in Box F, the computer is in Box Q. Box F contains the"
APPLES = (
    Line(BASE, "The {{object|hat}} is in Box C, the bread is in Box H. Box Y contains the", "apple"),
    Line(BASE, "The {{object|drug}} is in Box B, the ball is in Box E. Box P contains the", "apple"),
)
"""Two pairs with one base prompt, which the embedded model answers."""


@dataclass(frozen=True)
class Given:
    """What a user gives, and what is right.

    Right is one probability of the answer for each line; or, where `reason` is a regular expression, a refusal in one
    message that it is found in. Where both are there, either is right.
    """

    model: Mapping[str, Any]
    """The model's entry in a manifest; folders as texts."""
    expected: Sequence[float] = ()
    lines: Sequence[Line] = APPLES
    reason: str | None = None
    untrue: str | None = None
    """A regular expression of what a refusal must not say."""
    early: bool = False
    """Whether `et models inspect` has to refuse it as well: its configuration alone tells."""
    notice: str | None = None
    """A regular expression of what `et run` has to say beside its numbers."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the task, or another task."""
    experiment: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the experiment, or another one."""
    file: bytes | None = None
    """The file of pairs, where it is not made of the lines."""
    suffix: str = "jsonl"
    load: Callable[[], Any] | None = None
    """How the model comes to be in Python; et.load of its entry where None."""
    call: Callable[[Any], Any] | None = None
    """What is done with it in Python; path patching of the lines where None."""
    in_python: str | None = None
    """What a refusal in Python says, where it is not what `et run` says."""
    commands: bool = True
    """Whether it can be given to `et run` at all."""
    tolerance: float = 2e-4
    """How far logarithms of probabilities may lie apart."""


@dataclass(frozen=True)
class Case:
    """A named case of an area."""

    area: str
    name: str
    make: Callable[[Path], Given]
    slow: bool = False


CASES: list[Case] = []


def case(area: str, name: str, slow: bool = False) -> Callable[[Callable[[Path], Given]], Callable[[Path], Given]]:
    """Enter the function that makes it, in an empty folder, as a case."""

    def enter(make: Callable[[Path], Given]) -> Callable[[Path], Given]:
        assert name not in {one.name for one in CASES}, name
        CASES.append(Case(area, name, make, slow))
        return make

    return enter
