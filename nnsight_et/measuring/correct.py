"""Examples of a job: as they are drawn, or only those the model answers right."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.metrics import is_right
from nnsight_et.measuring.circuits import model_predictions
from nnsight_et.measuring.work import Progress, Work
from nnsight_et.planning.plan import Job, ModelChoice

MOST = 32  # times as many as wanted are drawn, if there are, before a model counts as unable to answer


def chosen_examples(
    work: Work, job: Job, choice: ModelChoice, split: str, count: int, only_correct: bool
) -> Generator[Progress, None, list[Example]]:
    """The first `count` examples of a split, or with only_correct the first that `choice` answers right.

    ExperimentError if too few of them are.
    """
    drawn, most = count, min(MOST * count, work.most(job, split))
    while True:
        examples = work.examples(job, choice, split, drawn)
        if not only_correct:
            return examples
        found = yield from model_predictions(work, job, choice, examples, f"what {choice.name} answers")
        answered = is_right(found["predicted"], right_tokens(examples)).tolist()
        right = [example for example, one in zip(examples, answered, strict=True) if one]
        if len(right) >= count:
            return right[:count]
        if drawn >= most:
            found_right = f"{choice.name} answers {len(right)} of {drawn} prompts"
            raise ExperimentError(f"experiments.{job.name}.only_correct: {found_right}; accepted: fewer examples")
        drawn = int(min(2 * drawn, most))


def answer_scores(right: Tensor) -> dict[str, Tensor]:
    """What a result keeps of right tokens [example, 1 + n]: answer [example], and also_right [example, n] if any."""
    more = {"also_right": right[:, 1:]} if right.shape[1] > 1 else {}
    return {"answer": right[:, 0]} | more
