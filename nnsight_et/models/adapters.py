"""Adapters over a model: peft's own layers in it, every module where it was, and all of the adapter's weights used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftMixedModel, PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from transformers import PreTrainedModel

from nnsight_et.core.errors import UnsupportedModel, quantity
from nnsight_et.models.adapter_kinds import CONFIG, objection, read_settings
from nnsight_et.models.failures import LOADING_ERRORS, reading_files

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
FIT = "an adapter that was made for this model"


def has_weights(folder: Path) -> bool:
    """Whether a folder has an adapter's weights, in the form of today or of 2023."""
    return any((folder / one).is_file() for one in WEIGHTS)


def has_adapter(module: PreTrainedModel) -> bool:
    """Whether peft's layers, or modules that an adapter brings whole, are in the model."""
    return any(isinstance(part, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for part in module.modules())


def attach_adapter(module: PreTrainedModel, folder: Path, name: str) -> None:
    """Put the adapter of a folder into the model, in place and not merged, as peft does.

    Where it changes a module, peft's layer stands at that module's place; all other paths stay. A model with another
    number of words than the adapter gets the adapter's first. The model may be without numbers (on `meta`): then it has
    the adapter's modules, and what does not fit is seen. UnsupportedModel if it cannot be run exactly, or does not fit.
    """
    config: Any = _config(folder, name)
    weights = _weights(folder, name)
    _resize_vocabulary(module, weights, name)
    _check_tokens(module, config, name)
    if module.device.type == "meta" and config.peft_type == PeftType.LORA:
        config.init_lora_weights = True  # others are worked out of numbers, which are not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft 0.21 warns of on the way is checked below, or about merging
            adapted = PeftModel(module, config)
            needed = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
            spare = peft.get_peft_model_state_dict(adapted, save_embedding_layers=True)  # some of it under two names
            result = peft.set_peft_model_state_dict(adapted, weights)
    except KeyError as error:  # of a module that the adapter brings whole
        raise _misfit(name, folder, [str(error.args[0])], []) from error
    except LOADING_ERRORS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        found = next((line for line in lines if line.startswith("size mismatch")), lines[0] if lines else repr(error))
        raise UnsupportedModel(
            f"{name}: peft cannot put its adapter in {folder} over this model ({found}); accepted: {FIT}"
        ) from error
    missing = [key for key in result.missing_keys if key.replace(".default", "") in needed]
    surplus = [key for key in result.unexpected_keys if key not in spare]
    if missing or surplus:
        raise _misfit(name, folder, missing, surplus)


def base_of(adapted: PeftModel | PeftMixedModel, name: str) -> PreTrainedModel:
    """The transformers model in a peft model, with the layers of its adapters, active or not, in it.

    UnsupportedModel if an active adapter is more than changed modules.
    """
    active = adapted.active_adapters
    for one in [active] if isinstance(active, str) else active:
        if trouble := objection(adapted.peft_config[one].to_dict()):
            raise UnsupportedModel(f"{name}: its active adapter '{one}' {trouble}")
    inside: Any = adapted.base_model  # a mixed one has no get_base_model
    return inside.model


def check_fit(module: PreTrainedModel, folder: Path, name: str) -> None:
    """Raise UnsupportedModel unless an adapter goes over the model as it is, if the adapter's weights are here.

    The module, without numbers, is used up.
    """
    if has_weights(folder):
        own = _words(module)
        attach_adapter(module, folder, name)
        rows = _words(module)
        if rows != own:
            accept = "on a server: an adapter over a base with as many, or backend: local"
            raise UnsupportedModel(f"{name}: its adapter has {rows} words, its base {own}; accepted {accept}")


def _config(folder: Path, name: str) -> PeftConfig:
    settings = read_settings(folder, name)
    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]])}
    odd = {key: value for key, value in settings.items() if key not in known and value not in (None, False, "", [], {})}
    if odd:
        key, value = next(iter(sorted(odd.items())))
        found = f"{folder / CONFIG} has {key}: {value!r}, which peft {peft.__version__} does not know"
        accept = "a version of peft that knows it; or the file without it, if it changes nothing"
        raise UnsupportedModel(f"{name}: {found}; accepted: {accept}")
    said = f"{name}: {folder / CONFIG} is not what peft {peft.__version__} reads"
    with reading_files(lambda reason: f"{said} ({reason}); accepted: {FIT}"):
        config = PeftConfig.from_peft_type(**{key: value for key, value in settings.items() if key in known})
    config.inference_mode = True
    return config


def _weights(folder: Path, name: str) -> dict[str, Tensor]:
    """By peft's names; those saved without peft's wrapper get its prefix."""
    if not has_weights(folder):
        raise UnsupportedModel(f"{name}: no weights of an adapter in {folder}; accepted: {' or '.join(WEIGHTS)}")
    said = f"{name}: the weights of its adapter in {folder} cannot be read"
    with reading_files(lambda reason: f"{said} ({reason}); accepted: tensors by name"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what it then refuses
        weights: Any = load_peft_weights(str(folder), device="cpu")
    if not isinstance(weights, Mapping) or not all(isinstance(one, Tensor) for one in weights.values()):
        raise UnsupportedModel(
            f"{name}: the weights of its adapter in {folder} are not tensors by name; accepted: those"
        )
    return {key if key.startswith("base_model.") else PREFIX + key: one for key, one in weights.items()}


def _resize_vocabulary(module: PreTrainedModel, weights: Mapping[str, Tensor], name: str) -> None:
    """Give the model as many words as the adapter brings embeddings for; each row is then the adapter's."""
    rows, own = _rows(module, weights, "input"), _words(module)
    if rows in (None, own):
        return
    if _rows(module, weights, "output") != rows:
        accept = "one that brings embedding and unembedding of all its words"
        raise UnsupportedModel(f"{name}: its adapter has {rows} words, its base {own}; accepted: {accept}")
    module.resize_token_embeddings(rows, mean_resizing=False)


def _check_tokens(module: PreTrainedModel, config: PeftConfig, name: str) -> None:
    """Raise UnsupportedModel if the adapter changes embeddings of tokens that the model does not have."""
    given = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    tokens = [token for part in given.values() for token in part] if isinstance(given, dict) else given
    rows = _words(module)
    if tokens and max(tokens) >= rows:
        accept = "an adapter saved with its embeddings: save_pretrained(FOLDER, save_embedding_layers=True)"
        raise UnsupportedModel(
            f"{name}: its adapter changes token {max(tokens)}, its base has {rows}; accepted: {accept}"
        )


def _words(module: PreTrainedModel) -> int:
    embeddings: Any = module.get_input_embeddings()
    return embeddings.weight.shape[0]


def _rows(module: PreTrainedModel, weights: Mapping[str, Tensor], side: str) -> int | None:
    """How many words an adapter's whole embedding, or unembedding, has; None if it brings none."""
    wanted = module.get_input_embeddings() if side == "input" else module.get_output_embeddings()
    path = next((path for path, one in module.named_modules() if one is wanted), "")
    found = [
        weights.get(f"{PREFIX}{path}.{last}")
        for last in ("weight", "base_layer.weight", "token_adapter.base_layer.weight")
    ]
    return next((one.shape[0] for one in found if one is not None), None)


def _misfit(name: str, folder: Path, missing: list[str], surplus: list[str]) -> UnsupportedModel:
    found = [f"its files lack {quantity(len(missing), 'weight')}, such as {_short(missing[0])}"] if missing else []
    found += [f"its files hold what has no place in it, such as {_short(surplus[0])}"] if surplus else []
    return UnsupportedModel(
        f"{name}: its adapter in {folder} does not go over this model: {' and '.join(found)}; accepted: {FIT}"
    )


def _short(key: str) -> str:
    return key.removeprefix(PREFIX).replace(".default", "")
