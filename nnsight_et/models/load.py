"""From a model's files to a Model: the only file that reads weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nnsight
import torch
from huggingface_hub.errors import StrictDataclassError
from nnsight import TransformersModel
from nnsight.modeling.huggingface import _ID_CACHE as CANONICAL
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from nnsight_et.errors import UnsupportedModel
from nnsight_et.models.bos import set_bos
from nnsight_et.models.devices import on_its_devices
from nnsight_et.models.families import architecture
from nnsight_et.models.files import Files, check_no_code, first_line
from nnsight_et.models.model import Model
from nnsight_et.models.named import ModelSpec, Shape, is_hub_id


def configuration(files: Files) -> PretrainedConfig:
    """The model's configuration; UnsupportedModel if it cannot be read."""
    try:
        return AutoConfig.from_pretrained(files.weights, trust_remote_code=False)
    except (OSError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        check_no_code(files.name, files.weights, "config.json")
        raise UnsupportedModel(
            f"{files.name}: {files.weights}/config.json cannot be read ({first_line(error)})"
        ) from error


def shape_of(files: Files) -> Shape:
    """The model's sizes, from its configuration alone; UnsupportedModel if its architecture is not known."""
    return shape_from(configuration(files), files.name)


def shape_from(config: PretrainedConfig, name: str) -> Shape:
    """The sizes in a configuration; UnsupportedModel if its architecture is not known."""
    shape = architecture(config, name).shape(config.get_text_config())
    sizes = (shape.n_layers, shape.n_heads, shape.d_model, shape.vocabulary)
    if min(sizes) < 1:
        raise UnsupportedModel(
            f"{name}: config.json has {sizes} layers, heads, d_model, words; accepted: 1 or more of each"
        )
    return shape


def longest_prompt(files: Files) -> int | None:
    """How many tokens a prompt of the model can have; None where there is no end."""
    config = configuration(files)
    return architecture(config, files.name).longest(config.get_text_config())


def outline(files: Files) -> PreTrainedModel:
    """The model's modules without numbers in them; UnsupportedModel if its configuration describes none."""
    config = configuration(files)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise UnsupportedModel(f"{files.name}: its config.json describes no model ({first_line(error)})") from error


def tokenizer_of(files: Files) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token; UnsupportedModel if it cannot be read or has no offsets.

    Models whose tokenizer is in one folder, and begins texts alike, share it.
    """
    try:
        tokenizer = _tokenizer_in(files.tokenizer.resolve(), files if files.bos else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        check_no_code(files.name, files.tokenizer, "tokenizer_config.json")
        raise UnsupportedModel(f"{files.name}: no tokenizer in {files.tokenizer} ({first_line(error)})") from error
    if not tokenizer.is_fast:
        raise UnsupportedModel(
            f"{files.name}: no character offsets in its tokenizer; accepted: one with tokenizer.json"
        )
    return tokenizer


@cache
def _tokenizer_in(folder: Path, own: Files | None) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder; for `own` files, which say how its texts begin, one by itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    if own is not None and own.bos and tokenizer.is_fast:
        set_bos(tokenizer, own.bos, own.name, configuration(own))
    return tokenizer


def loaded(files: Files, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa") -> Model:
    """The model in memory, its weights frozen and its parts checked.

    UnsupportedModel if its files cannot be read, lack a parameter, it has no such attention, or its parts do not add
    up.
    """
    _prepare(files, attention)
    try:
        module, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[reportGeneralTypeIssues]
            files.weights,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            output_loading_info=True,
            trust_remote_code=False,
            **({} if device == "cpu" else {"device_map": device}),
        )
        if files.adapter:
            module.load_adapter(str(files.adapter))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnsupportedModel(f"{files.name}: its weights cannot be loaded ({first_line(error)})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        found = f"{len(missing)} parameters are not in its files, such as {missing[0]}"
        raise UnsupportedModel(f"{files.name}: {found}; accepted: weights for all that config.json describes")
    if files.adapter:
        _check_adapter(files, module)
    nn = TransformersModel(module, task="text-generation", tokenizer=tokenizer_of(files))
    return wrapped(nn, files.name)


def _prepare(files: Files, attention: str) -> None:
    """Before a model is made: its code travels, libraries are quiet; UnsupportedModel if it has no such attention."""
    config = configuration(files)
    known = architecture(config, files.name).implementations
    if attention not in known:
        found = f"{files.name}: architecture '{config.model_type}' has no {attention} attention"
        raise UnsupportedModel(f"{found}; accepted: attention: {' or '.join(known)} in the manifest")
    nnsight.register("nnsight_et")
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def distant(files: Files, spec: ModelSpec, dtype: str = "float32", attention: str = "sdpa") -> Model:
    """The model as a server has it: its parts without any weight here. Nothing can be run but what is sent there.

    UnsupportedModel if the server cannot know it by name, or its configuration cannot be read.
    """
    name, adapter = spec.served
    for key, place in (("ndif", name), ("ndif_adapter", adapter)):
        if place and not is_hub_id(place):
            raise UnsupportedModel(f"{files.name}: {place} is no name on a server; accepted: {key}: org/name")
    _prepare(files, attention)
    try:
        nn = TransformersModel(
            str(files.weights),
            task="text-generation",
            tokenizer=tokenizer_of(files),
            attn_implementation=attention,
            peft=str(files.adapter) if files.adapter else None,
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UnsupportedModel(f"{files.name}: its parts cannot be laid out ({first_line(error)})") from error
    nn.repo_id, nn.revision, nn.peft = name, spec.revision, adapter
    CANONICAL[name] = name  # asked of the hub otherwise
    return _model(nn, files.name, getattr(torch, dtype), torch.device("cpu"))


def _check_adapter(files: Files, module: PreTrainedModel) -> None:
    """Raise UnsupportedModel unless the adapter's files hold just the parameters it has in the model."""
    assert files.adapter is not None
    written = set()
    for path in files.adapter.glob("adapter_model.safetensors"):
        with safe_open(path, framework="pt") as file:
            written |= {name.removeprefix("base_model.model.") for name in file.keys()}  # noqa: SIM118 - not a dict
    for path in files.adapter.glob("adapter_model.bin"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        written |= {name.removeprefix("base_model.model.") for name in content}
    there = {name.replace(".default.", ".") for name, _ in module.named_parameters() if ".lora_" in name}
    if written != there:
        odd = sorted(written ^ there)[0]
        found = f"its adapter does not fit its base: {odd} is in only one of them"
        raise UnsupportedModel(f"{files.name}: {found}; accepted: a LoRA adapter made for this model")


def wrapped(nn: TransformersModel, name: str) -> Model:
    """An nnsight model already in memory as a Model, frozen and checked."""
    nn.requires_grad_(False)
    nn.eval()
    model = on_its_devices(_model(nn, name, nn.dtype, nn.device), name)
    if model.parts.experts and nn.dtype == torch.float64:
        nn.set_experts_implementation("eager")  # the grouped one knows no float64
    check_parts(model, name)
    return model


def _model(nn: TransformersModel, name: str, dtype: torch.dtype, device: torch.device) -> Model:
    shape, parts = shape_from(nn.config, name), architecture(nn.config, name)
    return Model(
        nn, parts, shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head,
        dtype=dtype, device=device, windows=parts.windows(nn.config.get_text_config()), parallel=shape.parallel,
    )  # fmt: skip


def check_parts(model: Model, name: str) -> None:
    """Run two tokens; UnsupportedModel unless heads' writes sum to the attention output and residuals add up."""
    with model.session():
        worst = nnsight.save(part_gaps(model).max().double().cpu())
    check_gap(worst.item(), model.dtype, name)


def check_gap(worst: float, dtype: torch.dtype, name: str) -> None:
    """Raise UnsupportedModel if the largest of part_gaps is more than rounding."""
    limit = 64 * torch.finfo(dtype).eps
    if not worst <= limit:
        raise UnsupportedModel(
            f"{name}: its layers are not residual + attention + mlp with one output projection over heads "
            f"(relative gap {worst:.1e}, accepted {limit:.1e})"
        )


def part_gaps(model: Model) -> Tensor:
    """[3 * layer]: how far each layer is from what the engine takes for granted. Opens a trace of two tokens.

    Relative to its largest output: of the output projection of z, and of the sum of what each head writes, from what
    attention adds; and of the sum of residual, attention and MLP from what leaves the layer.
    """
    words = model.nn.config.get_text_config().vocab_size
    tokens = torch.tensor([[words // 3, words // 2]], device=model.device)
    places = torch.arange(2, device=model.device)[None]
    with model.trace(tokens, places):
        gaps = []
        for layer in range(model.n_layers):
            entering = model.residual(layer)
            z = model.z(layer)
            whole = model.write_of(layer, z)
            added = model.attention_of(layer, z)
            alone = torch.eye(model.n_heads, dtype=z.dtype, device=z.device)[:, None, :, None]
            nothing = model.write_of(layer, torch.zeros_like(z))
            writes = (model.write_of(layer, z * alone) - nothing).sum(0, keepdim=True) + nothing
            written = model.written(layer)
            attention = model.attention(layer)
            mlp = model.mlp(layer, len(tokens))
            leaving = model.residual(layer + 1)
            scale = leaving.abs().max()
            largest = torch.maximum(scale, written.abs().max())
            gaps.append((whole - written).abs().max() / largest)
            gaps.append((writes - written).abs().max() / largest)
            gaps.append((added - attention).abs().max() / scale)
            gaps.append((entering + attention + mlp - leaving).abs().max() / scale)
    return torch.stack([gap.to(model.device) for gap in gaps])
