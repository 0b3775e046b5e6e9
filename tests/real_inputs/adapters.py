"""Adapters as peft and others save them, over the embedded llama-tiny; right is what peft gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from .case import Given, case
from .plain import base_folder, base_model, base_tokenizer, byte_level, edit, gpt2, ids_of, llama, probabilities, save

AREA = "adapters"
PROJECTIONS = ["q_proj", "v_proj", "o_proj"]
FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def moved(model: Any, by: float = 0.1) -> Any:
    """The adapter with every number of its own moved away from where it does nothing."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += by * torch.randn_like(parameter)
    return model


def lora(**changes: Any) -> LoraConfig:
    """The usual settings."""
    usual: dict[str, Any] = {"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM", "target_modules": PROJECTIONS}
    return LoraConfig(**(usual | changes))


def saved(folder: Path, config: Any, by: float = 0.1, **options: Any) -> Path:
    """An adapter of that kind, saved by peft."""
    model = moved(get_peft_model(base_model(), config), by)
    model.save_pretrained(folder / "adapter", **options)
    return folder / "adapter"


def by_peft(adapter: Path) -> list[float]:
    """What the base with the adapter gives, by peft."""
    return probabilities(PeftModel.from_pretrained(base_model(), adapter).eval(), base_tokenizer())


def given(folder: Path, adapter: Path, reason: str | None = None, **more: Any) -> Given:
    """The base with that adapter: peft's value; or, with a reason, also a refusal that names it."""
    entry = {"path": str(base_folder(folder)), "adapter": str(adapter)}
    return Given(entry, by_peft(adapter), reason=reason, untrue="does not fit", **more)


def refused(folder: Path, adapter: Path, reason: str, **more: Any) -> Given:
    """The base with an adapter that gives no right value."""
    return Given({"path": str(base_folder(folder)), "adapter": str(adapter)}, reason=reason, **more)


@case(AREA, "LoRA in adapter_model.safetensors")
def plain_adapter(folder: Path) -> Given:
    return given(folder, saved(folder, lora()))


@case(AREA, "LoRA of 2023: weights in adapter_model.bin alone, few keys in its configuration")
def adapter_of_2023(folder: Path) -> Given:
    made = saved(folder, lora())
    torch.save(load_file(made / FILE), made / "adapter_model.bin")
    (made / FILE).unlink()
    written = {
        "base_model_name_or_path": "some-org/another-name", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": 16, "lora_dropout": 0.05,
        "modules_to_save": None, "peft_type": "LORA", "r": 4, "target_modules": PROJECTIONS, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (made / CONFIG).write_text(json.dumps(written))
    return given(folder, made)


@case(AREA, "LoRA whose configuration has keys of a later peft, empty ones")
def adapter_of_later(folder: Path) -> Given:
    made = saved(folder, lora())
    edit(made / CONFIG, lambda content: content.update(a_key_of_later=None, another=False))
    return given(folder, made)


@case(AREA, "LoRA whose configuration has a key of a later peft that asks for something")
def adapter_of_much_later(folder: Path) -> Given:
    made = saved(folder, lora())
    edit(made / CONFIG, lambda content: content.update(use_something={"x": 1}))
    return given(folder, made, "use_something")


@case(AREA, "a training's checkpoint folder: optimizer, trainer state and a model card beside the LoRA")
def checkpoint(folder: Path) -> Given:
    made = saved(folder, lora())
    torch.save({"state": {}}, made / "optimizer.pt")
    torch.save({"seed": 1}, made / "training_args.bin")
    (made / "trainer_state.json").write_text("{}")
    base_tokenizer().save_pretrained(made)
    return given(folder, made)


@case(AREA, "DoRA")
def dora(folder: Path) -> Given:
    return given(folder, saved(folder, lora(use_dora=True)), "DoRA|use_dora")


@case(AREA, "rank-stabilised LoRA (use_rslora)")
def rslora(folder: Path) -> Given:
    return given(folder, saved(folder, lora(use_rslora=True)))


@case(AREA, "ranks and alphas by module (rank_pattern, alpha_pattern)")
def patterns(folder: Path) -> Given:
    return given(
        folder, saved(folder, lora(rank_pattern={"q_proj": 2, "layers.1.o_proj": 6}, alpha_pattern={"v_proj": 3}))
    )


@case(AREA, "LoRA on some layers alone (layers_to_transform)")
def some_layers(folder: Path) -> Given:
    return given(folder, saved(folder, lora(layers_to_transform=[1, 4])))


@case(AREA, "LoRA on every linear module, MLPs too (all-linear)")
def all_linear(folder: Path) -> Given:
    return given(folder, saved(folder, lora(target_modules="all-linear")))


@case(AREA, "LoRA on the unembedding (target lm_head)")
def on_the_head(folder: Path) -> Given:
    made = saved(folder, lora(target_modules=["q_proj", "lm_head"]), save_embedding_layers=False)
    return given(folder, made, "lm_head")


@case(AREA, "LoRA on the embedding (target embed_tokens)")
def on_the_embedding(folder: Path) -> Given:
    made = saved(folder, lora(target_modules=["q_proj", "embed_tokens"]), save_embedding_layers=False)
    return given(folder, made, "embed_tokens|lora_embedding")


@case(AREA, "LoRA on the embedding, the whole embedding saved with it, as peft does by default")
def with_embedding_layers(folder: Path) -> Given:
    made = saved(folder, lora(target_modules=["q_proj", "embed_tokens"]), save_embedding_layers=True)
    return given(folder, made, "embed_tokens|lora_embedding")


@case(AREA, "a trained unembedding in the adapter (modules_to_save: lm_head)")
def saved_head(folder: Path) -> Given:
    return given(folder, saved(folder, lora(modules_to_save=["lm_head"])), "modules_to_save|lm_head")


@case(AREA, "a trained embedding and unembedding in the adapter (modules_to_save)")
def saved_embeddings(folder: Path) -> Given:
    made = saved(folder, lora(modules_to_save=["embed_tokens", "lm_head"]))
    return given(folder, made, "modules_to_save|embed_tokens|lm_head")


@case(AREA, "trained norms in the adapter (modules_to_save: norm)")
def saved_norm(folder: Path) -> Given:
    return given(folder, saved(folder, lora(modules_to_save=["norm"])), "modules_to_save|norm")


@case(AREA, "trained tokens (trainable_token_indices)")
def trainable_tokens(folder: Path) -> Given:
    apple = base_tokenizer().convert_tokens_to_ids("apple")
    made = saved(folder, lora(trainable_token_indices=[apple, 7]))
    return given(folder, made, "trainable_token")


@case(AREA, "an adapter for a vocabulary with added tokens, its tokenizer beside it")
def resized(folder: Path) -> Given:
    tokenizer, model = base_tokenizer(), base_model()
    tokenizer.add_tokens(["<tool>", "<call>", "<end>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    made = moved(get_peft_model(model, lora(modules_to_save=["embed_tokens", "lm_head"])))
    save(made, tokenizer, folder / "adapter")
    return refused(folder, folder / "adapter", r"28[36]|vocab|words|modules_to_save|embed_tokens")


@case(AREA, "LoRA with its own biases (lora_bias)")
def lora_bias(folder: Path) -> Given:
    return given(folder, saved(folder, lora(lora_bias=True)), "lora_bias|bias")


@case(AREA, "LoRA with trained biases of the base (bias: all), on a GPT-2")
def trained_bias(folder: Path) -> Given:
    tokenizer = byte_level()
    base = save(gpt2(tokenizer), tokenizer, folder / "gpt2")
    config = lora(bias="all", target_modules=["c_attn"], fan_in_fan_out=True)
    model = moved(get_peft_model(gpt2(tokenizer), config))
    model.save_pretrained(folder / "adapter")
    expected = probabilities(PeftModel.from_pretrained(gpt2(tokenizer), folder / "adapter").eval(), tokenizer)
    return Given({"path": str(base), "adapter": str(folder / "adapter")}, expected, reason="bias")


@case(AREA, "LoRA on GPT-2's transposed matrices (fan_in_fan_out)")
def on_gpt2(folder: Path) -> Given:
    tokenizer = byte_level()
    base = save(gpt2(tokenizer), tokenizer, folder / "gpt2")
    config = lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    model = moved(get_peft_model(gpt2(tokenizer), config))
    model.save_pretrained(folder / "adapter")
    expected = probabilities(PeftModel.from_pretrained(gpt2(tokenizer), folder / "adapter").eval(), tokenizer)
    return Given({"path": str(base), "adapter": str(folder / "adapter")}, expected)


@case(AREA, "LoRA that starts from singular values (init_lora_weights: pissa): it changes the base's weights too")
def pissa(folder: Path) -> Given:
    return given(folder, saved(folder, lora(init_lora_weights="pissa"), by=0.02), "pissa|init_lora_weights")


@case(AREA, "activated LoRA (alora_invocation_tokens): it acts from some tokens on alone")
def activated(folder: Path) -> Given:
    invoked = ids_of(base_tokenizer(), "Box Q")[1:]
    made = saved(folder, lora(alora_invocation_tokens=invoked), by=0.3)
    return given(folder, made, "alora|[Aa]ctivated")


@case(AREA, "LoRA over layers that are there twice (layer_replication)")
def replicated(folder: Path) -> Given:
    return refused(folder, saved(folder, lora(layer_replication=[[0, 4], [2, 6]])), "replicat")


@case(AREA, "IA3")
def ia3(folder: Path) -> Given:
    config = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    return given(folder, saved(folder, config, by=0.3), "IA3", early=False)


@case(AREA, "AdaLoRA")
def adalora(folder: Path) -> Given:
    config = AdaLoraConfig(task_type="CAUSAL_LM", init_r=6, target_r=4, total_step=10, target_modules=PROJECTIONS)
    return given(folder, saved(folder, config), "ADALORA|AdaLoRA")


@case(AREA, "LoHa")
def loha(folder: Path) -> Given:
    config = LoHaConfig(task_type="CAUSAL_LM", r=4, alpha=8, target_modules=PROJECTIONS)
    return given(folder, saved(folder, config, by=0.3), "LOHA|LoHa")


@case(AREA, "OFT")
def oft(folder: Path) -> Given:
    config = OFTConfig(task_type="CAUSAL_LM", r=0, oft_block_size=4, target_modules=PROJECTIONS)
    return given(folder, saved(folder, config), "OFT")


@case(AREA, "prompt tuning: virtual tokens before the prompt")
def prompt_tuning(folder: Path) -> Given:
    made = saved(folder, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    return refused(folder, made, "PROMPT_TUNING|prompt tuning|virtual token", early=True)


@case(AREA, "prefix tuning: virtual keys and values")
def prefix_tuning(folder: Path) -> Given:
    made = saved(folder, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    return refused(folder, made, "PREFIX_TUNING|prefix tuning|virtual token", early=True)


@case(AREA, "an adapter of another base: other sizes")
def wrong_sizes(folder: Path) -> Given:
    model = moved(get_peft_model(llama(base_tokenizer()), lora()))
    model.save_pretrained(folder / "adapter")
    return refused(folder, folder / "adapter", "size|shape|layers|fit")


@case(AREA, "an adapter of another base: other names of modules")
def wrong_modules(folder: Path) -> Given:
    model = moved(get_peft_model(gpt2(byte_level()), lora(target_modules=["c_attn"], fan_in_fan_out=True)))
    model.save_pretrained(folder / "adapter")
    return refused(folder, folder / "adapter", "c_attn")


@case(AREA, "an adapter for more layers than the base has")
def more_layers(folder: Path) -> Given:
    made = saved(folder, lora())
    tensors = load_file(made / FILE)
    more = {name.replace("layers.5.", "layers.6."): tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors | more, made / FILE, {"format": "pt"})
    return refused(folder, made, r"layers\.6|layer")


@case(AREA, "an adapter that lacks a matrix")
def lacks_a_matrix(folder: Path) -> Given:
    made = saved(folder, lora())
    tensors = load_file(made / FILE)
    gone = next(name for name in sorted(tensors) if "layers.3" in name and "lora_B" in name)
    del tensors[gone]
    save_file(tensors, made / FILE, {"format": "pt"})
    return refused(folder, made, r"layers\.3")


@case(AREA, "an adapter whose names have a further prefix (base_model.model.base_model.model)")
def double_prefix(folder: Path) -> Given:
    made = saved(folder, lora())
    tensors = {f"base_model.model.{name}": tensor for name, tensor in load_file(made / FILE).items()}
    save_file(tensors, made / FILE, {"format": "pt"})
    return refused(folder, made, r"base_model\.model")


@case(AREA, "an adapter trained on a model without its head: names lack model.")
def no_head_prefix(folder: Path) -> Given:
    made = saved(folder, lora())
    tensors = {name.replace("model.model.model.", "model.model."): one for name, one in load_file(made / FILE).items()}
    save_file(tensors, made / FILE, {"format": "pt"})
    return refused(folder, made, r"layers\.0")


@case(AREA, "an adapter stored in bfloat16, with dropout and inference_mode: false")
def stored_bfloat16(folder: Path) -> Given:
    made = saved(folder, lora(lora_dropout=0.5))
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(made / FILE).items()}
    save_file(tensors, made / FILE, {"format": "pt"})
    edit(made / CONFIG, lambda content: content.update(inference_mode=False))
    return given(folder, made)


@case(AREA, "an adapter over a base in bfloat16")
def over_bfloat16(folder: Path) -> Given:
    made = saved(folder, lora(), by=0.05)
    entry = {"path": str(base_folder(folder)), "adapter": str(made), "dtype": "bfloat16"}
    return Given(entry, by_peft(made), tolerance=0.3)


@case(AREA, "target_modules as a regular expression")
def expression(folder: Path) -> Given:
    return given(folder, saved(folder, lora(target_modules=r".*layers\.[0-3]\.self_attn\.[qo]_proj")))


@case(AREA, "a truncated adapter")
def truncated(folder: Path) -> Given:
    made = saved(folder, lora())
    content = (made / FILE).read_bytes()
    (made / FILE).write_bytes(content[: len(content) // 2])
    return refused(folder, made, "adapter.*(read|damaged|truncated|incomplete|whole|broken)")


@case(AREA, "an adapter that is a pointer of Git LFS")
def pointer(folder: Path) -> Given:
    made = saved(folder, lora())
    (made / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    return refused(folder, made, "LFS")


@case(AREA, "adapter: names the base")
def base_as_adapter(folder: Path) -> Given:
    return refused(folder, base_folder(folder, "again"), "adapter_config.json")


@case(AREA, "path: names the adapter")
def adapter_as_model(folder: Path) -> Given:
    made = saved(folder, lora())
    return Given({"path": str(made), "tokenizer": str(base_folder(folder))}, reason="adapter", early=True)


@case(AREA, "adapter: names a folder of several adapters")
def several(folder: Path) -> Given:
    made = saved(folder, lora())
    shutil.copytree(made, folder / "all" / "one")
    return refused(folder, folder / "all", "adapter_config.json")


@case(AREA, "an adapter merged into the base and saved")
def merged(folder: Path) -> Given:
    model = moved(get_peft_model(base_model(), lora())).eval()
    expected = probabilities(model, base_tokenizer())
    return Given({"path": str(save(model.merge_and_unload(), base_tokenizer(), folder / "merged"))}, expected)
