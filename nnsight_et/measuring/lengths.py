"""Prompts that a model has positions for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from nnsight_et.core.batch import Example, Prompt, check_lengths, check_tokens
from nnsight_et.core.errors import TaskError
from nnsight_et.models.files import Files
from nnsight_et.models.load import longest_alike, longest_prompt, shape_of

Some = TypeVar("Some", Prompt, Example)


def fitting(some: Iterable[Some], files: Files, experiment: str, on_server: bool = False) -> list[Some]:
    """The same examples or prompts; TaskError if the model has no positions or rows for its tokens.

    On a server also if one has so many that its rotations depend on the other prompts of a pass; here they do not.
    """
    every, where = list(some), f"experiments.{experiment}"
    check_lengths(every, longest_prompt(files), where, files.name)
    check_tokens(every, shape_of(files).vocabulary, where, files.name)
    most = longest_alike(files) if on_server else None
    length = max((one.length for one in every), default=0)
    if most is not None and length > most:
        found = f"a prompt of {length} tokens; beyond {most} {files.name} rotates each by the longest of its batch"
        raise TaskError(
            f"{where}: {found}; accepted: on a server at most {most} tokens; backend: local takes longer ones"
        )
    return every


def are_limited(files: Files, on_server: bool) -> bool:
    """Whether a prompt can be too long for the model where it runs."""
    return longest_prompt(files) is not None or (on_server and longest_alike(files) is not None)
