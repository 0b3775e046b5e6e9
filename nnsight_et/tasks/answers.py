"""The token, or tokens, of an answer: what follows the base prompt, with the space that stands between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError
from nnsight_et.tasks.encoding import MarkedPair, encode, is_unknown
from nnsight_et.tasks.joins import space_before

MARKS = ("(", "/", "-", '"', "\n")
"""What a text can stand behind without a space, for its own tokens to be seen."""
SINGLE = "a single token, or answer_tokens: several"


def answer_tokens(
    text: str | int, key: str, pair: MarkedPair, base: Prompt, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """The tokens that follow the base prompt; TaskError naming `key` unless it is certain which, and one where the
    pair does not say several.

    A number is the token's id. Where the pair does not say whether there is a space, and its texts leave it open, the
    tokenizer may still make the same of both.
    """
    if isinstance(text, int):
        if text >= len(tokenizer):
            raise TaskError(f"{key}: token {text}; accepted: ids of this tokenizer, 0 to {len(tokenizer) - 1}")
        return (text,)

    def is_known(word: str) -> bool:
        before, whole = (encode(some, tokenizer).ids for some in ("the", f"the {word}"))
        return len(whole) == len(before) + 1 and not is_unknown(whole[-1], word, tokenizer)

    space = _space(text, pair, is_known)
    if space is None:
        tokens = _either(text, key, pair, base, tokenizer)
    else:
        tokens = _following(text, key, pair, base, tokenizer, space=space)
    known = not any(is_unknown(token, text, tokenizer) for token in tokens)
    if len(tokens) != 1 and (pair.answer_tokens == "one" or not tokens):
        found = _token_list(tokens, tokenizer)
        raise TaskError(f"{key}: {text!r} is not one token (found {found}); accepted: {SINGLE}")
    if not known:
        found = _token_list(tokens, tokenizer)
        what = "one token" if len(tokens) == 1 else "known"
        raise TaskError(f"{key}: {text!r} is not {what} (found {found}); accepted: words that the tokenizer knows")
    return tokens


def quoted_answer(text: str | int, pair: MarkedPair) -> str:
    """The answer, or another text that may follow the base, in quotes with the space it is scored with; or its id."""
    if isinstance(text, int):
        return f"token {text}"
    space = _space(text, pair)
    if space is None:
        return f"{text!r} (with a space or without)"
    return repr(_gap(text, pair, space) + text)


def _space(text: str, pair: MarkedPair, known: Callable[[str], bool] = lambda word: False) -> bool | None:
    """Whether a space goes before the text: as the pair says, or the texts show for it, or for the answer."""
    if pair.space is not None:
        return pair.space
    found = space_before(text, pair.base.text, pair.source.text, known)
    if (
        found is None
        and isinstance(pair.answer, str)
        and text != pair.answer
        and text[0].isalnum()
        and pair.answer[0].isalnum()
    ):
        found = space_before(pair.answer, pair.base.text, pair.source.text, known)
    return found


def _either(text: str, key: str, pair: MarkedPair, base: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens of the text with a space and without, if they are the same; TaskError, which asks, if not."""
    apart, together = (_following(text, key, pair, base, tokenizer, space=space) for space in (True, False))
    if apart == together:
        return apart
    one, other = (_token_list(tokens, tokenizer) for tokens in (apart, together))
    if pair.answer_tokens == "one" and 1 not in (len(apart), len(together)):
        found = f"{text!r} is not one token (found {one} with a space before it, {other} without)"
        raise TaskError(f"{key}: {found}; accepted: {SINGLE}")
    found = f"{text!r} could follow {pair.base.text[-20:]!r} with a space (found {one}) or without (found {other})"
    raise TaskError(f"{key}: {found}; accepted: space: yes or no, in the task or the pair")


def _following(
    text: str, key: str, pair: MarkedPair, base: Prompt, tokenizer: PreTrainedTokenizerBase, *, space: bool
) -> tuple[int, ...]:
    """The tokens of the text behind the base prompt.

    The prompt stays as the model reads it. Where both together would have other tokens, such as one for the prompt's
    last word and the text, those of the text are as they are behind a mark.
    """
    gap = _gap(text, pair, space)
    whole = encode(pair.base.text + gap + text, tokenizer, pair.special_tokens).ids
    if whole[: len(base.tokens)] == base.tokens:
        return whole[len(base.tokens) :]
    if pair.base.text[-1].isspace() and not pair.turns:
        found = f"the prompt ends with {pair.base.text[-1]!r}, which makes one token with what follows"
        raise TaskError(f"{key}: {found}; accepted: the prompt without it, and {key} with a leading space")
    own = [] if gap or text[0].isspace() else list(_behind_marks(text, tokenizer))
    if not own:
        found = f"appending {text!r} changes the prompt's own tokens"
        raise TaskError(f"{key}: {found}; accepted: a prompt that does not end inside a token")
    return next((tokens for tokens in own if len(tokens) == 1), own[0])


def _behind_marks(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, ...]]:
    for mark in MARKS:
        before, whole = (encode(some, tokenizer).ids for some in (mark, mark + text))
        if whole[: len(before)] == before:
            yield whole[len(before) :]


def _gap(text: str, pair: MarkedPair, space: bool) -> str:
    return " " if space and not text[0].isspace() and not pair.base.text[-1].isspace() else ""


def _token_list(tokens: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> str:
    return ", ".join(map(repr, tokenizer.convert_ids_to_tokens(list(tokens)))) or "none"


def roles(example: Example) -> tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]:
    """The tokens of each text that is scored in an example, by what it is in it."""
    return ("answer", example.right[:1]), ("also right", example.right[1:]), ("foil", example.wrong)


def text_of(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """A prompt as its tokens say it, special ones too."""
    return str(tokenizer.decode(list(prompt.tokens), clean_up_tokenization_spaces=False))


def text_description(tokens: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The same as of a token; of several what they are together, in a row, and all their ids."""
    if len(tokens) == 1:
        return token_description(tokens[0], tokenizer)
    each = [token_description(token, tokenizer) for token in tokens]
    text = str(tokenizer.decode([tokens[0], *tokens]))[len(str(tokenizer.decode([tokens[0]]))) :]
    return {"text": repr(text), "token": " ".join(str(one["token"]) for one in each), "id": list(tokens)}


def token_description(token: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, str | int]:
    """A token as people read it: its text behind another token, in quotes, what the vocabulary calls it, and its id."""
    behind = str(tokenizer.decode([token, token]))[len(str(tokenizer.decode([token]))) :]
    return {"text": repr(behind), "token": str(tokenizer.convert_ids_to_tokens(token)), "id": token}
