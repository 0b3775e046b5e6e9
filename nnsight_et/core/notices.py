"""What a user must be told before any number: a run shows it first, and results and reports carry it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Notice:
    """One thing to know before the numbers are read.

    In a run `RunContext.tell(job, notice)` is all there is to do. In Python, LoadedModel and Finding carry them.
    """

    kind: str
    """One word for what it is about, for programs: chance, bos, end."""
    where: str
    """What it is about, for people: a model's name, experiments.NAME, a file and its line."""
    text: str
    """What was found and what follows from it, in one or two sentences without a full stop at the end."""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"
