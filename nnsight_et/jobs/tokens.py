"""What a result says of its tokens: those that the examples of a task of your own are scored by."""

from __future__ import annotations

from typing import Any

from nnsight_et.jobs.work import Work
from nnsight_et.manifest import MadeTask, PairsFile
from nnsight_et.models.load import tokenizer_of
from nnsight_et.plan import Job
from nnsight_et.tasks.answers import told

TOKENS = "tokens"  # under which key of a summary they stand


def tokens_of(work: Work, job: Job) -> dict[str, Any]:
    """By model, of a task of your own: the tokens of the examples drawn, by what they are there. Empty for others."""
    found = {}
    for choice in job.models if isinstance(job.task, (PairsFile, MadeTask)) else ():
        tokenizer, scored = tokenizer_of(work.files(choice)), work.scored.get((job.name, choice.name), {})
        said = {role: [told(one, tokenizer) for one in sorted(tokens)] for role, tokens in scored.items() if tokens}
        if said:
            found[choice.name] = said
    return {TOKENS: found} if found else {}
