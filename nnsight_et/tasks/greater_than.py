"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a number of two digits above 32.

Hanna et al. 2023 (arXiv 2305.00586). The source prompt starts in the year 01, after which every answer is right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError
from nnsight_et.tasks.encoding import MarkedText, encode, encoded_prompt
from nnsight_et.tasks.ioi import single_tokens
from nnsight_et.tasks.marked import known_prompt
from nnsight_et.tasks.splits import without_repeats

WHERE = "task greater_than"
CENTURIES = tuple(range(11, 18))
STARTS = range(2, 99)  # above the source's year, and with a year above them
SOURCE_START = 1
NOUNS = tuple(
    """war siege trial strike drought famine festival journey voyage reign project plan campaign conflict crisis dispute
    debate expedition exile feud investigation mission negotiation occupation operation plague rebellion revolt
    revolution search struggle study tour treaty truce work construction marriage career contract course boom movement
    program peace experiment fight hunt convention partnership friendship alliance ceremony custom tradition deal
    decline drama effort exhibition growth lawsuit lease league recovery repair riot rivalry rule service session slump
    sentence tournament training upheaval vacation violence visit""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Period:
    """What lasted, from which year of which century."""

    noun: str
    century: int
    start: int

    @property
    def text(self) -> str:
        """The prompt."""
        return self.marked_text.text

    @property
    def marked_text(self) -> MarkedText:
        """The prompt with its start year's last two digits marked."""
        before = f"The {self.noun} lasted from the year {self.century}"
        text = f"{before}{self.start:02} to the year {self.century}"
        return MarkedText(text, {"start_year": (len(before), len(before) + 2)})


@dataclass(frozen=True)
class Years:
    """The tokens of two digits after a century, and the start years that each century has as its token and theirs."""

    tokens: dict[int, int]
    starts: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class GreaterThan:
    """A generator of pairs about NOUNS that are single tokens, in the years that are two tokens."""

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """`count` pairs at start_year (YY) and last; `answer` is the next year, all later ones are also right.

        The foils are the years up to YY. TaskError if the tokenizer has no such years.
        """
        years = years_of(tokenizer)
        nouns = single_tokens(NOUNS, "The {} lasted", tokenizer)
        if not nouns:
            raise TaskError(f"{WHERE}: no noun is a single token of this tokenizer; accepted: one of English words")
        century = next(iter(years.starts))
        known_prompt(Period(nouns[0], century, years.starts[century][0]).marked_text, tokenizer)
        draw = random.Random(f"{seed}/{split}/greater_than")
        periods = without_repeats(lambda: _period(nouns, years, draw), split, WHERE)
        return [_encoded_example(period, years, tokenizer) for period in islice(periods, count)]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]


def years_of(tokenizer: PreTrainedTokenizerBase) -> Years:
    """The years that are a token for the century and one for two digits; TaskError if there are none to ask for."""
    tokens, starts = {}, {}
    for century in CENTURIES:
        two = _tokens_after(century, tokenizer)
        tokens |= two
        if SOURCE_START in two:
            starts[century] = tuple(year for year in STARTS if year in two)
    last = max(tokens, default=0)
    starts = {century: tuple(year for year in some if year < last) for century, some in starts.items()}
    starts = {century: some for century, some in starts.items() if some}
    if not starts:
        pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(_token_lists(["the year 1732"], tokenizer)[0])))
        accept = "one with a token for the century and one for the two digits after it, as GPT-2's"
        raise TaskError(
            f"{WHERE}: this tokenizer has no years of two tokens ('the year 1732': {pieces}); accepted: {accept}"
        )
    return Years(dict(sorted(tokens.items())), starts)


def _tokens_after(century: int, tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """The token of two digits after a century, of all that are one token after the century's own."""
    texts = [f"the year {century}", *(f"the year {century}{year:02}" for year in range(100))]
    before, *whole = _token_lists(texts, tokenizer)
    found = {year: tokens[-1] for year, tokens in enumerate(whole) if tokens[:-1] == before}
    known = tokenizer.unk_token_id not in before
    return {year: token for year, token in found.items() if known and token != tokenizer.unk_token_id}


def _token_lists(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [list(encode(text, tokenizer).ids) for text in texts]


def _period(nouns: tuple[str, ...], years: Years, draw: random.Random) -> Period:
    century = draw.choice(list(years.starts))
    return Period(draw.choice(nouns), century, draw.choice(years.starts[century]))


def _encoded_example(period: Period, years: Years, tokenizer: PreTrainedTokenizerBase) -> Example:
    source = Period(period.noun, period.century, SOURCE_START)
    base, other = encoded_prompt(period.marked_text, tokenizer), encoded_prompt(source.marked_text, tokenizer)
    answer, *also_right = (token for year, token in years.tokens.items() if year > period.start)
    foils = tuple(token for year, token in years.tokens.items() if year <= period.start)
    return Example(base, other, answer, tuple(also_right), foils)
