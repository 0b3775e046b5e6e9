"""What path patching patches: a path from senders at a position to inputs of heads or MLPs there, or to the logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from nnsight_et.core.circuit import Component, Head, Mlp, Via

KvHeads = Literal["shared", "expanded"]
Kind = Literal["heads", "mlps"]
End = Via | Literal["input"]
"""Where a path can end: in a head's query, key or value, or in what enters an MLP."""


@dataclass(frozen=True)
class Path:
    """From a sender at position `at` into the `via` of receivers there, or, without receivers, into the logits.

    Senders are heads or MLPs: a head's sender is its output z, an MLP's the whole of what it adds to the residual.
    Receivers are heads, or, via input, MLPs.

    kv_heads matters where several query heads have one key and value head. shared: a receiver's key or value is that
    head's, and all its query heads see what is patched. expanded: the receivers alone see it, as if each query head had
    keys and values of its own.
    """

    at: str
    via: End | None = None
    receivers: tuple[Component, ...] = ()
    kv_heads: KvHeads = "shared"
    senders: Kind = "heads"

    def reaches(self, layer: int, end: int, parallel: bool) -> bool:
        """Whether a sender of `layer` reaches a receiver of layer `end`: a later one, or from a head its layer's MLP.

        Not where blocks are `parallel`: there an MLP does not see the heads beside it.
        """
        beside = self.senders == "heads" and self.via == "input" and not parallel
        return layer <= end if beside else layer < end

    def reaching(self, n_layers: int, n_heads: int, parallel: bool = False) -> list[Component]:
        """The senders that can reach the end of the path, row-major: all, or those that reach the last receiver."""
        last = max((receiver.layer for receiver in self.receivers), default=n_layers)
        layers = [layer for layer in range(n_layers) if self.reaches(layer, last, parallel)]
        if self.senders == "mlps":
            return [Mlp(layer) for layer in layers]
        return [Head(layer, index) for layer in layers for index in range(n_heads)]

    def starts(self, layers: Iterable[int], parallel: bool) -> dict[int, int]:
        """Layer of senders -> the first layer of receivers that they reach; empty where the path ends in the logits."""
        ends = sorted({receiver.layer for receiver in self.receivers})
        return {layer: next(end for end in ends if self.reaches(layer, end, parallel)) for layer in layers if ends}

    def passes(
        self, senders: Sequence[Component], starts: Mapping[int, int], most: int
    ) -> Iterator[Sequence[Component]]:
        """The senders of each pass, at most `most`: heads of one layer, or MLPs whose path meets the same layer first.

        Senders are in ascending order.
        """
        mlps = self.senders == "mlps"
        for _, group in groupby(senders, lambda one: starts.get(one.layer) if mlps else one.layer):
            alike = list(group)
            yield from (alike[first : first + most] for first in range(0, len(alike), most))


@dataclass(frozen=True)
class StageReads:
    """What the passes of a stage read of captured runs; while its receivers are not known, what they may read.

    at and senders are its path's. starts: the layers that suffix passes can begin at. top: the last layer whose heads
    or MLPs donate or receive.
    """

    at: str
    senders: Kind
    starts: frozenset[int]
    top: int

    def within(self, other: StageReads) -> bool:
        """Whether what serves the other serves it."""
        alike = (self.at, self.senders) == (other.at, other.senders)
        return alike and self.starts <= other.starts and self.top <= other.top


@dataclass(frozen=True)
class KeptParts:
    """Exactly what several stages read of both runs.

    entering: layer -> of how many tokens, the last ones, the residual entering it. cached: per layer of how many
    tokens, the first ones, keys and values. tokens and donated: of how many layers, the first ones, what a one-token
    pass reads of the token at a position, and what donates there.
    """

    entering: Mapping[int, int]
    cached: Sequence[int]
    tokens: Mapping[str, int]
    donated: Mapping[tuple[str, Kind], int]

    @classmethod
    def of(cls, stages: Iterable[StageReads], n_layers: int, spans: Mapping[str, tuple[int, int]]) -> KeptParts:
        """Of a run of so many layers; spans: how many tokens a position has before it at most, and from it on."""
        entering, cached = dict[int, int](), [0] * n_layers
        tokens, donated = dict[str, int](), dict[tuple[str, Kind], int]()
        for one in stages:
            before, live = spans[one.at]
            for layer in one.starts:
                entering[layer] = max(entering.get(layer, 0), live)
            for layer in range(min(one.starts, default=n_layers), n_layers):
                cached[layer] = max(cached[layer], before)
            tokens[one.at] = max(tokens.get(one.at, 0), one.top + 1)
            donated[one.at, one.senders] = max(donated.get((one.at, one.senders), 0), one.top + 1)
        return cls(entering, cached, tokens, donated)
