"""Indirect object identification: "Then, Mary and John went to the store. John gave a drink to" -> " Mary".

Wang et al. 2022 (arXiv 2211.00593). IO is the indirect object, the answer; S the subject, named twice. With order ABBA
the IO is named first, with BABA the S. The source prompt is of their p_ABC: the same words around three other names; or
the symmetric one, in which the IO gives, so that S is its answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError, accepted_names
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, encoded_prompt
from nnsight_et.tasks.marked import known_prompt, marked_text
from nnsight_et.tasks.splits import without_repeats

Order = Literal["mixed", "ABBA", "BABA"]
WHERE = "task ioi"
TEMPLATES = (
    "Then, {first} and {second} went to the {place}. {subject} gave a {thing} to",
    "When {first} and {second} got to the {place}, {subject} handed a {thing} to",
    "After {first} and {second} had met near the {place} for the first time, {subject} gave a {thing} to",
    "While {first} and {second} were on the way to the {place}, {subject} passed a {thing} to",
    "Today {first} and {second} were at the {place}, and {subject} brought a {thing} to",
    "Once {first} and {second} were inside the {place}, {subject} decided to give a {thing} to",
    "Later {first} and {second} spent some time at the {place}. {subject} offered a {thing} to",
    "As soon as {first} and {second} had left the {place}, {subject} showed a {thing} to",
)
WANG = (
    "Then, {first} and {second} went to the {place}. {subject} gave a {thing} to",
    "Then, {first} and {second} had a lot of fun at the {place}. {subject} gave a {thing} to",
    "Then, {first} and {second} were working at the {place}. {subject} decided to give a {thing} to",
    "Then, {first} and {second} were thinking about going to the {place}. {subject} wanted to give a {thing} to",
    "Then, {first} and {second} had a long argument, and afterwards {subject} said to",
    "After {first} and {second} went to the {place}, {subject} gave a {thing} to",
    "When {first} and {second} got a {thing} at the {place}, {subject} decided to give it to",
    "When {first} and {second} got a {thing} at the {place}, {subject} decided to give the {thing} to",
    "While {first} and {second} were working at the {place}, {subject} gave a {thing} to",
    "While {first} and {second} were commuting to the {place}, {subject} gave a {thing} to",
    "After the lunch, {first} and {second} went to the {place}. {subject} gave a {thing} to",
    "Afterwards, {first} and {second} went to the {place}. {subject} gave a {thing} to",
    "Then, {first} and {second} had a long argument. Afterwards {subject} said to",
    "The {place} {first} and {second} went to had a {thing}. {subject} gave it to",
    "Friends {first} and {second} found a {thing} at the {place}. {subject} gave it to",
)
"""The sentences of Wang et al. 2022, Appendix E."""
NAMES = tuple(
    """Mary John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Donald
    Steven Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas
    Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Frank Alexander Raymond Patrick Jack Dennis
    Jerry Tyler Aaron Jose Adam Nathan Henry Peter Kyle Walter Ethan Jeremy Harold Keith Christian Roger Noah Patricia
    Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Margaret Sandra Ashley Kimberly Emily
    Donna Michelle Carol Amanda Dorothy Melissa Deborah Stephanie Rebecca Sharon Laura Cynthia Kathleen Amy Angela
    Shirley Anna Brenda Pamela Emma Nicole Helen Samantha Katherine Christine Rachel Carolyn Janet Catherine Maria
    Heather Diane Ruth Julie Olivia Joyce Virginia Victoria Kelly Lauren Christina Joan Judith Megan Andrea Cheryl
    Hannah Martha Alice Simon Tom Tim Sam Max Leo Luke Oliver Oscar Felix Kate Jane Jean Lucy Claire Diana Julia Sophie
    Sophia Sally""".split()  # noqa: SIM905
)
PLACES = tuple(
    """store school park station office hospital restaurant house garden library market beach church hotel museum bank
    theater airport bridge harbor""".split()  # noqa: SIM905
)
THINGS = tuple(
    """ring book drink key ball letter map camera bottle cup box bag phone card basket gift coat hat watch ticket knife
    necklace computer bone snack flower pen picture bell guitar""".split()  # noqa: SIM905
)
FEWEST_NAMES = 5  # two of the base, three of the source
DESIDERATA = ("name", "position", "duplicate")
"""What the answer depends on: the indirect object's name, where the repeated name stood first, and which it is."""


@dataclass(frozen=True)
class Words:
    """What the templates are filled with, each a single token of one tokenizer."""

    names: tuple[str, ...]
    places: tuple[str, ...]
    things: tuple[str, ...]


@dataclass(frozen=True)
class IOIScene:
    """A template, two names in the order of the alphabet, a place and a thing: all but who gives to whom."""

    template: str
    names: tuple[str, str]
    place: str
    thing: str

    @property
    def text(self) -> str:
        """The prompt in which the second name is the subject: a scene is in one split, in whichever order."""
        return self.prompt(*self.names, self.names[1])

    def prompt(self, first: str, second: str, subject: str) -> str:
        """The prompt with these names."""
        return self.template.format(first=first, second=second, subject=subject, place=self.place, thing=self.thing)


@dataclass(frozen=True)
class IOI:
    """A generator of pairs from the first `templates` of TEMPLATES, in one order of the names or half in each.

    `names` are your own; without any, those of NAMES that the tokenizer has as single tokens. wang: the sentences are
    those of WANG. symmetric: the source is the base in which the other one gives. sentence: only that one, from 1.
    """

    order: Order = "mixed"
    templates: int = len(TEMPLATES)
    names: tuple[str, ...] | None = None
    wang: bool = False
    symmetric: bool = False
    sentence: int | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The templates that are used."""
        every = WANG if self.wang else TEMPLATES
        return every[: self.templates] if self.sentence is None else (every[self.sentence - 1],)

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """`count` pairs at io, s1, s1_plus_1 (the token after S1), s2 and last; the foil is the subject.

        TaskError if the tokenizer makes several tokens of an own name, or of too many of the words there are.
        """
        return [_encoded_example(pair, tokenizer) for pair in self.pairs(self.words(tokenizer), count, seed, split)]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over, as in Wang et al."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]

    def pairs(self, words: Words, count: int, seed: int, split: str) -> list[MarkedPair]:
        """The texts of the examples of the same count, seed and split."""
        draw = random.Random(f"{seed}/{split}/ioi")
        scenes = without_repeats(lambda: self._scene(words, draw), split, WHERE)
        return [self._pair(scene, words, draw) for scene in islice(scenes, count)]

    def desideratum(
        self, name: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str
    ) -> list[Example]:
        """`count` pairs that swap one variable of DESIDERATA; `answer` is the target, not the base's own answer.

        name: the source has two other names in the base's order, and its indirect object is the target.
        position: two other names in the other order. Who knows only at which place the repeated name first stood gives
        the base's subject, which is the target.
        duplicate: the base's order, and the base's indirect object is repeated, beside another name. Who knows only
        which name is repeated gives the base's subject, which is the target.
        Base prompts are the same for every variable of a seed and split.
        """
        examples = [
            _encoded_example(pair, tokenizer) for pair in self.swaps(name, self.words(tokenizer), count, seed, split)
        ]
        return [replace(one, answer=_target_token(name, one), foils=()) for one in examples]

    def swaps(self, name: str, words: Words, count: int, seed: int, split: str) -> list[MarkedPair]:
        """The texts of the desideratum's examples of the same count, seed and split; `answer` is the target."""
        if name not in DESIDERATA:
            raise TaskError(f"no desideratum {name!r}; {accepted_names(name, DESIDERATA)}")
        draw = random.Random(f"{seed}/{split}/ioi/desiderata")
        scenes = without_repeats(lambda: self._scene(words, draw), split, WHERE)
        return [self._swap(name, scene, words, draw) for scene in islice(scenes, count)]

    def words(self, tokenizer: PreTrainedTokenizerBase) -> Words:
        """The words that are single tokens; TaskError if an own name is not, or too few are."""
        names = self.names or single_tokens(NAMES, "Then, {} was there", tokenizer)
        for name in self.names or ():
            encoded_prompt(MarkedText(f"Then, {name} was there", {"task.names": (6, 6 + len(name))}), tokenizer)
        places = single_tokens(PLACES, "It was at the {} there", tokenizer)
        things = single_tokens(THINGS, "It was a {} there", tokenizer)
        for what, found, every, fewest in (
            ("names", names, NAMES, FEWEST_NAMES), ("places", places, PLACES, 1), ("objects", things, THINGS, 1),
        ):  # fmt: skip
            if len(found) < fewest:
                some = f"{len(found)} of {len(every)} {what} are single tokens of this tokenizer"
                raise TaskError(f"{WHERE}: {some}; accepted: at least {fewest}")
        for template in self.sentences:
            text = IOIScene(template, (names[0], names[1]), places[0], things[0]).text
            known_prompt(MarkedText(text, {}), tokenizer)
        return Words(names, places, things)

    def _scene(self, words: Words, draw: random.Random) -> IOIScene:
        first, second = sorted(draw.sample(words.names, 2))
        template, place, thing = draw.choice(self.sentences), draw.choice(words.places), draw.choice(words.things)
        place, thing = (word if field in template else "" for field, word in (("{place}", place), ("{thing}", thing)))
        return IOIScene(template, (first, second), place, thing)

    def _pair(self, scene: IOIScene, words: Words, draw: random.Random) -> MarkedPair:
        io, s = draw.sample(scene.names, 2)
        others = draw.sample([name for name in words.names if name not in scene.names], 3)
        roles = _in_order(self._draw_order(draw), io, s)
        base = _marked_scene(scene, roles | {"s2": s})
        if self.symmetric:
            return MarkedPair(base, _marked_scene(scene, roles | {"s2": io}), io)
        return MarkedPair(base, _marked_scene(scene, dict(zip((*roles, "s2"), others, strict=True))), io)

    def _swap(self, name: str, scene: IOIScene, words: Words, draw: random.Random) -> MarkedPair:
        io, s = draw.sample(scene.names, 2)
        one, other = draw.sample([name for name in words.names if name not in scene.names], 2)
        order = self._draw_order(draw)
        opposite: Order = "BABA" if order == "ABBA" else "ABBA"
        base, source = _in_order(order, io, s), _in_order(opposite if name == "position" else order, one, other)
        if name == "duplicate":
            source = _in_order(order, one, io)
        first, second = (_marked_scene(scene, roles | {"s2": roles["s1"]}) for roles in (base, source))
        return MarkedPair(first, second, one if name == "name" else s)

    def _draw_order(self, draw: random.Random) -> Order:
        return draw.choice(("ABBA", "BABA")) if self.order == "mixed" else self.order


def single_tokens(words: Sequence[str], sentence: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Those of the words that are a single token where the sentence has {}."""
    kept, start = [], sentence.index("{}")
    for word in words:
        try:
            encoded_prompt(MarkedText(sentence.format(word), {"word": (start, start + len(word))}), tokenizer)
        except TaskError:
            continue
        kept.append(word)
    return tuple(kept)


def _in_order(order: Order, io: str, s: str) -> dict[str, str]:
    """The first two names of a prompt by position, in the order of the prompt."""
    return {"io": io, "s1": s} if order == "ABBA" else {"s1": s, "io": io}


def _marked_scene(scene: IOIScene, named: Mapping[str, str]) -> MarkedText:
    """The scene's prompt with three names, each marked as a position."""
    return marked_text(scene.prompt(*(f"{{{{{position}|{name}}}}}" for position, name in named.items())), WHERE)


def _encoded_example(pair: MarkedPair, tokenizer: PreTrainedTokenizerBase) -> Example:
    base, source = (_with_next(encoded_prompt(text, tokenizer)) for text in (pair.base, pair.source))
    answer, subject = (base.tokens[base.positions[name]] for name in ("io", "s2"))
    return Example(base, source, answer, foils=(subject,))


def _target_token(name: str, example: Example) -> int:
    """What the base's answer is to become: the source's indirect object, or the base's subject."""
    return example.source.tokens[example.source.positions["io"]] if name == "name" else example.foils[0]


def _with_next(prompt: Prompt) -> Prompt:
    return Prompt(prompt.tokens, prompt.positions | {"s1_plus_1": prompt.positions["s1"] + 1})
