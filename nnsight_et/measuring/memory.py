"""How much goes through a model at once, and where memory runs out: the same call with fewer tokens."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import ExperimentError
from nnsight_et.engine.budget import DEFAULT_BYTES, Chunks, chunks
from nnsight_et.interventions.calls import Call, to_device
from nnsight_et.measuring.model_pool import ModelPool
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.remote.failures import MEMORY
from nnsight_et.results.disk import write_json
from nnsight_et.results.store import Store

CHUNKS, SMALLER = "chunks.json", "smaller.json"
SHARE = 0.7  # of what a GPU has beside a model's weights
ASKED = re.compile(r"tried to allocate ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)


@dataclass(frozen=True)
class ChunkSizes:
    """The models' chunk sizes: chosen once per run folder, so that a resumed run gives the same bytes."""

    models: ModelPool
    store: Store
    folder: Path
    memory: int | None
    """The budget in bytes that was asked for; None: of the device."""

    def of(self, choice: ModelChoice, data: Sequence[Example] | Sequence[Prompt]) -> Chunks:
        """The model's chunk sizes for these prompts, or the base prompts of these examples."""
        tokens = max(map(_tokens_of, data))
        read = max(1 if isinstance(one, Prompt) else one.read for one in data)
        name = f"{choice.name}/{choice.dtype}/{tokens}" + (f"/{read}" if read > 1 else "")
        if name not in self._sizes:
            shape, size = self.models.shape(choice), getattr(torch, choice.dtype).itemsize
            budget = self.memory or capacity(self.models.device, shape.parameters * size)
            self._sizes[name] = chunks(shape, size, tokens, budget, read)
            self._write(self._sizes)
        return self._sizes[name]

    def forget(self, choice: ModelChoice) -> None:
        """Let the next run choose the model's sizes anew."""
        self._write({key: one for key, one in self._sizes.items() if not key.startswith(f"{choice.name}/")})

    def fits_upcast(self, choice: ModelChoice) -> bool:
        """Whether the model in fp32 is here, and no larger than the memory budget."""
        if not self.models.can_upcast:
            return False
        return 4 * self.models.shape(choice).parameters <= (self.memory or DEFAULT_BYTES)

    def _write(self, sizes: dict[str, Chunks]) -> None:
        write_json(self.folder / CHUNKS, {key: one.to_dict() for key, one in sizes.items()})

    @cached_property
    def _sizes(self) -> dict[str, Chunks]:
        return {key: Chunks(**one) for key, one in self.store.notes(self.folder / CHUNKS).items()}


@dataclass(frozen=True)
class FailedCall:
    """A call that ran out of memory, in the words of who had none: how much was asked for, if they say it."""

    asked: str


Attempts = tuple[Any, list[int | None]]
"""What the last attempt at a call found, or Failed, and the tokens of one pass in each attempt."""


@dataclass(frozen=True)
class OutOfMemoryBackoff:
    """How far the tokens of one pass came down, by model and dtype, and in which experiments.

    Kept in the run's folder: a resumed run begins there, and its results say so too.
    """

    store: Store
    folder: Path
    chunk_sizes: ChunkSizes

    def limit(self, choice: ModelChoice, call: Call) -> Call:
        """The call with no more tokens at once than memory was found to have room for."""
        name = f"{choice.name}/{choice.dtype}"
        most = self._rows[name]["tokens"] if name in self._rows else None
        while most is not None and (_tokens(call) or 0) > most and (less := call.with_half_chunks()):
            call = less
        return call

    def accept(self, job: Job, choice: ModelChoice, call: Call, attempts: Attempts) -> Any:
        """What the attempts at a call found; with how few tokens is noted.

        ExperimentError if memory ran out with as few as a call may have, or one that has no such size: then the next
        run chooses its chunk sizes anew.
        """
        found, sizes = attempts
        if isinstance(found, FailedCall):
            self.chunk_sizes.forget(choice)
            raise ExperimentError(_message(job, choice, sizes, found))
        tokens = sizes[-1]
        if tokens is not None and tokens != _tokens(call):
            self._keep(f"{choice.name}/{choice.dtype}", tokens, job.name)
        return found

    def of(self, job: Job) -> dict[str, int]:
        """Model and dtype -> tokens of one pass, where some of the job's numbers were found with fewer than planned."""
        return {name: row["tokens"] for name, row in self._rows.items() if job.name in row["experiments"]}

    def _keep(self, name: str, tokens: int, experiment: str) -> None:
        earlier = self._rows.get(name, {"tokens": tokens, "experiments": []})
        experiments = sorted({*earlier["experiments"], experiment})
        row = {"tokens": min(tokens, earlier["tokens"]), "experiments": experiments}
        if row != earlier:
            self._rows[name] = row
            write_json(self.folder / SMALLER, self._rows)

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return self.store.notes(self.folder / SMALLER)


def run_call(call: Call, model: Model) -> Attempts:
    """What the call finds; where memory runs out, with half the tokens at once, and half again.

    What a failed attempt had taken is given back first.
    """
    sizes = []
    while True:
        sizes.append(_tokens(call))
        try:
            return call.function(model, *to_device(call.arguments, model.device)), sizes
        except (RuntimeError, MemoryError) as error:
            text = str(error)
            if not isinstance(error, MemoryError) and not any(words in text.lower() for words in MEMORY):
                raise
        if model.runs:
            model.runs.clear()
        gc.collect()  # the traceback, which had the pass's tensors, is gone by now
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        less = call.with_half_chunks()
        if less is None:
            return FailedCall(_requested_text(text)), sizes
        call = less


def capacity(device: str, weights: int) -> int:
    """Bytes for one chunk of work where none are asked for: most of what a GPU has beside the weights, else 2 GiB.

    Of what it has, not of what is free: the same on every day. Of several GPUs that share the weights, of the smallest.
    """
    if not device.startswith(("cuda", "balanced")):
        return DEFAULT_BYTES
    places = range(torch.cuda.device_count()) if device == "balanced" else [device]
    smallest = min(torch.cuda.get_device_properties(place).total_memory for place in places)
    return max(DEFAULT_BYTES, int(SHARE * (smallest - weights / len(places))))


def _requested_text(text: str) -> str:
    found = ASKED.search(text)
    if found is None:
        return ""
    if found[2].lower() == "bytes":
        return f"; the last pass asked for {float(found[1]) / 2**30:.2f} GiB more"
    return f"; the last pass asked for {found[1]} {found[2]} more"


def _tokens_of(one: Example | Prompt) -> int:
    """How many tokens of it go through the model: its base prompt, once for each text of several that follows it."""
    if isinstance(one, Prompt) or not one.further:
        return (one if isinstance(one, Prompt) else one.base).length
    return (one.base.length + one.continuation) * len(one.further)


def _tokens(call: Call) -> int | None:
    sizes = [argument.tokens for argument in call.arguments if isinstance(argument, Chunks)]
    return sizes[0] if sizes else None


def _message(job: Job, choice: ModelChoice, tried: Sequence[int | None], found: FailedCall) -> str:
    sizes = ", ".join(str(tokens) for tokens in tried if tokens is not None)
    with_sizes = f", with {sizes} tokens in one pass" if sizes else ""
    where = f"experiments.{job.name}: {choice.name} in {choice.dtype}"
    return f"{where}: out of memory{with_sizes}{found.asked}; accepted: a smaller memory:, a smaller dtype"
