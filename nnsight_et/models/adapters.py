"""Adapters over a model: peft's own layers in it, every module where it was, and all of the adapter's weights used.

First what an adapter's configuration says: of which kind it is, and whether it can be run exactly.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftMixedModel, PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from nnsight_et.core.errors import UnsupportedModel, quantity
from nnsight_et.models.failures import LOADING_ERRORS, reading_files

CONFIG = "adapter_config.json"
TAKEN = (
    "LORA", "ADALORA", "FOURIERFT", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT", "TRAINABLE_TOKENS", "VERA",
)  # fmt: skip
"""Kinds that only change modules of the model, each token for itself: the changed modules are what runs."""
BY_ITSELF = {
    "PREFIX_TUNING": "virtual tokens before every prompt",
    "PROMPT_TUNING": "virtual tokens before every prompt",
    "MULTITASK_PROMPT_TUNING": "virtual tokens before every prompt",
    "P_TUNING": "virtual tokens before every prompt",
    "CPT": "virtual tokens before every prompt",
    "CARTRIDGE": "virtual tokens before every prompt",
    "ADAPTION_PROMPT": "virtual tokens in attention",
    "XLORA": "several adapters, mixed anew for every token",
    "POLY": "several adapters, mixed by task",
}
"""Kinds that are more than changed modules, and cannot be merged into them either."""
LORA_WITH = {
    "alora_invocation_tokens": "aLoRA: it sets in at certain tokens of a prompt",
    "arrow_config": "Arrow: several adapters, mixed anew for every token",
    "layer_replication": "more layers than the base has",
    "kasa_config": "KaSA",
    "megatron_config": "Megatron",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "velora_config": "VeLoRA",
}
BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
"""What init_lora_weights can be without a change of the base's own weights."""
REPEATED = ("pissa", "olora", "mica")
"""Those that peft works out of the base's weights, each time alike, and mostly changes these."""
MERGE = "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(FOLDER)"
SERVED = tuple(kind for kind in TAKEN if kind not in ("ADALORA", "VERA"))
"""Kinds that nnsight 0.8 puts over a model that a server has."""


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """What adapter_config.json says; UnsupportedModel if it cannot be read, or the adapter cannot be run exactly."""
    try:
        settings = json.loads((folder / CONFIG).read_bytes())
        if not isinstance(settings, dict):
            raise TypeError(f"it holds a {type(settings).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UnsupportedModel(
            f"{name}: {folder / CONFIG} cannot be read ({error}); accepted: an adapter as peft saves it"
        ) from error
    if trouble := objection(settings):
        raise UnsupportedModel(f"{name}: its adapter in {folder} {trouble}")
    return settings


def objection(settings: Mapping[str, Any]) -> str:
    """Why an adapter with these settings cannot be run exactly, and what is accepted; nothing if it can."""
    kind = _text(settings.get("peft_type") or "of no kind (it has no peft_type)")
    if kind in BY_ITSELF:
        return f"is {kind} ({BY_ITSELF[kind]}); accepted: {', '.join(TAKEN)}"
    if kind not in TAKEN:
        return f"is {kind}; accepted: {', '.join(TAKEN)}, or a base it is merged into: {MERGE}, where peft can do that"
    task = settings.get("task_type")
    if task is not None and _text(task) != "CAUSAL_LM":
        return f"is {kind} for another task (task_type: {_text(task)}); accepted: CAUSAL_LM, or none"
    for key, meaning in LORA_WITH.items():
        if settings.get(key) not in (None, False):
            return f"is {kind} with {key} ({meaning}); accepted: {kind} without it"
    beginning = settings.get("init_lora_weights")
    if kind == "LORA" and beginning not in (*BEGINNINGS, *REPEATED):
        accept = "an adapter to the base as it is on disk, as save_pretrained(FOLDER, "
        accept += "path_initial_model_for_weight_conversion=INITIAL) writes"
        found = f"is LORA with init_lora_weights: {beginning!r}, for which peft does not restore the same base"
        return f"{found}; accepted: {accept}"
    return ""


def server_objection(settings: Mapping[str, Any], attention: str) -> str:
    """Why an adapter that can be run here cannot be run over a server's model; nothing if it can.

    attention: what the model calls a layer's attention.
    """
    kind = _text(settings.get("peft_type"))
    if kind not in SERVED:
        return f"is {kind}; accepted on a server: {', '.join(SERVED)}"
    changes = {"bias": ("none", None), "init_lora_weights": BEGINNINGS}
    for key, harmless in changes.items():
        if settings.get(key) not in harmless:
            found = f"is {kind} with {key}: {settings[key]!r}, which changes the base's own weights"
            return f"{found}; accepted on a server: an adapter that leaves its base as it is, or backend: local"
    if attention in (settings.get("modules_to_save") or ()):
        found = f"brings its own {attention} (modules_to_save), whose parts a server does not expose"
        return f"{found}; accepted on a server: one that changes the projections, or backend: local"
    return ""


def check_served(folder: Path, attention: str, name: str) -> None:
    """Raise UnsupportedModel if the adapter in a folder cannot be run over a server's model with such `attention`."""
    if trouble := server_objection(read_settings(folder, name), attention):
        raise UnsupportedModel(f"{name}: its adapter in {folder} {trouble}")


def check_no_adapter(folder: Path, name: str) -> None:
    """Raise UnsupportedModel if a folder that is to hold a model holds an adapter."""
    if not (folder / CONFIG).is_file():
        return
    try:
        base = json.loads((folder / CONFIG).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        base = None
    if (folder / "config.json").is_file():
        accept = f"the model in a folder without {CONFIG}, and adapter: a folder with the adapter"
        raise UnsupportedModel(f"{name}: {folder} holds a model and an adapter over it; accepted: {accept}")
    accept = f"the folder or hub id of its base, and adapter: {folder}"
    made = f" (made for {base})" if isinstance(base, str) and base else ""
    raise UnsupportedModel(f"{name}: {folder} holds an adapter{made}, not a model; accepted: {accept}")


def check_words(folder: Path, tokenizer: Path, name: str) -> None:
    """Raise UnsupportedModel if a tokenizer beside the adapter has words that the model's own in `tokenizer` lacks."""
    own, its = _tokenizer_words(tokenizer), _tokenizer_words(folder)
    if own and (more := sorted(its - own)):
        count = f"{len(more)} more {'token' if len(more) == 1 else 'tokens'}"
        found = f"the tokenizer beside its adapter has {count} than the base's, such as {more[0]!r}"
        raise UnsupportedModel(f"{name}: {found}; accepted: tokenizer: {folder}, or another one that you choose")


def _tokenizer_words(folder: Path) -> set[str]:
    try:
        content = json.loads((folder / "tokenizer.json").read_bytes())
        vocabulary, added = content["model"]["vocab"], content.get("added_tokens") or []
        words = vocabulary if isinstance(vocabulary, dict) else [word for word, _ in vocabulary]
        return {*words, *(one["content"] for one in added)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()  # what is wrong with a tokenizer is said where it is read


def summary(settings: Mapping[str, Any]) -> str:
    """The kind of an adapter, its rank, what it changes, and what it brings whole."""
    kind, rank, alpha = _text(settings.get("peft_type")), settings.get("r"), settings.get("lora_alpha")
    parts = [kind + (" with use_dora" if settings.get("use_dora") else "")]
    parts += [f"rank {rank}"] if rank else []
    parts += [f"alpha {alpha}"] if alpha else []
    for key, said in (("target_modules", "on"), ("target_parameters", "on"), ("modules_to_save", "with its own")):
        if value := settings.get(key):
            parts.append(f"{said} {value if isinstance(value, str) else ', '.join(map(str, sorted(value)))}")
    return ", ".join(parts)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


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
            f"{name}: peft cannot apply its adapter in {folder} to this model ({found}); accepted: {FIT}"
        ) from error
    missing = [key for key in result.missing_keys if key.replace(".default", "") in needed]
    surplus = [key for key in result.unexpected_keys if key not in spare]
    if missing or surplus:
        raise _misfit(name, folder, missing, surplus)


def check_adapter(module: PreTrainedModel, folder: Path, name: str) -> None:
    """Raise UnsupportedModel unless each of an adapter's weights is in the model as its file of tensors has it."""
    path = folder / WEIGHTS[0]
    if not path.is_file():  # the form of 2023 is read by torch alone
        return
    there = {_plain(key): one for key, one in module.state_dict().items()}
    for key, stored in load_file(path).items():
        found = there.get(_plain(key.removeprefix(PREFIX)))
        if found is None or found.shape != stored.shape or found.device.type == "meta":
            continue
        if not torch.equal(found.cpu(), stored.to(found.dtype)):
            raise UnsupportedModel(f"{name}: its adapter's {_short(key)} differs from {path}; accepted: {FIT}")


def _plain(key: str) -> str:
    """A weight's name without that of the adapter."""
    return key.replace(".default", "")


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
            accept = "on a server: an adapter with as many as its base, or backend: local"
            raise UnsupportedModel(f"{name}: its adapter has {rows} tokens, but its base has {own}; accepted {accept}")


def _config(folder: Path, name: str) -> PeftConfig:
    settings = read_settings(folder, name)
    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]])}
    odd = {key: value for key, value in settings.items() if key not in known and value not in (None, False, "", [], {})}
    if odd:
        key, value = next(iter(sorted(odd.items())))
        found = f"{folder / CONFIG} has {key}: {value!r}, which peft {peft.__version__} does not know"
        accept = "a version of peft that knows it; or the file without it, if it changes nothing"
        raise UnsupportedModel(f"{name}: {found}; accepted: {accept}")
    said = f"{name}: peft {peft.__version__} cannot read {folder / CONFIG}"
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
            f"{name}: the weights of its adapter in {folder} are not tensors by name; accepted: tensors by name"
        )
    return {key if key.startswith("base_model.") else PREFIX + key: one for key, one in weights.items()}


def _resize_vocabulary(module: PreTrainedModel, weights: Mapping[str, Tensor], name: str) -> None:
    """Give the model as many words as the adapter brings embeddings for; each row is then the adapter's."""
    rows, own = _rows(module, weights, "input"), _words(module)
    if rows in (None, own):
        return
    if _rows(module, weights, "output") != rows:
        accept = "one that contains embedding and unembedding for all its tokens"
        raise UnsupportedModel(f"{name}: its adapter has {rows} tokens, but its base has {own}; accepted: {accept}")
    module.resize_token_embeddings(rows, mean_resizing=False)


def _check_tokens(module: PreTrainedModel, config: PeftConfig, name: str) -> None:
    """Raise UnsupportedModel if the adapter changes embeddings of tokens that the model does not have."""
    given = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    tokens = [token for part in given.values() for token in part] if isinstance(given, dict) else given
    rows = _words(module)
    if tokens and max(tokens) >= rows:
        accept = "an adapter saved with its embeddings: save_pretrained(FOLDER, save_embedding_layers=True)"
        raise UnsupportedModel(
            f"{name}: its adapter changes token {max(tokens)}, but its base has {rows} tokens; accepted: {accept}"
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
    found += [f"its files hold weights that it has no place for, such as {_short(surplus[0])}"] if surplus else []
    return UnsupportedModel(
        f"{name}: its adapter in {folder} does not fit this model: {' and '.join(found)}; accepted: {FIT}"
    )


def _short(key: str) -> str:
    return key.removeprefix(PREFIX).replace(".default", "")
