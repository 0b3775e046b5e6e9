"""Encoded prompts, and batches of them: token ids, mask, named positions, answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from nnsight_et.core.errors import TaskError
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric

Side = Literal["left", "right"]
NO_TOKEN = -1
"""Fills the rows of token tensors [batch, n] that have fewer than n."""
UNFINISHED = -2
"""Stands for the predicted token where an answer of several is begun as a right one is, and none is finished."""


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt, without padding, for tasks in Python that make tokens themselves.

    Args:
        tokens: Its token ids.
        positions: The index of each named position in `tokens`, "last" among them.

    Examples:
        >>> import nnsight_et as et
        >>> et.Prompt((1, 17, 4), {"object": 1, "last": 2}).length
        3
    """

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
    """A pair of encoded prompts, for tasks in Python that make tokens themselves.

    Args:
        base: The prompt that is patched.
        source: The prompt that donates activations.
        answer: The token that answers the base prompt.
        also_right: Further tokens that count as right.
        foils: Wrong tokens, for metrics that compare.
        further: If any of these texts has several tokens: the tokens after the first, of the answer, then of each other
            right text, then of each foil. `Example.scored_by` fills it in.

    Examples:
        >>> import nnsight_et as et
        >>> base, source = et.Prompt((1, 17, 4), {"last": 2}), et.Prompt((1, 9, 4), {"last": 2})
        >>> et.Example(base, source, answer=17, foils=(9,)).wrong
        ((9,),)
    """

    base: Prompt
    source: Prompt
    answer: int
    also_right: tuple[int, ...] = ()
    foils: tuple[int, ...] = ()
    further: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        texts = 1 + len(self.also_right) + len(self.foils)
        if self.further and len(self.further) != texts:
            raise ValueError(f"further tokens of {len(self.further)} texts, and there are {texts}")

    @classmethod
    def scored_by(
        cls, base: Prompt, source: Prompt, right: Sequence[tuple[int, ...]], wrong: Sequence[tuple[int, ...]] = ()
    ) -> Example:
        """The pair with the tokens of each text: of the answer, of what is right as well, and of the foils."""
        firsts = [tuple(text[0] for text in some) for some in (right, wrong)]
        further = tuple(tuple(text[1:]) for text in (*right, *wrong))
        return cls(base, source, firsts[0][0], firsts[0][1:], firsts[1], further if any(further) else ())

    @property
    def right(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of the answer, then of each text that is right as well."""
        return self._texts((self.answer, *self.also_right), 0)

    @property
    def wrong(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each foil."""
        return self._texts(self.foils, 1 + len(self.also_right))

    def _texts(self, firsts: tuple[int, ...], start: int) -> tuple[tuple[int, ...], ...]:
        more = self.further[start : start + len(firsts)] or ((),) * len(firsts)
        return tuple((first, *rest) for first, rest in zip(firsts, more, strict=True))

    @property
    def continuation(self) -> int:
        """How many tokens of its answers follow the prompt when all but the last are put there."""
        return max(map(len, self.further), default=0)

    @property
    def read(self) -> int:
        """How many tokens' logits are read of a run of its base prompt: with texts of several tokens those of each."""
        return max(1, len(self.further)) * (1 + self.continuation)

    @property
    def length(self) -> int:
        """How many tokens the longer of its prompts has, with those of its answers that follow it."""
        return max(self.base.length + self.continuation, self.source.length)

    @property
    def largest(self) -> int:
        """The largest number of a token in its prompts and answers."""
        texts = (token for text in (*self.right, *self.wrong) for token in text)
        return max(self.base.largest, self.source.largest, *texts)


def check_lengths(some: Iterable[Prompt | Example], most: int | None, where: str, model: str) -> None:
    """Raise TaskError naming `where` if one has more tokens than `most`, the model's positions; None: no end."""
    length = max((one.length for one in some), default=0)
    if most is not None and length > most:
        found = f"a prompt of {length} tokens, but {model} has positions for {most}"
        raise TaskError(f"{where}: {found}; accepted: prompts of at most {most} tokens")


def check_tokens(some: Iterable[Prompt | Example], rows: int, where: str, model: str) -> None:
    """Raise TaskError naming `where` if one has a token that the model has no row for, its vocabulary being `rows`."""
    largest = max((one.largest for one in some), default=0)
    if largest >= rows:
        found = f"a prompt or an answer has token {largest}, but {model} embeds only tokens 0 to {rows - 1}"
        raise TaskError(f"{where}: {found}; accepted: the model's own tokenizer, and tokens that its embedding has")


@dataclass(frozen=True)
class PromptBatch:
    """A batch of prompts: tokens and mask [batch, seq]; positions: name -> [batch] indices into seq."""

    tokens: Tensor
    mask: Tensor
    positions: dict[str, Tensor]
    continuation: int = 0
    """How many tokens behind each prompt's `last` are those of an answer."""

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
        return PromptBatch(self.tokens.to(device), self.mask.to(device), moved, self.continuation)

    @property
    def read(self) -> Tensor:
        """[batch, 1 + continuation]: where logits say what comes next: at `last`, and at the answer's tokens."""
        last = self.positions["last"]
        return last[:, None] + torch.arange(1 + self.continuation, device=last.device)

    @property
    def behind(self) -> Tensor:
        """[batch, seq]: which tokens are behind the prompt: those of an answer, which no intervention touches."""
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (columns > self.positions["last"][:, None]) & (self.continuation > 0)

    def rows(self, index: Tensor) -> PromptBatch:
        """[row, seq]: the prompts with these numbers [row]."""
        positions = {name: place[index] for name, place in self.positions.items()}
        return PromptBatch(self.tokens[index], self.mask[index], positions, self.continuation)

    def continued(self, answers: Answers) -> PromptBatch:
        """[row, seq + n]: for each row of the answers its prompt, and behind it the answer's tokens but the last."""
        fed, given = answers.tokens[:, 1:] != NO_TOKEN, answers.tokens[:, :-1]
        prompts = self.rows(answers.example)
        tokens, mask = (torch.cat([one, torch.zeros_like(given)], 1) for one in (prompts.tokens, prompts.mask))
        row = torch.arange(len(given), device=given.device)[:, None]
        place = prompts.positions["last"][:, None] + 1 + torch.arange(given.shape[1], device=given.device)
        tokens[row, place], mask[row, place] = given * fed, fed.long()
        return PromptBatch(tokens, mask, prompts.positions, given.shape[1])


@dataclass(frozen=True)
class Answers:
    """The answers of a batch, one of which has several tokens, with what is right as well and what is a foil.

    Each text is a row: tokens [row, n], NO_TOKEN behind shorter ones; example [row]: the number of its prompt. Rows of
    each prompt: right [batch, 1 + n], the answer first, and foils [batch, n], NO_TOKEN where there are fewer.
    """

    tokens: Tensor
    example: Tensor
    right: Tensor
    foils: Tensor | None = None

    @property
    def first(self) -> Tensor:
        """[batch]: the first token of each answer."""
        return self.tokens[self.right[:, 0], 0]

    def to(self, device: torch.device | str) -> Answers:
        """The same on `device`."""
        return Answers(*(None if one is None else one.to(device) for one in vars(self).values()))  # type: ignore[arg-type]

    def of_some(self, texts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values [..., row] of rows [batch, n] as [..., batch, n], and which of them are there [batch, n]."""
        return texts[..., rows.clamp(min=0)], rows != NO_TOKEN


@dataclass(frozen=True)
class Pair:
    """A base run, its source run row by row, the base's answer tokens [batch], and the metric they are scored by.

    answer: a tensor, or Answers where one has several tokens. also_right and foils [batch, n], NO_TOKEN where a row has
    fewer; None where no example has any. function: what computes the metric "function". shared: with which other
    prompts their runs are made (engine.shared_runs).
    """

    base: PromptBatch
    source: PromptBatch
    answer: Any
    also_right: Tensor | None = None
    foils: Tensor | None = None
    metric: Metric = DEFAULT_METRIC
    function: Callable[[Tensor, Any], Tensor] | None = None
    shared: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.base.tokens) == len(self.source.tokens) == _count(self.base, self.answer):
            raise ValueError("base, source and answer differ in batch size")
        if any(more is not None and len(more) != len(self.base.tokens) for more in (self.also_right, self.foils)):
            raise ValueError("answer and further tokens differ in batch size")

    @property
    def right(self) -> Tensor:
        """[batch, 1 + n]: the answer, then what is right as well; of several tokens the first."""
        if isinstance(self.answer, Answers):
            firsts, there = self.answer.of_some(self.answer.tokens[:, 0], self.answer.right)
            return firsts.masked_fill(~there, NO_TOKEN)
        first = self.answer[:, None]
        return first if self.also_right is None else torch.cat([first, self.also_right], 1)

    def by_row(self) -> Pair:
        """The same with a row for each text of several tokens, which continues its prompt; itself if there is none."""
        if not isinstance(self.answer, Answers) or self.base.continuation:
            return self
        base, source = self.base.continued(self.answer), self.source.rows(self.answer.example)
        return replace(self, base=base, source=source, shared=None)

    def first_tokens(self) -> Pair:
        """The same prompts, answered by the first tokens alone."""
        return Pair(self.base, self.source, self.answer.first) if isinstance(self.answer, Answers) else self

    @property
    def question(self) -> Question:
        """The base run and its answers."""
        return Question(self.base, self.answer)

    def to(self, device: torch.device | str) -> Pair:
        """The same batch on `device`."""
        kinds = (PromptBatch, Tensor, Answers)
        moved = {name: one.to(device) for name, one in vars(self).items() if isinstance(one, kinds)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Question:
    """A batch of prompts and the token [batch] that answers each, or that an intervention should make the answer.

    answer: a tensor, or Answers where one has several tokens.
    """

    run: PromptBatch
    answer: Any

    def __post_init__(self) -> None:
        if len(self.run.tokens) != _count(self.run, self.answer):
            raise ValueError("prompts and answers differ in batch size")

    def by_row(self) -> Question:
        """The same with a row for each text of several tokens, which continues its prompt; itself if there is none."""
        if not isinstance(self.answer, Answers) or self.run.continuation:
            return self
        return Question(self.run.continued(self.answer), self.answer)

    def to(self, device: torch.device | str) -> Question:
        """The same batch on `device`."""
        return Question(self.run.to(device), self.answer.to(device))


def _count(run: PromptBatch, answer: Tensor | Answers) -> int:
    """How many prompts the answers are of; or rows, if that is what the run has."""
    if isinstance(answer, Answers):
        return len(answer.tokens) if run.continuation else len(answer.right)
    return len(answer)


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


def collate(examples: Sequence[Example], pad: int = 0, side: Side = "left", *, metric: Metric = DEFAULT_METRIC) -> Pair:
    """The examples as one padded batch of pairs; foils of several tokens are there if the metric needs them."""
    base = padded_batch([example.base for example in examples], pad, side)
    source = padded_batch([example.source for example in examples], pad, side)
    if any(example.further for example in examples):
        return Pair(base, source, answers_of(examples, METRICS[metric].needs_foils), metric=metric)
    also_right, foils = (_tokens([getattr(one, name) for one in examples]) for name in ("also_right", "foils"))
    return Pair(base, source, torch.tensor([example.answer for example in examples]), also_right, foils, metric)


def answers_of(examples: Sequence[Example], foils: bool) -> Answers:
    """The answers of the examples, one of which has several tokens; with their foils or without."""
    texts, owners, right, wrong = list[tuple[int, ...]](), list[int](), list[tuple[int, ...]](), list[tuple[int, ...]]()
    for number, example in enumerate(examples):
        for rows, some in ((right, example.right), (wrong, example.wrong if foils else ())):
            rows.append(tuple(range(len(texts), len(texts) + len(some))))
            texts += some
            owners += [number] * len(some)
    tokens, rows = _tokens(texts), _tokens(right)
    assert tokens is not None
    assert rows is not None
    return Answers(tokens, torch.tensor(owners), rows, _tokens(wrong))


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
