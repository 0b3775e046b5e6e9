"""What one pass of the engine costs, in tokens times layers. Tests hold these formulas to what the engine runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from nnsight_et.circuit import Head
from nnsight_et.engine.budget import Chunks
from nnsight_et.models.named import Shape


@dataclass(frozen=True)
class Prompts:
    """So many prompts of one length whose named positions stand at one place, in so many batches.

    In an estimate both are expectations, and need not be whole numbers.
    """

    count: float
    tokens: int
    places: Mapping[str, int]
    batches: float = 1.0

    def live(self, names: Iterable[str]) -> int:
        """How many tokens there are from the first of the named positions on."""
        return self.tokens - min(self.places[name] for name in names)

    @property
    def in_batch(self) -> int:
        """How many prompts a batch has."""
        return max(1, round(self.count / self.batches))


@dataclass(frozen=True)
class Count:
    """Work: tokens times layers by the kind of pass, and what is not in layers. Everything adds up.

    whole: tokens of whole prompts. again: recomputed ones. trained: recomputed ones whose gradient is taken. mlp:
    tokens whose attention is frozen, so that they go through norms and MLPs alone. seen: what the tokens of the first
    three attend to. answers: tokens through the vocabulary. passes: how often the model is called.
    """

    whole: float = 0.0
    again: float = 0.0
    trained: float = 0.0
    mlp: float = 0.0
    seen: float = 0.0
    answers: float = 0.0
    passes: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Count)))

    def __mul__(self, times: float) -> Count:
        return Count(*(getattr(self, one.name) * times for one in fields(Count)))

    @property
    def token_layers(self) -> float:
        """Tokens times layers of every kind."""
        return self.whole + self.again + self.trained + self.mlp

    def flops(self, shape: Shape) -> float:
        """The same in floating-point operations, two to a multiplication and addition.

        Weights are frozen: the way back through a layer costs what the way there does. Left out: norms, softmax.
        """
        mlp = 3 * shape.d_model * shape.d_mlp
        attention = 2 * shape.d_model * (shape.n_heads + shape.n_kv_heads) * shape.d_head
        layers = (self.whole + self.again + 2 * self.trained) * (attention + mlp) + self.mlp * mlp
        return 2 * (layers + self.answers * shape.d_model * shape.vocabulary) + 4 * self.seen * (
            shape.n_heads * shape.d_head
        )


@dataclass(frozen=True)
class Sizes:
    """A model's shape, and how much goes through it at once."""

    shape: Shape
    chunks: Chunks


def total(counts: Iterable[Count]) -> Count:
    """All of them together."""
    return sum(counts, Count())


def whole_run(prompts: Prompts, layers: int, answers: bool = False) -> Count:
    """A run of whole prompts that stops above so many layers, or ends in the logits of the last token."""
    seen = prompts.tokens * (prompts.tokens + 1) / 2
    return Count(
        whole=prompts.count * prompts.tokens * layers,
        seen=prompts.count * seen * layers,
        answers=prompts.count * answers,
        passes=prompts.batches,
    )


def suffix_run(sizes: Sizes, prompts: Prompts, live: int, start: int, variants: int, copies: int = 1) -> Count:
    """Variants of `live` tokens at the end of each prompt, recomputed from layer `start` up."""
    laid, layers = sizes.chunks.laid(variants, prompts.in_batch, live, copies), sizes.shape.n_layers - start
    run = prompts.count * sum(rows * branches for _, rows, branches in laid)
    sees = live * (prompts.tokens - live) + live * (live + 1) / 2
    return Count(
        again=run * copies * live * layers,
        seen=run * copies * sees * layers,
        answers=run,
        passes=prompts.batches * len(laid),
    )


def trained(count: Count) -> Count:
    """Recomputed tokens whose gradient is taken too."""
    return Count(trained=count.again, seen=3 * count.seen, answers=2 * count.answers, passes=2 * count.passes)


def path_patching(
    sizes: Sizes, prompts: Prompts, at: str, ends: Sequence[int], senders: Iterable[Head], copies: int = 1
) -> Count:
    """Paths of all senders, at a position, into receivers in the layers `ends`, or, without, into the logits."""
    by_layer, live, top = Counter(head.layer for head in senders), prompts.live([at]), sizes.shape.n_layers
    found = [whole_run(prompts, top, answers=True), whole_run(prompts, max(by_layer) + 1)]
    step = sizes.chunks.variants(prompts.in_batch, live)
    for layer, heads in by_layer.items():
        for some in (min(step, heads - first) for first in range(0, heads, step)):
            through = prompts.count * some * ((max(ends) if ends else top) - layer)
            answers = 0 if ends else prompts.count * some
            found.append(Count(mlp=through, answers=answers, passes=prompts.batches))
            if ends:
                start = min(end for end in ends if end > layer)
                found.append(suffix_run(sizes, prompts, live, start, some, copies))
    return total(found)
