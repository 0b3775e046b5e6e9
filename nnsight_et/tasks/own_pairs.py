"""The pairs in a file as a task: which of them each split has, and their prompts as tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError, accepted_names, quantity
from nnsight_et.tasks.encoding import MarkedPair
from nnsight_et.tasks.marked import FOIL, encoded_pair, pairs_in

PARTS = {"discovery": 0, "pruning": 0, "evaluation": 1, "ablation": 2}
"""Which third of the file each split draws from."""


@dataclass(frozen=True)
class OwnPairs:
    """Marked pairs, each with the line it is written in, and their positions in the order of a base prompt.

    The file's different base prompts are shuffled by the seed and dealt in turn to three parts: one for the circuit to
    be found and pruned on, one for it to be tested on (held-out examples too), one whose sources say what ablated heads
    output. So no base prompt that selects heads measures them. A part's pairs are always in the same order, and a
    split takes as many as it needs from the front.
    """

    pairs: tuple[tuple[str, MarkedPair], ...]
    positions: tuple[str, ...]

    @classmethod
    def of(cls, text: str, name: str, positions: Sequence[str], defaults: Mapping[str, str] | None = None) -> OwnPairs:
        """The pairs written in a file's text; TaskError naming a line that is wrong or marks other positions.

        defaults: space, special_tokens and answer_tokens, for lines without them.
        """
        pairs = tuple(pairs_in(text, name, defaults))
        for where, pair in pairs:
            marked = list(pair.base.spans)
            for position in marked:
                if position not in positions:
                    text = f"position {position!r} is marked, and task.positions does not list it"
                    raise TaskError(f"{where}: {text}; {accepted_names(position, positions)}")
            for position in positions:
                if position not in marked:
                    text = f"no position {position!r}, which task.positions lists; accepted: the same in all pairs"
                    raise TaskError(f"{where}: {text}")
        return cls(pairs, tuple(positions))

    def available(self, seed: int, split: str) -> int:
        """How many pairs the split can have."""
        return len(self._part(seed, split))

    def examples(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Example]:
        """The split's first `count` pairs; TaskError if there are fewer, or naming a line that does not fit."""
        part = self._part(seed, split)
        if len(part) < count:
            raise TaskError(f"split {split}: {quantity(count, 'pair')} of {len(part)}; accepted: 1 to {len(part)}")
        return [self._encoded_example(where, pair, tokenizer) for where, pair in part[:count]]

    def prompts(self, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str) -> list[Prompt]:
        """The source prompts of those examples: what mean ablation averages over."""
        return [example.source for example in self.examples(tokenizer, count, seed, split)]

    def longest(self, tokenizer: PreTrainedTokenizerBase) -> tuple[str, Example]:
        """The pair with the longest prompt, and its line; TaskError naming a line that does not fit the tokenizer."""
        encoded = [(where, self._encoded_example(where, pair, tokenizer)) for where, pair in self.pairs]
        return max(encoded, key=lambda one: one[1].length)

    def check_foils(self, reason: str) -> None:
        """Raise TaskError naming the first line without a foil, and the reason why it needs one."""
        for where, pair in self.pairs:
            if not pair.foils:
                accept = f'a {FOIL}, such as "{FOIL}": "...", in every pair, or a metric without foils'
                raise TaskError(f"{where}: no {FOIL}, and {reason}; accepted: {accept}")

    def _encoded_example(self, where: str, pair: MarkedPair, tokenizer: PreTrainedTokenizerBase) -> Example:
        """The pair as tokens; TaskError unless its positions are different tokens, in the base in the listed order."""
        example = encoded_pair(pair, tokenizer, where)
        for side, prompt in (("base", example.base), ("source", example.source)):
            names = sorted((*self.positions, "last"), key=prompt.positions.__getitem__)
            for one, other in pairwise(names):
                if prompt.positions[one] == prompt.positions[other]:
                    found = f"positions {one!r} and {other!r} are the same token"
                    raise TaskError(f"{where}: {side}: {found}; accepted: one for each, none of them the last")
            if side == "base" and names[:-1] != list(self.positions):
                found = f"positions in the order {', '.join(names[:-1])}"
                raise TaskError(
                    f"{where}: base: {found}; accepted: that of task.positions, {', '.join(self.positions)}"
                )
        return example

    def _part(self, seed: int, split: str) -> list[tuple[str, MarkedPair]]:
        draw = random.Random(f"{seed}/pairs")
        bases = list(dict.fromkeys(pair.base.text for _, pair in self.pairs))
        draw.shuffle(bases)
        mine = set(bases[PARTS[split] :: len(set(PARTS.values()))])
        mixed = draw.sample(self.pairs, len(self.pairs))
        return [(where, pair) for where, pair in mixed if pair.base.text in mine]
