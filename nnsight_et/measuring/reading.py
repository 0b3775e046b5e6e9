"""What prompts say, read back from their tokens: which split they are of, and what answers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import comb
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, NamedTuple

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.manifest import BoxesTask, MadeTask, PairsFile
from nnsight_et.measuring.audit import Finding, finding
from nnsight_et.planning.plan import Job
from nnsight_et.tasks.boxes import OBJECTS, SPLITS
from nnsight_et.tasks.marked import encoded_pair
from nnsight_et.tasks.own_pairs import OwnPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = ("object", "label", "position")  # desiderata whose sources are written as all prompts are
UNLIKELY = 1e-9  # what draws at random do not come to
SHARED = {
    "pruning": "discovery", "mask_training": "discovery", "mask_validation": "discovery", "mask_test": "evaluation",
}  # fmt: skip
"""Splits that files and classes may fill from one part."""


@dataclass
class SplitsSeen:
    """Which split each base prompt of a run was in, and which examples have been read."""

    read: dict[tuple[str, str | None], list[Sequence[Example]]] = field(default_factory=dict)
    _seen: dict[tuple[int, ...], tuple[str, str]] = field(default_factory=dict[tuple[int, ...], tuple[str, str]])
    _asked: dict[tuple[str, int], dict[Any, int]] = field(default_factory=dict[tuple[str, int], dict[Any, int]])

    def findings(self, job: Job, split: str, prompts: Sequence[Prompt]) -> Iterator[Finding]:
        """That none of these was in another split of this run, and, of a task with a generator, none is there twice."""
        own = isinstance(job.task, (PairsFile, MadeTask))
        if own and split == "ablation":  # sources, which may be bases too: of the same pair in the other direction
            return
        part = SHARED.get(split, split) if own else split
        for prompt in prompts:
            other, where = self._seen.setdefault(prompt.tokens, (part, job.name))
            yield finding("splits", other == part, f"a prompt of {split} is one of {other} in {where}")
        once = own or len({prompt.tokens for prompt in prompts}) == len(prompts)
        yield finding("splits", once, f"{split}: a prompt is there twice")

    def draws(self, reader: BoxesReader, examples: Sequence[Example], swapped: str | None) -> Iterator[Finding]:
        """That the segments that pairs of the boxes task ask for look drawn at random, over all pairs of the run."""
        for example in examples:
            base, source = reader.scene(example.base), reader.scene(example.source)
            key = (example.base.tokens, example.source.tokens)
            if base is None or source is None or base.asked not in base.labels:
                continue
            mine = base.labels.index(base.asked)
            self._asked.setdefault(("base", reader.boxes), {})[key[0]] = mine
            if swapped == "object" and source.asked in source.labels:
                moved = (source.labels.index(source.asked) - mine) % reader.boxes
                self._asked.setdefault(("source of object, from the base's", reader.boxes), {})[key] = moved
        for (what, boxes), found in self._asked.items():
            most = max(Counter(found.values()).values())
            chance = boxes * comb(len(found), most) / boxes**most  # at most: that any segment is asked for as often
            yield finding("examples", chance > UNLIKELY, f"the segments asked for ({what}) are not drawn at random")


class Scene(NamedTuple):
    """What a prompt of the boxes task says, and at which tokens."""

    objects: list[str]
    labels: list[str]
    object_at: list[int]
    label_at: list[int]
    asked: str
    asked_at: int

    @property
    def split(self) -> str:
        """By a digest of the context's sentence."""
        told = [f"the {one} is in Box {label}" for one, label in zip(self.objects, self.labels, strict=True)]
        text = f"T{', '.join(told)[1:]}."
        return SPLITS[int.from_bytes(blake2b(text.encode(), digest_size=1).digest(), "big") % len(SPLITS)]

    def places(self, segment: int, length: int) -> dict[str, int]:
        """The named positions of a prompt of that many tokens about one of its segments."""
        return {
            "correct_object": self.object_at[segment],
            "previous_query_label": self.label_at[segment],
            "query_label": self.asked_at,
            "last": length - 1,
        }


class BoxesReader:
    """Reads prompts by the words of their tokens; `reads` says whether this tokenizer's can be read."""

    def __init__(self, task: BoxesTask, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.boxes = tokenizer, task.boxes
        self.things = set(task.objects or OBJECTS)
        self._words = dict[int, str]()
        self._scenes = dict[tuple[tuple[int, ...], int], Scene | None]()
        things, labels = sorted(self.things)[: self.boxes], list(ascii_uppercase[: self.boxes])
        told = ", ".join(f"the {one} is in Box {label}" for one, label in zip(things, labels, strict=True))
        ids: Any = tokenizer(f"T{told[1:]}. Box {labels[-1]} contains the")["input_ids"]
        scene = self.scene(Prompt(tuple(ids), {}))
        self.reads = scene is not None and (scene.objects, scene.labels, scene.asked) == (things, labels, labels[-1])

    def word(self, token: int) -> str:
        """The token's text without space around it."""
        if token not in self._words:
            self._words[token] = str(self.tokenizer.decode([token])).strip()
        return self._words[token]

    def scene(self, prompt: Prompt, added: int = 0) -> Scene | None:
        """What the prompt says, about so many segments more than the task's; None if it cannot be read."""
        key = prompt.tokens, added
        if key not in self._scenes:
            self._scenes[key] = self._read(prompt, added)
        return self._scenes[key]

    def _read(self, prompt: Prompt, added: int) -> Scene | None:
        words = [(index, self.word(token)) for index, token in enumerate(prompt.tokens)]
        things = [(index, word) for index, word in words if word in self.things]
        labels = [(index, word) for index, word in words if len(word) == 1 and word in ascii_uppercase]
        count = self.boxes + added
        if len(things) != count or len(labels) != count + 1:
            return None
        (*told, (asked_at, asked)) = labels
        return Scene([word for _, word in things], [word for _, word in told], [index for index, _ in things],
                     [index for index, _ in told], asked, asked_at)  # fmt: skip


def reader_of(task: Any, tokenizer: PreTrainedTokenizerBase) -> BoxesReader | None:
    """Who reads a task's prompts: nobody those of other tasks, nor where a tokenizer's tokens are no words."""
    reader = BoxesReader(task, tokenizer) if isinstance(task, BoxesTask) else None
    return reader if reader is not None and reader.reads else None


def examples_findings(
    reader: BoxesReader, examples: Sequence[Example], split: str, swapped: str | None, *, sources: bool = True
) -> Iterator[Finding]:
    """That pairs of the boxes task are of that split, and their positions, answers and foils what their texts say.

    swapped: the desideratum they are of. sources: whether their sources are the task's.
    """
    for number, example in enumerate(examples):
        where = f"{split}: example {number}"
        base = reader.scene(example.base)
        if base is None or base.asked not in base.labels or len({*base.labels, *base.objects}) < 2 * reader.boxes:
            yield finding("examples", False, f"{where}: its base prompt")
            continue
        segment = base.labels.index(base.asked)
        yield finding("splits", base.split == split, f"{where} is of {base.split}")
        right = example.base.positions == base.places(segment, example.base.length)
        yield finding("examples", right, f"{where}: the base's positions")
        if swapped is None:
            yield from _answer(reader, example, base, where)
            if sources:
                yield from _source(reader, example, base, where)
        else:
            yield from _swap(reader, example, base, swapped, where)


def _answer(reader: BoxesReader, example: Example, base: Scene, where: str) -> Iterator[Finding]:
    """The base's own answer, and the other objects as foils."""
    segment = base.labels.index(base.asked)
    yield finding("examples", reader.word(example.answer) == base.objects[segment], f"{where}: the answer")
    others = [base.objects[index] for index in range(reader.boxes) if index != segment]
    foils = sorted(map(reader.word, example.foils))
    yield finding("examples", foils in ([], sorted(others)) and not example.also_right, f"{where}: the foils")


def _source(reader: BoxesReader, example: Example, base: Scene, where: str) -> Iterator[Finding]:
    """A source that cannot answer."""
    source = reader.scene(example.source)
    if source is None:
        yield finding("examples", False, f"{where}: the source")
        return
    right = source.split == base.split and _apart(base, source)
    right = right and source.asked not in (*source.labels, *base.labels)
    right = right and _at_a_segment(source, example.source, range(reader.boxes))
    yield finding("examples", right, f"{where}: the source")


def _at_a_segment(scene: Scene, prompt: Prompt, segments: Iterable[int]) -> bool:
    return prompt.positions in [scene.places(one, prompt.length) for one in segments]


def _apart(base: Scene, source: Scene) -> bool:
    return not {*base.labels, *base.objects} & {*source.labels, *source.objects}


def _swap(reader: BoxesReader, example: Example, base: Scene, name: str, where: str) -> Iterator[Finding]:
    """A pair of a desideratum, whose answer is the target."""
    added = int(name in ("segment_at_start", "segment_at_end"))
    source = reader.scene(example.source, added)
    if source is None:
        yield finding("examples", name not in PLAIN, f"{where}: the source")
        return
    right = _apart(base, source)
    asked = source.labels.index(source.asked) if source.asked in source.labels else None
    mine = base.labels.index(base.asked)
    if name == "object":
        target = None if asked is None else source.objects[asked]
    elif name == "label":
        other = base.labels.index(source.asked) if source.asked in base.labels else mine
        target = None if asked is not None or other == mine else base.objects[other]
    else:
        moved = (name == "incorrect_segment") - (name == "segment_at_start")
        place = None if asked is None else (asked + moved) % reader.boxes
        target = None if place is None or place == mine else base.objects[place]
        right = right and (name == "incorrect_segment" or place != mine)
    if name in PLAIN:
        right = right and source.split == base.split
    segments = range(len(source.labels)) if asked is None else [asked]
    right = right and _at_a_segment(source, example.source, segments)
    yield finding("examples", right, f"{where}: the source of {name}")
    yield finding("examples", reader.word(example.answer) == target, f"{where}: the target of {name}")
    yield finding("examples", not example.foils and not example.also_right, f"{where}: what else is right")


def prompts_findings(reader: BoxesReader, prompts: Sequence[Prompt], split: str) -> Iterator[Finding]:
    """That single prompts of the boxes task are of that split, and ask for a box that they do not mention."""
    for number, prompt in enumerate(prompts):
        scene = reader.scene(prompt)
        if scene is None:
            yield finding("examples", False, f"{split}: prompt {number}")
            continue
        right = scene.asked not in scene.labels
        right = right and _at_a_segment(scene, prompt, range(reader.boxes))
        yield finding("examples", right, f"{split}: prompt {number}")
        yield finding("splits", scene.split == split, f"{split}: prompt {number}")


def file_findings(
    pairs: OwnPairs, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], prompts: Sequence[Prompt]
) -> Iterator[Finding]:
    """That ablation prompts from a file of pairs belong to base prompts that are not among the measured ones."""
    measured = {one.base.tokens for one in examples}
    every = [encoded_pair(pair, tokenizer, where) for where, pair in pairs.pairs]
    apart = {one.source.tokens for one in every if one.base.tokens not in measured}
    right = all(prompt.tokens in apart for prompt in prompts)
    yield finding("splits", right, "ablation: its prompts are those of measured pairs")
