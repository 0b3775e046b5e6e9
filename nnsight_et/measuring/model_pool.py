"""The models of a run: their files, their sizes, and the one that is in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nnsight_et.core.circuit import Circuit
from nnsight_et.models.catalog import Shape
from nnsight_et.models.files import Files, download_files
from nnsight_et.models.load import distant, load_model, shape_of, tokenizer_of, with_template
from nnsight_et.models.model import Model
from nnsight_et.models.prints import memory_print
from nnsight_et.planning.plan import Job, ModelChoice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Key = tuple[str, str, str]
"""A model as it runs: name, dtype and attention."""


@dataclass
class ModelPool:
    """Models on a device, one of them in memory at a time; or on a server, where no weights are needed here."""

    device: str
    on_server: bool = False
    on_layer: Callable[[int], None] | None = None
    prints: dict[Key, str] = field(default_factory=dict[Key, str])
    """Digests of the weights that were in memory, by the model."""
    _files: dict[str, Files] = field(default_factory=dict)
    _in_memory: tuple[Key, Model] | None = None

    def files(self, choice: ModelChoice) -> Files:
        """The model's files and fingerprint."""
        if choice.name not in self._files:
            files = download_files(choice.name, choice.spec, weights_too=not self.on_server)
            self._files[choice.name] = with_template(files)
        return self._files[choice.name]

    def fingerprint(self, choice: ModelChoice) -> str:
        """A digest of the model's files."""
        return self.files(choice).fingerprint

    @property
    def can_upcast(self) -> bool:
        """Whether a model can be had in fp32 as well as in its own dtype: not where a server has it."""
        return not self.on_server

    def shape(self, choice: ModelChoice) -> Shape:
        """The model's sizes, from its configuration."""
        return shape_of(self.files(choice))

    def tokenizer(self, choice: ModelChoice) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return tokenizer_of(self.files(choice))

    def pad(self, choice: ModelChoice) -> int:
        """The tokenizer's padding token."""
        pad = self.tokenizer(choice).pad_token_id
        assert isinstance(pad, int)
        return pad

    def load(self, job: Job, choice: ModelChoice) -> Model:
        """The model in memory, or what stands here for one on a server; the one before it leaves."""
        key = (choice.name, choice.dtype, job.attention)
        if self._in_memory is None or self._in_memory[0] != key:
            self._in_memory = None
            gc.collect()
            files = self.files(choice)
            if self.on_server:
                model = distant(files, choice.spec, choice.dtype, job.attention)
            else:
                model = load_model(files, choice.dtype, self.device, job.attention)
                model = replace(model, on_layer=self.on_layer, runs={}, reads_words=model.has_plain_head)
                self.prints[key] = memory_print(model)
            self._in_memory = (key, model)
        return self._in_memory[1]

    def forget_runs(self) -> None:
        """Give back the memory of the runs that calls to the model in memory have shared."""
        if self._in_memory is not None and self._in_memory[1].runs:
            self._in_memory[1].runs.clear()

    @property
    def in_memory(self) -> Key | None:
        """The model in memory, if one is."""
        return self._in_memory and self._in_memory[0]

    def check_circuit(self, job: Job, choice: ModelChoice, circuit: Circuit | None = None) -> Shape:
        """The model's sizes; TaskError if the circuit, or without one any that no job finds, has heads beyond them."""
        shape = self.shape(choice)
        for one in job.circuits.values() if circuit is None else (circuit,):
            one.check_fits(shape.n_layers, shape.n_heads, f"experiments.{job.name}: {choice.name}")
        return shape
