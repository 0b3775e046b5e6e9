"""What is in scores.safetensors: the names, axes and units of a method's tensors, and whether a file has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nnsight_et.core.errors import ResultError

if TYPE_CHECKING:  # summaries are read without torch
    from torch import Tensor

SCORES = "scores.safetensors"


@dataclass(frozen=True)
class ScoreTensor:
    """A tensor, or one for each entry of a list in the summary."""

    name: str
    """Its name. In braces are keys of the entry: {group}.score."""
    axes: tuple[str, ...]
    """What its axes count; none: it is one number. One called as a key of the entry has the size that the key says."""
    what: str
    """What its numbers are, and their unit."""
    each: str = ""
    """The summary's list, such as stages; empty: there is one tensor."""
    always: bool = True
    """Whether it is in every result."""

    def names(self, summary: BaseModel) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Its name in a result with this summary, or its names, each with the keys of its entry."""
        if not self.each:
            yield self.name, {}
            return
        entries: Iterable[BaseModel] = attrgetter(self.each)(summary)
        for entry in entries:
            keys = {key: getattr(entry, key) for key in type(entry).model_fields}
            yield self.name.format_map(keys), keys


def readouts(
    name: str, axes: Sequence[str], of: str, *, each: str = "", always: bool = True
) -> tuple[ScoreTensor, ...]:
    """What a run's last position says: probability and logit of the answer, and the predicted token."""
    found = {
        "probability": f"Probability of the answer {of}, from 0 to 1.",
        "logit": f"Logit of the answer {of}; of several tokens their sum.",
        "predicted": f"Id of the token with the largest logit {of}; -2 where it begins a right answer left unfinished.",
    }
    return tuple(ScoreTensor(f"{name}.{key}", tuple(axes), what, each, always) for key, what in found.items())


def answers(prefix: str = "", *, each: str = "", always: bool = True) -> tuple[ScoreTensor, ScoreTensor]:
    """The right tokens of the examples."""
    more = "Ids of other right tokens; -1 where an example has fewer."
    return (
        ScoreTensor(f"{prefix}answer", ("example",), "Id of the answer, or of its first token.", each, always),
        ScoreTensor(f"{prefix}also_right", ("example", "token"), more, each, always=False),
    )


def check_scores(where: str, scores: Mapping[str, Tensor], summary: BaseModel, declared: Sequence[ScoreTensor]) -> None:
    """Raise ResultError naming the first tensor that is missing, or has other axes than `declared`."""
    sizes = dict[str, dict[str, int]]()
    for one in declared:
        for name, keys in one.names(summary):
            if name not in scores:
                if one.always:
                    raise ResultError(
                        f"{where}: its {SCORES} has no {name}; accepted: every tensor that its summary lists"
                    )
                continue
            shape = tuple(scores[name].shape)
            counted = {key: value for key, value in keys.items() if type(value) is int}
            known = sizes.setdefault(name.rpartition(".")[0], counted)
            if len(shape) != len(one.axes) or any(
                known.setdefault(axis, size) != size for axis, size in zip(one.axes, shape, strict=True)
            ):
                axes = ", ".join(f"{axis} {known[axis]}" if axis in known else axis for axis in one.axes)
                raise ResultError(f"{where}: {name} in its {SCORES} has the shape {list(shape)}; accepted: [{axes}]")
