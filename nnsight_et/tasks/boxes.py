"""The boxes task (§3): "The apple is in Box F, the computer is in Box Q, ... . Box F contains the" -> " apple".

Everything is drawn from a seed. A context belongs to exactly one split, decided by a digest of its text, so that the
data that discover, prune, train and evaluate are disjoint whatever the seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from string import ascii_uppercase

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError, accepted_names, quantity
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, encoded_prompt

VERSION = 1  # of the generator: part of what a result was computed from
LABELS = tuple(ascii_uppercase)
OBJECTS = tuple(
    """book car paper letter game computer picture plant cup machine bill glass note stone fish drug television card
    document rock radio ball tea file newspaper branch train fig flower bag boat key painting phone drink engine bus
    coffee sheet plate magazine egg block brain map crown ring leaf dress fan milk ticket gift cross plane mirror coat
    wheel string ice rose boot hat suit creature bomb camera bread meat apple pipe guitar disk medicine clock chemical
    seed tie watch shell wire pot brick bell magnet""".split()  # noqa: SIM905
)
SPLITS = (
    "model_training", "discovery", "pruning", "mask_training", "mask_validation", "mask_test", "evaluation", "ablation",
)  # fmt: skip
POSITIONS = ("correct_object", "previous_query_label", "query_label", "last")  # in the order of a prompt


@dataclass(frozen=True)
class Context:
    """Which object is in which box: objects[i] is in the box labelled labels[i]."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentence that says so, with its full stop."""
        segments = [f"the {thing} is in Box {label}" for thing, label in zip(self.objects, self.labels, strict=True)]
        return "T" + ", ".join(segments)[1:] + "."

    @property
    def split(self) -> str:
        """The split this context belongs to, whatever the seed it came from."""
        return SPLITS[blake2b(self.text.encode(), digest_size=1).digest()[0] % len(SPLITS)]

    def query(self, label: str, segment: int) -> MarkedText:
        """The prompt that asks for box `label`, its earlier mentions marked at `segment`."""
        text = f"{self.text} Box {label} contains the"
        ends = [i for i in range(len(text)) if text.startswith(" is in Box ", i)]
        thing, earlier = self.objects[segment], self.labels[segment]
        at, label_at, query_at = ends[segment], ends[segment] + len(" is in Box "), len(self.text) + len(" Box ")
        spans = {
            "correct_object": (at - len(thing), at),
            "previous_query_label": (label_at, label_at + len(earlier)),
            "query_label": (query_at, query_at + len(label)),
        }
        return MarkedText(text, spans)


@dataclass(frozen=True)
class Boxes:
    """A generator of pairs of prompts about `boxes` boxes whose contents are drawn from `objects`."""

    boxes: int = 7
    objects: tuple[str, ...] = OBJECTS
    foils: bool = False
    """Whether examples have foils: the other objects of the base prompt."""

    def __post_init__(self) -> None:
        need = 2 * self.boxes + 1  # base labels, source labels, and a query letter of the source that is in neither
        if self.boxes < 2 or need > len(LABELS):
            raise TaskError(
                f"task.boxes: {self.boxes} boxes need {need} labels, but there are {len(LABELS)}; accepted: 2 to 12"
            )
        if len(set(self.objects)) < 2 * self.boxes:
            found = f"{len(set(self.objects))} different objects"
            raise TaskError(f"task.objects: {found}; accepted: at least {2 * self.boxes} for {self.boxes} boxes")

    def contexts(self, draw: random.Random, split: str) -> Iterator[Context]:
        """Contexts of `split`, each once; TaskError when all are used."""
        seen: set[Context] = set()
        while True:
            for _ in range(1000):
                context = self.context(draw, split)
                if context not in seen:
                    break
            else:
                found = f"found only {quantity(len(seen), 'context')} of the split {split}"
                raise TaskError(f"task.objects: {found}; accepted: more objects")
            seen.add(context)
            yield context

    def context(self, draw: random.Random, split: str, apart_from: Context | None = None) -> Context:
        """A context of `split` that shares no object and no label with `apart_from`."""
        if split not in SPLITS:
            raise TaskError(f"no split {split!r}; {accepted_names(split, SPLITS)}")
        objects = _without(self.objects, apart_from.objects if apart_from else ())
        labels = _without(LABELS, apart_from.labels if apart_from else ())
        while True:
            context = Context(tuple(draw.sample(objects, self.boxes)), tuple(draw.sample(labels, self.boxes)))
            if context.split == split:
                return context

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """`count` pairs of a base and a source prompt.

        The source shares no object and no label with the base and asks for a box that is in neither, so its run cannot
        answer; its own previous_query_label is one of its labels, drawn once per example.
        """
        self.check_tokens(tokenizer)
        return [_encoded_example(pair, tokenizer, self.foils) for pair in self.pairs(count, seed, split)]

    def pairs(self, count: int, seed: int, split: str) -> list[MarkedPair]:
        """The texts of the examples of the same count, seed and split."""
        draw = random.Random(f"{seed}/{split}/examples")
        contexts = self.contexts(draw, split)
        return [self._pair(next(contexts), draw) for _ in range(count)]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """`count` contexts, each asking for a letter that is not in it: what mean ablation averages over."""
        self.check_tokens(tokenizer)
        draw = random.Random(f"{seed}/{split}/prompts")
        contexts = self.contexts(draw, split)
        return [encoded_prompt(self._unanswerable(next(contexts), draw), tokenizer) for _ in range(count)]

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise TaskError unless every object and every label is a single token."""
        for words, segment in ((self.objects, "The {} is in Box A"), (LABELS, "The book is in Box {}")):
            for word in words:
                start = segment.index("{}")
                encoded_prompt(MarkedText(segment.format(word), {"task": (start, start + len(word))}), tokenizer)

    def label_tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The token of every letter a box can have."""
        start = len("The book is in Box ")
        prompts = [
            encoded_prompt(MarkedText(f"The book is in Box {label}", {"label": (start, start + 1)}), tokenizer)
            for label in LABELS
        ]
        return [prompt.tokens[prompt.positions["label"]] for prompt in prompts]

    def _pair(self, context: Context, draw: random.Random) -> MarkedPair:
        segment = draw.randrange(self.boxes)
        base = context.query(context.labels[segment], segment)
        other = self.context(draw, context.split, apart_from=context)
        source, answer = self._unanswerable(other, draw, context.labels), context.objects[segment]
        return MarkedPair(base, source, answer, foils=tuple(_without(context.objects, [answer])), space=True)

    def _unanswerable(self, context: Context, draw: random.Random, taken: Sequence[str] = ()) -> MarkedText:
        label = draw.choice(_without(LABELS, (*context.labels, *taken)))
        return context.query(label, draw.randrange(self.boxes))


def _encoded_example(pair: MarkedPair, tokenizer: PreTrainedTokenizerBase, foils: bool) -> Example:
    base = encoded_prompt(pair.base, tokenizer)
    answer = base.tokens[base.positions["correct_object"]]
    others = _others(pair, tokenizer) if foils else ()
    return Example(base, encoded_prompt(pair.source, tokenizer), answer, foils=others)


def _others(pair: MarkedPair, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens of the base's other objects, as they stand in it."""
    text, words = pair.base.text, [str(word) for word in pair.foils]
    starts = {word: text.index(f"he {word} is in Box ") + len("he ") for word in words}  # The book, the car
    spans = {word: (start, start + len(word)) for word, start in starts.items()}
    prompt = encoded_prompt(MarkedText(text, spans), tokenizer)
    return tuple(prompt.tokens[prompt.positions[word]] for word in words)


def _without(words: Sequence[str], taken: Sequence[str]) -> list[str]:
    return [word for word in words if word not in taken]
