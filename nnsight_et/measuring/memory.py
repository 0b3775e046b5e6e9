"""Where memory runs out: the same call with fewer tokens at once; and which of a run's results were found so."""

from __future__ import annotations

import gc
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nnsight_et.core.errors import ExperimentError
from nnsight_et.engine.budget import DEFAULT_BYTES, Chunks
from nnsight_et.interventions.calls import Call, result_of
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.remote.failures import MEMORY
from nnsight_et.results.disk import write_json
from nnsight_et.results.store import Store
from nnsight_et.workers.pool import Workers
from nnsight_et.workers.worker import Place

SMALLER = "smaller.json"
SHARE = 0.7  # of what a GPU has beside a model's weights
ASKED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)


class OutOfMemory(ExperimentError):
    """No call of this experiment can be made small enough for the memory there is."""


@dataclass(frozen=True)
class Failed:
    """A call that ran out of memory, in the words of who had none: how much was asked for, if they say it."""

    asked: str


@dataclass(frozen=True)
class SmallerChunks:
    """How far the tokens of one pass came down, by model and dtype, and in which experiments.

    Kept in the run's folder: a resumed run begins there, and its results say so too.
    """

    store: Store
    path: Path

    def result_of(self, model: Model, call: Call, job: Job, choice: ModelChoice) -> Any:
        """What the call finds; where memory runs out, with half the tokens at once, and half again.

        OutOfMemory if it runs out with as few as a call may have, or one that has no such size.
        """
        return self._noted(call, attempts(model, self._within(call, choice)), job, choice)

    def results_of(
        self, workers: Workers, place: Place, calls: Iterable[Call], job: Job, choice: ModelChoice
    ) -> Iterator[Any]:
        """The same of each call, from workers with the model of that place."""
        sent: deque[Call] = deque()

        def within() -> Iterator[Call]:
            for call in calls:
                sent.append(call)
                yield self._within(call, choice)

        for found in workers.results(place, attempts, within()):
            yield self._noted(sent.popleft(), found, job, choice)

    def _noted(self, call: Call, made: tuple[Any, list[int | None]], job: Job, choice: ModelChoice) -> Any:
        """What the last of the attempts made at a call found; with how few tokens is noted."""
        found, sizes = made
        if isinstance(found, Failed):
            raise OutOfMemory(_message(job, choice, sizes, found))
        tokens = sizes[-1]
        if tokens is not None and tokens != _tokens(call):
            self._keep(f"{choice.name}/{choice.dtype}", tokens, job.name)
        return found

    def of(self, job: Job) -> dict[str, int]:
        """Model and dtype -> tokens of one pass, where some of the job's numbers were found with fewer than planned."""
        return {name: row["tokens"] for name, row in self._rows.items() if job.name in row["experiments"]}

    def _within(self, call: Call, choice: ModelChoice) -> Call:
        name = f"{choice.name}/{choice.dtype}"
        most = self._rows[name]["tokens"] if name in self._rows else None
        while most is not None and (_tokens(call) or 0) > most and (less := call.halved()):
            call = less
        return call

    def _keep(self, name: str, tokens: int, experiment: str) -> None:
        earlier = self._rows.get(name, {"tokens": tokens, "experiments": []})
        experiments = sorted({*earlier["experiments"], experiment})
        row = {"tokens": min(tokens, earlier["tokens"]), "experiments": experiments}
        if row != earlier:
            self._rows[name] = row
            write_json(self.path, self._rows)

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return self.store.notes(self.path)


def attempts(model: Model, call: Call) -> tuple[Any, list[int | None]]:
    """What the call finds, or Failed, and the tokens of one pass in each attempt, the last being what came of it."""
    sizes = [_tokens(call)]
    while isinstance(found := attempt(model, call), Failed) and (less := call.halved()):
        call = less
        sizes.append(_tokens(call))
    return found, sizes


def capacity(device: str, weights: int) -> int:
    """Bytes for one chunk of work where none are asked for: most of what a GPU has beside the weights, else 2 GiB.

    Of what it has, not of what is free: the same on every day. Of several GPUs that share the weights, of the smallest.
    """
    if not device.startswith(("cuda", "balanced")):
        return DEFAULT_BYTES
    places = range(torch.cuda.device_count()) if device == "balanced" else [device]
    smallest = min(torch.cuda.get_device_properties(place).total_memory for place in places)
    return max(DEFAULT_BYTES, int(SHARE * (smallest - weights / len(places))))


def attempt(model: Model, call: Call) -> Any:
    """What the call finds, or that memory ran out: then what it had taken is given back."""
    try:
        return result_of(model, call)
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(words in text.lower() for words in MEMORY):
            raise
    gc.collect()  # the traceback, which had the pass's tensors, is gone by now
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Failed(_asked(text))


def _asked(text: str) -> str:
    found = ASKED.search(text)
    if found is None:
        return ""
    if found[2].lower() == "bytes":
        return f"; the last pass asked for {float(found[1]) / 2**30:.2f} GiB more"
    return f"; the last pass asked for {found[1]} {found[2]} more"


def _tokens(call: Call) -> int | None:
    sizes = [argument.tokens for argument in call.arguments if isinstance(argument, Chunks)]
    return sizes[0] if sizes else None


def _message(job: Job, choice: ModelChoice, tried: list[int | None], found: Failed) -> str:
    sizes = ", ".join(str(tokens) for tokens in tried if tokens is not None)
    with_sizes = f", with {sizes} tokens in one pass" if sizes else ""
    where = f"experiments.{job.name}: {choice.name} in {choice.dtype}"
    return f"{where}: out of memory{with_sizes}{found.asked}; accepted: a smaller memory:, a dtype of fewer bytes"
