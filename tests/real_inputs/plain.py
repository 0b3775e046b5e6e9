"""Models and tokenizers of the cases, and what plain transformers says of a prompt; nothing of the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from .case import APPLES, Line

PACKAGE = find_spec("nnsight_et")
assert PACKAGE is not None
assert PACKAGE.origin is not None
EMBEDDED = Path(PACKAGE.origin).parent / "zoo" / "embedded"


def base_folder(folder: Path, name: str = "base") -> Path:
    """A copy of the embedded llama-tiny, its tokenizer beside it as usual."""
    made = folder / name
    shutil.copytree(EMBEDDED / "llama-tiny", made)
    shutil.copytree(EMBEDDED / "tokenizer", made, dirs_exist_ok=True)
    return made


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's tensors in float32; the embedded ones are stored in float16."""
    return {name: one.float() for name, one in load_file(folder / "model.safetensors").items()}


def base_model() -> Any:
    """The embedded llama-tiny by transformers."""
    return AutoModelForCausalLM.from_pretrained(EMBEDDED / "llama-tiny", dtype=torch.float32).eval()


def base_tokenizer() -> Any:
    """Its tokenizer."""
    return AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The text's tokens; an end of text that the tokenizer puts behind every text is no part of a prompt."""
    ids = tokenizer(text)["input_ids"]
    always = tokenizer("")["input_ids"][-1:]
    return ids[:-1] if always == [tokenizer.eos_token_id] and ids[-1:] == always and len(ids) > 1 else ids


def probabilities(model: Any, tokenizer: Any, lines: Sequence[Line] = APPLES, **options: Any) -> list[float]:
    """Of each line the probability of the one token that its answer adds to its prompt, each prompt alone."""
    found = []
    for line in lines:
        prompt, whole = ids_of(tokenizer, line.prompt), ids_of(tokenizer, line.answered)
        assert whole[: len(prompt)] == prompt, (line, whole, prompt)
        assert len(whole) == len(prompt) + 1, (line, tokenizer.convert_ids_to_tokens(whole))
        found.append(probability(model, prompt, whole[-1], **options))
    return found


def probability(model: Any, prompt: Sequence[int], answer: int, **options: Any) -> float:
    """The probability of a token after a prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([list(prompt)]), **options)[0][0, -1]
    return logits.double().softmax(-1)[answer].item()


def of_folder(folder: Path, lines: Sequence[Line] = APPLES, dtype: str = "float32", **options: Any) -> list[float]:
    """The same of the model and the tokenizer in a folder."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **options).eval()
    return probabilities(model, AutoTokenizer.from_pretrained(folder), lines)


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Both in a folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spread(model: Any, by: float = 3.0, seed: int = 0) -> Any:
    """The model with larger weights, and biases that are not 0: its probabilities then differ from token to token."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = 0.1 * torch.randn_like(parameter)
        elif parameter.ndim > 1:
            parameter.data *= by
    return model.eval()


def llama(tokenizer: Any, seed: int = 0, **changes: Any) -> Any:
    """A random Llama with grouped queries."""
    torch.manual_seed(seed)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(sizes | special | changes))).eval()


def gpt2(tokenizer: Any, seed: int = 0, **changes: Any) -> Any:
    """A random GPT-2, which has biases and learned positions."""
    torch.manual_seed(seed)
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256,
        "initializer_range": 0.15,
    }  # fmt: skip
    return spread(GPT2LMHeadModel(GPT2Config(**(sizes | special | changes))), 1.0, seed)


SENTENCES = """
The apple is in Box F , the computer is in Box Q . Box contains hat bread drug ball H C B E P Y fish key hello
Laura Peter Simon Oscar Emma Alice market lake gave a pen to map Then and went year war lasted from café naïve Москва
Repeat start of each word kind fair bold wise stem return def capital Norway Oslo Japan Tokyo yes no Answer Question
"""
WORDS = tuple(dict.fromkeys(SENTENCES.split()))
OTHERS = "un kind fair bold wise 17 32 01 52 18 99 都 東 京 東京 日本 ( ) () self . , : ; ' 's '' = == { } ab"
PIECES = (*OTHERS.split(), '"', "\n", "\n\n")


def merged(pieces: Iterable[str], alphabet: Iterable[str], special: Sequence[str]) -> models.BPE:
    """A BPE that has the pieces as tokens, each put together from the left, long ones first."""
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    merges = {}
    for piece in sorted(pieces, key=len, reverse=True):
        for end in range(2, len(piece) + 1):
            left, right, both = piece[: end - 1], piece[end - 1], piece[:end]
            vocabulary.setdefault(right, len(vocabulary))
            vocabulary.setdefault(left, len(vocabulary))
            vocabulary.setdefault(both, len(vocabulary))
            merges[left, right] = None
    return models.BPE(vocab=vocabulary, merges=list(merges), byte_fallback="<0x00>" in vocabulary, unk_token=None)


def byte_level(bos: bool = False, words: Sequence[str] = WORDS, **special: Any) -> Any:
    """A tokenizer as GPT-2's, Llama-3's and Qwen's: byte-level BPE, a space being part of the word after it."""
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [*(f" {word}" for word in words), *words, *PIECES, *(f" {piece}" for piece in PIECES if piece.isalnum())]
    pieces = ["".join(piece for piece, _ in to_bytes.pre_tokenize_str(text)) for text in texts]
    inner = Tokenizer(merged(pieces, sorted(pre_tokenizers.ByteLevel.alphabet()), ["<|endoftext|>"]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    given = {f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos")} | special
    return PreTrainedTokenizerFast(tokenizer_object=inner, **given)


def sentencepiece(prepend: bool = True, bos: bool = True, words: Sequence[str] = WORDS) -> Any:
    """A tokenizer as Llama-2's, which puts a space before every text, or as Gemma's: BPE with ▁ and single bytes."""
    special = ["<unk>", "<s>", "</s>"]
    texts = [*(f"▁{word}" for word in words), *words, *PIECES, *(f"▁{piece}" for piece in PIECES if piece.isalnum())]
    alphabet = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *sorted({one for text in texts for one in text})]
    inner = Tokenizer(merged(texts, dict.fromkeys(alphabet), special))
    spaces = normalizers.Replace(" ", "▁")
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prepend else spaces
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens([AddedToken(one, special=True) for one in special])
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm",
}  # fmt: skip


def write_gguf(tensors: dict[str, Any], path: Path) -> None:
    """The embedded model as llama.cpp's converter writes it: its names, its order of rotary pairs, no tokenizer."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(6)
    writer.add_context_length(512)
    writer.add_embedding_length(128)
    writer.add_feed_forward_length(256)
    writer.add_head_count(8)
    writer.add_head_count_kv(8)
    writer.add_rope_dimension_count(32)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_rope_freq_base(1000000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(283)
    for name, tensor in tensors.items():
        short = name.removesuffix(".weight")
        if short.startswith("model.layers."):
            layer, part = short.removeprefix("model.layers.").split(".", 1)
            new = f"blk.{layer}.{NAMES[part]}"
            if new.endswith(("attn_q", "attn_k")):
                tensor = tensor.unflatten(0, (8, 2, 16)).transpose(1, 2).flatten(0, 2)
        else:
            new = NAMES[short]
        writer.add_tensor(f"{new}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
