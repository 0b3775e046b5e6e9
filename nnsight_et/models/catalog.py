"""The built-in models, as data: where their weights are and how large they are. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EMBEDDED = Path(__file__).parent.parent / "zoo" / "embedded"


@dataclass(frozen=True)
class Shape:
    """The sizes of a model: what plans and memory estimates need before any weight is read."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    vocabulary: int
    d_experts: int = 0  # of all experts of a layer together, where d_mlp is what one token passes through
    parallel: bool = False  # whether MLPs do not see the attention of their own layer

    @property
    def parameters(self) -> int:
        """About how many weights a model of this shape has: gated MLPs, embedding and unembedding of their own."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        mlp = 3 * self.d_model * max(self.d_mlp, self.d_experts)
        return self.n_layers * (attention + mlp) + 2 * self.vocabulary * self.d_model


@dataclass(frozen=True)
class ModelSpec:
    """Where a model's weights are: a folder or hub id, and those of an adapter over it."""

    path: str
    adapter: str | None = None
    revision: str | None = None
    adapter_revision: str | None = None
    tokenizer: str | None = None  # a folder or hub id, where it is not beside the weights
    ndif: str | None = None  # the model's name on an NDIF server, where it is not `path`
    ndif_adapter: str | None = None  # the adapter's there, where it is not `adapter`
    gguf: str | None = None  # the file in `path` that has the weights, where that is a GGUF file
    bos: Literal["add", "none"] | None = None  # whether texts begin with BOS, where the tokenizer is not to decide
    chat: bool | str | None = None  # whether prompts are turns of a chat; a template's name, or its text

    @property
    def server_names(self) -> tuple[str, str | None]:
        """The names an NDIF server has for the model and its adapter."""
        return self.ndif or self.path, self.ndif_adapter or self.adapter


def is_hub_id(place: str) -> bool:
    """Whether a place is written as the hub and servers name models, org/name; else it can only be a folder."""
    return place.count("/") == 1 and not place.startswith((".", "/", "~"))


@dataclass(frozen=True)
class NamedModel:
    """A model with a name of its own in this package."""

    spec: ModelSpec
    shape: Shape
    description: str


LLAMA_7B = Shape(n_layers=32, n_heads=32, n_kv_heads=32, d_head=128, d_model=4096, d_mlp=11008, vocabulary=32000)
TINY = Shape(n_layers=6, n_heads=8, n_kv_heads=8, d_head=32, d_model=128, d_mlp=256, vocabulary=283)


def _embedded_spec(folder: str, adapter: str | None = None) -> ModelSpec:
    return ModelSpec(str(EMBEDDED / folder), adapter and str(EMBEDDED / adapter), tokenizer=str(EMBEDDED / "tokenizer"))


KNOWN_MODELS: dict[str, NamedModel] = {
    "llama": NamedModel(ModelSpec("huggyllama/llama-7b"), LLAMA_7B, "LLaMA-7B, pretrained"),
    "vicuna": NamedModel(ModelSpec("AlekseyKorshuk/vicuna-7b"), LLAMA_7B, "LLaMA-7B finetuned on conversations"),
    "goat": NamedModel(
        ModelSpec("huggyllama/llama-7b", adapter="tiedong/goat-lora-7b"), LLAMA_7B, "LLaMA-7B + LoRA on arithmetic"
    ),
    "float": NamedModel(ModelSpec("nikhil07prakash/float-7b"), LLAMA_7B, "LLaMA-7B finetuned on arithmetic"),
    "llama-tiny": NamedModel(_embedded_spec("llama-tiny"), TINY, "embedded stand-in for llama"),
    "vicuna-tiny": NamedModel(_embedded_spec("vicuna-tiny"), TINY, "embedded, finetuned on rephrased prompts"),
    "goat-tiny": NamedModel(
        _embedded_spec("llama-tiny", "goat-tiny"), TINY, "llama-tiny + LoRA on arithmetic and boxes"
    ),
    "float-tiny": NamedModel(_embedded_spec("float-tiny"), TINY, "embedded, finetuned on arithmetic and boxes"),
}
