"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a number of two digits above 32.

Hanna et al. 2023 (arXiv 2305.00586). The source prompt starts in the year 01, after which every answer is right.

Where a tokenizer makes no token of two digits, the last digit alone is asked for: "... the year 1732 to the year 173"
-> a digit above 2, and the source starts in 0.
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
SOURCE_STARTS = {2: 1, 1: 0}
"""By how many digits are asked for: where the source starts. Bases start above it, and below the last year."""
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
    """What lasted, from which year: its first digits, which are told, and the last `width` ones, that are asked for."""

    noun: str
    century: int
    start: int
    width: int = 2

    @property
    def text(self) -> str:
        """The prompt."""
        return self.marked_text.text

    @property
    def marked_text(self) -> MarkedText:
        """The prompt with its start year's last digits marked."""
        before = f"The {self.noun} lasted from the year {self.century}"
        text = f"{before}{self.start:0{self.width}} to the year {self.century}"
        return MarkedText(text, {"start_year": (len(before), len(before) + self.width)})


@dataclass(frozen=True)
class Years:
    """The tokens of the last digits of a year, and the start years that there are, by what stands before them."""

    tokens: dict[int, int]
    starts: dict[int, tuple[int, ...]]
    width: int = 2


@dataclass(frozen=True)
class GreaterThan:
    """A generator of pairs about NOUNS that are single tokens, in years whose last two digits are one, or the last."""

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """`count` pairs at start_year (YY, or Y) and last; `answer` is the next year, all later ones are also right.

        The foils are the years up to it. TaskError if the tokenizer has no such years.
        """
        years = years_of(tokenizer)
        nouns = single_tokens(NOUNS, "The {} lasted", tokenizer)
        if not nouns:
            raise TaskError(
                f"{WHERE}: no noun is a single token of this tokenizer; accepted: a tokenizer with English words"
            )
        century = next(iter(years.starts))
        known_prompt(Period(nouns[0], century, years.starts[century][0], years.width).marked_text, tokenizer)
        draw = random.Random(f"{seed}/{split}/greater_than")
        periods = without_repeats(lambda: _period(nouns, years, draw), split, WHERE)
        return [_encoded_example(period, years, tokenizer) for period in islice(periods, count)]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]


def years_of(tokenizer: PreTrainedTokenizerBase) -> Years:
    """The years that are asked for: of two digits in one token, or else of one; TaskError if there are none."""
    for width in SOURCE_STARTS:
        years = _years(width, tokenizer)
        if years.starts:
            return years
    pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(_token_lists(["the year 1732"], tokenizer)[0])))
    accept = "a tokenizer with a token for a year's last two digits, like GPT-2's, or its last one, like Llama's"
    raise TaskError(f"{WHERE}: this tokenizer has no such years ('the year 1732': {pieces}); accepted: {accept}")


def _years(width: int, tokenizer: PreTrainedTokenizerBase) -> Years:
    """The years whose last `width` digits are a token behind the others."""
    tokens, starts = {}, {}
    source, scale = SOURCE_STARTS[width], 10 ** (2 - width)
    for before in range(CENTURIES[0] * scale, (CENTURIES[-1] + 1) * scale):
        ends = _tokens_after(before, width, tokenizer)
        tokens |= ends
        if source in ends:
            starts[before] = tuple(year for year in range(source + 1, 10**width - 1) if year in ends)
    last = max(tokens, default=0)
    starts = {before: tuple(year for year in some if year < last) for before, some in starts.items()}
    return Years(dict(sorted(tokens.items())), {before: some for before, some in starts.items() if some}, width)


def _tokens_after(before: int, width: int, tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """The token of a year's last digits, of all that are one token after those of the others."""
    texts = [f"the year {before}", *(f"the year {before}{year:0{width}}" for year in range(10**width))]
    told, *whole = _token_lists(texts, tokenizer)
    found = {year: tokens[-1] for year, tokens in enumerate(whole) if tokens[:-1] == told}
    known = tokenizer.unk_token_id not in told
    return {year: token for year, token in found.items() if known and token != tokenizer.unk_token_id}


def _token_lists(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [list(encode(text, tokenizer).ids) for text in texts]


def _period(nouns: tuple[str, ...], years: Years, draw: random.Random) -> Period:
    century = draw.choice(list(years.starts))
    return Period(draw.choice(nouns), century, draw.choice(years.starts[century]), years.width)


def _encoded_example(period: Period, years: Years, tokenizer: PreTrainedTokenizerBase) -> Example:
    source = Period(period.noun, period.century, SOURCE_STARTS[period.width], period.width)
    base, other = encoded_prompt(period.marked_text, tokenizer), encoded_prompt(source.marked_text, tokenizer)
    answer, *also_right = (token for year, token in years.tokens.items() if year > period.start)
    foils = tuple(token for year, token in years.tokens.items() if year <= period.start)
    return Example(base, other, answer, tuple(also_right), foils)
