"""What is said of tokens: those that examples of a task of your own are scored by, and those that prompts lack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnsight_et.core.batch import Prompt
from nnsight_et.core.notices import Notice
from nnsight_et.manifest import MadeTask, PairsFile
from nnsight_et.measuring.context import RunContext
from nnsight_et.planning.plan import Job
from nnsight_et.tasks.answers import text_description, text_of
from nnsight_et.tasks.encoding import trailing_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS, SENT, EXAMPLE = "tokens", "sent", "example"  # under which keys of a summary they stand


def tokens_of(context: RunContext, job: Job) -> dict[str, Any]:
    """By model, of a task of your own: the tokens of the examples drawn, by what they are there. Empty for others.

    And, where prompts are turns of a chat, one of them as it was sent; and of all tasks the first pair of prompts.
    """
    found = {}
    for choice in job.models if isinstance(job.task, (PairsFile, MadeTask)) else ():
        tokenizer, scored = (
            context.models.tokenizer(choice),
            context.data.scored.get((job.name, choice.name), {}),
        )
        said = {
            role: [text_description(one, tokenizer) for one in sorted(texts)] for role, texts in scored.items() if texts
        }
        if said:
            found[choice.name] = said
    sent = {
        choice.name: context.data.sent[job.name, choice.name]
        for choice in job.models
        if (job.name, choice.name) in context.data.sent
    }
    return ({TOKENS: found} if found else {}) | ({SENT: sent} if sent else {}) | _example_of(context, job)


def _example_of(context: RunContext, job: Job) -> dict[str, Any]:
    """The job's first pair of prompts, in pieces, under EXAMPLE; nothing of a job without prompts."""
    if job.name not in context.data.first:
        return {}
    choice, example = context.data.first[job.name]
    tokenizer = context.models.tokenizer(choice)
    answer = text_description(example.right[0], tokenizer)["text"]
    prompts = {"base": _pieces(example.base, tokenizer), "source": _pieces(example.source, tokenizer)}
    return {EXAMPLE: prompts | {"answer": answer}}


def _pieces(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """The prompt's text cut at its positions: each piece with the name of the position that it is, or nothing."""
    named, pieces, begin = {place: name for name, place in prompt.positions.items()}, list[list[str]](), 0
    for place in range(len(prompt.tokens)):
        if place in named or place + 1 in named or place + 1 == len(prompt.tokens):
            text = text_of(replace(prompt, tokens=prompt.tokens[: place + 1]), tokenizer)
            pieces.append([text[begin:], named.get(place, "")])
            begin = len(text)
    return pieces


def end_notices(name: str, tokenizer: PreTrainedTokenizerBase) -> list[Notice]:
    """What to know first of a model whose tokenizer puts something behind every text: that prompts are without it."""
    ending = trailing_tokens(tokenizer)
    found = f"its tokenizer puts {ending} behind every text; prompts are made without it"
    return [Notice("end", name, found)] if ending else []
