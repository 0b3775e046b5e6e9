"""Model folders as they are downloaded, trained, copied and broken; right is what plain transformers gives."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from .case import Given, case
from .plain import base_folder, base_model, byte_level, edit, gpt2, llama, of_folder, probabilities, save

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
    save_file(
        {name: one.contiguous() for name, one in change(load_file(made / FILE)).items()}, made / FILE, {"format": "pt"}
    )
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


@case(AREA, "weights in pytorch_model.bin")
def old_format(folder: Path) -> Given:
    made = base_folder(folder)
    return right(as_bin(made, load_file(made / FILE)))


@case(AREA, "weights in two shards of safetensors")
def sharded(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).unlink()
    base_model().save_pretrained(made, max_shard_size="2MB")
    assert len(list(made.glob("model-*.safetensors"))) > 1
    return right(made)


@case(AREA, "a shard that is not there")
def missing_shard(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).unlink()
    base_model().save_pretrained(made, max_shard_size="2MB")
    last = sorted(made.glob("model-*.safetensors"))[-1]
    last.unlink()
    return refused(made, last.name)


@case(AREA, "shards without their index")
def no_index(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).unlink()
    base_model().save_pretrained(made, max_shard_size="2MB")
    (made / "model.safetensors.index.json").unlink()
    return refused(made, "index")


@case(AREA, "a truncated model.safetensors")
def truncated(folder: Path) -> Given:
    made = base_folder(folder)
    content = (made / FILE).read_bytes()
    (made / FILE).write_bytes(content[: len(content) // 2])
    return refused(made, "safetensors.*(read|damaged|truncated|incomplete|whole)|incomplete|truncated|damaged")


@case(AREA, "an empty model.safetensors")
def empty(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).write_bytes(b"")
    return refused(made, "safetensors.*(read|damaged|truncated|incomplete|whole|empty)|empty|[Hh]eader|damaged")


@case(AREA, "a truncated pytorch_model.bin")
def truncated_bin(folder: Path) -> Given:
    made = base_folder(folder)
    as_bin(made, load_file(made / FILE))
    content = (made / OLD).read_bytes()
    (made / OLD).write_bytes(content[: len(content) // 2])
    return refused(made, "pytorch_model.bin|truncated|damaged|zip")


@case(AREA, "model.safetensors is a pointer of Git LFS")
def pointer(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5345678\n")
    return refused(made, "LFS")


@case(AREA, "tokenizer.json is a pointer of Git LFS")
def pointer_tokenizer(folder: Path) -> Given:
    made = base_folder(folder)
    (made / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 17209722\n")
    return refused(made, "LFS", early=True)


@case(AREA, "pytorch_model.bin is a pointer of Git LFS")
def pointer_bin(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).unlink()
    (made / OLD).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5345678\n")
    return refused(made, "LFS")


class Settings:
    """An object of a user's own class."""


@case(AREA, "pytorch_model.bin with objects of a user's own class beside the tensors")
def foreign(folder: Path) -> Given:
    made = base_folder(folder)
    as_bin(made, {**load_file(made / FILE), "settings": Settings()})
    return refused(made, "pytorch_model.bin|[Pp]ickle|object|class|Settings")


@case(AREA, "pytorch_model.bin with a training's state: the tensors under the key model")
def nested(folder: Path) -> Given:
    made = base_folder(folder)
    as_bin(made, {"model": load_file(made / FILE), "step": 1000})
    return refused(made, "pytorch_model.bin|tensor|step|nested|model")


@case(AREA, "pytorch_model.bin by pickle, not by torch.save")
def pickled(folder: Path) -> Given:
    made = base_folder(folder)
    (made / OLD).write_bytes(pickle.dumps({"x": [1, 2]}))
    (made / FILE).unlink()
    return refused(made, "pytorch_model.bin|[Pp]ickle")


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

    return refused(rewritten(folder, cut), "int8|[Qq]uantiz")


@case(AREA, "a weight that is no number (NaN)")
def not_a_number(folder: Path) -> Given:
    def spoil(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old[f"{Q}.weight"][3, 3] = float("nan")
        return old

    return refused(rewritten(folder, spoil), "NaN|nan|no number|finite")


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


@case(AREA, "both model.safetensors and another pytorch_model.bin")
def both(folder: Path) -> Given:
    made = base_folder(folder)
    torch.save({name: one + 1 for name, one in load_file(made / FILE).items()}, made / OLD)
    return right(made, OLD)


@case(AREA, "safetensors without metadata")
def no_metadata(folder: Path) -> Given:
    made = base_folder(folder)
    save_file(load_file(made / FILE), made / FILE)
    return right(made, "metadata|format")


@case(AREA, "weights under a variant's name (model.fp16.safetensors)")
def variant(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).rename(made / "model.fp16.safetensors")
    return refused(made, r"model\.safetensors|variant|model\.fp16")


@case(AREA, "a GGUF file alone in the folder")
def gguf_alone(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).unlink()
    (made / "model-q4_k_m.gguf").write_bytes(b"GGUF" + bytes(64))
    return refused(made, "gguf|GGUF")


@case(AREA, "path: names a GGUF file")
def gguf_path(folder: Path) -> Given:
    (folder / "model-q4_k_m.gguf").write_bytes(b"GGUF" + bytes(64))
    return refused(folder / "model-q4_k_m.gguf", "gguf|GGUF|folder", early=True)


@case(AREA, "path: names the weights' file")
def path_of_file(folder: Path) -> Given:
    return refused(base_folder(folder) / FILE, "folder", early=True)


@case(AREA, "Meta's own format: consolidated.00.pth and params.json")
def meta_format(folder: Path) -> Given:
    (folder / "meta").mkdir()
    torch.save({}, folder / "meta" / "consolidated.00.pth")
    (folder / "meta" / "params.json").write_text('{"dim": 4096}')
    return refused(folder / "meta", "config.json", early=True)


@case(AREA, "the run folder of a training, its checkpoints below it")
def training(folder: Path) -> Given:
    shutil.move(base_folder(folder), folder / "run" / "checkpoint-500")
    return refused(folder / "run", "config.json", early=True)


@case(AREA, "a file of the hub's cache that is a link to nothing")
def dangling(folder: Path) -> Given:
    made = base_folder(folder)
    (made / FILE).unlink()
    (made / FILE).symlink_to(folder / "blobs" / "0123")
    return refused(made, r"model\.safetensors|no weights|link")


@case(AREA, "an encoder-decoder (T5)")
def t5(folder: Path) -> Given:
    made = base_folder(folder)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=283, **sizes)).save_pretrained(made)
    return refused(made, "t5", early=True)


@case(AREA, "an encoder (BERT)")
def bert(folder: Path) -> Given:
    made = base_folder(folder)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=283, intermediate_size=16, **sizes)).save_pretrained(made)
    return refused(made, "bert", early=True)


@case(AREA, "a state space model (Mamba)")
def mamba(folder: Path) -> Given:
    made = base_folder(folder)
    MambaForCausalLM(MambaConfig(vocab_size=283, hidden_size=16, num_hidden_layers=1)).save_pretrained(made)
    return refused(made, "mamba", early=True)


@case(AREA, "code beside the weights, for an architecture that nobody knows (auto_map)")
def own_code(folder: Path) -> Given:
    made = base_folder(folder)
    auto = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.Mine"}
    edit(made / "config.json", lambda content: content.update(model_type="mine", auto_map=auto))
    return refused(made, "modeling_mine|mine", early=True)


@case(AREA, "code beside the weights that is not needed (auto_map, model_type llama)")
def needless_code(folder: Path) -> Given:
    made = base_folder(folder)
    auto = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    edit(made / "config.json", lambda content: content.update(auto_map=auto))
    return Given({"path": str(made)}, of_folder(untouched(folder)), reason="modeling_mine")


def odd_config(name: str, **changes: Any) -> None:
    """A case for a folder whose config.json says these things too."""

    @case(AREA, f"config.json says {name}")
    def make(folder: Path) -> Given:
        made = base_folder(folder)
        edit(made / "config.json", lambda content: content.update(changes))
        return Given({"path": str(made)}, of_folder(untouched(folder)))


odd_config("return_dict: false", return_dict=False)
odd_config("output_attentions and output_hidden_states: true", output_attentions=True, output_hidden_states=True)
odd_config("attention_dropout: 0.5 and use_cache: false", attention_dropout=0.5, use_cache=False)
odd_config("_attn_implementation: flash_attention_2", _attn_implementation="flash_attention_2")
odd_config("torch_dtype: float16, rope_theta at the top, no architectures", torch_dtype="float16", dtype=None,
           rope_theta=1000000.0, rope_parameters=None, architectures=None)  # fmt: skip
odd_config("pretraining_tp: 2", pretraining_tp=2)


@case(AREA, "a generation_config.json that contradicts itself")
def generation(folder: Path) -> Given:
    made = base_folder(folder)
    (made / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.7, "top_k": -3}))
    return Given({"path": str(made)}, of_folder(untouched(folder)))


@case(AREA, "config.json is no JSON")
def broken_config(folder: Path) -> Given:
    made = base_folder(folder)
    (made / "config.json").write_text('{"model_type": "llama", "hidden_size": 128,')
    return refused(made, r"config\.json", early=True)


@case(AREA, "config.json without model_type")
def no_type(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "config.json", lambda content: content.pop("model_type"))
    return refused(made, "model_type|architecture|config.json", early=True)


@case(AREA, "a merge that left a head of zeros: every token is as likely")
def zero_head(folder: Path) -> Given:
    def clear(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return old | {"lm_head.weight": torch.zeros_like(old["lm_head.weight"])}

    return right(rewritten(folder, clear), tolerance=1e-3)


@case(AREA, "a model that is pruned to no heads' worth of output (o_proj of zeros in one layer)")
def zero_projection(folder: Path) -> Given:
    name = "model.layers.2.self_attn.o_proj.weight"
    return right(rewritten(folder, lambda old: old | {name: torch.zeros_like(old[name])}))
