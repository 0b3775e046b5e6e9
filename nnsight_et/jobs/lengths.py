"""Prompts that a model has positions for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from nnsight_et.batch import Example, Prompt, check_lengths
from nnsight_et.models.files import Files
from nnsight_et.models.load import longest_prompt

Some = TypeVar("Some", Prompt, Example)


def fitting(some: Iterable[Some], files: Files, experiment: str) -> list[Some]:
    """The same examples or prompts; TaskError if one has more tokens than the model has positions."""
    every = list(some)
    check_lengths(every, longest_prompt(files), f"experiments.{experiment}", files.name)
    return every
