"""From a model's name to a Model: the only file that reads weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

import huggingface_hub
import nnsight
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from nnsight import TransformersModel
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from nnsight_et.errors import UnsupportedModel
from nnsight_et.models.architecture import architecture
from nnsight_et.models.model import Model
from nnsight_et.models.named import ModelSpec, Shape

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
FILES = (*WEIGHTS, "*.json", "tokenizer.model")
_read_size = 1 << 24


@dataclass(frozen=True)
class Files:
    """A model's folders on this machine, and a digest of what is in them."""

    name: str
    weights: Path
    adapter: Path | None
    tokenizer: Path
    fingerprint: str


def found(name: str, spec: ModelSpec) -> Files:
    """The model's files, fetched from the hub if they are not here; UnsupportedModel if there are none."""
    weights = _folder(name, spec.path, spec.revision)
    _check_weights(name, weights, "config.json")
    adapter = spec.adapter and _folder(name, spec.adapter, spec.adapter_revision)
    if adapter:
        _check_weights(name, adapter, "adapter_config.json")
    tokenizer = _folder(name, spec.tokenizer, None) if spec.tokenizer else weights
    digest = blake2b(digest_size=16)
    for folder in (weights, adapter, tokenizer):
        for path in sorted({path for pattern in FILES for path in folder.glob(pattern)} if folder else ()):
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as file:
                while block := file.read(_read_size):
                    digest.update(block)
        digest.update(b"/")
    return Files(name, weights, adapter or None, tokenizer, digest.hexdigest())


def shape_of(files: Files) -> Shape:
    """The model's sizes, from its configuration alone; UnsupportedModel if its architecture is not known."""
    try:
        config = AutoConfig.from_pretrained(files.weights)
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{files.name}: {files.weights}/config.json cannot be read ({_line(error)})") from error
    return shape_from(config, files.name)


def shape_from(config: PretrainedConfig, name: str) -> Shape:
    """The sizes in a configuration; UnsupportedModel if its architecture is not known."""
    architecture(config.model_type, name)
    return Shape(
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        d_head=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        vocabulary=config.vocab_size,
    )


@cache
def tokenizer_of(files: Files) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token; UnsupportedModel if it cannot be read or has no offsets."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.tokenizer)
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{files.name}: no tokenizer in {files.tokenizer} ({_line(error)})") from error
    if not tokenizer.is_fast:
        raise UnsupportedModel(
            f"{files.name}: no character offsets in its tokenizer; accepted: one with tokenizer.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return tokenizer


def loaded(files: Files, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa") -> Model:
    """The model in memory, its weights frozen and its parts checked; UnsupportedModel if they do not add up."""
    nnsight.register("nnsight_et")
    logging.disable_progress_bar()
    nn = TransformersModel(
        str(files.weights),
        task="text-generation",
        tokenizer=tokenizer_of(files),
        peft=str(files.adapter) if files.adapter else None,
        dispatch=True,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        **({} if device == "cpu" else {"device_map": device}),
    )
    return wrapped(nn, files.name)


def wrapped(nn: TransformersModel, name: str) -> Model:
    """An nnsight model already in memory as a Model, frozen and checked."""
    nn.requires_grad_(False)
    nn.eval()
    shape = shape_from(nn.config, name)
    model = Model(
        nn, architecture(nn.config.model_type, name), shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head,
        dtype=nn.dtype, device=nn.device,
    )  # fmt: skip
    check_parts(model, name)
    return model


def check_parts(model: Model, name: str) -> None:
    """Run two tokens; UnsupportedModel unless heads' writes sum to the attention output and residuals add up."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    places = torch.arange(2, device=model.device)[None]
    with model.trace(tokens, places):
        gaps = []
        for layer in range(model.n_layers):
            entering = model.residual(layer)
            z = model.z(layer)
            whole = model.attention_of(layer, z)
            alone = torch.eye(model.n_heads, dtype=z.dtype, device=z.device)[:, None, :, None]
            nothing = model.attention_of(layer, torch.zeros_like(z))
            writes = (model.attention_of(layer, z * alone) - nothing).sum(0, keepdim=True) + nothing
            attention = model.attention(layer)
            mlp = model.part(model.parts.mlp, layer).output
            leaving = model.layer(layer).output
            scale = leaving.abs().max()
            gaps.append((whole - attention).abs().max() / scale)
            gaps.append((writes - attention).abs().max() / scale)
            gaps.append((entering + attention + mlp - leaving).abs().max() / scale)
        worst = nnsight.save(torch.stack(gaps).max().double().cpu())
    limit = 64 * torch.finfo(model.dtype).eps
    if not worst.item() <= limit:
        raise UnsupportedModel(
            f"{name}: its layers are not residual + attention + mlp with one output projection over heads "
            f"(relative gap {worst.item():.1e}, accepted {limit:.1e})"
        )


def _folder(name: str, place: str, revision: str | None) -> Path:
    local = Path(place).expanduser()
    if local.is_dir():
        return local
    if place.startswith((".", "/", "~")) or place.count("/") != 1:
        raise UnsupportedModel(f"{name}: no folder {place}; accepted: a model's folder, or a hub id such as org/name")
    try:
        return Path(huggingface_hub.snapshot_download(place, revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnsupportedModel(
            f"{name}: no folder {place}, and the hub cannot give '{place}' ({_line(error)}); accepted: a local folder "
            f"(models: {{{name}: {{path: FOLDER}}}} in the manifest), or a hub id with a network"
        ) from error


def _check_weights(name: str, folder: Path, config: str) -> None:
    if not (folder / config).is_file():
        raise UnsupportedModel(f"{name}: no {config} in {folder}; accepted: a folder in Hugging Face format")
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise UnsupportedModel(f"{name}: no weights in {folder}; accepted: {' or '.join(WEIGHTS)}")


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
