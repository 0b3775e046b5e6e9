"""The pairs in a file as a task: which of them each split has, and their prompts as tokens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError, accepted_names, quantity
from nnsight_et.rows.mapping import FOIL, PairMapping
from nnsight_et.rows.read import Data, Form, each_of
from nnsight_et.tasks.encoding import MarkedPair
from nnsight_et.tasks.marked import PLAIN, encoded_pair, pairs_in

PARTS = {"discovery": 0, "pruning": 0, "evaluation": 1, "ablation": 2}
"""Which third of the file each split draws from."""
SWAP_PARTS = {"mask_training": 0, "mask_validation": 0, "mask_test": 1, "evaluation": 1}
"""The same of pairs that swap a variable: what selects heads, and what measures them."""


@dataclass(frozen=True)
class OwnPairs:
    """Marked pairs, each with the line it is written in, and their positions in the order of a base prompt.

    The file's different base prompts, or the groups they are in, are shuffled by the seed and dealt in turn to three
    parts: one for the circuit to be found and pruned on, one for it to be tested on (held-out examples too), one whose
    sources say what ablated heads output. So no base prompt that selects heads measures them. A part's pairs are always
    in the same order, and a split takes as many as it needs from the front.
    """

    pairs: tuple[tuple[str, MarkedPair], ...]
    positions: tuple[str, ...]
    swaps: Mapping[str, OwnPairs] = field(default_factory=dict[str, "OwnPairs"])
    """By variable the pairs that swap it: all with the same base prompts, as `with_swaps` checks."""

    @classmethod
    def of(
        cls,
        text: str,
        name: str,
        positions: Sequence[str],
        defaults: Mapping[str, str] | None = None,
        *,
        form: Form = "json",
        mapping: PairMapping = PLAIN,
    ) -> OwnPairs:
        """The pairs in a file's text; TaskError with a line for each row that is wrong or marks other positions.

        defaults: space, special_tokens and answer_tokens, for rows without them.
        """
        pairs = each_of(
            pairs_in(Data(name, text, form), defaults, mapping), lambda one: _with_positions(*one, positions)
        )
        _check_groups(pairs)
        return cls(tuple(pairs), tuple(positions))

    def available(self, seed: int, split: str) -> int:
        """How many pairs the split can have."""
        return len(self._part(seed, split))

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """The split's first `count` pairs; TaskError if there are fewer, or naming a line that does not fit."""
        part = self._part(seed, split)
        if len(part) < count:
            raise TaskError(
                f"split {split}: {quantity(count, 'pair')}, but there are {len(part)}; accepted: 1 to {len(part)}"
            )
        return [self.example(where, pair, tokenizer) for where, pair in part[:count]]

    def desideratum(
        self, name: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str, *, draw: int = 0
    ) -> list[Example]:
        """`count` pairs that swap a variable; no pair is in two draws. TaskError if there are fewer.

        Those of all variables have the same base prompts. A base prompt that is in the task's own pairs is in the part
        that it has there; the others are dealt to the first two.
        """
        part = self._swap_part(name, seed, split)
        if len(part) < count * (draw + 1):
            found = f"{quantity(draw + 1, 'draw')} of {quantity(count, 'pair')} of desideratum {name}"
            raise TaskError(
                f"split {split}: {found}, but there are {len(part)} pairs; accepted: 1 to {len(part) // (draw + 1)}"
            )
        return [self.example(where, pair, tokenizer) for where, pair in part[draw * count : (draw + 1) * count]]

    def available_swaps(self, seed: int, split: str) -> int:
        """How many pairs of each variable the split has."""
        return len(self._swap_part(next(iter(self.swaps)), seed, split))

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]

    def longest(self, tokenizer: PreTrainedTokenizerBase) -> tuple[str, Example]:
        """The pair with the longest prompt, and its line; TaskError naming a line that does not fit the tokenizer."""
        encoded = self.all_examples(tokenizer)
        return max(zip((where for where, _ in self.pairs), encoded, strict=True), key=lambda one: one[1].length)

    def all_examples(self, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        """Every pair of the file; TaskError with a line for each row that does not fit the tokenizer."""
        return each_of(self.pairs, lambda one: self.example(*one, tokenizer))

    def check_foils(self, reason: str) -> None:
        """Raise TaskError naming the first line without a foil, and the reason why it needs one."""
        for where, pair in self.pairs:
            if not pair.foils:
                accept = f'a {FOIL}, such as "{FOIL}": "...", in every pair, or a metric without foils'
                raise TaskError(f"{where}: no {FOIL}, and {reason}; accepted: {accept}")

    def example(self, where: str, pair: MarkedPair, tokenizer: PreTrainedTokenizerBase) -> Example:
        """The pair as tokens; TaskError unless its positions are different tokens, in the base in the listed order."""
        example = encoded_pair(pair, tokenizer, where)
        for side, prompt in (("base", example.base), ("source", example.source)):
            names = sorted((*self.positions, "last"), key=prompt.positions.__getitem__)
            for one, other in pairwise(names):
                if prompt.positions[one] == prompt.positions[other]:
                    found = f"positions {one!r} and {other!r} are the same token"
                    raise TaskError(
                        f"{where}: {side}: {found}; accepted: a different token for each, and none the last one"
                    )
            if side == "base" and names[:-1] != list(self.positions):
                found = f"positions in the order {', '.join(names[:-1])}"
                raise TaskError(
                    f"{where}: base: {found}; accepted: the order of task.positions, {', '.join(self.positions)}"
                )
        return example

    def _part(self, seed: int, split: str) -> list[tuple[str, MarkedPair]]:
        units, draw = self._units(seed)
        mine = set(units[PARTS[split] :: len(set(PARTS.values()))])
        mixed = draw.sample(self.pairs, len(self.pairs))
        return [(where, pair) for where, pair in mixed if _unit(pair) in mine]

    def _units(self, seed: int) -> tuple[list[str], random.Random]:
        """What is dealt as a whole, in the order in which it is dealt to the parts in turn; and what shuffled it."""
        draw = random.Random(f"{seed}/pairs")
        units = list(dict.fromkeys(_unit(pair) for _, pair in self.pairs))
        draw.shuffle(units)
        return units, draw

    def _swap_part(self, name: str, seed: int, split: str) -> list[tuple[str, MarkedPair]]:
        """A variable's pairs in a split, in an order that is the same for all variables."""
        pairs, units = _by_base(self.swaps[name].pairs), {pair.base.text: _unit(pair) for _, pair in self.pairs}
        keys, dealt = list(pairs), {unit: index % 3 for index, unit in enumerate(self._units(seed)[0])}
        random.Random(f"{seed}/desiderata").shuffle(keys)
        own = dict.fromkeys(base for base, _ in keys if base not in units)
        dealt |= {base: index % 2 for index, base in enumerate(own)}
        every = dict.fromkeys(units.get(base, base) for base, _ in keys)
        mine = [unit for unit in every if dealt[unit] == SWAP_PARTS[split]]
        if split.startswith("mask_") and SWAP_PARTS[split] == 0:  # of three one validates
            mine = [unit for index, unit in enumerate(mine) if (index % 3 == 2) == (split == "mask_validation")]
        chosen = set(mine)
        return [pairs[base, number] for base, number in keys if units.get(base, base) in chosen]


def with_swaps(pairs: OwnPairs, swaps: Mapping[str, OwnPairs]) -> OwnPairs:
    """The pairs with those that swap a variable; TaskError naming a row whose base prompt another variable lacks."""
    every = {name: _by_base(one.pairs) for name, one in swaps.items()}
    for name, own in every.items():
        for other, others in every.items():
            for key in own:
                if key not in others:
                    found = f"desideratum {other} lacks row {key[1] + 1} with this base prompt of {name}"
                    raise TaskError(f"{own[key][0]}: {found}; accepted: the same base prompts in all desiderata")
    return replace(pairs, swaps=swaps)


def _by_base(pairs: Sequence[tuple[str, MarkedPair]]) -> dict[tuple[str, int], tuple[str, MarkedPair]]:
    """The pairs by base prompt, and by which one with that prompt it is."""
    found, seen = dict[tuple[str, int], tuple[str, MarkedPair]](), Counter[str]()
    for where, pair in pairs:
        found[pair.base.text, seen[pair.base.text]] = where, pair
        seen[pair.base.text] += 1
    return found


def _unit(pair: MarkedPair) -> str:
    """What is dealt to one part as a whole: the base prompt, or the group it is in."""
    return pair.base.text if pair.group is None else pair.group


def _with_positions(where: str, pair: MarkedPair, positions: Sequence[str]) -> tuple[str, MarkedPair]:
    """The pair, and where it is; TaskError unless it has just these positions."""
    marked = list(pair.base.spans)
    for position in marked:
        if position not in positions:
            text = f"position {position!r} is marked, but task.positions does not list it"
            raise TaskError(f"{where}: {text}; {accepted_names(position, positions)}")
    for position in positions:
        if position not in marked:
            text = f"no position {position!r}, which task.positions lists; accepted: the same positions in all pairs"
            raise TaskError(f"{where}: {text}")
    return where, pair


def _check_groups(pairs: Sequence[tuple[str, MarkedPair]]) -> None:
    """Raise TaskError if a base prompt is in two groups, which may be dealt to different parts."""
    seen = dict[str, tuple[str, str | None]]()
    for where, pair in pairs:
        other, group = seen.setdefault(pair.base.text, (where, pair.group))
        if group != pair.group:
            found = f"group {pair.group!r}, but the same base prompt is in group {group!r} ({other})"
            raise TaskError(f"{where}: {found}; accepted: each base prompt in one group")
