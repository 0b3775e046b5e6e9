"""Prompts of unequal lengths, and rotary factors that depend on a length; right is what each prompt gives alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Phi3Config, Phi3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from .case import APPLES, Given, Line, case
from .plain import base_tokenizer, byte_level, edit, gpt2, llama, of_folder, save, spread

AREA = "prompts"
MORE = ", the {} is in Box {}"
SHORT = Line(
    "The {{object|apple}} is in Box F. Box F contains the",
    "The {{object|hat}} is in Box C. Box Y contains the",
    "apple",
)
THINGS = ("bread", "drug", "ball", "key", "fish", "boat", "coat", "clock")


def long(count: int, answer: str = "apple") -> Line:
    """A pair whose prompts have so many more boxes."""
    tail = "".join(MORE.format(THINGS[index % 8], "GHIJKLMN"[index % 8]) for index in range(count))
    base = f"The {{{{object|{answer}}}}} is in Box F{tail}. Box F contains the"
    return Line(base, f"The {{{{object|hat}}}} is in Box C{tail}. Box Y contains the", answer)


def beside(line: Line, other: Line) -> Line:
    """The base of one with the source of another, which is longer or shorter."""
    return Line(line.base, other.source, line.answer)


RAGGED = (SHORT, long(1, "hat"), long(3, "bread"))
SPREAD = {"examples": 1}  # of three base prompts one is for discovery


def given(folder: Path, lines: tuple[Line, ...], **more: Any) -> Given:
    """A folder, the lines, and what transformers gives of each alone."""
    return Given({"path": str(folder)}, of_folder(folder, lines), lines, **more)


def phi3(**changes: Any) -> Any:
    """A small Phi-3 on the embedded tokenizer, with two sets of rotary factors: short ones up to 32 positions."""
    tokenizer = base_tokenizer()
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0 + i for i in range(8)],
        "original_max_position_embeddings": 32,
    }
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 32,
        "rope_parameters": rope,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    import torch

    torch.manual_seed(0)
    return spread(Phi3ForCausalLM(Phi3Config(**(sizes | changes))))


LONGROPE = "longrope|long_factor|32"


@case(AREA, "longrope: short prompts alone")
def longrope_short(folder: Path) -> Given:
    return given(save(phi3(), base_tokenizer(), folder / "model"), APPLES)


@case(AREA, "longrope: prompts beyond the short factors")
def longrope_long(folder: Path) -> Given:
    made = save(phi3(), base_tokenizer(), folder / "model")
    return given(made, (long(5), Line(long(5).base, long(4).source, "apple")), reason=LONGROPE)


@case(AREA, "longrope: a short base prompt whose source is long")
def longrope_mixed(folder: Path) -> Given:
    made = save(phi3(), base_tokenizer(), folder / "model")
    return given(made, (beside(SHORT, long(5)), SHORT), reason=LONGROPE)


@case(AREA, "longrope: a long prompt in the same file")
def longrope_beside(folder: Path) -> Given:
    made = save(phi3(), base_tokenizer(), folder / "model")
    lines = (SHORT, long(5, "hat"), long(6, "bread"), long(1, "drug"), long(7, "ball"), long(2, "key"))
    return given(made, lines, reason=LONGROPE)


@case(AREA, "longrope as config.json wrote it before (rope_scaling, type: longrope)")
def longrope_old(folder: Path) -> Given:
    made = save(phi3(), base_tokenizer(), folder / "model")

    def older(content: dict[str, Any]) -> None:
        rope = content.pop("rope_parameters")
        factors = {"short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
        scaling = {"type": "longrope", **factors, "original_max_position_embeddings": 32}
        content.update(rope_scaling=scaling, rope_theta=10000.0)

    edit(made / "config.json", older)
    return given(made, (SHORT, long(5, "hat"), long(6, "bread")), reason=LONGROPE)


@case(AREA, "dynamic NTK: a long prompt in the same file")
def dynamic(folder: Path) -> Given:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = spread(llama(base_tokenizer(), max_position_embeddings=32, rope_parameters=rope), 2.0)
    made = save(model, base_tokenizer(), folder / "model")
    lines = (SHORT, long(5, "hat"), long(6, "bread"))
    return given(made, lines, reason="dynamic")


def scaled(kind: str, **settings: Any) -> None:
    """A case of prompts of unequal lengths on a Llama with that kind of rotary positions."""

    @case(AREA, f"prompts of unequal lengths, rotary positions: {kind}")
    def make(folder: Path) -> Given:
        rope = {"rope_type": kind, "rope_theta": 10000.0, **settings}
        model = spread(llama(base_tokenizer(), rope_parameters=rope), 2.0)
        return given(save(model, base_tokenizer(), folder / "model"), RAGGED)


scaled("default")
scaled("linear", factor=4.0)
scaled("yarn", factor=4.0, original_max_position_embeddings=64)
scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)


@case(AREA, "prompts of unequal lengths, learned positions (GPT-2)")
def learned(folder: Path) -> Given:
    tokenizer = byte_level()
    return given(save(gpt2(tokenizer), tokenizer, folder / "model"), RAGGED)


@case(AREA, "prompts of unequal lengths, windows and norms after attention (Gemma-3)")
def gemma3(folder: Path) -> Given:
    tokenizer = base_tokenizer()
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        query_pre_attn_scalar=16,
        max_position_embeddings=256,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return given(save(spread(Gemma3ForCausalLM(config)), tokenizer, folder / "model"), RAGGED)


@case(AREA, "prompts of unequal lengths, norms of queries and keys (Qwen3)")
def qwen3(folder: Path) -> Given:
    tokenizer = byte_level(pad_token="<|endoftext|>")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return given(save(spread(Qwen3ForCausalLM(config)), tokenizer, folder / "model"), RAGGED)


@case(AREA, "prompts longer than the model has learned positions")
def too_long(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer, n_positions=24), tokenizer, folder / "model")
    return Given({"path": str(made)}, (), (long(3),), reason="positions|longer|24")


@case(AREA, "prompts longer than max_position_embeddings of a rotary model")
def beyond(folder: Path) -> Given:
    made = save(spread(llama(base_tokenizer(), max_position_embeddings=16)), base_tokenizer(), folder / "model")
    return given(made, (long(3),), reason="positions|longer|16")


@case(AREA, "prompts of one token, no beginning of text")
def one_token(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "model")
    return given(made, (Line("The", "Box", "apple"), Line("The", "Laura", "apple")))


@case(AREA, "the marked word is the first token of the prompt")
def first_marked(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "model")
    return given(made, (Line("{{object|apple}} is in the", "{{object|hat}} is in the", "Box"),))


@case(AREA, "the marked word is the last token of the prompt")
def last_marked(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "model")
    line = Line("Box F contains the {{object|apple}}", "Box C contains the {{object|hat}}", "is")
    return given(made, (line,), reason="same token|last")


@case(AREA, "a source ten times as long as the base")
def long_source(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "model")
    return given(made, (beside(SHORT, long(20)),))
