"""Tasks of your own in Python: what a class must have to be one, and the checks of what it gives.

A class in a manifest, `task: {kind: my_package.module:Task, options: {...}}`, needs nothing from this package:

    class Task:
        positions = ("object",)

        def __init__(self, **options): ...

        def examples(self, tokenizer, count, seed, split):
            return [{"base": "The {{object|apple}} is in", "source": ..., "answer": "Box"}, ...]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError, accepted_names
from nnsight_et.core.turns import makes_turns
from nnsight_et.tasks.answers import answer_tokens
from nnsight_et.tasks.encoding import check_ends
from nnsight_et.tasks.marked import ANSWER_TOKENS, KEYS, SPACE, SPECIAL, encoded_pair, marked_pair, tokens_as
from nnsight_et.tasks.splits import SPLITS
from nnsight_et.tasks.turns import as_turns

MORE = ("also_right", "foils")
ENTRY = (*KEYS, *MORE, SPACE, SPECIAL, ANSWER_TOKENS)


class Task(Protocol):
    """What a class must have to be a task; it is called with the manifest's options."""

    positions: tuple[str, ...]
    """The named positions in the order of every base prompt, without `last`, the prompt's last token.

    A task whose variables can be swapped also has `desiderata`, their names, and a method
    desideratum(name, tokenizer, count, seed, split): `count` examples like those of `examples`, whose answer is the one
    that the swap should give. For one seed and split, all variables have the same base prompts in the same order.
    Splits are mask_training, mask_validation, mask_test and evaluation.
    """

    def examples(
        self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str
    ) -> Sequence[Example | Mapping[str, Any]]:
        """Exactly `count` examples of a split: discovery, pruning, evaluation or ablation; the same for the same call.

        Each is an Example, or texts: base and source with positions marked as {{name|text}}, answer, and, where there
        are some, lists of further answers under also_right and of wrong ones under foils; "space", "special_tokens" and
        "answer_tokens" are those of nnsight_et.tasks.marked. The source prompts of
        `ablation` say what ablated heads output. A task that can run out also has available(seed, split): how many
        examples a split can have.
        """
        ...


@dataclass(frozen=True)
class OwnTask:
    """A user's task; everything it gives is checked."""

    given: Any
    """The MadeTask that a manifest makes of it. Its output is not checked here; its errors are reported."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"task {self.given.kind}"

    def available(self, seed: int, split: str) -> float:
        """How many examples the split can have: without end, unless the task says."""
        count = self.given.available(seed, split)
        if count is None:
            return inf
        if type(count) is not int or count < 0:
            raise TaskError(f"{self.name}: available of {split}: found {count!r:.60}; accepted: a whole number from 0")
        return count

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """`count` examples; TaskError naming the one that cannot be used, or what the task raised."""
        if split not in SPLITS:
            raise TaskError(f"no split {split!r}; {accepted_names(split, SPLITS)}")
        given = self.given.examples(tokenizer, count, seed, split)
        return self._checked(given, count, tokenizer, f"{self.name}: examples of {split}")

    def _checked(
        self, given: Sequence[Any], count: int, tokenizer: PreTrainedTokenizerBase, where: str
    ) -> list[Example]:
        if len(given) != count:
            raise TaskError(f"{where}: found {len(given)}; accepted: {count}, as requested")
        names = (*self.given.positions, "last")
        return [
            checked_example(one, names, tokenizer, f"{where}: example {index}")
            for index, one in enumerate(given, start=1)
        ]

    def desideratum(
        self, name: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str
    ) -> list[Example]:
        """`count` pairs that swap a variable; TaskError naming one that cannot be used, or what the task raised."""
        given = self.given.desideratum(name, tokenizer, count, seed, split)
        return self._checked(given, count, tokenizer, f"{self.name}: desideratum {name} of {split}")

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]


def checked_example(given: Any, names: Sequence[str], tokenizer: PreTrainedTokenizerBase, where: str) -> Example:
    """What a task gave, as an example with these positions; TaskError naming `where` if it is none."""
    if isinstance(given, Mapping):
        example = _encoded_example(given, tokenizer, where)
    elif isinstance(given, Example):
        if makes_turns(tokenizer):
            found = "an Example of tokens, but chat prompts must be text"
            raise TaskError(f"{where}: found {found}; accepted: {', '.join(KEYS)} as texts")
        example = given
    else:
        raise TaskError(f"{where}: found {type(given).__name__}; accepted: an Example, or {', '.join(KEYS)} as texts")
    for side, prompt in (("base", example.base), ("source", example.source)):
        _check_prompt(prompt, names, len(tokenizer), f"{where}: {side}")
        if example is given:
            check_ends(prompt.tokens, tokenizer, f"{where}: {side}")
    order = sorted(names, key=example.base.positions.__getitem__)
    if order != list(names):
        raise TaskError(f"{where}: base: positions in the order {', '.join(order)}; accepted: {', '.join(names)}")
    _check_answers(example, len(tokenizer), where)
    return example


def _encoded_example(given: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> Example:
    """The example that texts are, each further answer a token that may follow the base prompt."""
    for key in given:
        if key not in ENTRY:
            raise TaskError(f"{where}: no key {key!a} here; {accepted_names(str(key), ENTRY)}")
    for key in KEYS:
        if not isinstance(given.get(key), str):
            raise TaskError(f"{where}: {key}: found {given.get(key)!r:.60}; accepted: a text")
    pair = marked_pair(given["base"], given["source"], given["answer"], where)
    try:
        pair = as_turns(replace(pair, **tokens_as(given, where)), tokenizer)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    example = encoded_pair(pair, tokenizer, where)
    more: dict[str, list[tuple[int, ...]]] = {}
    for key in MORE:
        words = given.get(key, ())
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) and word.strip() for word in words):
            raise TaskError(f"{where}: {key}: found {words!r:.60}; accepted: a list of texts")
        try:
            more[key] = [answer_tokens(word, f"{key}: answer", pair, example.base, tokenizer) for word in words]
        except TaskError as error:
            raise TaskError(f"{where}: {error}") from None
    return Example.scored_by(example.base, example.source, [*example.right, *more["also_right"]], more["foils"])


def _check_prompt(prompt: Any, names: Sequence[str], vocabulary: int, where: str) -> None:
    if not isinstance(prompt, Prompt) or not isinstance(prompt.positions, dict):
        raise TaskError(f"{where}: found {type(prompt).__name__}; accepted: a Prompt of tokens and named positions")
    _check_tokens(prompt.tokens, vocabulary, f"{where}: tokens")
    if set(prompt.positions) != set(names):
        found = ", ".join(map(str, prompt.positions)) or "none"
        raise TaskError(f"{where}: positions {found}; accepted: {', '.join(names)}")
    length, taken = len(prompt.tokens), dict[int, str]()
    for name, index in prompt.positions.items():
        if type(index) is not int or not 0 <= index < length:
            raise TaskError(f"{where}: position {name!r} is {index!r:.60}; accepted: 0 to {length - 1}")
        if name == "last" and index != length - 1:
            raise TaskError(f"{where}: 'last' is {index}; accepted: {length - 1}, the prompt's last token")
        if index in taken:
            found = f"positions {taken[index]!r} and {name!r} are the same token"
            raise TaskError(f"{where}: {found}; accepted: a different token for each, and none the last one")
        taken[index] = name


def _check_answers(example: Example, vocabulary: int, where: str) -> None:
    _check_tokens((example.answer,), vocabulary, f"{where}: answer")
    for key in MORE:
        _check_tokens(getattr(example, key), vocabulary, f"{where}: {key}", fewest=0)
    for tokens in example.further:
        _check_tokens(tokens, vocabulary, f"{where}: further", fewest=0)
    for key, texts in (("also_right", example.right), ("foils", (*dict.fromkeys(example.right), *example.wrong))):
        if len(set(texts)) < len(texts):
            raise TaskError(f"{where}: {key}: a token that appears twice or counts as right; accepted: other tokens")


def _check_tokens(tokens: Any, vocabulary: int, where: str, fewest: int = 1) -> None:
    if not isinstance(tokens, tuple) or len(tokens) < fewest:
        raise TaskError(f"{where}: found {tokens!r:.60}; accepted: a tuple of token ids")
    for token in tokens:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise TaskError(
                f"{where}: found {token!r:.60}; accepted: token ids, whole numbers from 0 to {vocabulary - 1}"
            )
