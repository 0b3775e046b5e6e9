"""Tokenizers as files have them: read, told what is wrong with them, and given a padding token.

And the token that begins a text (BOS): whether prompts have it, whether a model needs it; to add or remove it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import nnsight
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from nnsight_et.core.batch import Prompt, PromptBatch, padded_batch
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.core.notices import Notice
from nnsight_et.core.turns import make_turns, makes_turns
from nnsight_et.models.families import architecture
from nnsight_et.models.files import Files, check_no_code
from nnsight_et.models.gguf_file import tokenizer_in
from nnsight_et.models.model import Model


@cache
def read_tokenizer(place: Path, own: Files | None = None) -> PreTrainedTokenizerBase:
    """That of a folder, or of a GGUF file; one by itself for `own` files. LOADING_ERRORS if it cannot be read."""
    if place.is_file():
        return tokenizer_in(place)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    tokenizer("")  # a damaged template of special tokens is found by encoding alone
    return tokenizer


def check_tokenizing(files: Files) -> None:
    """Raise UnsupportedModel if the tokenizer needs a program that came with it, or a package that is not here."""
    if files.tokenizer.is_file():
        return
    check_no_code(files.name, files.tokenizer, "tokenizer_config.json")
    alone = [] if (files.tokenizer / "tokenizer.json").exists() else sorted(files.tokenizer.glob("*.model"))
    if alone and find_spec("sentencepiece") is None:
        found = f"{files.name}: its tokenizer is only in {alone[0]}, which needs another package"
        raise UnsupportedModel(
            f"{found}; accepted: run pip install sentencepiece first, or a tokenizer with tokenizer.json"
        )


def with_padding_token(tokenizer: PreTrainedTokenizerBase, name: str, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token that is among the `rows` of the model's embedding.

    It is its own, or else another special one: any other would no longer be read as a part of texts. UnsupportedModel
    if there is none.
    """
    if not _is_among(tokenizer.pad_token_id, rows):
        for token in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token):
            if token is not None and _is_among(tokenizer.convert_tokens_to_ids(str(token)), rows):
                tokenizer.pad_token = token
                return tokenizer
        found = f"{name}: its tokenizer has no special token that the model knows, to pad shorter prompts with"
        raise UnsupportedModel(f"{found}; accepted: one with pad_token, eos_token, bos_token or unk_token")
    return tokenizer


def _is_among(number: object, rows: int) -> bool:
    return isinstance(number, int) and 0 <= number < rows


Bos = Literal["add", "none"]
TEXT = (
    "The old house stood at the end of a long road. It was cold outside, and the children had gone to the kitchen, "
    "where their mother was making soup. After dinner, they sat by the fire and told each other stories until it was "
    "late."
)
MOST_UNKNOWN = 0.1  # of the text's tokens: a tokenizer that knows fewer of its words says nothing by it
WORSE = 0.5
"""By how many nats a token the text must be worse without BOS for a model to need it.

With it the right token is then 1.65 times as likely, on average, through the whole text. Gemma-3-270M, trained with
<bos> before every text, is worse by 2.92 (5.51 without, 2.59 with; the same in bfloat16 to 0.04); SmolLM2-135M, whose
configuration names <|im_start|> and whose texts never began with it, is better without by 0.16. The half is three
times as far from 0 as what a useless token does there, and a sixth of what a needed one does.
"""


def bos_of(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int | None:
    """The token that the tokenizer, or else the model's configuration, has for the beginning of a text; None if none.

    A number in a configuration counts where it is a special token that nothing else is said of: classes have defaults.
    """
    if tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id)  # type: ignore[arg-type]
    found = getattr(config.get_text_config(), "bos_token_id", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    other = (tokenizer.pad_token_id, tokenizer.unk_token_id)
    return found if type(found) is int and found in added and added[found].special and found not in other else None


def bos_comparison_run(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> PromptBatch | None:
    """The plain text [2, seq], behind BOS and as prompts begin; None where there is nothing to compare.

    That is without a BOS, where prompts begin with it, for a tokenizer that does not know the text's words, and for a
    model that has no row for one of its tokens, or fewer positions than it has tokens.
    """
    if makes_turns(tokenizer):  # whose template begins prompts
        return None
    bos, tokens = bos_of(tokenizer, config), _as_prompts(tokenizer, TEXT)
    unknown = tokens.count(tokenizer.unk_token_id)  # type: ignore[arg-type]
    if bos is None or not tokens or tokens[0] == bos or unknown > MOST_UNKNOWN * len(tokens):
        return None
    text = config.get_text_config()
    most = architecture(config, "").longest(text)
    if max(bos, *tokens) >= text.vocab_size or (most is not None and len(tokens) >= most):
        return None
    pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else bos
    return padded_batch(
        [Prompt((bos, *tokens), {"last": len(tokens)}), Prompt(tuple(tokens), {"last": len(tokens) - 1})], pad
    )


def _as_prompts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The text's tokens as prompts have them: without what the tokenizer puts behind every text, such as its end."""
    made, own = (list[int](tokenizer(text, add_special_tokens=put)["input_ids"]) for put in (True, False))  # type: ignore[arg-type]
    ends = [at + len(own) for at in range(len(made) - len(own) + 1) if made[at : at + len(own)] == own]
    return made[: ends[-1]] if own and ends else made


def text_losses(model: Model, run: PromptBatch) -> Tensor:
    """[2]: the mean loss of the text's tokens but the first, in nats, behind BOS and without it."""
    with model.session():
        with model.trace(run.tokens, run.position_ids, run.mask):
            logits = model.logits()[:, 1:-1]
        chosen = logits.float().log_softmax(-1).gather(-1, run.tokens[:, 2:, None])
        losses = nnsight.save(-chosen[..., 0].mean(-1).detach().cpu())
    return losses


def notices_of_losses(
    name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, losses: Sequence[float]
) -> list[Notice]:
    """What to know first of a model whose losses with and without BOS are these: that it needs one, or nothing."""
    behind, without = losses
    if not without - behind > WORSE:
        return []
    token = tokenizer.convert_ids_to_tokens(bos_of(tokenizer, config))  # type: ignore[arg-type]
    found = f"prompts begin without {token}, and the model needs it: the loss of a plain text is {without:.2f} nats a "
    found += f"token without it and {behind:.2f} with it, so answers and scores are not the model's usual ones"
    return [
        Notice("bos", name, f"{found}; accepted: bos: add in its entry under models:, in Python et.load(bos='add')")
    ]


def bos_notices(name: str, tokenizer: PreTrainedTokenizerBase, model: Model) -> list[Notice]:
    """The same of a model in memory; nothing is run where there is nothing to compare."""
    config = model.nn.config
    run = bos_comparison_run(tokenizer, config)
    if run is None:
        return []
    return notices_of_losses(name, tokenizer, config, text_losses(model, run.to(model.device)).tolist())


def set_chat(tokenizer: PreTrainedTokenizerBase, chat: bool | str, name: str) -> None:
    """Make prompts turns of a chat: by the tokenizer's template (True), that of a name, or the template that is given.

    UnsupportedModel if there is none.
    """
    own = tokenizer.chat_template
    named = own if isinstance(own, dict) else {"default": own} if own else {}
    template = chat if isinstance(chat, str) and "{" in chat else named.get("default" if chat is True else str(chat))
    if template is None:
        there = ", ".join(named) or "none"
        found = f"{name}: chat: {str(chat).lower() if chat is True else chat}, but its tokenizer has "
        found += "no chat template" if not named else f"no such template, but {there}"
        accept = "true, " * ("default" in named) + ", ".join(named) + ", or " * bool(named)
        raise UnsupportedModel(f"{found}; accepted: {accept}a file with a template in Jinja, or no chat")
    make_turns(tokenizer, template)


def set_bos(tokenizer: PreTrainedTokenizerBase, bos: Bos, name: str, config: PretrainedConfig) -> None:
    """Make every text of the tokenizer begin with its BOS, once, or without it; UnsupportedModel if that cannot be."""
    token = bos_of(tokenizer, config)
    if token is None:
        if bos == "add":
            raise UnsupportedModel(f"{name}: bos: add, but neither tokenizer nor config.json has a BOS; accepted: none")
        return
    inner: Any = tokenizer.backend_tokenizer
    begun = leading(tokenizer, token)
    if bos == "add" and begun == 0:
        text = str(tokenizer.convert_ids_to_tokens(token))
        first = processors.TemplateProcessing(
            single=[text, "$A"], pair=[text, "$A", "$B:1"], special_tokens=[(text, token)]
        )
        there = inner.post_processor
        inner.post_processor = first if there is None else processors.Sequence([there, first])
    elif bos == "none" and begun:
        whole = json.loads(inner.to_str())
        whole["post_processor"] = _without(whole["post_processor"], token)
        inner.post_processor = Tokenizer.from_str(json.dumps(whole)).post_processor
    begun = leading(tokenizer, token)
    if begun != (bos == "add"):
        found = f"its texts begin with {begun} BOS, whatever its post-processor is told"
        raise UnsupportedModel(f"{name}: bos: {bos}, but {found}; accepted: a tokenizer.json that does as bos says")


def leading(tokenizer: PreTrainedTokenizerBase, token: int) -> int:
    """How often a text begins with the token."""
    tokens = _as_prompts(tokenizer, "a")
    return next((index for index, one in enumerate(tokens) if one != token), len(tokens))


def _without(processor: Any, token: int) -> Any:
    """The post-processor of a tokenizer.json without that special token in its templates."""
    if processor is None or processor["type"] not in ("Sequence", "TemplateProcessing"):
        return processor
    if processor["type"] == "Sequence":
        return processor | {"processors": [_without(one, token) for one in processor["processors"]]}
    names = {name for name, one in processor["special_tokens"].items() if one["ids"] == [token]}
    kept = {
        key: [piece for piece in processor[key] if piece.get("SpecialToken", {}).get("id") not in names]
        for key in ("single", "pair")
    }
    return processor | kept
