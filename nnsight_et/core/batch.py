"""Encoded prompts, and batches of them: token ids, mask, named positions, answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nnsight_et.core.errors import TaskError
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric

Side = Literal["left", "right"]
NO_TOKEN = -1
"""Fills the rows of token tensors [batch, n] that have fewer than n."""


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt, unpadded: token ids, and the index of each named position in them."""

    tokens: tuple[int, ...]
    positions: dict[str, int]

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return len(self.tokens)

    @property
    def largest(self) -> int:
        """The largest number of a token in it."""
        return max(self.tokens)


@dataclass(frozen=True)
class Example:
    """A base prompt, the source prompt that donates activations, and the token that answers the base prompt.

    also_right: further tokens that are right as well; foils: tokens that are wrong, for metrics that compare.
    """

    base: Prompt
    source: Prompt
    answer: int
    also_right: tuple[int, ...] = ()
    foils: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """How many tokens the longer of its prompts has."""
        return max(self.base.length, self.source.length)

    @property
    def largest(self) -> int:
        """The largest number of a token in its prompts and answers."""
        return max(self.base.largest, self.source.largest, self.answer, *self.also_right, *self.foils)


def check_lengths(some: Iterable[Prompt | Example], most: int | None, where: str, model: str) -> None:
    """Raise TaskError naming `where` if one has more tokens than `most`, the model's positions; None: no end."""
    length = max((one.length for one in some), default=0)
    if most is not None and length > most:
        found = f"a prompt of {length} tokens, and {model} has positions for {most}"
        raise TaskError(f"{where}: {found}; accepted: prompts of at most {most} tokens")


def check_tokens(some: Iterable[Prompt | Example], rows: int, where: str, model: str) -> None:
    """Raise TaskError naming `where` if one has a token that the model has no row for, its vocabulary being `rows`."""
    largest = max((one.largest for one in some), default=0)
    if largest >= rows:
        found = f"token {largest} is in a prompt or an answer, and {model} has rows for tokens 0 to {rows - 1}"
        raise TaskError(f"{where}: {found}; accepted: the model's own tokenizer, and tokens that its embedding has")


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts: tokens and mask [batch, seq]; positions: name -> [batch] indices into seq."""

    tokens: Tensor
    mask: Tensor
    positions: dict[str, Tensor]

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.mask.shape != self.tokens.shape:
            raise ValueError(f"tokens {tuple(self.tokens.shape)} and mask {tuple(self.mask.shape)}: not [batch, seq]")
        for name, index in self.positions.items():
            if index.shape != self.tokens.shape[:1]:
                raise ValueError(f"position {name}: {tuple(index.shape)}, not [batch]")
            if not self.mask[torch.arange(len(index)), index].all():
                raise ValueError(f"position {name} lies on padding")

    @property
    def position_ids(self) -> Tensor:
        """[batch, seq]: each token's place in its own prompt; 0 on left padding."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on `device`."""
        moved = {name: index.to(device) for name, index in self.positions.items()}
        return PromptBatch(self.tokens.to(device), self.mask.to(device), moved)


@dataclass(frozen=True)
class Pair:
    """A base run, its source run row by row, the base's answer tokens [batch], and the metric they are scored by.

    also_right and foils [batch, n], NO_TOKEN where a row has fewer; None where no example has any.
    """

    base: PromptBatch
    source: PromptBatch
    answer: Tensor
    also_right: Tensor | None = None
    foils: Tensor | None = None
    metric: Metric = DEFAULT_METRIC

    def __post_init__(self) -> None:
        if not len(self.base.tokens) == len(self.source.tokens) == len(self.answer):
            raise ValueError("base, source and answer differ in batch size")
        if any(more is not None and len(more) != len(self.answer) for more in (self.also_right, self.foils)):
            raise ValueError("answer and further tokens differ in batch size")

    @property
    def right(self) -> Tensor:
        """[batch, 1 + n]: the answer, then what is right as well."""
        first = self.answer[:, None]
        return first if self.also_right is None else torch.cat([first, self.also_right], 1)

    @property
    def question(self) -> Question:
        """The base run and its answers."""
        return Question(self.base, self.answer)

    def to(self, device: torch.device | str) -> Pair:
        """The same batch on `device`."""
        moved = {name: one.to(device) for name, one in vars(self).items() if isinstance(one, (PromptBatch, Tensor))}
        return replace(self, **moved)


@dataclass(frozen=True)
class Question:
    """A batch of prompts and the token [batch] that answers each, or that an intervention should make the answer."""

    run: PromptBatch
    answer: Tensor

    def __post_init__(self) -> None:
        if len(self.run.tokens) != len(self.answer):
            raise ValueError("prompts and answers differ in batch size")

    def to(self, device: torch.device | str) -> Question:
        """The same batch on `device`."""
        return Question(self.run.to(device), self.answer.to(device))


def padded_batch(prompts: Sequence[Prompt], pad: int = 0, side: Side = "left") -> PromptBatch:
    """The prompts as one batch, padded on `side` to the longest; every prompt names the same positions."""
    width = max(len(prompt.tokens) for prompt in prompts)
    tokens = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    offsets = []
    for row, prompt in enumerate(prompts):
        offset = width - len(prompt.tokens) if side == "left" else 0
        tokens[row, offset : offset + len(prompt.tokens)] = torch.tensor(prompt.tokens)
        mask[row, offset : offset + len(prompt.tokens)] = 1
        offsets.append(offset)
    positions = {
        name: torch.tensor([prompt.positions[name] + offset for prompt, offset in zip(prompts, offsets, strict=True)])
        for name in prompts[0].positions
    }
    return PromptBatch(tokens, mask, positions)


def collate(examples: Sequence[Example], pad: int = 0, side: Side = "left") -> Pair:
    """The examples as one padded batch of pairs."""
    base = padded_batch([example.base for example in examples], pad, side)
    source = padded_batch([example.source for example in examples], pad, side)
    also_right, foils = (_tokens([getattr(one, name) for one in examples]) for name in ("also_right", "foils"))
    return Pair(base, source, torch.tensor([example.answer for example in examples]), also_right, foils)


def right_tokens(examples: Sequence[Example]) -> Tensor:
    """[example, 1 + n]: each example's answer, then what is right as well, NO_TOKEN where it has less."""
    rows = _tokens([(example.answer, *example.also_right) for example in examples])
    assert rows is not None
    return rows


def _tokens(rows: Sequence[tuple[int, ...]]) -> Tensor | None:
    """[row, n]: the rows, NO_TOKEN behind those that are shorter; None if all are empty."""
    width = max(map(len, rows), default=0)
    filled = [[*row, *[NO_TOKEN] * (width - len(row))] for row in rows]
    return torch.tensor(filled) if width else None
