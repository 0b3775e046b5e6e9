"""Cells: one batch of examples of one step of a job, measured once and stored under a digest of what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.errors import ExperimentError
from nnsight_et.measuring.model_pool import ModelPool
from nnsight_et.measuring.steps import Batch, Measurement, data_digest
from nnsight_et.planning.plan import Job, ModelChoice, digest
from nnsight_et.results.store import Store

ENGINE_VERSION = 2  # raised when the same words start to mean other numbers: cells of before are not used


@dataclass
class CellCache:
    """The cells of the store, of which a fresh run sees only those it has put there itself."""

    store: Store
    models: ModelPool
    fresh: bool
    _own: set[str] = field(default_factory=set)

    def key(self, job: Job, choice: ModelChoice, what: dict[str, Any]) -> str:
        """The name of a cell: a digest of the model, how it runs, and `what` is measured on which data."""
        setting = {"engine": job.engine, "version": ENGINE_VERSION, "dtype": choice.dtype, "attention": job.attention}
        return digest({"model": self.models.fingerprint(choice), **setting, **what})

    def keys(self, measurement: Measurement) -> dict[Batch, str]:
        """The names of a measurement's cells, by their batches."""
        step = measurement.step
        data = {batch: data_digest([step.examples[index] for index in batch]) for batch in step.batches}
        return {
            batch: self.key(step.job, step.choice, measurement.cache_key | {"data": one}) for batch, one in data.items()
        }

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The cell of that name, unless this run is to measure everything afresh."""
        return None if self.fresh and key not in self._own else self.store.cell(key)

    def read(self, key: str) -> dict[str, Tensor]:
        """The tensors of a cell that this run has found in the store or put there; ExperimentError if it is gone."""
        tensors = self.store.cell(key)
        if tensors is None:
            raise ExperimentError(f"stored work ({key}) was removed or damaged during the run; run again to repeat it")
        return tensors

    def keep(self, key: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The cell's tensors, now also in the store."""
        self.store.write_cell(key, tensors)
        self._own.add(key)
        return tensors

    def values(self, measurement: Measurement) -> dict[str, Tensor]:
        """The tensors [..., example] of its cells, all in the store, over all examples in their order."""
        keys = self.keys(measurement)
        back = torch.tensor([index for batch in keys for index in batch]).argsort()
        found = [self.read(key) for key in keys.values()]
        return {name: torch.cat([cell[name] for cell in found], -1)[..., back] for name in found[0]}
