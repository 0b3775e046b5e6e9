"""What a result says of its tokens: those that are scored, and those that prompts are made without."""

from __future__ import annotations

from typing import Any

from nnsight_et.jobs.work import Work
from nnsight_et.manifest import MadeTask, PairsFile
from nnsight_et.models.load import tokenizer_of
from nnsight_et.plan import Job
from nnsight_et.tasks.answers import told
from nnsight_et.tasks.encoding import left_off

TOKENS = "tokens"  # under which key of a summary they stand


def tokens_of(work: Work, job: Job) -> dict[str, Any]:
    """By model, of a task of your own: the tokens that are scored in the examples drawn, by what they are there.

    Of any task, under left_off, what the tokenizer puts behind every text. Empty where there is nothing to say.
    """
    found = {}
    for choice in job.models:
        tokenizer = tokenizer_of(work.files(choice))
        said: dict[str, Any] = {}
        if isinstance(job.task, (PairsFile, MadeTask)):
            scored = work.scored.get((job.name, choice.name), {})
            said = {role: [told(one, tokenizer) for one in sorted(tokens)] for role, tokens in scored.items() if tokens}
        if ending := left_off(tokenizer):
            said["left_off"] = ending
        if said:
            found[choice.name] = said
    return {TOKENS: found} if found else {}
