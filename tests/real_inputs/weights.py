"""Model folders as they are downloaded, trained, copied and broken; right is what plain transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from .case import Given, case
from .plain import base_folder, base_model, byte_level, edit, gpt2, llama, of_folder, probabilities, save, tensors_of

AREA = "weights"
FILE = "model.safetensors"
OLD = "pytorch_model.bin"


def refused(folder: Path, reason: str, **more: Any) -> Given:
    """A folder that gives no right value."""
    return Given({"path": str(folder)}, reason=reason, **more)


def right(folder: Path, reason: str | None = None, **more: Any) -> Given:
    """A folder, and what transformers gives."""
    return Given({"path": str(folder)}, of_folder(folder), reason=reason, **more)


def rewritten(folder: Path, change: Any) -> Path:
    """The base with other tensors: `change` is given them by name and returns them."""
    made = base_folder(folder)
    save_file({name: one.contiguous() for name, one in change(tensors_of(made)).items()}, made / FILE, {"format": "pt"})
    return made


def as_bin(made: Path, content: Any) -> Path:
    """The folder with pytorch_model.bin in place of safetensors."""
    torch.save(content, made / OLD)
    (made / FILE).unlink()
    return made


Q = "model.layers.0.self_attn.q_proj"


@case(AREA, "a surplus bias, which the model's class has no place for")
def surplus_bias(folder: Path) -> Given:
    made = rewritten(folder, lambda old: old | {f"{Q}.bias": torch.ones(old[f"{Q}.weight"].shape[0])})
    return refused(made, r"q_proj\.bias")


@case(AREA, "norms of queries and keys that the model's class has no place for")
def surplus_norms(folder: Path) -> Given:
    made = rewritten(folder, lambda old: old | {"model.layers.2.self_attn.q_norm.weight": torch.ones(32)})
    return refused(made, r"q_norm")


@case(AREA, "tensors of a draft head beside the model's (mtp.*)")
def surplus_head(folder: Path) -> Given:
    made = rewritten(folder, lambda old: old | {"mtp.fc.weight": torch.ones(4, 4)})
    return Given({"path": str(made)}, of_folder(made), reason=r"mtp\.fc")


@case(AREA, "entries of rotary_emb.inv_freq, as in folders of 2023")
def inv_freq(folder: Path) -> Given:
    more = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(16) for layer in range(6)}
    return right(rewritten(folder, lambda old: old | more))


@case(AREA, "entries of attn.bias and attn.masked_bias in a GPT-2, as in old folders")
def masked_bias(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "gpt2")
    more = {}
    for layer in range(2):
        more[f"transformer.h.{layer}.attn.bias"] = torch.ones(256, 256).tril()[None, None]
        more[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(load_file(made / FILE) | more, made / FILE, {"format": "pt"})
    return right(made)


@case(AREA, "a parameter that is not in the files")
def missing(folder: Path) -> Given:
    made = rewritten(folder, lambda old: {name: one for name, one in old.items() if "layers.3.mlp.up_proj" not in name})
    return refused(made, r"layers\.3\.mlp\.up_proj")


@case(AREA, "a matrix of another size than config.json says")
def other_size(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "config.json", lambda content: content.update(intermediate_size=250))
    return refused(made, r"size|shape|25[06]|mlp")


@case(AREA, "fewer layers in config.json than in the files")
def fewer_layers(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "config.json", lambda content: content.update(num_hidden_layers=4))
    return refused(made, r"layers\.[45]")


@case(AREA, "names with the prefix module., as DataParallel saves them")
def data_parallel(folder: Path) -> Given:
    made = base_folder(folder)
    as_bin(made, {f"module.{name}": one for name, one in load_file(made / FILE).items()})
    return Given({"path": str(made)}, of_folder(untouched(folder)), reason=r"module\.")


@case(AREA, "names with the prefix _orig_mod., as compiled models save them")
def compiled(folder: Path) -> Given:
    made = rewritten(folder, lambda old: {f"_orig_mod.{name}": one for name, one in old.items()})
    return Given({"path": str(made)}, of_folder(untouched(folder)), reason=r"_orig_mod")


def untouched(folder: Path) -> Path:
    """Another copy of the base as it is."""
    return base_folder(folder, "as it is")


@case(AREA, "the checkpoint of a model without its head (LlamaModel), embedding and head apart")
def headless(folder: Path) -> Given:
    made = base_folder(folder)
    base_model().model.save_pretrained(made)
    return refused(made, "lm_head")


@case(AREA, "the checkpoint of a model without its head (GPT2Model), the embedding being the head")
def headless_tied(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer).transformer, tokenizer, folder / "gpt2")
    expected = probabilities(gpt2(tokenizer), tokenizer)
    return Given({"path": str(made)}, expected)


@case(AREA, "GPT-2 as on the hub: names without transformer., and attn.bias in every layer")
def gpt2_of_the_hub(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "gpt2")
    old = {name.removeprefix("transformer."): one for name, one in load_file(made / FILE).items()}
    more = {f"h.{layer}.attn.bias": torch.ones(256, 256).tril()[None, None] for layer in range(2)}
    save_file(old | more, made / FILE, {"format": "pt"})
    return right(made)


@case(AREA, "a sequence classifier: score.weight and no unembedding")
def classifier(folder: Path) -> Given:
    made = base_folder(folder)
    AutoModelForSequenceClassification.from_pretrained(made).save_pretrained(made)
    return refused(made, "lm_head|classif|Classif")


@case(AREA, "tied embeddings, the head saved as well")
def tied_head(folder: Path) -> Given:
    tokenizer = byte_level()
    model = llama(tokenizer, tie_word_embeddings=True)
    made = save(model, tokenizer, folder / "tied")
    old = load_file(made / FILE)
    save_file(old | {"lm_head.weight": old["model.embed_tokens.weight"].clone()}, made / FILE, {"format": "pt"})
    return right(made)


@case(AREA, "tied embeddings in config.json, and another head in the files")
def tied_apart(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(llama(tokenizer, tie_word_embeddings=True), tokenizer, folder / "tied")
    old = load_file(made / FILE)
    save_file(old | {"lm_head.weight": old["model.embed_tokens.weight"].flip(0)}, made / FILE, {"format": "pt"})
    return right(made, "lm_head|tie")


QUANTIZED: dict[str, dict[str, Any]] = {
    "bitsandbytes, 4 bits": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes, 8 bits": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
    "AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "FP8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "HQQ": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    "TorchAO": {"quant_method": "torchao", "quant_type": "int4_weight_only"},
    "MXFP4": {"quant_method": "mxfp4", "modules_to_not_convert": []},
    "a method that nobody knows": {"quant_method": "quux", "bits": 3},
}


def quantized(method: str) -> None:
    """A case for a folder that says it is quantized by the method."""
    settings = QUANTIZED[method]

    @case(AREA, f"quantized: {method}", slow=method in ("HQQ", "TorchAO", "MXFP4", "AWQ"))
    def make(folder: Path) -> Given:
        made = base_folder(folder)
        edit(made / "config.json", lambda content: content.update(quantization_config=settings))
        return refused(made, r"[Qq]uantiz", early=True)


for _method in QUANTIZED:
    quantized(_method)


@case(AREA, "quantized without a word in config.json: packed integers in place of weights")
def packed(folder: Path) -> Given:
    def pack(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weight = old.pop(f"{Q}.weight")
        more = {f"{Q}.qweight": torch.zeros(16, 128, dtype=torch.int32), f"{Q}.scales": torch.ones(1, 128)}
        return old | more | {f"{Q}.qzeros": weight[:1, :16].int()}

    return refused(rewritten(folder, pack), r"q_proj\.(weight|q|scales)|[Qq]uantiz")


@case(AREA, "weights stored in float8")
def float8(folder: Path) -> Given:
    made = rewritten(folder, lambda old: {name: one.to(torch.float8_e4m3fn) for name, one in old.items()})
    return right(made, "float8")


@case(AREA, "weights stored in bfloat16")
def bfloat16(folder: Path) -> Given:
    return right(rewritten(folder, lambda old: {name: one.bfloat16() for name, one in old.items()}))


@case(AREA, "weights stored in float16")
def float16(folder: Path) -> Given:
    return right(rewritten(folder, lambda old: {name: one.half() for name, one in old.items()}))


@case(AREA, "weights of int8 where floats belong, without a quantization in config.json")
def int8(folder: Path) -> Given:
    def cut(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: (one * 100).clamp(-127, 127).to(torch.int8) if one.ndim > 1 else one for name, one in old.items()}

    return refused(rewritten(folder, cut), "int8|I8|[Qq]uantiz")


@case(AREA, "a weight that is no number (NaN)")
def not_a_number(folder: Path) -> Given:
    def spoil(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old[f"{Q}.weight"][3, 3] = float("nan")
        return old

    return refused(rewritten(folder, spoil), "NaN|nan|no number|finite")


@case(AREA, "a weight that is infinite: float32 once cut to float16")
def infinite(folder: Path) -> Given:
    def spoil(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old["model.layers.1.mlp.down_proj.weight"][3, 3] = 1e6
        return {name: one.half() for name, one in old.items()}

    return refused(rewritten(folder, spoil), "inf|finite|NaN|no number")


@case(AREA, "no number (NaN) in the embedding's row of a token that no prompt has")
def unused_row(folder: Path) -> Given:
    def spoil(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old["model.embed_tokens.weight"][250] = float("nan")
        return old

    return right(rewritten(folder, spoil), "NaN|no number|finite")


@case(AREA, "a model of one layer")
def one_layer(folder: Path) -> Given:
    tokenizer = byte_level()
    return right(save(llama(tokenizer, num_hidden_layers=1), tokenizer, folder / "one"))


@case(AREA, "a model of one layer and one head")
def one_head(folder: Path) -> Given:
    tokenizer = byte_level()
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    more = {"stages": [{"group": "a", "into": "logits", "at": "last", "keep": 1}]}
    return right(save(llama(tokenizer, **sizes), tokenizer, folder / "one"), experiment=more)


@case(AREA, "an unembedding of more rows than the tokenizer has tokens")
def padded(folder: Path) -> Given:
    tokenizer = byte_level()
    return right(save(llama(tokenizer, vocab_size=len(tokenizer) + 61), tokenizer, folder / "padded"))


@case(AREA, "a merge that left a head of zeros: every token is as likely")
def zero_head(folder: Path) -> Given:
    def clear(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return old | {"lm_head.weight": torch.zeros_like(old["lm_head.weight"])}

    return right(rewritten(folder, clear), tolerance=1e-3)


@case(AREA, "a model that is pruned to no heads' worth of output (o_proj of zeros in one layer)")
def zero_projection(folder: Path) -> Given:
    name = "model.layers.2.self_attn.o_proj.weight"
    return right(rewritten(folder, lambda old: old | {name: torch.zeros_like(old[name])}))
