"""Colored objects: "... I see a red pen, a blue cup, and a green bowl. What color is the cup?\\nA:" -> " blue".

Ippolito and Callison-Burch 2022 (BIG-bench), in the form of Merullo et al. 2024 (arXiv 2310.08744): one answered
question, then the one that is asked. The source prompt asks for another of the three objects.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError
from nnsight_et.tasks.encoding import MarkedText
from nnsight_et.tasks.ioi import single_tokens
from nnsight_et.tasks.marked import known_prompt, marked_text
from nnsight_et.tasks.splits import without_repeats

WHERE = "task colored_objects"
COLORS = tuple("red purple blue black yellow brown green white pink gray gold silver".split())  # noqa: SIM905
OBJECTS = tuple(
    """pencil notebook pen cup plate jug mug puzzle textbook necklace bracelet bottle ball lighter bowl book box hat bag
    ring key lamp clock card phone coat shirt spoon knife fork""".split()  # noqa: SIM905
)
SEEN = "Q: On the table, I see a {0} {1}, a {2} {3}, and a {4} {5}. What color is the {6}?\nA:"
FEWEST = 6  # of colors and of objects: three of the answered question, three of the one that is asked
Things = tuple[tuple[str, str], ...]
"""Three colors, each with its object."""


@dataclass(frozen=True)
class Table:
    """The things of an answered question and which is asked for there; those of the one that is asked."""

    told: Things
    answered: int
    things: Things

    @property
    def text(self) -> str:
        """The prompt that asks for the first thing: all that is on one table is in one split, whatever is asked."""
        return self.prompt(0).text

    def prompt(self, asked: int) -> MarkedText:
        """The prompt that asks for a thing, its color and both mentions of its object marked."""
        example = f"{_question(self.told, self.told[self.answered][1])} {self.told[self.answered][0]}"
        color, thing = self.things[asked]
        marked = tuple(
            (f"{{{{color|{color}}}}}", f"{{{{object|{thing}}}}}") if index == asked else one
            for index, one in enumerate(self.things)
        )
        return marked_text(f"{example}\n{_question(marked, f'{{{{asked|{thing}}}}}')}", WHERE)


@dataclass(frozen=True)
class ColoredObjects:
    """A generator of pairs from those of COLORS and OBJECTS that are single tokens."""

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """`count` pairs at color, object, asked and last; the foils are the other two colors of the question.

        TaskError if too few colors or objects are single tokens.
        """
        colors = single_tokens(COLORS, "I see a {} thing", tokenizer)
        objects = single_tokens(OBJECTS, "What color is the {}?", tokenizer)
        for what, found, every in (("colors", colors, COLORS), ("objects", objects, OBJECTS)):
            if len(found) < FEWEST:
                some = f"{len(found)} of {len(every)} {what} are single tokens of this tokenizer"
                raise TaskError(f"{WHERE}: {some}; accepted: at least {FEWEST}")
        draw = random.Random(f"{seed}/{split}/colored_objects")
        tables = without_repeats(lambda: _table(colors, objects, draw), split, WHERE)
        return [_encoded_example(table, draw, tokenizer) for table in islice(tables, count)]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]


def _question(things: Things, asked: str) -> str:
    return SEEN.format(*(word for one in things for word in one), asked)


def _table(colors: tuple[str, ...], objects: tuple[str, ...], draw: random.Random) -> Table:
    some = tuple(zip(draw.sample(colors, FEWEST), draw.sample(objects, FEWEST), strict=True))
    return Table(some[:3], draw.randrange(3), some[3:])


def _encoded_example(table: Table, draw: random.Random, tokenizer: PreTrainedTokenizerBase) -> Example:
    asked, other = draw.sample(range(3), 2)
    prompts = [known_prompt(table.prompt(one), tokenizer) for one in range(3)]
    colors = [prompt.tokens[prompt.positions["color"]] for prompt in prompts]
    wrong = tuple(color for one, color in enumerate(colors) if one != asked)
    return Example(prompts[asked], prompts[other], colors[asked], foils=wrong)
