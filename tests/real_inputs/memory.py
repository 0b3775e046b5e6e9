"""Models that exist in Python alone: adapted, wrapped, or in training mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model

from .adapters import by_peft, lora, moved, saved
from .case import APPLES, Given, case
from .plain import base_model, base_tokenizer, byte_level, ids_of, llama, probabilities, probability

AREA = "models in memory"


def in_memory(model: Any, expected: list[float], reason: str | None = None) -> Given:
    """A model that exists in Python alone."""

    def load() -> Any:
        import nnsight_et as et

        return et.load(model, base_tokenizer())

    return Given({}, expected, load=load, reason=reason, commands=False)


@case(AREA, "a PeftModel in memory")
def peft_model(folder: Path) -> Given:
    model = moved(get_peft_model(base_model(), lora())).eval()
    return in_memory(model, probabilities(model, base_tokenizer()), "PeftModel")


@case(AREA, "a PeftModel in memory with prompt tuning")
def prompt_tuned_model(folder: Path) -> Given:
    model = get_peft_model(base_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    return in_memory(model, [], "PROMPT_TUNING|prompt tuning|virtual token|PeftModel")


@case(AREA, "a model in memory into which transformers loaded a LoRA (load_adapter)")
def injected(folder: Path) -> Given:
    made, model = saved(folder, lora()), base_model()
    model.load_adapter(str(made))
    return in_memory(model, by_peft(made))


@case(AREA, "the base of a PeftModel in memory (get_base_model), adapter merged")
def merged_in_memory(folder: Path) -> Given:
    model = moved(get_peft_model(base_model(), lora())).eval()
    expected = probabilities(model, base_tokenizer())
    return in_memory(model.merge_and_unload(), expected)


@case(AREA, "a model in memory with two adapters, the second one active")
def two_adapters(folder: Path) -> Given:
    model: Any = moved(get_peft_model(base_model(), lora()))
    model.add_adapter("second", lora(r=2))
    model.set_adapter("second")
    moved(model, 0.2).eval()
    expected = [
        probability(model, ids_of(base_tokenizer(), line.prompt), base_tokenizer().convert_tokens_to_ids("apple"))
        for line in APPLES
    ]
    return in_memory(model, expected, "PeftModel")


@case(AREA, "the base of a PeftModel in memory (get_base_model), adapter not merged")
def unmerged(folder: Path) -> Given:
    model = moved(get_peft_model(base_model(), lora())).eval()
    return in_memory(model.get_base_model(), probabilities(model, base_tokenizer()))


@case(AREA, "a model in memory whose adapter is switched off (disable_adapters)")
def switched_off(folder: Path) -> Given:
    made, model = saved(folder, lora()), base_model()
    model.load_adapter(str(made))
    model.disable_adapters()
    return in_memory(model, probabilities(base_model(), base_tokenizer()))


@case(AREA, "a PeftModel in memory whose adapter is merged and still there (merge_adapter)")
def merged_there(folder: Path) -> Given:
    model: Any = moved(get_peft_model(base_model(), lora())).eval()
    expected = probabilities(model, base_tokenizer())
    model.merge_adapter()
    return in_memory(model, expected, "PeftModel|merged")


@case(AREA, "a model in memory with a hook that adds to what a layer gives")
def steered(folder: Path) -> Given:
    model = base_model()

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] + 0.5, *output[1:]) if isinstance(output, tuple) else output + 0.5

    model.model.layers[2].register_forward_hook(add)
    return in_memory(model, probabilities(model, base_tokenizer()), "residual|hook")


@case(AREA, "a compiled model in memory (torch.compile)")
def compiled(folder: Path) -> Given:
    expected = probabilities(base_model(), base_tokenizer())
    return in_memory(torch.compile(base_model()), expected, "OptimizedModule")


@case(AREA, "a model in memory under DataParallel")
def parallel(folder: Path) -> Given:
    expected = probabilities(base_model(), base_tokenizer())
    return in_memory(torch.nn.DataParallel(base_model()), expected, "DataParallel")


@case(AREA, "a model in memory with flex attention")
def flex(folder: Path) -> Given:
    model = base_model()
    model.config._attn_implementation = "flex_attention"
    return in_memory(model, [], "flex_attention")


@case(AREA, "a model in memory in training mode, with dropout")
def training_mode(folder: Path) -> Given:
    tokenizer = byte_level()
    model = llama(tokenizer, attention_dropout=0.5)
    expected = probabilities(model, tokenizer)
    model.train()

    def load() -> Any:
        import nnsight_et as et

        return et.load(model, tokenizer)

    return Given({}, expected, load=load, commands=False)
