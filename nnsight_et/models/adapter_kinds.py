"""What an adapter's configuration says: of which kind it is, and whether it can be run exactly. Reads no weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnsight_et.core.errors import UnsupportedModel, quantity

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
        accept = "an adapter to the base as it is on disk: its save_pretrained(FOLDER, "
        accept += "path_initial_model_for_weight_conversion=INITIAL) makes one"
        found = f"is LORA with init_lora_weights: {beginning!r}, for which peft does not make its base again alike"
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
            found = f"is {kind} with {key}: {settings[key]!r}, which is about weights of the base itself"
            return f"{found}; accepted on a server: an adapter that leaves its base as it is, or backend: local"
    if attention in (settings.get("modules_to_save") or ()):
        found = f"brings its own {attention} (modules_to_save), whose parts a server does not show"
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
    own, its = _words(tokenizer), _words(folder)
    if own and (more := sorted(its - own)):
        count = quantity(len(more), "word")
        found = f"the tokenizer beside its adapter has {count} more than the base's, such as {more[0]!r}"
        raise UnsupportedModel(f"{name}: {found}; accepted: tokenizer: {folder}, or that of your choice")


def _words(folder: Path) -> set[str]:
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
