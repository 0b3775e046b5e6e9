"""Adapters of every kind over a small model, as peft saves them, and the values that peft itself gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nnsight
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from nnsight_et.models.model import Model
from tests.helpers import plain_hooks
from tests.helpers.tiny_model import hf_llama, tokenizer

QVO = ["q_proj", "v_proj", "o_proj"]
TASK = "CAUSAL_LM"


def lora(**settings: Any) -> LoraConfig:
    """A LoRA on queries, values and outputs, with other settings."""
    return LoraConfig(**({"r": 3, "lora_alpha": 6, "target_modules": QVO, "task_type": TASK} | settings))


TAKEN: dict[str, PeftConfig] = {
    "lora": lora(),
    "rank-stabilized lora": lora(use_rslora=True),
    "dora": lora(use_dora=True, target_modules="all-linear"),
    "ranks and alphas by module": lora(rank_pattern={"q_proj": 5}, alpha_pattern={"v_proj": 20}),
    "one layer": lora(layers_to_transform=[1]),
    "modules left out": lora(target_modules="all-linear", exclude_modules=["down_proj"]),
    "a pattern": lora(target_modules=r".*\.layers\.[12]\..*(q|o)_proj"),
    "bare parameters": lora(target_modules=[], target_parameters=["q_proj.weight", "o_proj.weight"]),
    "lora with biases": lora(lora_bias=True),
    "all biases": lora(bias="all"),
    "biases of its own": lora(bias="lora_only"),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "mica": lora(r=4, init_lora_weights="mica"),
    "no task": lora(task_type=None),
    "a saved head": lora(modules_to_save=["lm_head"]),
    "saved embeddings and head": lora(modules_to_save=["embed_tokens", "lm_head"]),
    "saved norms and mlps": lora(modules_to_save=["input_layernorm", "mlp"]),
    "saved attention": lora(target_modules=["gate_proj"], modules_to_save=["self_attn"]),
    "lora on embeddings": lora(target_modules=[*QVO, "embed_tokens"]),
    "lora on the head": lora(target_modules=[*QVO, "lm_head"]),
    "trainable tokens": lora(trainable_token_indices=[5, 11, 60]),
    "trainable tokens of the head": lora(trainable_token_indices={"embed_tokens": [5, 11], "lm_head": [60]}),
    "tokens alone": TrainableTokensConfig(token_indices=[5, 11, 60], task_type=TASK),
    "adalora": AdaLoraConfig(
        init_r=4, target_r=2, total_step=10, tinit=1, tfinal=1, target_modules=QVO, task_type=TASK
    ),
    "fourier": FourierFTConfig(n_frequency=10, target_modules=QVO, task_type=TASK),
    "hra": HRAConfig(r=2, target_modules=QVO, task_type=TASK),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type=TASK
    ),
    "norms": LNTuningConfig(target_modules=["input_layernorm"], task_type=TASK),
    "loha": LoHaConfig(r=3, target_modules=QVO, task_type=TASK),
    "lokr": LoKrConfig(r=3, target_modules=QVO, task_type=TASK),
    "oft": OFTConfig(r=0, oft_block_size=4, target_modules=QVO, task_type=TASK),
    "vera": VeraConfig(r=3, target_modules=["q_proj", "o_proj"], task_type=TASK),
}
TIED: dict[str, PeftConfig] = {
    "trainable tokens": lora(trainable_token_indices=[5, 11, 60]),
    "lora on embeddings": lora(target_modules=[*QVO, "embed_tokens"]),
    "lora on both": lora(target_modules=[*QVO, "embed_tokens", "lm_head"], ensure_weight_tying=True),
    "a saved head": lora(modules_to_save=["lm_head"]),
    "saved embeddings": lora(modules_to_save=["embed_tokens"]),
    "saved embeddings, tied": lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
}
REFUSED: dict[str, tuple[PeftConfig, str]] = {  # by whose name
    "prefixes": (PrefixTuningConfig(num_virtual_tokens=3, task_type=TASK), "PREFIX_TUNING (virtual tokens"),
    "prompts": (PromptTuningConfig(num_virtual_tokens=3, task_type=TASK), "PROMPT_TUNING (virtual tokens"),
    "encoded prompts": (
        PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, task_type=TASK),
        "P_TUNING (virtual tokens",
    ),
    "butterflies": (BOFTConfig(boft_block_size=4, target_modules=QVO, task_type=TASK), "is BOFT; accepted: LORA, "),
    "alora": (lora(alora_invocation_tokens=[3, 4]), "LORA with alora_invocation_tokens (aLoRA"),
    "replicated layers": (lora(layer_replication=[[0, 2], [1, 3]]), "LORA with layer_replication (more layers"),
    "a classifier": (lora(task_type="SEQ_CLS"), "LORA for another task (task_type: SEQ_CLS)"),
    "pissa by chance": (lora(init_lora_weights="pissa_niter_4"), "LORA with init_lora_weights: 'pissa_niter_4'"),
}


def trained(config: PeftConfig, base: Any) -> Any:
    """Peft's model over `base`, with other numbers wherever training would have put some."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what merging would do
        adapted: Any = get_peft_model(base, deepcopy(config))
    torch.manual_seed(7)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return adapted.eval()


def saved(adapted: Any, folder: Path, **how: Any) -> Path:
    """The folder of an adapter, as peft saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(str(folder), **({"save_embedding_layers": False} | how))  # else peft asks the hub
    return folder


def read_by_peft(base: Any, folder: Path) -> Any:
    """What peft itself makes of the folder, over `base`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base, str(folder)).eval()


def base_folder(folder: Path, module: Any | None = None) -> Path:
    """The small model, or another, and its tokenizer."""
    (hf_llama() if module is None else module).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def change_settings(folder: Path, **changes: Any) -> Path:
    """Write other values into adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Write other weights."""
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def logits_of(model: Model, pair: Any) -> Tensor:
    """[batch, vocabulary]: after the last token, by a trace."""
    run = pair.base
    with model.trace(run.tokens, run.position_ids, run.mask):
        logits = nnsight.save(model.logits()[torch.arange(len(run.tokens)), run.positions["last"]])
    return logits


def plain_logits(module: Any, pair: Any) -> Tensor:
    """[batch, vocabulary]: after the last token, by the module's own forward."""
    run = pair.base
    whole = plain_hooks.run_model(module, run.tokens, run.mask)
    return whole[torch.arange(len(run.tokens)), run.positions["last"]]
