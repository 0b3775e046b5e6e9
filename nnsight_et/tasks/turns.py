"""Prompts as turns of a chat: what the user says, put into the tokenizer's chat template; the answer begins the reply.

The template has the special tokens, the first one too, so that the tokenizer adds none. A space goes before the answer
where the template itself puts one before what the assistant says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from nnsight_et.core.errors import TaskError
from nnsight_et.core.turns import makes_turns
from nnsight_et.tasks.encoding import MarkedPair, MarkedText

SAID, REPLY = "\ufdd0", "\ufdd1"  # no text has these, and no template
ACCEPTED = "accepted: a template that takes one message of a user, or no chat"


def as_turns(pair: MarkedPair, tokenizer: Any) -> MarkedPair:
    """The pair whose base and source are what is sent to a chat model; itself where the tokenizer makes no turns.

    TaskError if the template does not take a prompt as it is.
    """
    if pair.turns or not makes_turns(tokenizer):
        return pair
    if pair.special_tokens == "text":
        found = "special_tokens: text, but the chat template already has the special tokens"
        raise TaskError(f"{found}; accepted: one of the two")
    base, source = (_turn(text, tokenizer) for text in (pair.base, pair.source))
    space = _space_before_reply(tokenizer) if pair.space is None else pair.space
    return replace(pair, base=base, source=source, space=space, special_tokens="text", turns=True)


def _turn(marked: MarkedText, tokenizer: Any) -> MarkedText:
    before, _, behind = _rendered(tokenizer, [("user", SAID)]).partition(SAID)
    whole = _rendered(tokenizer, [("user", marked.text)])
    cut = 0
    if whole != before + marked.text + behind:  # many templates strip what a user says
        cut = len(marked.text) - len(marked.text.lstrip())
        if whole != before + marked.text.strip() + behind:
            raise TaskError(f"the chat template turns {marked.text[:60]!r} into {whole[:200]!r}; {ACCEPTED}")
    first = tokenizer.bos_token
    if first and whole.startswith(2 * first):
        raise TaskError(f"the chat template begins with {first} twice; accepted: one that begins with it once")
    shift = len(before) - cut
    return MarkedText(whole, {name: (start + shift, end + shift) for name, (start, end) in marked.spans.items()})


def _space_before_reply(tokenizer: Any) -> bool:
    """Whether the template puts a space between the opened turn of the assistant and what it says."""
    opened = _rendered(tokenizer, [("user", SAID)])
    try:
        said = _rendered(tokenizer, [("user", SAID), ("assistant", REPLY)], opened=False)
    except TaskError:
        return False
    return said.partition(REPLY)[0] == opened + " "


def _rendered(tokenizer: Any, turns: list[tuple[str, str]], opened: bool = True) -> str:
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened))
    except (TemplateError, TypeError, ValueError) as error:
        raise TaskError(f"the chat template cannot be filled ({error}); {ACCEPTED}") from None
