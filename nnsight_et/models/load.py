"""From a model's files to a Model: the only file that reads weights."""

from __future__ import annotations

import json
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Any

import nnsight
import torch
from nnsight import TransformersModel
from nnsight.modeling.huggingface import _ID_CACHE as CANONICAL
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from nnsight_et.core.errors import UnsupportedModel, quantity
from nnsight_et.core.turns import makes_turns
from nnsight_et.models.adapters import attach_adapter, check_adapter, check_fit, check_served, has_adapter
from nnsight_et.models.catalog import ModelSpec, Shape, is_hub_id
from nnsight_et.models.failures import reading_files
from nnsight_et.models.families import architecture
from nnsight_et.models.files import Files, check_no_code, has_tokenizer
from nnsight_et.models.finite import accepted_dtypes, try_prompt
from nnsight_et.models.gguf_file import check_all_read, dequantising, read_configuration, without_bars
from nnsight_et.models.model import Model
from nnsight_et.models.rotary import rotate_each_prompt, unchanging_length
from nnsight_et.models.tokenizing import check_tokenizing, read_tokenizer, set_bos, set_chat, with_padding_token
from nnsight_et.models.weights import check_parameters, stored_tensors

SENTENCE = "When Mary and John went to the store, John gave a drink to Mary."


def configuration(files: Files) -> PretrainedConfig:
    """The model's configuration, from config.json or its GGUF file; UnsupportedModel if it cannot be read."""
    place = files.gguf or files.weights / "config.json"
    with reading_files(
        lambda reason: f"{files.name}: {place} cannot be read ({reason}); accepted: a model's configuration",
        lambda: None if files.gguf else check_no_code(files.name, files.weights, "config.json"),
    ):
        if files.gguf:
            config = read_configuration(files.name, files.gguf)
        else:
            config = AutoConfig.from_pretrained(files.weights, trust_remote_code=False)
    for key, value in config.get_text_config().to_dict().items():
        if isinstance(value, float) and value != value:
            raise UnsupportedModel(f"{files.name}: {place} has {key}: NaN; accepted: a number")
    return config


def shape_of(files: Files) -> Shape:
    """The model's sizes, from its configuration alone; UnsupportedModel if its architecture is not known."""
    return shape_from(configuration(files), files.name)


def shape_from(config: PretrainedConfig, name: str) -> Shape:
    """The sizes in a configuration; UnsupportedModel if its architecture is not known."""
    parts = architecture(config, name)
    with reading_files(
        lambda reason: f"{name}: the sizes in its config.json are not numbers ({reason}); accepted: numbers"
    ):
        shape = parts.shape(config.get_text_config())
    sizes = (shape.n_layers, shape.n_heads, shape.d_model, shape.vocabulary)
    if min(sizes) < 1:
        raise UnsupportedModel(
            f"{name}: config.json has {sizes} for layers, heads, d_model and tokens; accepted: 1 or more of each"
        )
    return shape


def longest_prompt(files: Files) -> int | None:
    """How many tokens a prompt of the model can have; None where there is no end."""
    config = configuration(files)
    return architecture(config, files.name).longest(config.get_text_config())


def longest_alike(files: Files) -> int | None:
    """Up to how many tokens prompts are rotated alike, whatever shares their batch; None: however many."""
    return unchanging_length(configuration(files).get_text_config())


def outline(files: Files) -> PreTrainedModel:
    """The model's modules without numbers in them; UnsupportedModel if its configuration describes none."""
    config = configuration(files)
    with (
        reading_files(
            lambda reason: (
                f"{files.name}: its config.json does not describe a model ({reason}); accepted: one that does"
            )
        ),
        torch.device("meta"),
    ):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def tokenizer_of(files: Files) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token; UnsupportedModel if it cannot be read or has no offsets.

    Models whose tokenizer is in one folder, and begins texts alike, share it.
    """

    def complaint(reason: str) -> str:
        found = f"{files.name}: no tokenizer in {files.tokenizer}"
        if files.tokenizer.is_dir() and not has_tokenizer(files.tokenizer):
            return f"{found}; accepted: tokenizer.json in it, or tokenizer: a folder or hub id that has one"
        return f"{found} that can be read ({reason}); accepted: tokenizer.json"

    with reading_files(complaint, lambda: check_tokenizing(files)):
        tokenizer = read_tokenizer(files.tokenizer.resolve(), files if files.bos or files.chat else None)
    if not tokenizer.is_fast:
        raise UnsupportedModel(
            f"{files.name}: its tokenizer gives no character offsets; accepted: a tokenizer with tokenizer.json"
        )
    if files.chat:
        if files.bos:
            found = f"{files.name}: bos: {files.bos} with chat, whose template decides how prompts begin"
            raise UnsupportedModel(f"{found}; accepted: one of the two")
        if not makes_turns(tokenizer):
            set_chat(tokenizer, files.chat, files.name)
    if files.bos:
        set_bos(tokenizer, files.bos, files.name, configuration(files))
    return with_padding_token(tokenizer, files.name, _rows(files.weights, files.gguf))


def with_template(files: Files) -> Files:
    """The same files; where prompts are turns of a chat, the fingerprint is also of the template's text."""
    if not files.chat:
        return files
    text = f"{files.fingerprint} {tokenizer_of(files).chat_template}"
    return replace(files, fingerprint=blake2b(text.encode(), digest_size=16).hexdigest())


@cache
def _rows(weights: Path, gguf: Path | None) -> int:
    """How many tokens a model has an embedding for."""
    return int(configuration(Files("", weights, None, weights, "", gguf)).get_text_config().vocab_size)


def _check_generation(files: Files) -> None:
    """Raise UnsupportedModel if it is generation_config.json that is at fault: transformers reads it with weights."""
    path = files.weights / "generation_config.json"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{files.name}: {path} is not a JSON object; accepted: one, or no such file")


def load_model(files: Files, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa") -> Model:
    """The model in memory, its weights frozen and its parts checked.

    UnsupportedModel if its files cannot be read, lack a parameter, it has no such attention, or its parts do not add
    up.
    """
    _prepare(files, attention)
    more: dict[str, Any] = {} if device == "cpu" else {"device_map": device}
    if files.gguf:
        file = str(files.gguf.relative_to(files.weights))
        more |= {"gguf_file": file, "config": configuration(files), **dequantising()}
    else:
        more["return_dict"] = True  # an old config.json may deny it, and modules of transformers 5 rely on it
    with (
        reading_files(
            lambda reason: f"{files.name}: its weights cannot be loaded ({reason}); accepted: complete weight files",
            lambda: _check_generation(files),
        ),
        without_bars() if files.gguf else nullcontext(),
    ):
        stored = {} if files.gguf else stored_tensors(files.name, files.weights, configuration(files))
        module, report = AutoModelForCausalLM.from_pretrained(  # type: ignore[reportGeneralTypeIssues]
            files.weights,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused by check_parameters with their names
            trust_remote_code=False,
            **more,
        )
    check_parameters(files.name, stored, module, report)
    if files.gguf:
        check_all_read(files.name, files.gguf, module)
    if files.adapter:
        attach_adapter(module, files.adapter, files.name)
        check_adapter(module, files.adapter, files.name)
    if has_adapter(module) != (files.adapter is not None):
        raise UnsupportedModel(f"{files.name}: its adapter is missing from the loaded model, or another one is in it")
    nn = TransformersModel(module, task="text-generation", tokenizer=tokenizer_of(files))
    return wrap_model(nn, files.name)


def _prepare(files: Files, attention: str) -> None:
    """Before a model is made: its code travels, libraries are quiet; UnsupportedModel if it has no such attention."""
    config = configuration(files)
    known = architecture(config, files.name).implementations
    if attention not in known:
        found = f"{files.name}: architecture '{config.model_type}' has no {attention} attention"
        raise UnsupportedModel(f"{found}; accepted: attention {' or '.join(known)}")
    nnsight.register("nnsight_et")
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def distant(files: Files, spec: ModelSpec, dtype: str = "float32", attention: str = "sdpa") -> Model:
    """The model as a server has it: its parts without any weight here. Nothing can be run but what is sent there.

    UnsupportedModel if the server cannot know it by name, or its configuration cannot be read.
    """
    name, adapter = spec.server_names
    for key, place in (("ndif", name), ("ndif_adapter", adapter)):
        if place and not is_hub_id(place):
            raise UnsupportedModel(f"{files.name}: {place} is not a name on a server; accepted: {key}: org/name")
    if files.adapter:
        check_served(files.adapter, architecture(configuration(files), files.name).attention, files.name)
        check_fit(outline(files), files.adapter, files.name)
    _prepare(files, attention)
    with (
        reading_files(
            lambda reason: f"{files.name}: its modules cannot be built ({reason}); accepted: files of one model"
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # peft 0.21 warns of what merging an adapter would do
        nn = TransformersModel(
            str(files.weights),
            task="text-generation",
            tokenizer=tokenizer_of(files),
            attn_implementation=attention,
            peft=str(files.adapter) if files.adapter else None,
        )
    nn.repo_id, nn.revision, nn.peft = name, spec.revision, adapter
    CANONICAL[name] = name  # asked of the hub otherwise
    return _model(nn, files.name, getattr(torch, dtype), torch.device("cpu"))


def wrap_model(nn: TransformersModel, name: str) -> Model:
    """An nnsight model already in memory as a Model, frozen and checked."""
    nn.requires_grad_(False)
    nn.eval()
    rotate_each_prompt(nn._module)
    model = on_its_devices(_model(nn, name, nn.dtype, nn.device), name)
    if model.parts.experts and nn.dtype == torch.float64:
        nn.set_experts_implementation("eager")  # the grouped one knows no float64
    _check_runs(model, name)
    if model.dtype == torch.float16:  # whose largest number real models pass
        try_prompt(model, nn.tokenizer(SENTENCE).input_ids)
    with model.session():
        worst = nnsight.save(part_gaps(model).max().double().cpu())
    check_gap(worst.item(), model.dtype, name)
    return model


def _check_runs(model: Model, name: str) -> None:
    """Raise UnsupportedModel if transformers itself cannot run two tokens through the model."""
    with (
        reading_files(
            lambda reason: f"{name}: it cannot be run ({reason}); accepted: a model that transformers itself runs"
        ),
        torch.no_grad(),
    ):
        model.nn._module(input_ids=_two_tokens(model), use_cache=False)


def _two_tokens(model: Model) -> Tensor:
    words = model.nn.config.get_text_config().vocab_size
    return torch.tensor([[words // 3, words // 2]], device=model.device)


def _model(nn: TransformersModel, name: str, dtype: torch.dtype, device: torch.device) -> Model:
    shape, parts = shape_from(nn.config, name), architecture(nn.config, name)
    there = len(attrgetter(parts.layers)(nn._module))
    if there != shape.n_layers:
        found = f"its configuration says {quantity(shape.n_layers, 'layer')}, but it has {there}"
        raise UnsupportedModel(f"{name}: {found}; accepted: config.num_hidden_layers equal to their number")
    text = nn.config.get_text_config()
    scales = [float(getattr(text, key)) if key else 1.0 for key in (parts.embedding_scale, parts.residual_scale)]
    widths, storing = parts.widths(text), parts.storing(text)
    return Model(
        nn, parts, shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head,
        dtype=dtype, device=device, windows=parts.windows(text), parallel=shape.parallel,
        embedding_scale=scales[0], residual_scale=scales[1],
        widths=widths if set(widths) != {shape.d_head} else (), recurrent=parts.recurrent(text),
        lacking=parts.lacking(text), storing=storing if storing < shape.n_layers else None, name=name,
    )  # fmt: skip


def check_gap(worst: float, dtype: torch.dtype, name: str) -> None:
    """Raise UnsupportedModel if the largest of part_gaps is more than rounding."""
    if not isfinite(worst):
        found = f"{name}: two tokens give NaN or infinity in {str(dtype).removeprefix('torch.')}"
        raise UnsupportedModel(f"{found}; accepted: {accepted_dtypes(dtype)}")
    limit = 64 * torch.finfo(dtype).eps
    if not worst <= limit:
        raise UnsupportedModel(
            f"{name}: its layers are not residual + attention + mlp with one output projection over heads "
            f"(relative gap {worst:.1e}, accepted {limit:.1e})"
        )


def part_gaps(model: Model) -> Tensor:
    """[4 * layer]: how far each layer is from what the engine takes for granted. Opens a trace of two tokens.

    Of the output projection of z, and of the sum of what each head writes, from what attention adds; and of the sum of
    residual, attention and MLP from what leaves the layer. Relative to the token's largest number there, or the largest
    that is added up to it: the first token's can be thousands of times the second's.
    """
    tokens, parts = _two_tokens(model), model.parts
    places = torch.arange(2, device=model.device)[None]
    also = parts.also_adds if hasattr(model.layer(0)._module, parts.also_adds or "") else None
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
            terms = model.size_of_write(layer, z[0])[None]
            written = model.attention_output(layer)
            attention = model.attention(layer)
            mlp = model.mlp(layer, len(tokens))
            more = [model.part(also, layer).output] if also else []
            leaving = model.residual(layer + 1)
            gaps.append(_share(whole - written, leaving, written, terms))
            gaps.append(_share(writes - written, leaving, written, terms))
            gaps.append(_share(added - attention, leaving, attention))
            added = [attention * model.residual_scale, mlp * model.residual_scale, *more]
            scale = getattr(model.layer(layer), parts.layer_scale) if parts.layer_scale else 1.0
            gaps.append(_share((entering + sum(added)) * scale - leaving, leaving, entering * scale, *added))
    return torch.stack([gap.to(model.device) for gap in gaps])


def _share(gap: Tensor, *parts: Tensor) -> Tensor:
    """[]: the largest share, of any token, that the gap [1, token, d] has of the largest number of the parts there."""
    sizes = torch.stack([part.abs().amax(-1).to(gap.dtype) for part in parts]).amax(0)
    return (gap.abs().amax(-1) / sizes.clamp(min=torch.finfo(gap.dtype).tiny)).max()


def on_its_devices(model: Model, name: str) -> Model:
    """The model, knowing where its layers are; UnsupportedModel unless each of them is whole on one device."""
    places = [{weight.device for weight in model.layer(layer).parameters()} for layer in range(model.n_layers)]
    for layer, found in enumerate(places):
        if len(found) > 1 or torch.device("meta") in found:
            where = " and ".join(sorted(str(device).replace("meta", "no device") for device in found))
            accept = "each layer entirely on one device: more GPUs, or a smaller dtype"
            raise UnsupportedModel(f"{name}: the weights of layer {layer} are on {where}; accepted: {accept}")
    spread = tuple(device for (device,) in places)
    return model if set(spread) == {model.device} else replace(model, spread=spread)
