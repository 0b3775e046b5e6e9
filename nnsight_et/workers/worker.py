"""What runs in a worker's process: a model in memory, and calls on it, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nnsight_et.core.errors import NnsightEtError
from nnsight_et.interventions.calls import Call, to_device
from nnsight_et.models.files import Files
from nnsight_et.models.load import load_model
from nnsight_et.models.model import Model

Attempt = Callable[[Call, Model], Any]
"""A function of a module, which a worker imports by its name."""


@dataclass(frozen=True)
class LoadSpec:
    """A model as a worker loads it: its files are at the same path on every machine."""

    files: Files
    dtype: str
    device: str
    attention: str

    def model(self) -> Model:
        """The model in memory; UnsupportedModel if it cannot be loaded."""
        return load_model(self.files, self.dtype, self.device, self.attention)


@dataclass(frozen=True)
class RaisedError:
    """An error of a call, as the run is to raise it: without the frames it came through, which do not travel."""

    kind: type[NnsightEtError]
    message: str
    notes: tuple[str, ...]

    def error(self) -> NnsightEtError:
        """The error itself."""
        error = self.kind(self.message)
        for note in self.notes:
            error.add_note(note)
        return error


class Worker:
    """A process that carries out calls one after the other; it has one model in memory at a time."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)  # other numbers of threads give other last bits
        self._place: LoadSpec | None = None
        self._model: Model | None = None

    def outcome(self, place: LoadSpec, attempt: Attempt, call: Call) -> Any:
        """What the attempt gives, its tensors on the CPU; or Raised."""
        try:
            if self._model is None or self._place != place:
                self._model = None
                gc.collect()
                self._model, self._place = place.model(), place
            return to_device(attempt(call, self._model), torch.device("cpu"))
        except NnsightEtError as error:
            return RaisedError(type(error), str(error), tuple(getattr(error, "__notes__", ())))
