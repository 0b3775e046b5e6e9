"""Calls -> what is sent, one session's block and all it needs; and back, from a result's bytes to what was found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pickle import UnpicklingError
from typing import Any

import nnsight
import torch
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from nnsight_et.core.errors import ExperimentError
from nnsight_et.interventions.calls import Call, run_calls
from nnsight_et.models.model import Model


class Packing(Backend):
    """An nnsight backend that runs nothing: it keeps the block as the bytes a server takes."""

    blob = b""

    def __call__(self, tracer: Any) -> None:
        """Pack the block."""
        self.blob = RequestModel.serialize(tracer, True)


def pack(model: Model, calls: Sequence[Call]) -> bytes:
    """The calls as one job: one session whose traces all run where the model is."""
    packing = Packing()
    with model.nn.session(backend=packing):
        outcome = nnsight.save(run_calls(model, calls))  # noqa: F841 - the server's name for what comes home
    return packing.blob


def unpack(archive: bytes, where: str) -> dict[str, Any]:
    """What run_calls gave; ExperimentError if these bytes are not of such a job."""
    try:
        return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)["outcome"]
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ExperimentError(f"{where}: the result is not one of ours ({found}); accepted: plain tensors") from None
