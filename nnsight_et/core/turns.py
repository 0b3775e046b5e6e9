"""Which tokenizers make turns of a chat of a task's prompts."""

from __future__ import annotations

from typing import Any

MARK = "_prompts_are_turns"


def make_turns(tokenizer: Any, template: str) -> None:
    """From now on the tokenizer's prompts are messages of a user, put into that chat template."""
    tokenizer.chat_template = template
    setattr(tokenizer, MARK, True)


def makes_turns(tokenizer: Any) -> bool:
    """Whether the tokenizer's prompts are such messages."""
    return getattr(tokenizer, MARK, False)
