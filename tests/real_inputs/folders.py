"""Folders as they are downloaded, copied, trained in and broken: their files, formats and settings."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from .case import Given, case
from .plain import base_folder, base_model, edit, of_folder, tensors_of, write_gguf
from .weights import FILE, OLD, as_bin, refused, right, untouched

AREA = "model folders"


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
    return refused(made, "index|no file named model.safetensors")


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
    return refused(made, r"\.bin|[Pp]ickle")


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


def gguf(folder: Path, config: bool, words: bool) -> Path:
    """The base as a GGUF file of float32, beside it what is asked for."""
    made = base_folder(folder)
    write_gguf(tensors_of(made), made / "model-f32.gguf")
    (made / FILE).unlink()
    if not config:
        (made / "config.json").unlink()
    if not words:
        for path in made.glob("tokenizer*"):
            path.unlink()
    return made


@case(AREA, "a GGUF file that gguf: names, config.json and tokenizer beside it")
def gguf_named(folder: Path) -> Given:
    made = gguf(folder, True, True)
    return Given({"path": str(made), "gguf": "model-f32.gguf"}, of_folder(untouched(folder)))


@case(AREA, "a GGUF file that gguf: names, alone in its folder but for a tokenizer")
def gguf_bare(folder: Path) -> Given:
    made = gguf(folder, False, True)
    return Given({"path": str(made), "gguf": "model-f32.gguf"}, of_folder(untouched(folder)))


@case(AREA, "a GGUF file that gguf: names, its tokenizer in another folder")
def gguf_elsewhere(folder: Path) -> Given:
    made, words = gguf(folder, False, False), untouched(folder)
    return Given({"path": str(made), "gguf": "model-f32.gguf", "tokenizer": str(words)}, of_folder(words))


@case(AREA, "gguf: names a file that is not there")
def gguf_absent(folder: Path) -> Given:
    made = gguf(folder, True, True)
    return Given({"path": str(made), "gguf": "model-Q4_K_M.gguf"}, reason=r"model-Q4_K_M\.gguf")


@case(AREA, "gguf: names a truncated file")
def gguf_truncated(folder: Path) -> Given:
    made = gguf(folder, True, True)
    content = (made / "model-f32.gguf").read_bytes()
    (made / "model-f32.gguf").write_bytes(content[: len(content) // 2])
    return Given({"path": str(made), "gguf": "model-f32.gguf"}, reason=r"gguf.*(read|damaged|truncated|whole|end)")


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


def odd_config(name: str, reason: str | None = None, **changes: Any) -> None:
    """A case for a folder whose config.json says these things too; with a reason, plain transformers cannot run it."""

    @case(AREA, f"config.json says {name}")
    def make(folder: Path) -> Given:
        made = base_folder(folder)
        edit(made / "config.json", lambda content: content.update(changes))
        return Given({"path": str(made)}, of_folder(untouched(folder)), reason=reason)


odd_config("return_dict: false", "return_dict|tuple", return_dict=False)
odd_config("output_attentions: true", "output_attentions", output_attentions=True)
odd_config("output_hidden_states: true", output_hidden_states=True)
odd_config("attention_dropout: 0.5 and use_cache: false", attention_dropout=0.5, use_cache=False)
odd_config("_attn_implementation: flash_attention_2", "[Ff]lash", _attn_implementation="flash_attention_2")
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
