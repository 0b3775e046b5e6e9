"""Which work each cell of a run is of, told apart by other means than the cell's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import blake2b
from typing import Any

from torch import Tensor

from nnsight_et.core.batch import PromptBatch
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.calls import Call
from nnsight_et.results.store import Store

VERSION = 2  # of what is digested: records of another one say nothing
LATER = ("further", "function")  # came later: empty ones are left out, so that records of before still say something


@dataclass
class CellRecords:
    """By the names of cells, what was asked for them: in this run, and, beside the stored ones, in those before."""

    store: Store
    _known: dict[str, str] = field(default_factory=dict[str, str])

    def agrees(self, key: str, call: Call, stored: bool) -> bool:
        """Whether nothing else was asked under that name; from now on this was. stored: the cell was there before."""
        asked = digest_of(call)
        known = self._known.get(key)
        if known is None and stored:
            note = self.store.note(key)
            known = note["asked"] if note.get("version") == VERSION else None
        if key not in self._known:
            self._known[key] = asked
        if not stored:
            self.store.write_note(key, {"version": VERSION, "asked": asked})
        return known in (None, asked)


def digest_of(call: Call) -> str:
    """A digest of what is done, to what, on which prompts; whatever the batch's padding and the size of a pass.

    Of activations their sizes alone: they are what other cells hold, to within rounding.
    """
    state = blake2b(call.function.__name__.encode(), digest_size=10)
    for part in _parts(call.arguments):
        state.update(f"{part};".encode())
    return state.hexdigest()


def _parts(value: Any) -> Iterator[str]:
    match value:
        case Chunks():
            return
        case PromptBatch():
            yield str((value.tokens * value.mask).tolist())
            yield str(value.mask.tolist())
            yield str(sorted((name, index.tolist()) for name, index in value.positions.items()))
        case Path():
            yield str((value.at, value.via, sorted(map(str, value.receivers)), value.kv_heads, value.senders))
        case Tensor():
            yield str(tuple(value.shape)) if value.is_floating_point() else str(value.tolist())
        case dict():
            for key, one in value.items():
                yield str(key)
                yield from _parts(one)
        case tuple() | list():
            yield str(len(value))
            for one in value:
                yield from _parts(one)
        case _ if is_dataclass(value):
            for one in fields(value):
                if one.compare and (one.name not in LATER or getattr(value, one.name)):
                    yield from _parts(getattr(value, one.name))
        case _:
            yield str(value)
